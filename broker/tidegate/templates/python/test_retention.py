import unittest

from plugin import DAY_MS, UntilConsumed
from tidegate_sdk import PartitionLog, Reader, Segment
from tidegate_sdk.testkit import opened


class Tests(unittest.TestCase):
    def test_records_stay_until_they_were_consumed_or_are_too_old(self):
        policy = opened(UntilConsumed, {"groups": ["billing"], "at_most_days": 2})
        segments = (Segment(0, 10, DAY_MS, 100), Segment(10, 20, 9 * DAY_MS, 100))
        log = PartitionLog(0, 0, 25, segments, (Reader("billing", 15, 0),))
        self.assertEqual([one.delete_before for one in policy.evaluate("orders", [log], 10 * DAY_MS)], [15])
        unread = PartitionLog(0, 0, 25, segments, ())
        self.assertEqual([one.delete_before for one in policy.evaluate("orders", [unread], 10 * DAY_MS)], [10])
    # [erase]

    def test_some_keys_are_erased(self):
        from tidegate_sdk.testkit import batch, record

        policy = opened(UntilConsumed, UntilConsumed.example)
        seen = batch(policy, [record(key="customer-1"), record(key="customer-7"), record()])
        self.assertEqual(policy.keep(seen, 0, [0, 1, 2]), [True, False, True])
    # [end]
    # [offload]

    def test_old_segments_go_to_the_object_store(self):
        from tidegate_sdk import OffloadLog, OffloadSegment

        policy = opened(UntilConsumed, UntilConsumed.example)
        segments = (OffloadSegment(0, 10, DAY_MS, 100), OffloadSegment(10, 20, 9 * DAY_MS, 100))
        chosen = policy.offload("orders", [OffloadLog(0, 0, 25, segments, 50)], 10 * DAY_MS)
        self.assertEqual([list(one) for one in chosen], [[0]])
    # [end]


if __name__ == "__main__":
    unittest.main()
