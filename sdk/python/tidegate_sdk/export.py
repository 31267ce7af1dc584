"""From the classes of a plugin to the interfaces of a component, and back.

Everything of `wit_world`, which componentize-py generates, is used here and nowhere else; natively there is none of it.
"""

from __future__ import annotations

import builtins
import json
import sys
import time
from typing import Any

from . import plugins, setup
from .data import Batch, Context, unpack
from .errors import Failed, Retry, words

try:
    from componentize_py_types import Err
    from wit_world.imports import log as wit_log
    from wit_world.imports import metrics as wit_metrics
    from wit_world.imports import types as wit_types
except ImportError:  # natively: in tests
    Err = wit_log = wit_metrics = wit_types = None  # type: ignore[assignment]
try:
    from wit_world.imports import topics as wit_topics
except ImportError:  # only routers have it
    wit_topics = None  # type: ignore[assignment]
try:
    from wit_world.exports import lifecycle as wit_lifecycle
except ImportError:
    wit_lifecycle = None  # type: ignore[assignment]
try:
    from wit_world.exports import routing as wit_routing
except ImportError:
    wit_routing = None  # type: ignore[assignment]
try:
    from wit_world.exports import partitioning as wit_partitioning
except ImportError:
    wit_partitioning = None  # type: ignore[assignment]
try:
    from wit_world.exports import acknowledging as wit_acknowledging
except ImportError:
    wit_acknowledging = None  # type: ignore[assignment]
try:
    from wit_world.exports import retaining as wit_retaining
except ImportError:
    wit_retaining = None  # type: ignore[assignment]

#: No wish for a partition.
ANY_PARTITION = 0xFFFF_FFFF


def whole(value: Any, what: str, least: int = 0, most: int = 0xFFFF_FFFF) -> int:
    """A number as it may cross into the broker. What cannot cross would be a trap without a word."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Failed(f"{what} is {value!r}, not a whole number from {least} to {most}")
    return value


def text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Failed(f"{what} is {value!r}, not text")
    # Half of a character, from text that was cut, cannot cross.
    return value.encode(errors="replace").decode()


def _absent(name: str, instead: str):
    def refused(*_arguments, **_named):
        raise RuntimeError(f"{name} is not there for plugins: {instead}")

    return refused


_CLOCK = "the clock is `now` in batch.contexts"
_FILES = "there are no files; what the plugin needs to know goes into its configuration"
_NETWORK = "there is no network; what the plugin needs to know goes into its configuration"
_RANDOM = "draw from random.Random(context.seed), which is the same when a batch is sent again"

#: What the sandbox has not, by module, and what there is instead.
_MISSING = (
    ("time", ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"), _CLOCK),
    ("os", ("listdir", "scandir", "walk", "stat", "open", "mkdir", "makedirs", "remove", "rename", "getcwd"), _FILES),
    ("os", ("urandom", "getrandom"), _RANDOM),
    ("io", ("open", "open_code"), _FILES),
    ("socket", ("socket", "create_connection", "create_server", "getaddrinfo", "gethostbyname", "gethostname"), _NETWORK),
    ("uuid", ("uuid1", "uuid4"), f"{_RANDOM}: uuid.UUID(int=drawn.getrandbits(128), version=4)"),
    ("secrets", ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice"), _RANDOM),
)


def _forbid() -> None:
    """What the sandbox has not would end in a trap: this way it ends in words."""
    instead_of: dict[int, Any] = {}
    kept: list[Any] = []

    def put(module, name: str, instead) -> None:
        known = getattr(module, name)
        instead_of[id(known)] = instead
        kept.append(known)  # so that no other object gets its id
        setattr(module, name, instead)

    for module, names, instead in _MISSING:
        # What the plugin does not import was not built into its component.
        loaded = sys.modules.get(module)
        for name in names:
            if hasattr(loaded, name):
                put(loaded, name, _absent(f"{module}.{name}", instead))
    put(time, "sleep", _absent("time.sleep", "a plugin answers at once, or raises Retry"))
    for name, arguments in (("localtime", 1), ("gmtime", 1), ("ctime", 1), ("asctime", 1), ("strftime", 2)):
        put(time, name, _of_moment(name, getattr(time, name), arguments))
    if "datetime" in sys.modules:
        dates = sys.modules["datetime"]
        for name, constructors in (("datetime", ("now", "utcnow", "today")), ("date", ("today",))):
            put(dates, name, _dated(getattr(dates, name), constructors))
    put(builtins, "print", _print)
    put(builtins, "open", _absent("open", _FILES))
    # What the plugin's own modules have imported by name.
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in sys.stdlib_module_names or name == __name__:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in instead_of:
                setattr(module, attribute, instead_of[id(value)])


def _of_moment(name: str, call, arguments: int):
    """A function of `time` that takes the clock's moment where it is given none."""
    refused = _absent(f"time.{name} without a moment", _CLOCK)

    def of_moment(*given):
        return call(*given) if len(given) == arguments and given[-1] is not None else refused()

    return of_moment


def _dated(known: type, constructors: tuple[str, ...]) -> type:
    """`datetime` or `date` without what asks the clock. What others made is of this class, too."""

    class Kind(type):
        def __instancecheck__(cls, value):
            return isinstance(value, known)

        def __subclasscheck__(cls, kind):
            return issubclass(kind, known)

    instead = f"{_CLOCK}, in milliseconds: datetime.fromtimestamp(context.now / 1000, timezone.utc)"
    absent = {name: staticmethod(_absent(f"{known.__name__}.{name}", instead)) for name in constructors}
    return Kind(known.__name__, (known,), absent)


def _print(*values, sep=" ", end="", file=None, flush=False) -> None:
    """There is no standard output: what is printed goes where the plugin's log goes."""
    setup.log.info((" " if sep is None else sep).join(str(value) for value in values))


class _Broker:
    """The host's functions, behind the interface of `setup.host`."""

    def resolve(self, name: str) -> int:
        if wit_topics is None:
            raise ValueError("only routers name topics")
        if not isinstance(name, str):
            raise ValueError(f"a topic's name is text, and this is {name!r}: is it missing from the configuration?")
        return _said(wit_topics.resolve, name)

    def write(self, level: str, message: str) -> None:
        wit_log.write(wit_log.Level[level.upper()], text(str(message), "a line of log"))

    def declare(self, name: str, kind: str, labels: tuple[tuple[str, str], ...]) -> int:
        pairs = [(label, str(value)) for label, value in labels]
        return _said(wit_metrics.declare, text(name, "the name of a series"), wit_metrics.Kind[kind.upper()], pairs)

    def add(self, series: int, by: int) -> None:
        wit_metrics.add(series, whole(by, "what a counter is to grow by", 0, (1 << 64) - 1))

    def set(self, series: int, to: float) -> None:
        wit_metrics.set(series, to)

    def observe(self, series: int, value: float) -> None:
        wit_metrics.observe(series, value)


def _said(call, *arguments):
    """What a function of the host refuses is the author's `ValueError`."""
    try:
        return call(*arguments)
    except Err as error:
        raise ValueError(error.value) from None


class _Opened:
    """The one instance of a component."""

    plugin: Any = None
    headers: list[str] = []
    strongest: Any = None


def describe(kind: type[plugins.Plugin]) -> tuple[str, str, str, str]:
    """Name, version, summary and example of a plugin."""
    document = (kind.__doc__ or "").strip().splitlines()
    summary = kind.summary or (document[0] if document else "")
    example = "" if kind.example is None else kind.example if isinstance(kind.example, str) else json.dumps(kind.example)
    return kind.name or kind.__name__, kind.version, summary, example


def open_plugin(kind: type[plugins.Plugin], config: str) -> tuple[plugins.Plugin, setup.Setup]:
    """Opens a plugin with the text of its configuration."""
    plugin, asked = kind(), setup.Setup()
    try:
        parsed = kind.parse_config(config) if hasattr(kind, "parse_config") else json.loads(config) if config.strip() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is not JSON: {error}") from None
    plugin.open(parsed, asked)
    return plugin, asked


def _batch(topic, batch, contexts) -> Batch:
    start, runs = 0, []
    for context in contexts:
        runs.append(Context(range(start, context.end), context.now, context.seed, context.principal, context.client_id))
        start = context.end
    return Batch(
        topic=topic.name,
        partitions=topic.partitions,
        count=batch.count,
        contexts=runs,
        keys=unpack(batch.keys) if batch.keys is not None else (),
        values=unpack(batch.values) if batch.values is not None else (),
        timestamps=batch.timestamps if batch.timestamps is not None else (),
        _headers={name: unpack(column) for name, column in zip(_Opened.headers, batch.headers)},
    )


def _failing(call):
    """Answers exceptions as failures: a trap would cost the instance and tell the operator nothing."""

    def wrapped(*arguments):
        try:
            return call(*arguments)
        except (SystemExit, KeyboardInterrupt) as error:
            raise Err(wit_types.Failure_Failed(f"a plugin cannot exit ({type(error).__name__})")) from None
        except Retry as error:
            raise Err(wit_types.Failure_Retry(text(words(error), "it"))) from None
        except Exception as error:
            raise Err(wit_types.Failure_Failed(text(words(error), "it"))) from None

    return wrapped


class _Lifecycle:
    kind: type[plugins.Plugin]

    def describe(self):
        return wit_lifecycle.Description(*describe(self.kind))

    def open(self, config):
        setup.use(_Broker())
        _forbid()
        try:
            _Opened.plugin, asked = open_plugin(self.kind, config)
            # Here its errors have words; where the broker asks for it they would be traps.
            most = _Opened.plugin.strongest() if isinstance(_Opened.plugin, plugins.AckHook) else None
            _Opened.strongest = None if most is None else _copies(most)
        except Exception as error:
            raise Err(words(error)) from None
        _Opened.headers = asked.headers
        columns, facts = wit_types.Columns(0), wit_types.Facts(0)
        for column in asked.columns:
            columns |= wit_types.Columns[column.upper()]
        for fact in asked.facts:
            facts |= wit_types.Facts[fact.upper()]
        return wit_lifecycle.Needs(columns, facts, asked.headers)


def places(route) -> list[tuple[int, int]]:
    """Topics and partitions of a route, as numbers."""
    if isinstance(route, setup.Topic):
        return [(route.number, ANY_PARTITION)]
    if isinstance(route, tuple) and len(route) == 2 and isinstance(route[0], setup.Topic) and not isinstance(route[1], (setup.Topic, tuple)):
        return [(route[0].number, whole(route[1], f"the partition of {route[0].name or 'KEEP'}", 0, ANY_PARTITION - 1))]
    if not isinstance(route, (list, tuple, set, frozenset)):
        raise Failed(f"{route!r} is no route: KEEP, DROP, a topic, topic.at(partition), a list of those, or Reject(why)")
    return [place for part in route for place in places(part)]


def _rejection(position: int, rejected: plugins.Reject):
    return wit_types.Rejection(position, text(rejected.reason, "the reason of a Reject"))


def checked(answers, count: int, what: str) -> list:
    """One answer for each record."""
    answers = list(answers)
    if len(answers) != count:
        raise TypeError(f"{what} gave {len(answers)} answers for {count}")
    return answers


def _destinations(found: list[tuple[int, int]]):
    wishes = [partition for _, partition in found]
    if all(partition == ANY_PARTITION for partition in wishes):
        wishes = []
    return wit_routing.Destinations([topic for topic, _ in found], wishes)


class _Routing:
    @_failing
    def route(self, topic, batch, contexts):
        answer = _Opened.plugin.route(_batch(topic, batch, contexts))
        if isinstance(answer, plugins.Uniform):
            return wit_routing.Answer(wit_routing.Routes_Uniform(_destinations(places(answer.route))), [])
        rejected, found, ends = [], [], []
        for position, route in enumerate(checked(answer, batch.count, "route")):
            if isinstance(route, plugins.Reject):
                rejected.append(_rejection(position, route))
            else:
                found.extend(places(route))
            ends.append(len(found))
        if not rejected and all(end == position + 1 for position, end in enumerate(ends)):
            return wit_routing.Answer(wit_routing.Routes_Single(_destinations(found)), [])
        routes = wit_routing.Routes_Many(wit_routing.FanOut(ends, _destinations(found)))
        return wit_routing.Answer(routes, rejected)


class _Partitioning:
    @_failing
    def partition(self, topic, batch, contexts):
        partitions, rejected = [], []
        answer = _Opened.plugin.partition(_batch(topic, batch, contexts))
        for position, partition in enumerate(checked(answer, batch.count, "partition")):
            if isinstance(partition, plugins.Reject):
                rejected.append(_rejection(position, partition))
                partition = 0
            partitions.append(whole(partition, f"the partition of record {position}"))
        return wit_partitioning.Placement(partitions, rejected)


def _copies(until: plugins.Until):
    brokers = [whole(broker, "a broker", -(1 << 31), (1 << 31) - 1) for broker in until.brokers]
    counts = [whole(getattr(until, name), name) for name in ("count", "racks")]
    return wit_acknowledging.Copies(*counts, brokers, whole(until.within_ms, "within_ms"))


def _decision(decision):
    if isinstance(decision, plugins.Until):
        return wit_acknowledging.Decision_Until(_copies(decision))
    if isinstance(decision, plugins.Refuse):
        reason = wit_acknowledging.Reason[decision.reason.upper()]
        message = text(decision.message, "the message of a Refuse")
        return wit_acknowledging.Decision_Refuse(wit_acknowledging.Refusal(reason, message))
    return {
        plugins.AS_ASKED: wit_acknowledging.Decision_AsAsked,
        plugins.APPENDED: wit_acknowledging.Decision_Appended,
        plugins.LEADER_DURABLE: wit_acknowledging.Decision_LeaderDurable,
        plugins.MIN_IN_SYNC: wit_acknowledging.Decision_MinInSync,
        plugins.ALL_IN_SYNC: wit_acknowledging.Decision_AllInSync,
    }[decision]()


class _Acknowledging:
    def strongest(self):
        return _Opened.strongest

    @_failing
    def decide(self, topic, batch, contexts, arrivals):
        seen = _batch(topic, batch, contexts)
        arrived = [
            plugins.Arrival(
                one.partition,
                one.bytes,
                one.acks.name.lower(),
                one.min_in_sync,
                tuple(plugins.Replica(copy.broker, copy.rack, copy.in_sync, copy.behind) for copy in one.replicas),
                context.records,
            )
            for one, context in zip(arrivals, seen.contexts)
        ]
        found = sorted(_Opened.plugin.check(seen).items())
        rejected = [_rejection(whole(position, "a record"), plugins.Reject(reason)) for position, reason in found]
        decisions = checked(_Opened.plugin.decide(seen, arrived), len(arrived), "decide")
        return wit_acknowledging.Answer([_decision(decision) for decision in decisions], rejected)


class _Retaining:
    @_failing
    def evaluate(self, topic, logs, now):
        seen = [
            plugins.PartitionLog(
                log.partition,
                log.start_offset,
                log.high_watermark,
                tuple(plugins.Segment(s.base_offset, s.next_offset, s.max_timestamp, s.bytes) for s in log.segments),
                tuple(plugins.Reader(r.group, r.committed, r.idle_ms) for r in log.readers),
            )
            for log in logs
        ]
        verdicts = checked(_Opened.plugin.evaluate(topic.name, seen, now), len(seen), "evaluate")
        return wit_retaining.Answer(
            [_verdict(one) for one in verdicts], whole(_Opened.plugin.again_in_ms, "again_in_ms", 0, (1 << 64) - 1)
        )


def _verdict(one: plugins.Verdict):
    before = whole(one.delete_before, "delete_before", -(1 << 63), (1 << 63) - 1)
    return wit_retaining.Verdict(before, [whole(segment, "a segment to rewrite") for segment in one.rewrite])


def bitmap(kept) -> list[int]:
    """A bit for each record, in words of 64, least significant bit first."""
    words_of_bits: list[int] = []
    for position, keeps in enumerate(kept):
        # What is not said to be kept is erased for good: an answer that was forgotten is none.
        if keeps is not True and keeps is not False:
            raise Failed(f"keep gave {keeps!r} for record {position}, not True or False")
        if position % 64 == 0:
            words_of_bits.append(0)
        if keeps:
            words_of_bits[-1] |= 1 << (position % 64)
    return words_of_bits


class _Filtering:
    @_failing
    def keep(self, topic, partition, batch, offsets, now):
        seen = _batch(topic, batch, [])
        seen.contexts = [Context(range(batch.count), now, 0)]
        return bitmap(checked(_Opened.plugin.keep(seen, partition, offsets), batch.count, "keep"))


class _Offloading:
    @_failing
    def offload(self, topic, logs, now):
        seen = [
            plugins.OffloadLog(
                log.partition,
                log.start_offset,
                log.high_watermark,
                tuple(
                    plugins.OffloadSegment(s.base_offset, s.next_offset, s.max_timestamp, s.bytes, s.offloaded) for s in log.segments
                ),
                log.active_bytes,
            )
            for log in logs
        ]
        chosen = checked(_Opened.plugin.offload(topic.name, seen, now), len(seen), "offload")
        return [[whole(segment, "a segment to offload") for segment in segments] for segments in chosen]


def export(kind: type[plugins.Plugin]):
    """The classes that make a component of a plugin. They must have these names at the top of the module that is built::

        Lifecycle, Routing = export(MyRouter)
        Lifecycle, Partitioning = export(MyPartitioner)
        Lifecycle, Acknowledging = export(MyHook)
        Lifecycle, Retaining = export(MyPolicy)
        Lifecycle, Retaining, Filtering = export(MyEraser)
        Lifecycle, Retaining, Offloading = export(MyOffloader)
        Lifecycle, Retaining, Filtering, Offloading = export(MyArchivist)
    """
    lifecycle = type("Lifecycle", (_Lifecycle,), {"kind": kind})
    if issubclass(kind, plugins.Router):
        return lifecycle, type("Routing", (_Routing,), {})
    if issubclass(kind, plugins.Partitioner):
        return lifecycle, type("Partitioning", (_Partitioning,), {})
    if issubclass(kind, plugins.AckHook):
        return lifecycle, type("Acknowledging", (_Acknowledging,), {})
    if issubclass(kind, plugins.Retention):
        exported = [lifecycle, type("Retaining", (_Retaining,), {})]
        if issubclass(kind, plugins.Eraser):
            exported.append(type("Filtering", (_Filtering,), {}))
        if issubclass(kind, plugins.Offloader):
            exported.append(type("Offloading", (_Offloading,), {}))
        return tuple(exported)
    bases = "Router, Partitioner, AckHook, Retention, Eraser, Offloader or Archivist"
    raise TypeError(f"{kind.__name__} is no plugin: derive it from {bases}")
