"""A retention policy: it says what becomes of records, and when."""

from tidegate_sdk import BASE, Verdict, export

DAY_MS = 24 * 60 * 60 * 1000


class UntilConsumed(BASE):
    """SUMMARY."""

    name = "NAME"
    example = CONFIG

    def open(self, config, setup):
        self.groups = config["groups"]
        self.at_most_days = config.get("at_most_days")
        # [erase]
        self.erased = {key.encode() for key in config.get("erase", [])}
        # For `keep`; `evaluate` sees no records.
        setup.read_keys()
        # [end]
        # [offload]
        self.on_disk_days = config.get("on_disk_days")
        # [end]

    def evaluate(self, topic, logs, now):
        return [self.verdict(log, now) for log in logs]

    def verdict(self, log, now):
        positions = {reader.group: reader.committed for reader in log.readers}
        before = min((positions.get(group, log.start_offset) for group in self.groups), default=log.start_offset)
        for segment in old(log.segments, self.at_most_days, now):
            before = max(before, segment.next_offset)
        # [erase]
        return Verdict(delete_before=before, rewrite=range(len(log.segments)) if self.erased else ())
        # [end]
        # [not erase]
        return Verdict(delete_before=before)
        # [end]
    # [erase]

    def keep(self, batch, partition, offsets):
        return [key not in self.erased for key in batch.keys]
    # [end]
    # [offload]

    def offload(self, topic, logs, now):
        # The oldest come first; those that have gone already may be named again.
        return [range(len(old(log.segments, self.on_disk_days, now))) for log in logs]
    # [end]


def old(segments, days, now):
    """The first segments, up to one that has something newer than so many days; none, where no days are named."""
    newer = (at for at, segment in enumerate(segments) if days is None or segment.max_timestamp >= now - days * DAY_MS)
    return segments[: next(newer, len(segments))]


EXPORTED = export(UntilConsumed)
