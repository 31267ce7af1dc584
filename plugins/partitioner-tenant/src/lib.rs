//! Gives each tenant a bounded set of partitions, so that a loud tenant fills its own and the consumers of the others go on.
//!
//! A tenant's partitions are those that score highest for it (rendezvous hashing): two tenants seldom share all of theirs, and when
//! partitions are added few tenants get another set. Within its set a key always goes to the same partition.

use std::collections::BTreeMap;

use tidegate_sdk::{
    Batch, Error, Failure, Partitioner, Placement, Setup,
    config::{Keyless, Reader, Source},
    hash,
};

/// Tenants whose partitions are remembered; beyond it all are forgotten and found anew.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the tenant's name is.
    #[serde(default)]
    tenant: Source,
    /// The name ends before the first of these; empty: it is the whole text.
    separator: Option<String>,
    /// How many partitions a tenant gets.
    partitions: u32,
    /// Other numbers for some tenants.
    #[serde(default)]
    larger: BTreeMap<String, u32>,
    #[serde(default)]
    keyless: Keyless,
}

#[derive(Debug)]
pub struct TenantPartitioner {
    tenant: Reader,
    separator: Box<[u8]>,
    partitions: u32,
    larger: BTreeMap<Box<[u8]>, u32>,
    keyless: Keyless,
    /// For a topic with this many partitions.
    of: u32,
    remembered: BTreeMap<Box<[u8]>, Box<[u32]>>,
}

impl Partitioner for TenantPartitioner {
    type Config = Config;
    const EXAMPLE: &str =
        r#"{ "tenant": { "header": "tenant" }, "partitions": 3, "larger": { "acme": 8 }, "keyless": "sticky" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.partitions == 0 || config.larger.values().any(|count| *count == 0) {
            return Err("a tenant has at least one partition".into());
        }
        let separator = match (config.separator, &config.tenant) {
            (Some(separator), _) => separator,
            (None, Source::Key(_)) => ".".to_owned(),
            (None, _) => String::new(),
        };
        setup.read_keys();
        Ok(Self {
            tenant: config.tenant.open(setup)?,
            separator: separator.into_bytes().into(),
            partitions: config.partitions,
            larger: config.larger.into_iter().map(|(tenant, count)| (tenant.into_bytes().into(), count)).collect(),
            keyless: config.keyless,
            of: 0,
            remembered: BTreeMap::new(),
        })
    }

    fn partition(&mut self, batch: &Batch, placement: &mut Placement) -> Result<(), Failure> {
        let partitions = batch.topic_partitions();
        if self.of != partitions {
            self.of = partitions;
            self.remembered.clear();
        }
        let how = self.keyless;
        let mut lots = batch.runs().flat_map(|run| {
            let mut lots = how.begin(run.context, u32::MAX);
            run.records.map(move |_| lots.place())
        });
        let mut keys = batch.keys().iter();
        // Names may be read from values, and then live no longer than the closure.
        let tenant = self.tenant.clone();
        tenant.for_each(batch, |text| {
            let key = keys.next().flatten();
            let lot = lots.next().expect("runs cover the batch");
            let own = self.partitions_of(text.unwrap_or_default());
            let place = key.map_or(u64::from(lot), hash::stable) % own.len() as u64;
            placement.to(own[place as usize]);
        });
        Ok(())
    }
}

impl TenantPartitioner {
    /// The partitions of the tenant that is named in a text, at least one.
    fn partitions_of(&mut self, text: &[u8]) -> &[u32] {
        let tenant = before(text, &self.separator);
        // Asked twice, since what `get` finds cannot be returned where the map is changed on another way.
        if !self.remembered.contains_key(tenant) {
            if self.remembered.len() >= REMEMBERED_MAX {
                self.remembered.clear();
            }
            let count = self.larger.get(tenant).copied().unwrap_or(self.partitions);
            self.remembered.insert(tenant.into(), highest(tenant, count, self.of));
        }
        &self.remembered[tenant]
    }
}

/// What comes before the first separator: nothing where there is none, for then no tenant is named.
fn before<'a>(text: &'a [u8], separator: &[u8]) -> &'a [u8] {
    if separator.is_empty() {
        return text;
    }
    let end = text.windows(separator.len()).position(|window| window == separator);
    &text[..end.unwrap_or(0)]
}

/// The `count` partitions, at most all, that score highest for a tenant.
fn highest(tenant: &[u8], count: u32, partitions: u32) -> Box<[u32]> {
    let tenant = hash::stable(tenant);
    let mut scored: Vec<(u64, u32)> =
        (0..partitions).map(|partition| (hash::with(tenant, u64::from(partition)), partition)).collect();
    scored.sort_unstable_by(|one, other| other.cmp(one));
    scored.into_iter().take(count as usize).map(|(_, partition)| partition).collect()
}

tidegate_sdk::export!(partitioner: TenantPartitioner);

#[cfg(test)]
mod tests;
