"""Tests of plugins without a broker and without Wasm::

    from tidegate_sdk.testkit import batch, opened, record, route

    router = opened(ByRegion, {"regions": {"eu": "orders-eu"}})
    assert route(router, [record(key="eu.1"), record()]) == [["orders-eu"], ["SENT TO"]]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from . import plugins, setup
from .data import Batch, Context
from .export import ANY_PARTITION, checked, open_plugin, places

#: The topic that records are sent to, in what `route` gives.
SENT_TO = "SENT TO"


def record(
    key: bytes | str | None = None,
    value: bytes | str | None = None,
    timestamp: int = 0,
    headers: dict[str, bytes | str] | None = None,
) -> dict[str, Any]:
    """A record for `batch`."""
    return {
        "key": _bytes(key),
        "value": _bytes(value),
        "timestamp": timestamp,
        "headers": {name: _bytes(text) for name, text in (headers or {}).items()},
    }


def opened(kind: type[plugins.Plugin], config: Any = None):
    """A plugin as the broker opens it. `config` goes through JSON, as it does there; `None` is no configuration."""
    setup.use(setup._Host())
    plugin, asked = open_plugin(kind, config if isinstance(config, str) else "" if config is None else json.dumps(config))
    plugin.asked = asked
    return plugin


def batch(
    plugin: plugins.Plugin,
    records: Sequence[dict[str, Any]],
    *,
    topic: str = "topic",
    partitions: int = 1,
    now: int = 0,
    seed: int = 0,
    principal: str | None = None,
    client_id: str | None = None,
) -> Batch:
    """A batch as this plugin sees it: with what it has asked for, and nothing else."""
    asked = plugin.asked
    context = Context(
        range(len(records)),
        now,
        seed,
        principal if "principal" in asked.facts else None,
        client_id if "client_id" in asked.facts else None,
    )
    return Batch(
        topic=topic,
        partitions=partitions,
        count=len(records),
        contexts=[context],
        keys=[one["key"] for one in records] if "keys" in asked.columns else (),
        values=[one["value"] for one in records] if "values" in asked.columns else (),
        timestamps=[one["timestamp"] for one in records] if "timestamps" in asked.columns else (),
        _headers={name: [one["headers"].get(name) for one in records] for name in asked.headers},
    )


def route(router: plugins.Router, records: Sequence[dict[str, Any]], **surroundings: Any) -> list:
    """Where each record goes: a list of names (`SENT_TO` for the topic that it was sent to, `NAME/3` where a partition is wished for), or the
    `Reject`."""
    answer = router.route(batch(router, records, **surroundings))
    if isinstance(answer, plugins.Uniform):
        answer = [answer.route] * len(records)
    names = {0: SENT_TO, **{number: name for name, number in setup.host.topics.items()}}

    def readable(one):
        if isinstance(one, plugins.Reject):
            return one
        return [names[topic] + ("" if wish == ANY_PARTITION else f"/{wish}") for topic, wish in places(one)]

    return [readable(one) for one in checked(answer, len(records), "route")]


def _bytes(text: bytes | str | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text
