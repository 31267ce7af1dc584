"""A partitioner: it says, for each record, which partition of its topic it goes to."""

import zlib

from tidegate_sdk import Partitioner, export


class ByCustomer(Partitioner):
    """Keeps the records of a customer on one partition."""

    name = "NAME"
    example = {"keyless": "sticky"}

    def open(self, config, setup):
        # Whoever attaches the plugin reads what is raised here.
        if (config or {}).get("keyless", "sticky") != "sticky":
            raise ValueError("'keyless' can be \"sticky\" only: records without a key that came together stay together")
        # Only what is asked for is handed over: see `Setup`.
        setup.read_keys()

    def partition(self, batch):
        placed = []
        # A run is what came in one batch of one producer; its seed is the same when it is sent again.
        for run in batch.contexts:
            for position in run.records:
                key = batch.keys[position]
                of = run.seed if key is None else zlib.crc32(key.split(b".")[0])
                placed.append(of % batch.partitions)
        return placed


Lifecycle, Partitioning = export(ByCustomer)
