/** A partitioner: it says, for each record, which partition of its topic it goes to. */

import { ConfigError, Partitioner, text } from "./tidegate-sdk/index.js";

/** FNV-1a of a text. */
const hash = (string) => {
  let found = 0x811c9dc5;
  for (let at = 0; at < string.length; at++) found = Math.imul(found ^ string.charCodeAt(at), 0x01000193);
  return found >>> 0;
};

export default class ByCustomer extends Partitioner {
  static pluginName = "NAME";
  static summary = "Keeps the records of a customer on one partition";
  static example = { keyless: "sticky" };

  open(config, setup) {
    // Whoever attaches the plugin reads what is thrown here.
    if ((config?.keyless ?? "sticky") !== "sticky") {
      throw new ConfigError("'keyless' can be \"sticky\" only: records without a key that came together stay together");
    }
    // Only what is asked for is handed over: see `Setup`.
    setup.readKeys();
  }

  partition(batch) {
    const placed = [];
    // A run is what came in one batch of one producer; its seed is the same when it is sent again.
    for (const { start, end, seed } of batch.contexts) {
      for (const key of batch.keys.slice(start, end)) {
        placed.push(key === null ? Number(seed % BigInt(batch.partitions)) : hash(text(key).split(".")[0]) % batch.partitions);
      }
    }
    return placed;
  }
}
