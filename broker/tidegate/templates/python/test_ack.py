import unittest

from plugin import Owned
from tidegate_sdk.testkit import batch, opened, record


class Tests(unittest.TestCase):
    def test_records_without_a_known_owner_are_rejected(self):
        hook = opened(Owned, Owned.example)
        records = [record(headers={"owner": "shop"}), record(), record(headers={"owner": "nobody"})]
        rejected = hook.check(batch(hook, records))
        self.assertEqual(rejected, {1: "the header 'owner' is missing", 2: "'nobody' is no known owner"})


if __name__ == "__main__":
    unittest.main()
