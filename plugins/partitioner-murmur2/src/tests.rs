use tidegate_sdk::testkit::{TestRecord, open_partitioner, record};

use super::*;

/// The cases of Kafka's own `UtilsTest.testMurmur2`, and the key of all lengths that its comment asks for.
#[test]
fn the_hash_is_the_one_of_the_java_client() {
    let check = |key: &str, expected: i32| assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key:?}");
    check("21", -973_932_308);
    check("foobar", -790_332_482);
    check("a-little-bit-long-string", -985_981_536);
    check("a-little-bit-longer-string", -1_486_304_829);
    check("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
    check("abc", 479_470_107);
}

fn placed(config: &str, seed: u64, records: &[TestRecord]) -> Vec<u32> {
    let mut partitioner = open_partitioner::<Murmur2>(config).expect("the configuration is good");
    partitioner.seed = seed;
    let placed = partitioner.partition(records).expect("it always answers");
    placed.into_iter().map(|partition| partition.expect("it rejects nothing")).collect()
}

#[test]
fn a_key_has_the_partition_that_the_java_client_gives_it() {
    // toPositive(murmur2("foobar")) = 0x50e4_3d7e & 0x7fff_ffff of the two's complement of -790332482.
    let expected = ((-790_332_482_i32).cast_unsigned() & 0x7fff_ffff) % 12;
    assert_eq!(placed("", 1, &[record().key("foobar"), record().key("foobar")]), [expected, expected]);
}

#[test]
fn an_empty_key_is_a_key() {
    let expected = (murmur2(b"") & 0x7fff_ffff) % 12;
    for seed in 0..20 {
        assert_eq!(placed("{}", seed, &[record().key("")]), [expected]);
    }
}

#[test]
fn records_without_a_key_stay_together_when_sticky() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let placed = placed(r#"{ "keyless": "sticky" }"#, seed, &[record(), record(), record()]);
        assert_eq!(placed, vec![placed[0]; 3]);
        seen.insert(placed[0]);
    }
    assert_eq!(seen.len(), 12, "seeds reach every partition");
}

#[test]
fn records_without_a_key_go_round() {
    let records = vec![record(); 24];
    let placed = placed(r#"{ "keyless": "round-robin" }"#, 7, &records);
    for pair in placed.windows(2) {
        assert_eq!(pair[1], (pair[0] + 1) % 12);
    }
}

#[test]
fn a_retried_batch_is_placed_the_same() {
    let records = [record(), record().key("a"), record()];
    for config in [r#"{ "keyless": "sticky" }"#, r#"{ "keyless": "round-robin" }"#] {
        assert_eq!(placed(config, 42, &records), placed(config, 42, &records));
    }
}

#[test]
fn a_mistake_in_the_configuration_is_named() {
    let error = open_partitioner::<Murmur2>(r#"{ "keyles": "sticky" }"#).expect_err("there is no such key");
    assert!(error.contains("unknown field `keyles`, expected `keyless`"), "{error}");
}
