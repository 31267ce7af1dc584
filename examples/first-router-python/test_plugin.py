import unittest

from plugin import ByRegion
from tidegate_sdk.testkit import SENT_TO, opened, record, route


class Tests(unittest.TestCase):
    def test_a_region_has_a_topic_of_its_own(self):
        router = opened(ByRegion, ByRegion.example)
        routed = route(router, [record(key="eu.1"), record(key="us"), record(key="mars.7"), record()])
        self.assertEqual(routed, [["orders-eu"], ["orders-us"], [SENT_TO], [SENT_TO]])

    def test_a_configuration_without_regions_is_refused(self):
        with self.assertRaisesRegex(ValueError, "name at least one region"):
            opened(ByRegion, {"regions": {}})


if __name__ == "__main__":
    unittest.main()
