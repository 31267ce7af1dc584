//! Chooses partitions as the Java client of Apache Kafka does: murmur2 of the key, for a broker whose producers do not agree.
//!
//! A record with a key goes to `toPositive(murmur2(key)) % partitions` (`BuiltInPartitioner.partitionForKey`). What happens to
//! records without a key is the configuration's choice; all ways begin at a partition drawn from the seed of the batch, so that
//! a retried batch is placed the same.

use tidegate_sdk::{Batch, Error, Failure, Partitioner, Placement, Setup, config::Keyless};

/// `{ "keyless": "sticky" }`; `{}` is the same.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    keyless: Keyless,
}

#[derive(Debug)]
pub struct Murmur2 {
    keyless: Keyless,
}

impl Partitioner for Murmur2 {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "keyless": "sticky" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        setup.read_keys();
        Ok(Self { keyless: config.keyless })
    }

    fn partition(&mut self, batch: &Batch, placement: &mut Placement) -> Result<(), Failure> {
        let partitions = batch.topic_partitions();
        let keys = batch.keys();
        for run in batch.runs() {
            let mut keyless = self.keyless.begin(run.context, partitions);
            for key in keys.range(run.records) {
                placement.to(match key {
                    Some(key) => (murmur2(key) & 0x7fff_ffff) % partitions,
                    None => keyless.place(),
                });
            }
        }
        Ok(())
    }
}

/// `org.apache.kafka.common.utils.Utils.murmur2`: 32 bits, with the seed that Kafka chose. Its bits read as unsigned.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

tidegate_sdk::export!(partitioner: Murmur2);

#[cfg(test)]
mod tests;
