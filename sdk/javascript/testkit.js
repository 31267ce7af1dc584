/**
 * Tests of plugins without a broker and without Wasm:
 *
 *     const router = opened(ByRegion, { regions: { eu: "orders-eu" } });
 *     assert.deepEqual(route(router, [record({ key: "eu.1" }), record()]), [["orders-eu"], [SENT_TO]]);
 */

import { ANY_PARTITION, Batch, Reject, TestHost, Uniform, bytes, useHost } from "./index.js";
import { checked, openPlugin, places } from "./component.js";

/** The topic that records are sent to, in what `route` gives. */
export const SENT_TO = "SENT TO";

const raw = (value) => (typeof value === "string" ? bytes(value) : (value ?? null));

/** A record: `key`, `value`, `timestamp` and `headers` (by name), of which each may be left out. */
export const record = ({ key, value, timestamp = 0, headers = {} } = {}) => ({
  key: raw(key),
  value: raw(value),
  timestamp,
  headers: new Map(Object.entries(headers).map(([name, text]) => [name, raw(text)])),
});

/** A plugin as the broker opens it. `config` goes through JSON, as it does there. */
export const opened = (kind, config) => {
  const host = new TestHost();
  useHost(host);
  const text = config === undefined ? "" : typeof config === "string" ? config : JSON.stringify(config);
  const { plugin, setup } = openPlugin(kind, text);
  return Object.assign(plugin, { asked: setup, host });
};

/** A batch as this plugin sees it: with what it has asked for, and nothing else. */
export const batch = (plugin, records, { topic = "topic", partitions = 1, now = 0, seed = 0n, principal, clientId } = {}) => {
  const { columns, facts, headers } = plugin.asked;
  const column = (name, field) => (columns.has(name) ? records.map((one) => one[field]) : []);
  const context = {
    start: 0,
    end: records.length,
    now,
    seed,
    principal: facts.has("principal") ? principal : undefined,
    clientId: facts.has("clientId") ? clientId : undefined,
  };
  return new Batch({
    topic,
    partitions,
    count: records.length,
    contexts: [context],
    keys: column("keys", "key"),
    values: column("values", "value"),
    timestamps: column("timestamps", "timestamp"),
    headers: new Map(headers.map((name) => [name, records.map((one) => one.headers.get(name) ?? null)])),
  });
};

/**
 * Where each record goes: an array of names (`SENT_TO` for the topic that it was sent to, `NAME/3` where a partition is wished for), or
 * `{ rejected: why }`.
 */
export const route = (router, records, surroundings) => {
  const answer = router.route(batch(router, records, surroundings));
  const names = new Map([[0, SENT_TO], ...Array.from(router.host.topics, ([name, number]) => [number, name])]);
  const routes = answer instanceof Uniform ? records.map(() => answer.route) : checked(answer, records.length, "route");
  return routes.map((one) => {
    if (one instanceof Reject) return { rejected: one.reason };
    return places(one).map(([topic, wish]) => names.get(topic) + (wish === ANY_PARTITION ? "" : `/${wish}`));
  });
};
