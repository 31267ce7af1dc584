"""An acknowledgement hook: it says whether batches are taken, and when their write counts as acknowledged."""

from tidegate_sdk import AS_ASKED, AckHook, export


class Owned(AckHook):
    """Takes records of known owners only."""

    name = "NAME"
    example = {"owners": ["payments", "shop"]}

    def open(self, config, setup):
        if not config["owners"]:
            raise ValueError("'owners' is empty: no record could ever be taken")
        self.owners = {owner.encode() for owner in config["owners"]}
        setup.read_header("owner")

    def check(self, batch):
        # The producer's application reads these words (KIP-467).
        rejected = {}
        for position, owner in enumerate(batch.header("owner")):
            if owner is None:
                rejected[position] = "the header 'owner' is missing"
            elif owner not in self.owners:
                rejected[position] = f"'{owner.decode(errors='replace')}' is no known owner"
        return rejected

    def decide(self, batch, arrivals):
        # When a write counts: as the producer's acks say. There are LEADER_DURABLE, ALL_IN_SYNC, Until(...) and Refuse(...), too.
        return [AS_ASKED for _ in arrivals]


Lifecycle, Acknowledging = export(Owned)
