/** A router in one small file: the part of the key before the first dot names the region, and each region has a topic. */

import { ConfigError, KEEP, Router, text } from "./tidegate-sdk/index.js";

export default class ByRegion extends Router {
  static summary = "Sends the records of each region to a topic of their own";
  static example = { regions: { eu: "orders-eu", us: "orders-us" } };

  open(config, setup) {
    const regions = Object.entries(config?.regions ?? {});
    // Whoever attaches the plugin reads what is thrown here.
    if (regions.length === 0) throw new ConfigError("name at least one region");
    // Only what is asked for is handed over: see `Setup`.
    setup.readKeys();
    this.topics = new Map(regions.map(([region, topic]) => [region, setup.topic(topic)]));
  }

  route(batch) {
    // No such region: the record stays in the topic that it was sent to.
    return batch.keys.map((key) => this.topics.get(text(key).split(".")[0]) ?? KEEP);
  }
}
