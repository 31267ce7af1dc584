//! Routes by equal routing keys, as RabbitMQ's direct exchange: a record goes to every topic that is bound with its routing key.

use rustc_hash::FxHashMap;
use tidegate_sdk::{
    Batch, Error, Failure, Router, Routes, Setup, Topic,
    config::{Reader, Source, Unmatched, Unrouted, shown},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the routing key of a record is.
    #[serde(default)]
    source: Source,
    bindings: Vec<Binding>,
    #[serde(default)]
    unmatched: Unmatched,
}

/// Records with this routing key go to the topic.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    key: String,
    topic: String,
}

#[derive(Debug)]
pub struct DirectRouter {
    source: Reader,
    /// Looked up only, and made of the configuration: records cannot make it slow.
    topics: FxHashMap<Box<[u8]>, Vec<Topic>>,
    unmatched: Unrouted,
}

impl Router for DirectRouter {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "source": { "header": "severity" }, "bindings": [ { "key": "error", "topic": "errors" }, { "key": "warning", "topic": "warnings" } ], "unmatched": "drop" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.bindings.is_empty() {
            return Err("`bindings` is empty: nothing would be routed".into());
        }
        let source = config.source.open(setup)?;
        let mut topics: FxHashMap<_, Vec<_>> = FxHashMap::default();
        for binding in config.bindings {
            let topic = setup.topic(&binding.topic)?;
            let bound = topics.entry(binding.key.into_bytes().into_boxed_slice()).or_default();
            if !bound.contains(&topic) {
                bound.push(topic);
            }
        }
        Ok(Self { source, topics, unmatched: config.unmatched.open(setup)? })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        self.source.for_each(batch, |routing_key| {
            let routing_key = routing_key.unwrap_or_default();
            match self.topics.get(routing_key) {
                Some(topics) => routes.to_each(topics),
                None => {
                    self.unmatched.route(routes, || format!("no binding has the routing key '{}'", shown(routing_key)))
                }
            }
        });
        Ok(())
    }
}

tidegate_sdk::export!(router: DirectRouter);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{Routed, SENT_TO, TestRecord, open_router, record};

    use super::*;

    #[track_caller]
    fn check(config: &str, record: TestRecord, expected: &[&str]) {
        let mut router = open_router::<DirectRouter>(config).expect("the configuration is good");
        assert_eq!(router.route(&[record]).expect("it always answers")[0].topics(), expected);
    }

    /// RabbitMQ's tutorial 4: one queue is bound with `error`, the other with `info`, `error` and `warning`.
    const SEVERITIES: &str = r#"{ "bindings": [ { "key": "error", "topic": "C1" }, { "key": "info", "topic": "C2" },
        { "key": "error", "topic": "C2" }, { "key": "warning", "topic": "C2" }, { "key": "error", "topic": "C1" } ] }"#;

    #[test]
    fn keys_are_routed_as_in_the_tutorial_of_rabbitmq() {
        check(SEVERITIES, record().key("error"), &["C1", "C2"]);
        check(SEVERITIES, record().key("warning"), &["C2"]);
        check(SEVERITIES, record().key("errors"), &[SENT_TO]);
        check(SEVERITIES, record(), &[SENT_TO]);
        check(DirectRouter::EXAMPLE, record().key("error"), &[]);
        check(DirectRouter::EXAMPLE, record().header("severity", "error"), &["errors"]);
    }

    #[test]
    fn a_record_without_a_routing_key_has_the_empty_one() {
        check(r#"{ "bindings": [ { "key": "", "topic": "none" } ] }"#, record(), &["none"]);
    }

    #[test]
    fn what_matches_nothing_can_be_rejected() {
        let config = r#"{ "bindings": [ { "key": "a", "topic": "x" } ], "unmatched": "reject" }"#;
        let mut router = open_router::<DirectRouter>(config).expect("the configuration is good");
        let routed = router.route(&[record().key("b")]).expect("it always answers");
        assert_eq!(routed, [Routed::Rejected("no binding has the routing key 'b'".to_owned())]);
    }

    #[test]
    fn a_bad_configuration_is_refused() {
        let refused = |config: &str| open_router::<DirectRouter>(config).expect_err("the configuration is bad");
        assert!(refused("").contains("missing field `bindings`"));
        assert!(refused(r#"{ "bindings": [] }"#).contains("nothing would be routed"));
        assert!(refused(r#"{ "bindings": [ { "key": "a", "topic": "a b" } ] }"#).contains("not the name of a topic"));
    }
}
