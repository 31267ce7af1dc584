"""A router in one small file: the part of the key before the first dot names the region, and each region has a topic."""

from tidegate_sdk import KEEP, Router, export


class ByRegion(Router):
    """Sends the records of each region to a topic of their own."""

    example = {"regions": {"eu": "orders-eu", "us": "orders-us"}}

    def open(self, config, setup):
        # Whoever attaches the plugin reads what is raised here.
        if not config["regions"]:
            raise ValueError("name at least one region")
        # Only what is asked for is handed over: see `Setup`.
        setup.read_keys()
        self.topics = {region.encode(): setup.topic(topic) for region, topic in config["regions"].items()}

    def route(self, batch):
        # No such region: the record stays in the topic that it was sent to.
        return [self.topics.get((key or b"").split(b".")[0], KEEP) for key in batch.keys]


Lifecycle, Routing = export(ByRegion)
