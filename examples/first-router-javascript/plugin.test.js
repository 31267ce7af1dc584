import assert from "node:assert/strict";
import { test } from "node:test";

import ByRegion from "./plugin.js";
import { SENT_TO, opened, record, route } from "./tidegate-sdk/testkit.js";

test("a region has a topic of its own", () => {
  const router = opened(ByRegion, ByRegion.example);
  const routed = route(router, [record({ key: "eu.1" }), record({ key: "us" }), record({ key: "mars.7" }), record()]);
  assert.deepEqual(routed, [["orders-eu"], ["orders-us"], [SENT_TO], [SENT_TO]]);
});

test("a configuration without regions is refused", () => {
  assert.throws(() => opened(ByRegion, { regions: {} }), /name at least one region/);
});
