use std::collections::{BTreeMap, BTreeSet};

use tidegate_sdk::testkit::{TestRecord, open_partitioner, record};

use super::*;

fn placed(config: &str, partitions: u32, records: &[TestRecord]) -> Vec<u32> {
    let mut partitioner = open_partitioner::<TenantPartitioner>(config).expect("the configuration is good");
    partitioner.partitions = partitions;
    let placed = partitioner.partition(records).expect("it always answers");
    placed.into_iter().map(|partition| partition.expect("it rejects nothing")).collect()
}

const BY_KEY: &str = r#"{ "partitions": 3, "larger": { "acme": 8 } }"#;

/// The partitions of `tenants`, with 100 keys each.
fn sets(config: &str, partitions: u32, tenants: usize) -> Vec<BTreeSet<u32>> {
    let records: Vec<TestRecord> = (0..tenants)
        .flat_map(|tenant| (0..100).map(move |key| record().key(format!("tenant{tenant}.{key}"))))
        .collect();
    placed(config, partitions, &records).chunks(100).map(|chunk| chunk.iter().copied().collect()).collect()
}

#[test]
fn a_tenant_has_a_bounded_set_of_partitions() {
    let sets = sets(BY_KEY, 24, 200);
    assert!(sets.iter().all(|set| set.len() == 3), "a hundred keys reach all three");
    let mut used: BTreeMap<u32, usize> = BTreeMap::new();
    for partition in sets.iter().flatten() {
        *used.entry(*partition).or_default() += 1;
    }
    assert_eq!(used.len(), 24, "every partition is some tenant's");
    // 200 tenants of 3 on 24 partitions: 25 on each, if all is fair.
    assert!(used.values().all(|count| (10..45).contains(count)), "{used:?}");
    let alike = sets.iter().filter(|set| **set == sets[0]).count();
    assert!(alike <= 3, "{alike} of 200 tenants share a whole set");
}

#[test]
fn a_tenant_can_have_more() {
    let records: Vec<TestRecord> = (0..400).map(|key| record().key(format!("acme.{key}"))).collect();
    assert_eq!(placed(BY_KEY, 24, &records).iter().collect::<BTreeSet<_>>().len(), 8);
}

#[test]
fn new_partitions_move_few_tenants() {
    let (before, after) = (sets(BY_KEY, 24, 200), sets(BY_KEY, 25, 200));
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    // 3 of 25 places are on the new one.
    assert!(moved > 5 && moved < 50, "{moved} of 200");
    for (before, after) in before.iter().zip(&after) {
        assert!(after.difference(before).all(|partition| *partition == 24));
    }
}

#[test]
fn a_tenant_never_has_more_partitions_than_there_are() {
    assert!(sets(BY_KEY, 2, 20).iter().all(|set| set.len() == 2));
    assert!(sets(BY_KEY, 1, 20).iter().all(|set| set.len() == 1));
}

#[test]
fn a_key_stays_on_its_partition() {
    let record = || record().key("tenant1.user-7");
    let first = placed(BY_KEY, 24, &[record()])[0];
    assert_eq!(placed(BY_KEY, 24, &[record(), record()]), [first; 2]);
}

#[test]
fn the_tenant_can_stand_in_a_header() {
    let config = r#"{ "tenant": { "header": "tenant" }, "partitions": 1 }"#;
    let with = |tenant: &str, key: usize| record().header("tenant", tenant).key(key.to_string());
    let records: Vec<TestRecord> = (0..50).flat_map(|key| [with("a.1", key), with("a.2", key)]).collect();
    let placed = placed(config, 24, &records);
    assert!(placed.chunks(2).all(|pair| pair == &placed[..2]), "each has one partition");
    let config = r#"{ "tenant": { "header": "tenant" }, "separator": ".", "partitions": 1 }"#;
    let placed = self::placed(config, 24, &records);
    assert!(placed.iter().all(|partition| *partition == placed[0]), "with a separator they are one tenant");
}

#[test]
fn records_without_a_tenant_are_one_tenant_and_those_without_a_key_are_spread() {
    let records = vec![record(); 300];
    let random = placed(r#"{ "partitions": 4, "keyless": "random" }"#, 24, &records);
    assert_eq!(random.iter().collect::<BTreeSet<_>>().len(), 4);
    let sticky = placed(r#"{ "partitions": 4 }"#, 24, &records);
    assert_eq!(sticky.iter().collect::<BTreeSet<_>>().len(), 1);
    assert!(random.contains(&sticky[0]), "of the same set");
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut partitioner = open_partitioner::<TenantPartitioner>(BY_KEY).expect("the configuration is good");
    let records: Vec<TestRecord> =
        (0..REMEMBERED_MAX + 10).map(|tenant| record().key(format!("tenant{tenant}.x"))).collect();
    let first = partitioner.partition(&records).expect("it always answers");
    assert_eq!(partitioner.partition(&records).expect("it always answers"), first);
}

#[test]
fn a_bad_configuration_is_refused() {
    let refused = |config: &str| open_partitioner::<TenantPartitioner>(config).expect_err("the configuration is bad");
    assert!(refused("").contains("missing field `partitions`"));
    assert!(refused(r#"{ "partitions": 0 }"#).contains("at least one partition"));
    assert!(refused(r#"{ "partitions": 1, "larger": { "a": 0 } }"#).contains("at least one partition"));
    open_partitioner::<TenantPartitioner>(TenantPartitioner::EXAMPLE).expect("the example opens");
}
