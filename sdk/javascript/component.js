/** From the class of a plugin to the interfaces of a component, and back. `tidegate plugin build` uses this; a plugin need not. */

import {
  ANY_PARTITION,
  AckHook,
  Batch,
  ConfigError,
  Failed,
  Place,
  Reject,
  Retry,
  Setup,
  Topic,
  Uniform,
  useHost,
} from "./index.js";

/** What an operator reads of an error: its text alone where the author threw it for them. */
const words = (error) => wellFormed(spoken(error), "it");

const spoken = (error) => {
  if (error instanceof Retry || error instanceof Failed || error instanceof ConfigError) return error.message;
  if (error instanceof Error) {
    const place = String(error.stack ?? "").split("\n").find((line) => line.includes(".js")) ?? "";
    return `${error.name}: ${error.message}${place === "" ? "" : ` (${place.trim()})`}`;
  }
  return String(error);
};

/** A number as it may cross into the broker. Typed arrays would make another one of what does not fit. */
export const whole = (value, what, most = 0xffff_ffff) => {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw new Failed(`${what} is ${String(value)}, not a whole number from 0 to ${most}`);
};

/** A number of 64 bits crosses as a double, both ways: beyond 2^53 its low bits are lost. */
const LONG_MAX = Number.MAX_SAFE_INTEGER;

/** Words as they may cross: half of a character, from text that was cut, may not. */
const wellFormed = (said, what) => {
  if (typeof said !== "string") throw new Failed(`${what} is ${String(said)}, not text`);
  return Array.from(said, (letter) => (letter.length === 1 && letter >= "\ud800" && letter <= "\udfff" ? "\ufffd" : letter)).join("");
};

const real = (value, what) => {
  if (typeof value === "number") return value;
  throw new Failed(`${what} is ${String(value)}, not a number`);
};

/** What the sandbox has not would end in a trap: this way it ends in words. */
const forbid = () => {
  // Natively, in tests, there is a clock.
  if (globalThis.process !== undefined) return;
  const refuse = () => {
    throw new Failed("the time is not there for plugins: the clock is `now` in batch.contexts");
  };
  const Known = globalThis.Date;
  // Its prototype is within reach, too.
  Known.now = refuse;
  globalThis.Date = class Date extends Known {
    constructor(...given) {
      if (given.length === 0) refuse();
      super(...given);
    }
    static now = refuse;
  };
  globalThis.performance = { now: refuse };
};

/** What the host refuses comes as an error with a payload. */
const said = (call) => {
  try {
    return call();
  } catch (error) {
    throw new ConfigError(String(error?.payload ?? error?.message ?? error));
  }
};

const broker = ({ topics, log, metrics }) => ({
  resolve(name) {
    if (typeof name !== "string") {
      throw new ConfigError(`a topic's name is text, and this is ${String(name)}: is it missing from the configuration?`);
    }
    if (topics === undefined) throw new ConfigError("only routers name topics");
    return said(() => topics.resolve(name));
  },
  write: (level, message) => log.write(level, wellFormed(message, "a line of log")),
  declare: (name, kind, labels) => {
    const pairs = labels.map(([label, value]) => [wellFormed(label, "a label"), wellFormed(String(value), "a label")]);
    return said(() => metrics.declare(wellFormed(name, "the name of a series"), kind, pairs));
  },
  add: (series, by) => metrics.add(series, whole(Number(by), "what a counter is to grow by", LONG_MAX)),
  set: (series, to) => metrics.set(series, real(to, "the value of a gauge")),
  observe: (series, value) => metrics.observe(series, real(value, "the value of a histogram")),
});

/** The values of a column as it crosses into the sandbox: one after another, and where each ends. */
const unpack = ({ data, ends, nulls }) => {
  const bytes = data instanceof Uint8Array ? data : Uint8Array.from(data);
  const values = new Array(ends.length);
  let start = 0;
  for (let i = 0; i < ends.length; i++) {
    values[i] = bytes.subarray(start, ends[i]);
    start = ends[i];
  }
  // Words of 64 bits, each as its low and its high half: whole, they would be doubles, and lose bits.
  nulls.forEach((halves, word) => {
    halves.forEach((half, high) => {
      for (let bits = half >>> 0, at = word * 64 + high * 32; bits !== 0; bits >>>= 1, at++) {
        if ((bits & 1) === 1) values[at] = null;
      }
    });
  });
  return values;
};

const readBatch = (topic, batch, contexts, headers) => {
  let start = 0;
  const runs = contexts.map((context) => {
    const run = {
      start,
      end: context.end,
      now: Number(context.now),
      seed: BigInt.asUintN(64, BigInt(context.seed)),
      principal: context.principal,
      clientId: context.clientId,
    };
    start = context.end;
    return run;
  });
  return new Batch({
    topic: topic.name,
    partitions: topic.partitions,
    count: batch.count,
    contexts: runs,
    keys: batch.keys ? unpack(batch.keys) : [],
    values: batch.values ? unpack(batch.values) : [],
    timestamps: batch.timestamps ? Array.from(batch.timestamps, Number) : [],
    headers: new Map(headers.map((name, at) => [name, unpack(batch.headers[at])])),
  });
};

/** One answer for each record. */
export const checked = (answers, count, what) => {
  const list = Array.from(answers ?? []);
  if (list.length !== count) throw new Failed(`${what} gave ${list.length} answers for ${count}`);
  return list;
};

/** Topics and partitions of a route, as numbers. */
export const places = (route) => {
  if (route instanceof Topic) return [[route.number, ANY_PARTITION]];
  if (route instanceof Place) {
    return [[route.topic.number, whole(route.partition, `the partition of ${route.topic.name || "KEEP"}`, ANY_PARTITION - 1)]];
  }
  if (Array.isArray(route)) return route.flatMap(places);
  throw new Failed(`${String(route)} is no route: KEEP, DROP, a topic, topic.at(partition), an array of those, or reject(why)`);
};

const destinations = (found) => {
  const wishes = found.map(([, partition]) => partition);
  return {
    topics: Uint32Array.from(found, ([topic]) => topic),
    partitions: Uint32Array.from(wishes.every((partition) => partition === ANY_PARTITION) ? [] : wishes),
  };
};

/** What an operator may do with a batch, checked. */
const decision = (one) => {
  switch (one?.tag) {
    case "until":
      return { tag: "until", val: { ...one.val, brokers: Array.from(one.val.brokers, (broker) => whole(broker, "a broker", 0x7fff_ffff)) } };
    case "refuse":
      return { tag: "refuse", val: { ...one.val, message: wellFormed(one.val.message, "the message of a refusal") } };
    case "as-asked":
    case "appended":
    case "leader-durable":
    case "min-in-sync":
    case "all-in-sync":
      return one;
    default:
      throw new Failed(`${String(one)} is no decision: AS_ASKED, APPENDED, LEADER_DURABLE, MIN_IN_SYNC, ALL_IN_SYNC, until(...) or refuse(...)`);
  }
};

/** What policies see of a partition, whatever they are asked. */
const readLog = ({ partition, startOffset, highWatermark, segments }) => ({
  partition,
  startOffset: Number(startOffset),
  highWatermark: Number(highWatermark),
  segments: segments.map((segment) => ({
    // Whether it is offloaded, where that is told.
    ...segment,
    baseOffset: Number(segment.baseOffset),
    nextOffset: Number(segment.nextOffset),
    maxTimestamp: Number(segment.maxTimestamp),
    bytes: Number(segment.bytes),
  })),
});

/** What is not said to be kept is erased for good: an answer that was forgotten is none. */
const bitmap = (kept) => {
  kept.forEach((keeps, position) => {
    if (typeof keeps !== "boolean") throw new Failed(`keep gave ${String(keeps)} for record ${position}, not true or false`);
  });
  const words = new BigUint64Array(Math.ceil(kept.length / 64));
  kept.forEach((keeps, position) => {
    if (keeps) words[position >> 6] |= 1n << BigInt(position & 63);
  });
  return words;
};

/** Opens a plugin with the text of its configuration. */
export const openPlugin = (kind, config) => {
  const plugin = new kind();
  const setup = new Setup();
  plugin.open(kind.parseConfig(config), setup);
  return { plugin, setup };
};

/** The interfaces of a component, by the names of the WIT. */
export const component = (kind, imports) => {
  let plugin;
  let most;
  let headers = [];
  const failing =
    (call) =>
    (...given) => {
      try {
        return call(...given);
      } catch (error) {
        throw { tag: error instanceof Retry ? "retry" : "failed", val: words(error) };
      }
    };
  const lifecycle = {
    describe: () => ({
      name: kind.pluginName || kind.name,
      version: kind.version,
      summary: kind.summary,
      example:
        kind.example === undefined ? "" : typeof kind.example === "string" ? kind.example : JSON.stringify(kind.example),
    }),
    open: (config) => {
      useHost(broker(imports));
      forbid();
      let setup;
      try {
        ({ plugin, setup } = openPlugin(kind, config));
        // Here its errors have words; where the broker asks for it they would be traps.
        most = plugin instanceof AckHook ? plugin.strongest() : undefined;
      } catch (error) {
        throw words(error);
      }
      headers = setup.headers;
      const flags = (names, set) => Object.fromEntries(names.map((name) => [name, set.has(name)]));
      return {
        columns: flags(["keys", "values", "timestamps"], setup.columns),
        facts: flags(["principal", "clientId"], setup.facts),
        headers,
      };
    },
  };
  const routing = {
    route: failing((topic, batch, contexts) => {
      const answer = plugin.route(readBatch(topic, batch, contexts, headers));
      if (answer instanceof Uniform) {
        return { routes: { tag: "uniform", val: destinations(places(answer.route)) }, rejected: [] };
      }
      const [rejected, found, ends] = [[], [], []];
      checked(answer, batch.count, "route").forEach((route, position) => {
        if (route instanceof Reject) rejected.push({ record: position, reason: wellFormed(route.reason, "the reason of a rejection") });
        else found.push(...places(route));
        ends.push(found.length);
      });
      if (rejected.length === 0 && ends.every((end, position) => end === position + 1)) {
        return { routes: { tag: "single", val: destinations(found) }, rejected };
      }
      return { routes: { tag: "many", val: { ends: Uint32Array.from(ends), to: destinations(found) } }, rejected };
    }),
  };
  const partitioning = {
    partition: failing((topic, batch, contexts) => {
      const rejected = [];
      const answer = plugin.partition(readBatch(topic, batch, contexts, headers));
      const partitions = checked(answer, batch.count, "partition").map((partition, position) => {
        if (!(partition instanceof Reject)) return whole(partition, `the partition of record ${position}`);
        rejected.push({ record: position, reason: wellFormed(partition.reason, "the reason of a rejection") });
        return 0;
      });
      return { partitions: Uint32Array.from(partitions), rejected };
    }),
  };
  const acknowledging = {
    strongest: () => most,
    decide: failing((topic, batch, contexts, arrivals) => {
      const seen = readBatch(topic, batch, contexts, headers);
      const arrived = arrivals.map((arrival, at) => ({
        ...arrival,
        replicas: arrival.replicas.map((replica) => ({ ...replica, behind: Number(replica.behind) })),
        start: seen.contexts[at].start,
        end: seen.contexts[at].end,
      }));
      const checks = plugin.check(seen);
      if (!(checks instanceof Map)) throw new Failed(`check gave ${String(checks)}, not a Map by the number of the record`);
      const rejected = Array.from(checks, ([record, reason]) => ({
        record: whole(record, "a record"),
        reason: wellFormed(String(reason), "a reason"),
      }));
      rejected.sort((one, other) => one.record - other.record);
      return { decisions: checked(plugin.decide(seen, arrived), arrived.length, "decide").map(decision), rejected };
    }),
  };
  const retaining = {
    evaluate: failing((topic, logs, now) => {
      const seen = logs.map((log) => ({
        ...readLog(log),
        readers: log.readers.map((reader) => ({
          group: reader.group,
          committed: Number(reader.committed),
          idleMs: Number(reader.idleMs),
        })),
      }));
      const verdicts = checked(plugin.evaluate(topic.name, seen, Number(now)), seen.length, "evaluate");
      return {
        verdicts: verdicts.map(({ deleteBefore = 0, rewrite = [] }) => ({
          // Below 0 is nothing, as 0 is.
          deleteBefore: whole(Math.max(Number(deleteBefore), 0), "deleteBefore", LONG_MAX),
          rewrite: Uint32Array.from(rewrite, (segment) => whole(segment, "a segment to rewrite")),
        })),
        againInMs: whole(plugin.againInMs, "againInMs", LONG_MAX),
      };
    }),
  };
  const filtering = {
    keep: failing((topic, partition, batch, offsets, now) => {
      const seen = readBatch(topic, batch, [], headers);
      seen.contexts = [{ start: 0, end: batch.count, now: Number(now), seed: 0n }];
      return bitmap(checked(plugin.keep(seen, partition, Array.from(offsets, Number)), batch.count, "keep"));
    }),
  };
  const offloading = {
    offload: failing((topic, logs, now) => {
      const seen = logs.map((log) => ({ ...readLog(log), activeBytes: Number(log.activeBytes) }));
      const chosen = checked(plugin.offload(topic.name, seen, Number(now)), seen.length, "offload");
      return chosen.map((segments) => Uint32Array.from(segments, (segment) => whole(segment, "a segment to offload")));
    }),
  };
  return { lifecycle, routing, partitioning, acknowledging, retaining, filtering, offloading };
};
