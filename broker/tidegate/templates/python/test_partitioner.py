import unittest

from plugin import ByCustomer
from tidegate_sdk.testkit import batch, opened, record


class Tests(unittest.TestCase):
    def test_a_customer_stays_on_one_partition(self):
        partitioner = opened(ByCustomer, ByCustomer.example)
        records = [record(key="acme.1"), record(key="acme.2"), record(), record()]
        placed = partitioner.partition(batch(partitioner, records, partitions=7, seed=12345))
        self.assertEqual(placed[0], placed[1])
        self.assertEqual(placed[2:], [12345 % 7] * 2)


if __name__ == "__main__":
    unittest.main()
