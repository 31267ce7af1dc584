import assert from "node:assert/strict";
import { test } from "node:test";

import UntilConsumed, { DAY_MS } from "./plugin.js";
import { opened } from "./tidegate-sdk/testkit.js";
// [erase]
import { batch, record } from "./tidegate-sdk/testkit.js";
// [end]

const segments = [
  { baseOffset: 0, nextOffset: 10, maxTimestamp: DAY_MS, bytes: 100 },
  { baseOffset: 10, nextOffset: 20, maxTimestamp: 9 * DAY_MS, bytes: 100 },
];

test("records stay until they were consumed or are too old", () => {
  const policy = opened(UntilConsumed, { groups: ["billing"], at_most_days: 2 });
  const log = { partition: 0, startOffset: 0, highWatermark: 25, segments };
  const verdict = (readers) => policy.evaluate("orders", [{ ...log, readers }], 10 * DAY_MS)[0].deleteBefore;
  assert.equal(verdict([{ group: "billing", committed: 15, idleMs: 0 }]), 15);
  assert.equal(verdict([]), 10);
});
// [erase]

test("some keys are erased", () => {
  const policy = opened(UntilConsumed, UntilConsumed.example);
  const seen = batch(policy, [record({ key: "customer-1" }), record({ key: "customer-7" }), record()]);
  assert.deepEqual(policy.keep(seen), [true, false, true]);
});
// [end]
// [offload]

test("old segments go to the object store", () => {
  const policy = opened(UntilConsumed, UntilConsumed.example);
  const log = { partition: 0, startOffset: 0, highWatermark: 25, segments, activeBytes: 50 };
  assert.deepEqual(Array.from(policy.offload("orders", [log], 10 * DAY_MS)[0]), [0]);
});
// [end]
