//! The shipped plugins decide the same as a component and natively.

use partitioner_murmur2::Murmur2;
use proptest::prelude::*;
use router_topic::TopicRouter;
use tidegate_plugin_host::{Context, Partitioner, Router, TopicInfo};
use tidegate_sdk::testkit::{Routed, SENT_TO, TestRecord, open_partitioner, open_router, record};

use crate::{MURMUR2, ROUTER_TOPIC, TOPIC, context, keyed, patient};

fn records(keys: &[Option<String>]) -> Vec<TestRecord> {
    keys.iter().map(|key| key.iter().fold(record(), |record, key| record.key(key))).collect()
}

fn texts(keys: &[Option<String>]) -> Vec<Option<&str>> {
    keys.iter().map(Option::as_deref).collect()
}

fn keys() -> impl Strategy<Value = Vec<Option<String>>> {
    prop::collection::vec(prop::option::weighted(0.9, "[ab.]{0,12}"), 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn murmur2_places_the_same(
        keys in keys(),
        seed in any::<u64>(),
        partitions in 1_u32..100,
        config in prop::sample::select(vec!["", r#"{ "keyless": "round-robin" }"#]),
    ) {
        let mut native = open_partitioner::<Murmur2>(config).unwrap();
        (native.seed, native.partitions) = (seed, partitions);
        let expected: Vec<u32> =
            native.partition(&records(&keys)).unwrap().into_iter().map(Result::unwrap).collect();
        let mut sandboxed = Partitioner::open(MURMUR2.compiled(), config, &patient()).unwrap();
        let topic = TopicInfo { partitions, ..TOPIC };
        let contexts = [Context { seed, ..context(keys.len()) }];
        let placement = sandboxed.partition(&topic, &keyed(&texts(&keys)), &contexts).unwrap();
        prop_assert_eq!(placement.partitions, expected);
    }

    #[test]
    fn topic_patterns_route_the_same(keys in keys(), patterns in prop::collection::vec("([ab]|\\*|#)(\\.([ab]|\\*|#)){0,3}", 1..8)) {
        let bindings: Vec<String> = patterns
            .iter()
            .enumerate()
            .map(|(index, pattern)| format!(r#"{{ "pattern": "{pattern}", "topic": "t{}" }}"#, index % 3))
            .collect();
        let config = format!(r#"{{ "bindings": [ {} ], "unmatched": "reject" }}"#, bindings.join(", "));
        let native = open_router::<TopicRouter>(&config).unwrap().route(&records(&keys)).unwrap();
        let mut sandboxed = Router::open(ROUTER_TOPIC.compiled(), &config, &patient()).unwrap();
        let answer = sandboxed.route(&TOPIC, &keyed(&texts(&keys)), &[context(keys.len())]).unwrap();
        let mut routed: Vec<Routed> = (0..keys.len())
            .map(|index| {
                let name = |number| sandboxed.topic_name(number).unwrap_or(SENT_TO).to_owned();
                Routed::To(answer.routes.of_record(index).map(|to| (name(to.topic), to.partition)).collect())
            })
            .collect();
        for rejection in answer.rejected {
            routed[rejection.record as usize] = Routed::Rejected(rejection.reason);
        }
        prop_assert_eq!(routed, native);
    }
}
