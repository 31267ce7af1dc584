//! A router: it says, for each record, which topics it is written to.

use std::collections::BTreeMap;

use tidegate_sdk::{Batch, Error, Failure, Router, Routes, Setup, Topic};

/// What `tidegate.router.config` says, as JSON: `{ "regions": { "eu": "orders-eu" } }`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    regions: BTreeMap<String, String>,
}

/// The part of the key before the first dot is the region, and each region has a topic.
pub struct ByRegion {
    topics: BTreeMap<Vec<u8>, Topic>,
}

impl Router for ByRegion {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "regions": { "eu": "orders-eu", "us": "orders-us" } }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        // Whoever attaches the plugin reads what is returned here.
        if config.regions.is_empty() {
            return Err("name at least one region".into());
        }
        // Only what is asked for is handed over: see `Setup`.
        setup.read_keys();
        let mut topics = BTreeMap::new();
        for (region, topic) in config.regions {
            topics.insert(region.into_bytes(), setup.topic(&topic)?);
        }
        Ok(Self { topics })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        for key in batch.keys() {
            let region = key.unwrap_or_default().split(|byte| *byte == b'.').next().unwrap_or_default();
            match self.topics.get(region) {
                Some(topic) => routes.to(*topic),
                // No such region: the record stays in the topic that it was sent to.
                None => routes.keep(),
            }
        }
        Ok(())
    }
}

tidegate_sdk::export!(router: ByRegion);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{SENT_TO, open_router, record};

    use super::*;

    #[test]
    fn a_region_has_a_topic_of_its_own() {
        let mut router = open_router::<ByRegion>(ByRegion::EXAMPLE).expect("the example opens");
        let routed = router.route(&[record().key("eu.1"), record().key("mars.7"), record()]).expect("it always answers");
        assert_eq!(routed[0].topics(), ["orders-eu"]);
        assert_eq!(routed[1].topics(), [SENT_TO]);
        assert_eq!(routed[2].topics(), [SENT_TO]);
    }

    #[test]
    fn a_configuration_without_regions_is_refused() {
        let error = open_router::<ByRegion>(r#"{ "regions": {} }"#).expect_err("there is no region");
        assert_eq!(error, "name at least one region");
    }
}
