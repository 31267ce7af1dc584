import assert from "node:assert/strict";
import { test } from "node:test";

import ByCustomer from "./plugin.js";
import { batch, opened, record } from "./tidegate-sdk/testkit.js";

test("a customer stays on one partition", () => {
  const partitioner = opened(ByCustomer, ByCustomer.example);
  const records = [record({ key: "acme.1" }), record({ key: "acme.2" }), record(), record()];
  const placed = partitioner.partition(batch(partitioner, records, { partitions: 7, seed: 12345n }));
  assert.equal(placed[0], placed[1]);
  assert.deepEqual(placed.slice(2), [12345 % 7, 12345 % 7]);
});
