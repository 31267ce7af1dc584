import assert from "node:assert/strict";
import { test } from "node:test";

import { DROP, KEEP, AckHook, Archivist, Eraser, Failed, Offloader, Partitioner, Retention, Router, bytes, refuse, reject, text, uniform } from "../index.js";
import { component, places, whole } from "../component.js";
import { SENT_TO, batch, opened, record, route } from "../testkit.js";

class Everywhere extends Router {
  open(_config, setup) {
    setup.readValues();
    setup.readHeader("trace");
    this.topic = setup.topic("other");
  }

  route(seen) {
    const values = seen.values.map(text);
    if (values[0] === "uniform") return uniform([KEEP, this.topic]);
    const there = { keep: KEEP, other: this.topic, third: this.topic.at(3), both: [KEEP, this.topic], drop: DROP };
    return values.map((value) => there[value] ?? reject("no such value"));
  }
}

const imports = {
  topics: { resolve: () => 7 },
  log: { write: () => {} },
  metrics: { declare: () => 0, add: () => {}, set: () => {}, observe: () => {} },
};

test("text is what TextDecoder makes of bytes, and bytes what TextEncoder makes of text", () => {
  const [decoder, encoder] = [new TextDecoder("utf-8", { ignoreBOM: true }), new TextEncoder()];
  for (const string of ["", "plain", "grün", "€ 12", "🦀", "a\u0000b"]) {
    assert.deepEqual(bytes(string), encoder.encode(string));
    assert.equal(text(bytes(string)), string);
  }
  for (const wrong of [[0xff], [0xc3], [0x61, 0xe2, 0x82], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x61]]) {
    assert.ok(text(Uint8Array.from(wrong)).includes("\ufffd"), String(wrong));
    assert.ok(decoder.decode(Uint8Array.from(wrong)).includes("\ufffd"));
  }
  assert.equal(text(null), "");
});

test("every route is understood", () => {
  const router = opened(Everywhere);
  const sent = ["keep", "other", "third", "both", "drop", "what?"].map((value) => record({ value }));
  assert.deepEqual(route(router, sent), [
    [SENT_TO],
    ["other"],
    ["other/3"],
    [SENT_TO, "other"],
    [],
    { rejected: "no such value" },
  ]);
  assert.deepEqual(route(router, [record({ value: "uniform" })]), [[SENT_TO, "other"]]);
});

test("only what was asked for is seen", () => {
  const router = opened(Everywhere);
  const seen = batch(router, [record({ key: "k", value: "v", headers: { trace: "t" } })], { principal: "User:a" });
  assert.deepEqual([seen.keys.length, text(seen.values[0]), text(seen.header("trace")[0])], [0, "v", "t"]);
  assert.equal(seen.contexts[0].principal, undefined);
  assert.throws(() => seen.header("more"), Failed);
});

test("columns tell null and empty apart, and answers are columns again", () => {
  const exported = component(Everywhere, imports);
  exported.lifecycle.open("");
  const data = bytes("keepotherboth");
  const values = { data, ends: Uint32Array.from([4, 9, 13, 13, 13]), nulls: [[1 << 3, 0]] };
  const headers = [{ data: new Uint8Array(), ends: Uint32Array.from([0, 0, 0, 0, 0]), nulls: [] }];
  const call = (seen) => exported.routing.route({ name: "t", partitions: 1 }, seen, [{ end: 5, now: 1n, seed: 2n }]);
  const answer = call({ count: 5, values, headers });
  assert.equal(answer.routes.tag, "many");
  assert.deepEqual(Array.from(answer.routes.val.ends), [1, 2, 4, 4, 4]);
  assert.deepEqual(Array.from(answer.routes.val.to.topics), [0, 7, 0, 7]);
  assert.deepEqual(answer.rejected, [
    { record: 3, reason: "no such value" },
    { record: 4, reason: "no such value" },
  ]);
});

test("an error is a failure in its own words", () => {
  class Bad extends Router {
    route() {
      return [KEEP];
    }
  }
  const exported = component(Bad, imports);
  exported.lifecycle.open("");
  const call = () => exported.routing.route({ name: "t", partitions: 1 }, { count: 2, headers: [] }, [{ end: 2, now: 0n, seed: 0n }]);
  assert.throws(call, (error) => error.tag === "failed" && error.val === "route gave 1 answers for 2");
});

test("what cannot cross into the broker is told", () => {
  for (const wrong of [NaN, undefined, null, "abc", "1", 1.7, -1, 2 ** 32, true]) {
    assert.throws(() => whole(wrong, "it"), Failed, String(wrong));
    assert.throws(() => places(KEEP.at(wrong)), /the partition of KEEP is/, String(wrong));
  }
  assert.deepEqual(places(KEEP.at(3)), [[0, 3]]);
  class Lost extends Partitioner {
    partition(seen) {
      return seen.keys.map(() => new Map().get("tenant"));
    }
  }
  const exported = component(Lost, imports);
  exported.lifecycle.open("");
  const keys = { data: bytes("k"), ends: Uint32Array.from([1]), nulls: [[0, 0]] };
  const call = () => exported.partitioning.partition({ name: "t", partitions: 1 }, { count: 1, keys, headers: [] }, [{ end: 1, now: 0n, seed: 0n }]);
  assert.throws(call, (error) => error.tag === "failed" && error.val.startsWith("the partition of record 0 is undefined"));
});

test("a topic without a name is told where to look", () => {
  class Nameless extends Router {
    open(config, setup) {
      setup.topic(config.failed);
    }
  }
  const exported = component(Nameless, imports);
  assert.throws(() => exported.lifecycle.open('{"faild":"x"}'), (words) => words.includes("is it missing from the configuration"));
});

test("every null is one, and what is empty is not", () => {
  class Keys extends Eraser {
    open(_config, setup) {
      setup.readKeys();
    }
    keep(seen) {
      this.constructor.seen = seen.keys;
      return seen.keys.map(() => true);
    }
  }
  const exported = component(Keys, imports);
  exported.lifecycle.open("");
  // The engine's halves are signed.
  const nulls = [[0b101 | 0, 0x8000_0001 | 0], [0, -1]];
  const keys = { data: new Uint8Array(), ends: new Uint32Array(128), nulls };
  exported.filtering.keep({ name: "t", partitions: 1 }, 0, { count: 128, keys, headers: [] }, [], 0);
  const found = Keys.seen.flatMap((key, record) => (key === null ? [record] : []));
  assert.deepEqual(found, [0, 2, 32, 63, ...Array.from({ length: 32 }, (_, bit) => 96 + bit)]);
  assert.ok(Keys.seen.every((key) => key === null || key.length === 0));
});

test("numbers of 64 bits cross as numbers", () => {
  const crossed = [];
  const metrics = { ...imports.metrics, add: (series, by) => crossed.push(by) };
  class Counts extends Router {
    open(_config, setup) {
      this.seen = setup.counter("seen");
    }
    route(batch) {
      this.seen.add();
      this.seed = batch.contexts[0].seed;
      return [KEEP];
    }
  }
  const counting = component(Counts, { ...imports, metrics });
  counting.lifecycle.open("");
  counting.routing.route({ name: "t", partitions: 1 }, { count: 1, headers: [] }, [{ end: 1, now: 0, seed: -1 }]);
  assert.deepEqual(crossed, [1]);
  class Keeps extends Retention {
    evaluate(_topic, logs) {
      return logs.map(() => ({ deleteBefore: this.before ?? -1 }));
    }
  }
  const policy = component(Keeps, imports);
  policy.lifecycle.open("");
  const log = { partition: 0, startOffset: 0, highWatermark: 9, segments: [], readers: [] };
  const answer = policy.retaining.evaluate({ name: "t", partitions: 1 }, [log], 5);
  assert.deepEqual([answer.verdicts[0].deleteBefore, answer.againInMs], [0, 0]);
});

test("segments are chosen by their indexes", () => {
  for (const kind of [Offloader, Archivist]) {
    class Old extends kind {
      offload(topic, logs, now) {
        this.seen = { topic, logs, now };
        return logs.map((log) => (log.partition === 3 ? ["1"] : log.segments.keys()));
      }
    }
    const policy = component(Old, imports);
    policy.lifecycle.open("");
    const segment = { baseOffset: 0n, nextOffset: 9n, maxTimestamp: 5n, bytes: 100n, offloaded: true };
    const log = { partition: 0, startOffset: 0n, highWatermark: 9n, segments: [segment, segment], activeBytes: 7n };
    const offload = (logs) => policy.offloading.offload({ name: "t", partitions: 1 }, logs, 5n);
    assert.deepEqual(offload([log, { ...log, segments: [] }]), [Uint32Array.from([0, 1]), Uint32Array.from([])]);
    assert.throws(() => offload([{ ...log, partition: 3 }]), (error) => error.val === "a segment to offload is 1, not a whole number from 0 to 4294967295");
    const silent = component(class extends kind {}, imports);
    silent.lifecycle.open("");
    assert.throws(() => silent.offloading.offload({ name: "t" }, [], 0), (error) => error.val === "this policy has no method `offload`");
  }
});

test("a check or a record that was forgotten is a failure", () => {
  class Object_ extends AckHook {
    check() {
      return { 0: "bad" };
    }
  }
  const hook = component(Object_, imports);
  hook.lifecycle.open("");
  const arrivals = [{ partition: 0, replicas: [] }];
  const decide = () => hook.acknowledging.decide({ name: "t", partitions: 1 }, { count: 1, headers: [] }, [{ end: 1, now: 0, seed: 0 }], arrivals);
  assert.throws(decide, (error) => error.val.includes("not a Map"));
  class Forgets extends Eraser {
    keep(batch) {
      return Array.from({ length: batch.count }, () => undefined);
    }
  }
  const eraser = component(Forgets, imports);
  eraser.lifecycle.open("");
  const keep = () => eraser.filtering.keep({ name: "t", partitions: 1 }, 0, { count: 1, headers: [] }, [], 0);
  assert.throws(keep, (error) => error.val.includes("keep gave undefined for record 0"));
});

test("bits are words of 64", () => {
  class Odd extends Eraser {
    keep(seen) {
      return Array.from({ length: seen.count }, (_, position) => position % 2 === 1);
    }
  }
  const exported = component(Odd, imports);
  exported.lifecycle.open("");
  const kept = exported.filtering.keep({ name: "t", partitions: 1 }, 0, { count: 66, headers: [] }, [], 0n);
  assert.deepEqual(Array.from(kept), [0xaaaa_aaaa_aaaa_aaaan, 2n]);
});

test("a refusal has a reason that Kafka knows", () => {
  assert.throws(() => refuse("no", "whim"), /whim is no reason/);
});
