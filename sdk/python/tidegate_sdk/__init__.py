"""Plugins for Tidegate, in Python.

A plugin is a class, and one line that exports it::

    from tidegate_sdk import KEEP, Router, export

    class ByRegion(Router):
        def open(self, config, setup):
            setup.read_keys()
            self.topics = {region.encode(): setup.topic(topic) for region, topic in config["regions"].items()}

        def route(self, batch):
            return [self.topics.get((key or b"").split(b".")[0], KEEP) for key in batch.keys]

    Lifecycle, Routing = export(ByRegion)

`tidegate plugin build` makes a component of it. Everything that a plugin imports is imported when it is built: in the sandbox there are no
files to import from, so write imports at the top of modules, never within functions.
"""

from .data import Batch, Context
from .errors import Failed, Retry
from .export import export
from .plugins import (
    ALL_IN_SYNC,
    APPENDED,
    AS_ASKED,
    DROP,
    KEEP,
    LEADER_DURABLE,
    MIN_IN_SYNC,
    AckHook,
    Archivist,
    Arrival,
    Eraser,
    Offloader,
    OffloadLog,
    OffloadSegment,
    Partitioner,
    PartitionLog,
    Plugin,
    Reader,
    Refuse,
    Reject,
    Replica,
    Retention,
    Router,
    Segment,
    Uniform,
    Until,
    Verdict,
)
from .setup import Counter, Gauge, Histogram, Setup, Topic, log

__all__ = [
    "ALL_IN_SYNC",
    "APPENDED",
    "AS_ASKED",
    "DROP",
    "KEEP",
    "LEADER_DURABLE",
    "MIN_IN_SYNC",
    "AckHook",
    "Archivist",
    "Arrival",
    "Batch",
    "Context",
    "Counter",
    "Eraser",
    "Failed",
    "Gauge",
    "Histogram",
    "OffloadLog",
    "OffloadSegment",
    "Offloader",
    "PartitionLog",
    "Partitioner",
    "Plugin",
    "Reader",
    "Refuse",
    "Reject",
    "Replica",
    "Retention",
    "Retry",
    "Router",
    "Segment",
    "Setup",
    "Topic",
    "Uniform",
    "Until",
    "Verdict",
    "export",
    "log",
]
