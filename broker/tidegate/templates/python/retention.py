"""A retention policy: it says how long records are kept, and which are erased before that."""

from tidegate_sdk import Eraser, Verdict, export

DAY_MS = 24 * 60 * 60 * 1000


class UntilConsumed(Eraser):
    """Keeps records until some groups have consumed them, and erases some keys."""

    name = "NAME"
    example = {"groups": ["billing"], "at_most_days": 30, "erase": ["customer-7"]}

    def open(self, config, setup):
        self.groups = config["groups"]
        self.at_most_days = config.get("at_most_days")
        self.erased = {key.encode() for key in config.get("erase", [])}
        # For `keep`; `evaluate` sees no records.
        setup.read_keys()

    def evaluate(self, topic, logs, now):
        return [self.verdict(log, now) for log in logs]

    def verdict(self, log, now):
        positions = {reader.group: reader.committed for reader in log.readers}
        before = min((positions.get(group, log.start_offset) for group in self.groups), default=log.start_offset)
        if self.at_most_days is not None:
            for segment in log.segments:
                if segment.max_timestamp >= now - self.at_most_days * DAY_MS:
                    break
                before = max(before, segment.next_offset)
        return Verdict(delete_before=before, rewrite=range(len(log.segments)) if self.erased else ())

    def keep(self, batch, partition, offsets):
        return [key not in self.erased for key in batch.keys]


Lifecycle, Retaining, Filtering = export(UntilConsumed)
