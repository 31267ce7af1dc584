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
        self.keyless.place(batch, placement, |key| (murmur2(key) & 0x7fff_ffff) % partitions);
        Ok(())
    }
}

/// `org.apache.kafka.common.utils.Utils.murmur2`: 32 bits, with the seed that Kafka chose. Its bits read as unsigned.
///
/// One turn of the loop takes 16 bytes and what is left needs none: in the sandbox each turn of a loop asks whether the call's
/// time is over, which takes as long as mixing a word in.
#[inline]
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    let (blocks, mut rest) = data.as_chunks::<16>();
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    if !blocks.is_empty() {
        hash = mix_blocks(hash, blocks);
    }
    if let Some(([a, b, c, d, e, f, g, h], behind)) = rest.split_first_chunk() {
        hash = mix(mix(hash, [*a, *b, *c, *d]), [*e, *f, *g, *h]);
        rest = behind;
    }
    if let Some((word, behind)) = rest.split_first_chunk() {
        hash = mix(hash, *word);
        rest = behind;
    }
    if let Some(([a, b], behind)) = rest.split_first_chunk() {
        hash ^= u32::from(u16::from_le_bytes([*a, *b]));
        hash = (hash ^ behind.first().map_or(0, |c| u32::from(*c) << 16)).wrapping_mul(M);
    } else if let Some(a) = rest.first() {
        hash = (hash ^ u32::from(*a)).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// Apart, so that what it needs leaves the registers to those who have shorter keys.
#[inline(never)]
fn mix_blocks(mut hash: u32, blocks: &[[u8; 16]]) -> u32 {
    for [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] in blocks {
        hash = mix(mix(hash, [*a, *b, *c, *d]), [*e, *f, *g, *h]);
        hash = mix(mix(hash, [*i, *j, *k, *l]), [*m, *n, *o, *p]);
    }
    hash
}

const M: u32 = 0x5bd1_e995;

#[inline]
fn mix(hash: u32, word: [u8; 4]) -> u32 {
    let mut k = u32::from_le_bytes(word).wrapping_mul(M);
    k ^= k >> 24;
    hash.wrapping_mul(M) ^ k.wrapping_mul(M)
}

tidegate_sdk::export!(partitioner: Murmur2);

#[cfg(test)]
mod tests;
