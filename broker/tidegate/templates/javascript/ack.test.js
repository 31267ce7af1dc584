import assert from "node:assert/strict";
import { test } from "node:test";

import Owned from "./plugin.js";
import { batch, opened, record } from "./tidegate-sdk/testkit.js";

test("records without a known owner are rejected", () => {
  const hook = opened(Owned, Owned.example);
  const records = [record({ headers: { owner: "shop" } }), record(), record({ headers: { owner: "nobody" } })];
  const rejected = hook.check(batch(hook, records));
  assert.deepEqual(Array.from(rejected), [
    [1, "the header 'owner' is missing"],
    [2, "'nobody' is no known owner"],
  ]);
});
