/**
 * Plugins for Tidegate, in JavaScript.
 *
 * A plugin is a class that its module exports as default:
 *
 *     import { KEEP, Router, text } from "./tidegate-sdk/index.js";
 *
 *     export default class ByRegion extends Router {
 *       open(config, setup) {
 *         setup.readKeys();
 *         this.topics = new Map(Object.entries(config.regions).map(([region, topic]) => [region, setup.topic(topic)]));
 *       }
 *       route(batch) {
 *         return batch.keys.map((key) => this.topics.get(text(key).split(".")[0]) ?? KEEP);
 *       }
 *     }
 *
 * `tidegate plugin build` makes a component of it. In the sandbox there is JavaScript and what is in this file: no `process`, no files, no
 * network, no timers. The clock and the randomness that there is are in `batch.contexts`.
 */

/** Not now: the producer gets a retriable error. */
export class Retry extends Error {}

/**
 * The plugin cannot answer; what then happens to the records is the attachment's policy (`tidegate.router.on.failure` and so on). Any other
 * error that leaves a plugin counts as this one.
 */
export class Failed extends Error {}

/** A configuration that the plugin does not take. Whoever attaches it reads the message word for word. */
export class ConfigError extends Error {}

/** No wish for a partition. */
export const ANY_PARTITION = 0xffff_ffff;

/** A topic that a router can name, as `Setup.topic` gives it. */
export class Topic {
  constructor(number, name) {
    this.number = number;
    this.name = name;
  }

  /** This topic, and the partition of it that the record is to go to. Otherwise the topic's own partitioner decides. */
  at(partition) {
    return new Place(this, partition);
  }
}

/** A topic and a partition of it. */
export class Place {
  constructor(topic, partition) {
    this.topic = topic;
    this.partition = partition;
  }
}

/** The topic that the record was sent to. */
export const KEEP = new Topic(0, "");
/** Nowhere. */
export const DROP = Object.freeze([]);

/** In place of a record's route or partition: it must not be written. */
export class Reject {
  constructor(reason) {
    this.reason = reason;
  }
}

/**
 * The producer gets the reason with the number of the record (INVALID_RECORD, KIP-467), and nothing of its batch is written.
 */
export const reject = (reason) => new Reject(String(reason));

/** One route for every record of a batch. */
export class Uniform {
  constructor(route) {
    this.route = route;
  }
}

export const uniform = (route) => new Uniform(route);

/** What every plugin has. */
export class Plugin {
  /** What it is; the name of the class where nothing is said. */
  static pluginName = "";
  static version = "0.1.0";
  /** One line. */
  static summary = "";
  /** A configuration that works, for `tidegate plugin describe`; `undefined` where none is needed. */
  static example = undefined;

  /** The attachment's text as what `open` gets: JSON, `undefined` where it is empty. */
  static parseConfig(text) {
    if (text.trim() === "") return undefined;
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new ConfigError(`the configuration is not JSON: ${error.message}`);
    }
  }

  /** Called once, before any other. Costly set-up belongs here. What is thrown is shown to whoever attaches the plugin. */
  open(_config, _setup) {}
}

/** Which topics each record is written to. */
export class Router extends Plugin {
  static world = "router";

  /**
   * One route for each record, in order: `KEEP`, a topic, a topic with a partition (`topic.at(3)`), an array of those, `DROP` or
   * `reject("why")`. Or `uniform(route)` for all of them. What is said of one batch is written everywhere before its producer is answered.
   */
  route(_batch) {
    throw new Failed("this router has no method `route`");
  }
}

/** Which partition of its topic each record goes to. */
export class Partitioner extends Plugin {
  static world = "partitioner";

  /** One number below `batch.partitions` for each record, in order, or `reject("why")`. */
  partition(_batch) {
    throw new Failed("this partitioner has no method `partition`");
  }
}

/** What the producer's acks say. */
export const AS_ASKED = Object.freeze({ tag: "as-asked" });
/** When it has been appended: before it is durable. Granted only where the topic allows weakening. */
export const APPENDED = Object.freeze({ tag: "appended" });
export const LEADER_DURABLE = Object.freeze({ tag: "leader-durable" });
/** As many durable copies as `min.insync.replicas`. */
export const MIN_IN_SYNC = Object.freeze({ tag: "min-in-sync" });
export const ALL_IN_SYNC = Object.freeze({ tag: "all-in-sync" });

/** Copies that must be durable: how many, in how many racks, which brokers, and milliseconds after which the producer is told to try again. */
export const copies = ({ count = 1, racks = 0, brokers = [], withinMs = 0 } = {}) => {
  const numbers = Object.entries({ count, racks, withinMs });
  const wrong = numbers.find(([, number]) => !Number.isInteger(number) || number < 0 || number > 0xffff_ffff);
  if (wrong !== undefined) throw new Failed(`${wrong[0]} is ${String(wrong[1])}, not a whole number`);
  return { count, racks, brokers, withinMs };
};

/** When these copies are durable. */
export const until = (wanted) => ({ tag: "until", val: copies(wanted) });

/** Why a whole batch can be refused. The last two make its producer try again. */
export const REASONS = Object.freeze([
  "policy-violation",
  "invalid-record",
  "topic-authorization-failed",
  "message-too-large",
  "throttled",
  "not-enough-replicas",
]);

/** The whole batch is refused, for one of `REASONS`. */
export const refuse = (message, reason = REASONS[0]) => {
  if (typeof message !== "string") throw new Failed(`the message of a refusal is ${String(message)}, not text`);
  if (!REASONS.includes(reason)) throw new Failed(`${reason} is no reason; there are ${REASONS.join(", ")}`);
  return { tag: "refuse", val: { reason, message } };
};

/** Whether a batch is taken, and when its write counts as acknowledged. */
export class AckHook extends Plugin {
  static world = "ack";

  /** The most that `decide` ever asks for with `until` (see `copies`); what the cluster can never give is then refused at attachment. */
  strongest() {
    return undefined;
  }

  /** Records that must not be written, and why: a `Map` by position. Called before `decide`. */
  check(_batch) {
    return new Map();
  }

  /** One decision for each arrival, in order. The broker takes the stronger of this and of what the producer asked for. */
  decide(_batch, arrivals) {
    return arrivals.map(() => AS_ASKED);
  }
}

/** How long records are kept. */
export class Retention extends Plugin {
  static world = "retention";

  /** Milliseconds until it wants to be asked again; 0: at the broker's next round. */
  againInMs = 0;

  /**
   * One verdict for each partition, in order: `{ deleteBefore, rewrite: [] }`. `now` is the broker's clock, in milliseconds since 1970.
   */
  evaluate(_topic, _logs, _now) {
    throw new Failed("this policy has no method `evaluate`");
  }
}

/** A `Retention` that also says what is kept of segments that are rewritten, record by record. */
export class Eraser extends Retention {
  static world = "eraser";

  /** Whether each record is kept, in order. Offsets do not change. `batch.contexts[0].now` is the broker's clock. */
  keep(_batch, _partition, _offsets) {
    throw new Failed("this policy has no method `keep`");
  }
}

const noOffload = () => {
  throw new Failed("this policy has no method `offload`");
};

/** A `Retention` that also says which segments go to the object store. It is attached only where the broker has one. */
export class Offloader extends Retention {
  static world = "offloader";

  /**
   * For each partition, in order, the indexes of the segments that go to the object store, and from the disk. Those that are there already
   * (`offloaded`) may be among them. `activeBytes` of a log are those of the active segment, which never goes. Called after `evaluate`, with
   * what that has left.
   */
  offload(_topic, _logs, _now) {
    return noOffload();
  }
}

/** An `Eraser` that also offloads, as an `Offloader`. */
export class Archivist extends Eraser {
  static world = "archivist";

  offload(_topic, _logs, _now) {
    return noOffload();
  }
}

/** Without a broker (in tests) names are numbered, and the rest is kept to be looked at. */
export class TestHost {
  topics = new Map();
  lines = [];
  series = [];
  values = new Map();

  resolve(name) {
    if (!this.topics.has(name)) this.topics.set(name, this.topics.size + 1);
    return this.topics.get(name);
  }

  write(level, message) {
    this.lines.push([level, message]);
  }

  declare(name, kind, labels) {
    const series = JSON.stringify([name, kind, labels]);
    if (!this.series.includes(series)) this.series.push(series);
    return this.series.indexOf(series);
  }

  add(series, by) {
    this.values.set(series, (this.values.get(series) ?? 0) + Number(by));
  }

  set(series, to) {
    this.values.set(series, to);
  }

  observe(series, value) {
    this.values.set(series, value);
  }
}

let host = new TestHost();

/** Used by `component.js` and `testkit.js`. */
export const useHost = (other) => {
  host = other;
};

/** Lines for the operator. They carry the plugin's name, its version and the topic; there is a limit to their number and length. */
export const log = Object.freeze({
  error: (message) => host.write("error", String(message)),
  warn: (message) => host.write("warn", String(message)),
  info: (message) => host.write("info", String(message)),
  debug: (message) => host.write("debug", String(message)),
});

/** Asks for what the plugin wants to see. The broker copies nothing else into the sandbox. */
export class Setup {
  columns = new Set();
  facts = new Set();
  headers = [];

  readKeys() {
    this.columns.add("keys");
  }

  readValues() {
    this.columns.add("values");
  }

  readTimestamps() {
    this.columns.add("timestamps");
  }

  /** `batch.header(name)` has its values then. */
  readHeader(name) {
    if (typeof name !== "string") {
      throw new ConfigError(`a header's name is text, and this is ${String(name)}: is it missing from the configuration?`);
    }
    if (!this.headers.includes(name)) this.headers.push(name);
  }

  readPrincipal() {
    this.facts.add("principal");
  }

  readClientId() {
    this.facts.add("clientId");
  }

  /** A topic to route to. Throws where the name cannot be one of a topic. */
  topic(name) {
    return new Topic(host.resolve(name), name);
  }

  /** A series of the plugin's own in the broker's metrics (`tidegate_plugin_own_NAME`) that only grows. */
  counter(name, labels = {}) {
    const series = host.declare(name, "counter", Object.entries(labels));
    return { add: (by = 1) => host.add(series, Number(by)) };
  }

  /** One that goes up and down. */
  gauge(name, labels = {}) {
    const series = host.declare(name, "gauge", Object.entries(labels));
    return { set: (to) => host.set(series, to) };
  }

  /** One that counts how often values of each size were seen. */
  histogram(name, labels = {}) {
    const series = host.declare(name, "histogram", Object.entries(labels));
    return { observe: (value) => host.observe(series, value) };
  }
}

/** Records of a topic, in order. Only what was asked for in `open` is there; the other columns are empty. */
export class Batch {
  /** The topic that the records were sent to, and its number of partitions. */
  topic = "";
  partitions = 1;
  count = 0;
  /** `{ start, end, now, seed, principal, clientId }` for each run of records that came together. */
  contexts = [];
  /** An entry for each record: a `Uint8Array`, or `null`, which is not the same as an empty one. */
  keys = [];
  values = [];
  /** Milliseconds since 1970. */
  timestamps = [];
  /** By name; see `header`. */
  headers = new Map();

  constructor(fields) {
    Object.assign(this, fields);
  }

  /** The last value of a header in each record; `null` where a record has none of that name. Asked for with `Setup.readHeader`. */
  header(name) {
    const values = this.headers.get(name);
    if (values === undefined) throw new Failed(`the header ${name} was not asked for: setup.readHeader(${JSON.stringify(name)})`);
    return values;
  }
}

/** Bytes as text: UTF-8, with U+FFFD for what is none. `null` is "". */
export const text = (bytes) => {
  if (bytes === null || bytes === undefined) return "";
  let found = "";
  for (let at = 0; at < bytes.length; ) {
    const lead = bytes[at++];
    if (lead < 0x80) {
      found += String.fromCharCode(lead);
      continue;
    }
    const more = lead >= 0xf0 && lead < 0xf5 ? 3 : lead >= 0xe0 && lead < 0xf0 ? 2 : lead >= 0xc2 && lead < 0xe0 ? 1 : 0;
    let point = lead & (0x3f >> more);
    let taken = 0;
    while (taken < more && at + taken < bytes.length && (bytes[at + taken] & 0xc0) === 0x80) {
      point = (point << 6) | (bytes[at + taken] & 0x3f);
      taken += 1;
    }
    const least = [0x80, 0x80, 0x800, 0x10000][more];
    const isWhole = more > 0 && taken === more && point >= least && point < 0x110000 && (point < 0xd800 || point > 0xdfff);
    if (isWhole) at += more;
    found += isWhole ? String.fromCodePoint(point) : "\ufffd";
  }
  return found;
};

/** Text as bytes: UTF-8. */
export const bytes = (string) => {
  const found = [];
  for (const character of string) {
    const point = character.codePointAt(0);
    if (point < 0x80) found.push(point);
    else if (point < 0x800) found.push(0xc0 | (point >> 6), 0x80 | (point & 0x3f));
    else if (point < 0x10000) found.push(0xe0 | (point >> 12), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    else found.push(0xf0 | (point >> 18), 0x80 | ((point >> 12) & 0x3f), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
  }
  return Uint8Array.from(found);
};
