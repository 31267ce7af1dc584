"""The four decisions of a broker, as classes to derive from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .data import Batch
from .setup import Setup, Topic


@dataclass(frozen=True)
class Reject:
    """In place of a record's route, partition or decision: it must not be written. The producer gets the reason with the number of the record
    (INVALID_RECORD, KIP-467), and nothing of its batch is written."""

    reason: str


class Plugin:
    """What every plugin has."""

    #: What it is; the name of the class where nothing is said.
    name: str = ""
    version: str = "0.1.0"
    #: One line; the first of the class's docstring where nothing is said.
    summary: str = ""
    #: A configuration that works, for `tidegate plugin describe`; `None` where none is needed.
    example: Any = None

    def open(self, config: Any, setup: Setup) -> None:
        """Called once, before any other. `config` is the attachment's text, read as JSON (`None` where it is empty; override `parse_config`
        for another format). Costly set-up belongs here. What is raised is shown to whoever attaches the plugin: `ValueError("name at
        least one region")` comes out word for word."""


KEEP = Topic(0, "")
"""The topic that the record was sent to."""
DROP: tuple = ()
"""Nowhere."""

Place = Topic | tuple[Topic, int]
Route = Place | Sequence[Place] | Reject


@dataclass(frozen=True)
class Uniform:
    """Every record of the batch has this route."""

    route: Place | Sequence[Place]


class Router(Plugin):
    """Which topics each record is written to."""

    def route(self, batch: Batch) -> Iterable[Route] | Uniform:
        """One route for each record, in order: `KEEP`, a topic, a topic with a partition (`topic.at(3)`), a list of those, `DROP` or
        `Reject("why")`. Or `Uniform(route)` for all of them. What is said of one batch is written everywhere before its producer is answered."""
        raise NotImplementedError


class Partitioner(Plugin):
    """Which partition of its topic each record goes to."""

    def partition(self, batch: Batch) -> Iterable[int | Reject]:
        """One number below `batch.partitions` for each record, in order, or `Reject("why")`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Replica:
    """One copy of a partition."""

    broker: int
    rack: str | None
    in_sync: bool
    #: Records that it is behind the leader.
    behind: int


@dataclass(frozen=True)
class Arrival:
    """A batch as it came from a producer."""

    partition: int
    #: Of the batch as it was sent, compressed if it was.
    bytes: int
    #: What its producer waits for: `"none"`, `"leader"` or `"all"`.
    acks: str
    #: `min.insync.replicas` of the topic.
    min_in_sync: int
    #: The leader first.
    replicas: tuple[Replica, ...]
    #: The positions of its records in the batch of the call.
    records: range


@dataclass(frozen=True)
class Simple:
    """A decision without more to it."""

    name: str


AS_ASKED = Simple("as_asked")
"""What the producer's acks say."""
APPENDED = Simple("appended")
"""When it has been appended: before it is durable. Granted only where the topic allows weakening."""
LEADER_DURABLE = Simple("leader_durable")
MIN_IN_SYNC = Simple("min_in_sync")
"""As many durable copies as `min.insync.replicas`."""
ALL_IN_SYNC = Simple("all_in_sync")


@dataclass(frozen=True)
class Until:
    """When so many copies are durable."""

    #: The leader's among them.
    count: int = 1
    #: In how many different racks they are at least; 0 or 1: anywhere.
    racks: int = 0
    #: Brokers that must be among them.
    brokers: tuple[int, ...] = ()
    #: Milliseconds after which the producer gets a retriable error instead; 0: its own timeout.
    within_ms: int = 0


REASONS = (
    "invalid_record",
    "policy_violation",
    "topic_authorization_failed",
    "message_too_large",
    "throttled",
    "not_enough_replicas",
)


@dataclass(frozen=True)
class Refuse:
    """The whole batch is refused. `throttled` and `not_enough_replicas` make its producer try again."""

    message: str
    #: One of `invalid_record`, `policy_violation`, `topic_authorization_failed`, `message_too_large`, `throttled`, `not_enough_replicas`.
    reason: str = "policy_violation"

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is no reason; there are {', '.join(REASONS)}")


Decision = Simple | Until | Refuse


class AckHook(Plugin):
    """Whether a batch is taken, and when its write counts as acknowledged."""

    def strongest(self) -> Until | None:
        """The most that `decide` ever asks for with `Until`; what the cluster can never give is then refused at attachment."""
        return None

    def check(self, batch: Batch) -> dict[int, str]:
        """Records that must not be written, by position, and why. Called before `decide`."""
        del batch
        return {}

    def decide(self, batch: Batch, arrivals: Sequence[Arrival]) -> Iterable[Decision]:
        """One decision for each arrival, in order. The broker takes the stronger of this and of what the producer asked for."""
        del batch
        return [AS_ASKED for _ in arrivals]


@dataclass(frozen=True)
class Segment:
    """A sealed segment: nothing is appended to it any more."""

    base_offset: int
    #: The offset after its last record.
    next_offset: int
    #: The newest timestamp of its records, in milliseconds since 1970.
    max_timestamp: int
    #: On the disk.
    bytes: int


@dataclass(frozen=True)
class Reader:
    """A consumer group's position in a partition."""

    group: str
    #: The next record that it wants.
    committed: int
    #: Milliseconds since it committed that.
    idle_ms: int


@dataclass(frozen=True)
class PartitionLog:
    """A partition."""

    partition: int
    start_offset: int
    #: The offset after the last committed record.
    high_watermark: int
    #: Oldest first; the active segment is not among them.
    segments: tuple[Segment, ...]
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a partition."""

    #: The new start offset: what is below is deleted. Nothing is, where it is at or below the present one.
    delete_before: int = 0
    #: Indexes of segments to pass through `keep`, of an `Eraser`.
    rewrite: Sequence[int] = field(default=())


class Retention(Plugin):
    """How long records are kept."""

    #: Milliseconds until it wants to be asked again; 0: at the broker's next round.
    again_in_ms: int = 0

    def evaluate(self, topic: str, logs: Sequence[PartitionLog], now: int) -> Iterable[Verdict]:
        """One verdict for each partition, in order. `now` is the broker's clock, in milliseconds since 1970."""
        raise NotImplementedError


class Eraser(Retention):
    """A `Retention` that also says what is kept of segments that are rewritten, record by record."""

    def keep(self, batch: Batch, partition: int, offsets: Sequence[int]) -> Iterable[bool]:
        """Whether each record is kept, in order. Offsets do not change. `batch.contexts[0].now` is the broker's clock."""
        raise NotImplementedError


@dataclass(frozen=True)
class OffloadSegment(Segment):
    """A sealed segment, as a policy that offloads sees it."""

    #: In the object store already, and not on the disk.
    offloaded: bool = False


@dataclass(frozen=True)
class OffloadLog:
    """A partition, as a policy that offloads sees it."""

    partition: int
    start_offset: int
    #: The offset after the last committed record.
    high_watermark: int
    #: Oldest first; the active segment is not among them: it is never offloaded.
    segments: tuple[OffloadSegment, ...]
    #: Of the active segment, on the disk.
    active_bytes: int


class Offloader(Retention):
    """A `Retention` that also says which segments go to the object store. It is attached only where the broker has one."""

    def offload(self, topic: str, logs: Sequence[OffloadLog], now: int) -> Iterable[Iterable[int]]:
        """For each partition, in order, the indexes of the segments that go to the object store, and from the disk. Those that are there
        already may be among them. Called after `evaluate`, with what that has left."""
        raise NotImplementedError


class Archivist(Eraser, Offloader):
    """An `Eraser` that also offloads."""
