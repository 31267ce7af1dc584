/** An acknowledgement hook: it says whether batches are taken, and when their write counts as acknowledged. */

import { AS_ASKED, AckHook, ConfigError, text } from "./tidegate-sdk/index.js";

export default class Owned extends AckHook {
  static pluginName = "NAME";
  static summary = "Takes records of known owners only";
  static example = { owners: ["payments", "shop"] };

  open(config, setup) {
    if (!config?.owners?.length) throw new ConfigError("'owners' is empty: no record could ever be taken");
    this.owners = new Set(config.owners);
    setup.readHeader("owner");
  }

  check(batch) {
    // The producer's application reads these words (KIP-467).
    const rejected = new Map();
    batch.header("owner").forEach((owner, position) => {
      if (owner === null) rejected.set(position, "the header 'owner' is missing");
      else if (!this.owners.has(text(owner))) rejected.set(position, `'${text(owner)}' is no known owner`);
    });
    return rejected;
  }

  decide(batch, arrivals) {
    // When a write counts: as the producer's acks say. There are LEADER_DURABLE, ALL_IN_SYNC, until(...) and refuse(...), too.
    return arrivals.map(() => AS_ASKED);
  }
}
