/** A retention policy: it says how long records are kept, and which are erased before that. */

import { ConfigError, Eraser, text } from "./tidegate-sdk/index.js";

export const DAY_MS = 24 * 60 * 60 * 1000;

export default class UntilConsumed extends Eraser {
  static pluginName = "NAME";
  static summary = "Keeps records until some groups have consumed them, and erases some keys";
  static example = { groups: ["billing"], at_most_days: 30, erase: ["customer-7"] };

  open(config, setup) {
    if (!Array.isArray(config?.groups)) throw new ConfigError("'groups' is missing: who must have consumed a record?");
    this.groups = config.groups;
    this.atMostDays = config.at_most_days;
    this.erased = new Set(config.erase ?? []);
    // For `keep`; `evaluate` sees no records.
    setup.readKeys();
  }

  evaluate(topic, logs, now) {
    return logs.map((log) => this.verdict(log, now));
  }

  verdict(log, now) {
    const positions = new Map(log.readers.map((reader) => [reader.group, reader.committed]));
    const consumed = this.groups.map((group) => positions.get(group) ?? log.startOffset);
    let deleteBefore = consumed.length === 0 ? log.startOffset : Math.min(...consumed);
    if (this.atMostDays !== undefined) {
      for (const segment of log.segments) {
        if (segment.maxTimestamp >= now - this.atMostDays * DAY_MS) break;
        deleteBefore = Math.max(deleteBefore, segment.nextOffset);
      }
    }
    return { deleteBefore, rewrite: this.erased.size === 0 ? [] : log.segments.keys() };
  }

  keep(batch) {
    return batch.keys.map((key) => key === null || !this.erased.has(text(key)));
  }
}
