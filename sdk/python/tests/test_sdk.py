import pathlib
import subprocess
import sys
import unittest
from types import SimpleNamespace

from tidegate_sdk import (
    DROP,
    KEEP,
    AckHook,
    Archivist,
    Eraser,
    Offloader,
    Partitioner,
    Plugin,
    Refuse,
    Reject,
    Retention,
    Router,
    Uniform,
    export,
)
from tidegate_sdk.data import unpack
from tidegate_sdk.errors import Failed, words
from tidegate_sdk.export import bitmap, describe, open_plugin, places, whole
from tidegate_sdk.testkit import SENT_TO, batch, opened, record, route


class Everywhere(Router):
    """Sends records wherever their value says.

    What follows the first line is no summary.
    """

    def open(self, config, setup):
        setup.read_values()
        setup.read_header("trace")
        self.topic = setup.topic("other")

    def route(self, seen):
        if seen.values == [b"uniform"]:
            return Uniform([KEEP, self.topic])
        there = {b"keep": KEEP, b"other": self.topic, b"third": self.topic.at(3), b"both": [KEEP, self.topic], b"drop": DROP}
        return [there.get(value, Reject("no such value")) for value in seen.values]


class Tests(unittest.TestCase):
    def test_columns_tell_null_and_empty_apart(self):
        nulls = [1 << 1, 1 << 1]
        ends = [3, 3, 3] + [3] * 61 + [3, 3, 5]
        column = SimpleNamespace(data=b"abcde", ends=ends, nulls=nulls)
        values = unpack(column)
        self.assertEqual(len(values), 67)
        self.assertEqual([values[0], values[1], values[2], values[65], values[66]], [b"abc", None, b"", None, b"de"])

    def test_bits_are_words_of_64(self):
        self.assertEqual(bitmap([]), [])
        self.assertEqual(bitmap([True, False, True]), [5])
        self.assertEqual(bitmap([False] * 64 + [True]), [0, 1])
        for forgotten in (None, 0, 1, ""):
            with self.assertRaisesRegex(Failed, "for record 1, not True or False"):
                bitmap([True, forgotten])

    def test_every_route_is_understood(self):
        router = opened(Everywhere)
        sent = [record(value=value) for value in ("keep", "other", "third", "both", "drop", "what?")]
        routed = route(router, sent)
        self.assertEqual(routed[:5], [[SENT_TO], ["other"], ["other/3"], [SENT_TO, "other"], []])
        self.assertEqual(routed[5], Reject("no such value"))
        self.assertEqual(route(router, [record(value="uniform")]), [[SENT_TO, "other"]])

    def test_only_what_was_asked_for_is_seen(self):
        router = opened(Everywhere)
        seen = batch(router, [record(key="k", value="v", headers={"trace": "t", "more": "m"})], principal="User:a")
        self.assertEqual((seen.keys, seen.values, seen.header("trace")), ((), [b"v"], [b"t"]))
        self.assertIsNone(seen.contexts[0].principal)
        with self.assertRaises(KeyError):
            seen.header("more")

    def test_a_plugin_says_what_it_is(self):
        self.assertEqual(describe(Everywhere), ("Everywhere", "0.1.0", "Sends records wherever their value says.", ""))

    def test_what_cannot_cross_into_the_broker_is_told(self):
        there = Everywhere()
        there.topic = opened(Everywhere).topic
        for route in (there.topic.at(-1), there.topic.at(1 << 40), there.topic.at(1.5), there.topic.at(None)):
            with self.assertRaisesRegex(Failed, "the partition of other is .*, not a whole number"):
                places(route)
        for route in ("orders-eu", None, 3, b"bytes"):
            with self.assertRaisesRegex(Failed, "is no route"):
                places(route)
        self.assertEqual(places([there.topic, KEEP.at(2)]), [(1, 0xFFFF_FFFF), (0, 2)])
        for number in (-1, 1 << 32, 1.0, True, None, "3"):
            with self.assertRaises(Failed):
                whole(number, "it")

    def test_a_configuration_is_json(self):
        with self.assertRaisesRegex(ValueError, "the configuration is not JSON"):
            open_plugin(Everywhere, "{")

    def test_errors_have_words(self):
        def raised(error):
            try:
                raise error
            except Exception as caught:
                return words(caught)

        self.assertEqual(raised(ValueError("name at least one region")), "name at least one region")
        self.assertEqual(raised(Failed("no")), "no")
        self.assertRegex(raised(KeyError("regions")), r"^there is no 'regions' \(test_sdk\.py, line \d+\)$")
        self.assertRegex(raised(TypeError("odd")), r"^TypeError: odd \(test_sdk\.py, line \d+\)$")

    def test_what_the_sandbox_has_not_is_told_in_words(self):
        # In a process of its own: it is forbidden for good. Before, each of these ended as "it panicked".
        script = """
import datetime, os, socket, time, uuid
from datetime import datetime as moment
from uuid import uuid4
import tidegate_sdk.export, tidegate_sdk.setup as setup
import sys; export = sys.modules["tidegate_sdk.export"]
setup.host.write = lambda level, message: written.append((level, message))
written = []
export._forbid()
for call in (datetime.datetime.now, moment.utcnow, datetime.date.today, uuid.uuid4, uuid4, lambda: os.urandom(4), lambda: os.listdir("."),
             socket.socket, time.localtime, lambda: time.strftime("%Y"), time.time, lambda: open("x"), lambda: time.sleep(1)):
    try:
        call()
        raise SystemExit(f"{call} gave an answer")
    except RuntimeError as error:
        assert "not there for plugins: " in str(error), error
made = moment.fromtimestamp(0, datetime.timezone.utc)
assert made.year == 1970 and isinstance(made, datetime.datetime) and isinstance(made - datetime.timedelta(1), moment)
assert time.gmtime(0).tm_year == 1970 and time.strftime("%Y", time.gmtime(0)) == "1970"
print("seen", 7, sep=": ")
print()
assert written == [("info", "seen: 7"), ("info", "")], written
"""
        folder = pathlib.Path(__file__).parent.parent
        done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_each_kind_exports_its_interfaces(self):
        kinds = [(Router, "Routing"), (Partitioner, "Partitioning"), (AckHook, "Acknowledging"), (Retention, "Retaining")]
        for kind, name in kinds:
            self.assertEqual([one.__name__ for one in export(type("Mine", (kind,), {}))], ["Lifecycle", name])
        self.assertEqual([one.__name__ for one in export(Eraser)], ["Lifecycle", "Retaining", "Filtering"])
        self.assertEqual([one.__name__ for one in export(Offloader)], ["Lifecycle", "Retaining", "Offloading"])
        self.assertEqual([one.__name__ for one in export(Archivist)], ["Lifecycle", "Retaining", "Filtering", "Offloading"])
        with self.assertRaisesRegex(TypeError, "Plugin is no plugin: derive it from"):
            export(Plugin)

    def test_a_refusal_has_a_reason_that_kafka_knows(self):
        with self.assertRaisesRegex(ValueError, "'whim' is no reason"):
            Refuse("no", reason="whim")


if __name__ == "__main__":
    unittest.main()
