//! Copies every record to each of a list of topics, as RabbitMQ's fanout exchange. It looks at nothing of the records, so a
//! batch is not even decompressed.

use tidegate_sdk::{Batch, Error, Failure, Router, Routes, Setup, Topic};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    topics: Vec<String>,
    /// Whether the topic that the records were sent to keeps them, too.
    #[serde(default)]
    keep: bool,
}

#[derive(Debug)]
pub struct FanoutRouter {
    topics: Vec<Topic>,
}

impl Router for FanoutRouter {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "topics": [ "audit", "search-index" ], "keep": true }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.topics.is_empty() {
            return Err("`topics` is empty: nothing would be routed".into());
        }
        let mut topics = if config.keep { vec![Topic::SENT_TO] } else { Vec::new() };
        for name in &config.topics {
            let topic = setup.topic(name)?;
            if topics.contains(&topic) {
                return Err(format!("`topics` names '{name}' twice: a topic gets a record once").into());
            }
            topics.push(topic);
        }
        Ok(Self { topics })
    }

    fn route(&mut self, _batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        routes.all_to(&self.topics);
        Ok(())
    }
}

tidegate_sdk::export!(router: FanoutRouter);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{SENT_TO, open_router, record};

    use super::*;

    #[track_caller]
    fn check(config: &str, expected: &[&str]) {
        let mut router = open_router::<FanoutRouter>(config).expect("the configuration is good");
        for routed in router.route(&[record(), record().key("a")]).expect("it always answers") {
            assert_eq!(routed.topics(), expected);
        }
    }

    #[test]
    fn every_record_goes_to_every_topic() {
        check(r#"{ "topics": [ "a", "b" ] }"#, &["a", "b"]);
        check(FanoutRouter::EXAMPLE, &[SENT_TO, "audit", "search-index"]);
    }

    #[test]
    fn a_bad_configuration_is_refused() {
        let refused = |config: &str| open_router::<FanoutRouter>(config).expect_err("the configuration is bad");
        assert!(refused(r#"{ "topics": [] }"#).contains("nothing would be routed"));
        assert!(refused(r#"{ "topics": [ "a", "b", "a" ] }"#).contains("names 'a' twice"));
        assert!(refused(r#"{ "topic": "a" }"#).contains("unknown field `topic`"));
    }
}
