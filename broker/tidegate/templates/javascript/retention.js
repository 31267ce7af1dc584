/** A retention policy: it says what becomes of records, and when. */

import { BASE, ConfigError } from "./tidegate-sdk/index.js";
// [erase]
import { text } from "./tidegate-sdk/index.js";
// [end]

export const DAY_MS = 24 * 60 * 60 * 1000;

export default class UntilConsumed extends BASE {
  static pluginName = "NAME";
  static summary = "SUMMARY";
  static example = CONFIG;

  open(config, setup) {
    if (!Array.isArray(config?.groups)) throw new ConfigError("'groups' is missing: who must have consumed a record?");
    this.groups = config.groups;
    this.atMostDays = config.at_most_days;
    // [erase]
    this.erased = new Set(config.erase ?? []);
    // For `keep`; `evaluate` sees no records.
    setup.readKeys();
    // [end]
    // [offload]
    this.onDiskDays = config.on_disk_days;
    // [end]
  }

  evaluate(topic, logs, now) {
    return logs.map((log) => this.verdict(log, now));
  }

  verdict(log, now) {
    const positions = new Map(log.readers.map((reader) => [reader.group, reader.committed]));
    const consumed = this.groups.map((group) => positions.get(group) ?? log.startOffset);
    const expired = old(log.segments, this.atMostDays, now).map((segment) => segment.nextOffset);
    const deleteBefore = Math.max(consumed.length === 0 ? log.startOffset : Math.min(...consumed), ...expired);
    // [erase]
    return { deleteBefore, rewrite: this.erased.size === 0 ? [] : log.segments.keys() };
    // [end]
    // [not erase]
    return { deleteBefore };
    // [end]
  }
  // [erase]

  keep(batch) {
    return batch.keys.map((key) => key === null || !this.erased.has(text(key)));
  }
  // [end]
  // [offload]

  offload(topic, logs, now) {
    // The oldest come first; those that have gone already may be named again.
    return logs.map((log) => old(log.segments, this.onDiskDays, now).keys());
  }
  // [end]
}

/** The first segments, up to one that has something newer than so many days; none, where no days are named. */
const old = (segments, days, now) => {
  const newer = segments.findIndex((segment) => days === undefined || segment.maxTimestamp >= now - days * DAY_MS);
  return newer === -1 ? segments : segments.slice(0, newer);
};
