"""What a plugin asks for when it is opened, and what it can call later."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Topic:
    """A topic that a router can name, as `Setup.topic` gives it."""

    number: int
    name: str

    def at(self, partition: int) -> tuple[Topic, int]:
        """This topic, and the partition of it that the record is to go to. Otherwise the topic's own partitioner decides."""
        return (self, partition)


class _Host:
    """What the broker gives to plugins. Without a broker (in tests) names are numbered, and the rest is kept to be looked at."""

    def __init__(self) -> None:
        self.topics: dict[str, int] = {}
        self.lines: list[tuple[str, str]] = []
        self.series: list[tuple[str, str, tuple[tuple[str, str], ...]]] = []
        self.values: dict[int, float] = {}

    def resolve(self, name: str) -> int:
        return self.topics.setdefault(name, len(self.topics) + 1)

    def write(self, level: str, message: str) -> None:
        self.lines.append((level, message))

    def declare(self, name: str, kind: str, labels: tuple[tuple[str, str], ...]) -> int:
        series = (name, kind, labels)
        if series not in self.series:
            self.series.append(series)
        return self.series.index(series)

    def add(self, series: int, by: int) -> None:
        self.values[series] = self.values.get(series, 0) + by

    def set(self, series: int, to: float) -> None:
        self.values[series] = to

    def observe(self, series: int, value: float) -> None:
        self.values[series] = value


#: The broker's, within a component.
host = _Host()


def use(other) -> None:
    global host
    host = other


class _Log:
    """Lines for the operator. They carry the plugin's name, its version and the topic; there is a limit to their number and length."""

    def error(self, message: str) -> None:
        host.write("error", message)

    def warn(self, message: str) -> None:
        host.write("warn", message)

    def info(self, message: str) -> None:
        host.write("info", message)

    def debug(self, message: str) -> None:
        host.write("debug", message)


log = _Log()


@dataclass(frozen=True)
class _Series:
    number: int


class Counter(_Series):
    """A series of the plugin's own in the broker's metrics (`tidegate_plugin_own_NAME`) that only grows."""

    def add(self, by: int = 1) -> None:
        host.add(self.number, by)


class Gauge(_Series):
    """One that goes up and down."""

    def set(self, to: float) -> None:
        host.set(self.number, float(to))


class Histogram(_Series):
    """One that counts how often values of each size were seen."""

    def observe(self, value: float) -> None:
        host.observe(self.number, float(value))


@dataclass
class Setup:
    """Asks for what the plugin wants to see. The broker copies nothing else into the sandbox."""

    columns: set[str] = field(default_factory=set)
    facts: set[str] = field(default_factory=set)
    headers: list[str] = field(default_factory=list)

    def read_keys(self) -> None:
        self.columns.add("keys")

    def read_values(self) -> None:
        self.columns.add("values")

    def read_timestamps(self) -> None:
        self.columns.add("timestamps")

    def read_header(self, name: str) -> None:
        """`batch.header(name)` has its values then."""
        if name not in self.headers:
            self.headers.append(name)

    def read_principal(self) -> None:
        self.facts.add("principal")

    def read_client_id(self) -> None:
        self.facts.add("client_id")

    def topic(self, name: str) -> Topic:
        """A topic to route to. Raises `ValueError` where the name cannot be one of a topic."""
        return Topic(host.resolve(name), name)

    def counter(self, name: str, **labels: str) -> Counter:
        return Counter(self._declare(name, "counter", labels))

    def gauge(self, name: str, **labels: str) -> Gauge:
        return Gauge(self._declare(name, "gauge", labels))

    def histogram(self, name: str, **labels: str) -> Histogram:
        return Histogram(self._declare(name, "histogram", labels))

    def _declare(self, name: str, kind: str, labels: dict[str, str]) -> int:
        _ = self
        return host.declare(name, kind, tuple(labels.items()))


