//! Chooses partitions as Sarama, the Go client, does: FNV-1a (32 bits) of the key.
//!
//! Sarama has three ways from the hash to the partition, and librdkafka's `fnv1a` is the first of them. [`Sign`] names them.

use tidegate_sdk::{Batch, Error, Failure, Partitioner, Placement, Setup, config::Keyless};

/// `{ "sign": "absolute", "keyless": "random" }`; `{}` is the same.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    sign: Sign,
    #[serde(default = "random")]
    keyless: Keyless,
}

/// Sarama draws a partition for each record without a key.
fn random() -> Keyless {
    Keyless::Random
}

/// How the 32 bits of the hash become a partition.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// `NewHashPartitioner`, Sarama's default: the remainder of a signed division, without its sign.
    #[default]
    Absolute,
    /// `NewReferenceHashPartitioner`: the sign bit is cleared, as the Java client does with its own hash.
    Masked,
    /// `WithHashUnsigned`: the remainder of an unsigned division.
    Unsigned,
}

#[derive(Debug)]
pub struct Fnv1a {
    sign: Sign,
    keyless: Keyless,
}

impl Partitioner for Fnv1a {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "sign": "absolute", "keyless": "random" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        setup.read_keys();
        Ok(Self { sign: config.sign, keyless: config.keyless })
    }

    fn partition(&mut self, batch: &Batch, placement: &mut Placement) -> Result<(), Failure> {
        let partitions = batch.topic_partitions();
        self.keyless.place(batch, placement, |key| self.sign.partition(fnv1a(key), partitions));
        Ok(())
    }
}

impl Sign {
    #[inline]
    fn partition(self, hash: u32, partitions: u32) -> u32 {
        match self {
            // Partitions are fewer than 2^31 in Kafka, whose numbers are signed.
            Self::Absolute => (hash.cast_signed() % partitions.cast_signed()).unsigned_abs(),
            Self::Masked => (hash & 0x7fff_ffff) % partitions,
            Self::Unsigned => hash % partitions,
        }
    }
}

/// FNV-1a of 32 bits, as Go's `hash/fnv.New32a`. Eight bytes a turn of the loop: in the sandbox each turn asks whether the call's time
/// is over.
#[inline]
#[must_use]
pub fn fnv1a(data: &[u8]) -> u32 {
    let (chunks, rest) = data.as_chunks::<8>();
    let hash = chunks.iter().fold(0x811c_9dc5, |hash, chunk| chunk.iter().fold(hash, add));
    rest.iter().fold(hash, add)
}

fn add(hash: u32, byte: &u8) -> u32 {
    (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
}

tidegate_sdk::export!(partitioner: Fnv1a);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{TestRecord, open_partitioner, record};

    use super::*;

    fn placed(config: &str, partitions: u32, records: &[TestRecord]) -> Vec<u32> {
        let mut partitioner = open_partitioner::<Fnv1a>(config).expect("the configuration is good");
        partitioner.partitions = partitions;
        let placed = partitioner.partition(records).expect("it always answers");
        placed.into_iter().map(|partition| partition.expect("it rejects nothing")).collect()
    }

    /// What Sarama 1.61 answers for 1, 7, 12, 100 and 2147483647 partitions. The `hash` column is also what
    /// `rd_kafka_msg_partitioner_fnv1a` of librdkafka 2.16 answers.
    #[test]
    fn a_key_has_the_partition_that_sarama_gives_it() {
        type Placed = [u32; 5];
        let vectors: [(&[u8], Placed, Placed, Placed); 11] = [
            (b"", [0, 2, 3, 35, 2_128_831_035], [0, 0, 5, 13, 18_652_613], [0, 2, 1, 61, 18_652_614]),
            (b"1234", [0, 6, 3, 35, 37_477_635], [0, 3, 5, 13, 2_110_006_013], [0, 5, 1, 61, 2_110_006_014]),
            (
                b"PreAmbleWillBeRemoved,ThePrePartThatIs",
                [0, 0, 8, 64, 1_707_857_564],
                [0, 0, 8, 64, 1_707_857_564],
                [0, 0, 8, 64, 1_707_857_564],
            ),
            (
                b"\xff\xfe\x00\x80",
                [0, 0, 0, 68, 1_474_372_368],
                [0, 0, 0, 68, 1_474_372_368],
                [0, 0, 0, 68, 1_474_372_368],
            ),
            (b"a", [0, 6, 0, 76, 468_965_076], [0, 3, 8, 72, 1_678_518_572], [0, 5, 4, 20, 1_678_518_573]),
            (
                b"eu.order.1234567",
                [0, 0, 11, 75, 403_553_675],
                [0, 0, 11, 75, 403_553_675],
                [0, 0, 11, 75, 403_553_675],
            ),
            (b"foobar", [0, 4, 0, 76, 1_080_231_576], [0, 5, 8, 72, 1_067_252_072], [0, 0, 4, 20, 1_067_252_073]),
            (
                b"giberish123456789",
                [0, 5, 5, 73, 2_007_335_573],
                [0, 5, 5, 73, 2_007_335_573],
                [0, 5, 5, 73, 2_007_335_573],
            ),
            (b"kafka", [0, 4, 5, 45, 221_496_545], [0, 4, 5, 45, 221_496_545], [0, 4, 5, 45, 221_496_545]),
            (b"key", [0, 4, 4, 28, 1_746_258_028], [0, 4, 4, 28, 1_746_258_028], [0, 4, 4, 28, 1_746_258_028]),
            (
                b"this is another string with more length",
                [0, 3, 0, 4, 852_444_204],
                [0, 6, 8, 44, 1_295_039_444],
                [0, 1, 4, 92, 1_295_039_445],
            ),
        ];
        for (key, hash, reference, unsigned) in vectors {
            for (sign, expected) in [("absolute", hash), ("masked", reference), ("unsigned", unsigned)] {
                let config = format!(r#"{{ "sign": "{sign}" }}"#);
                let placed = [1, 7, 12, 100, 2_147_483_647].map(|n| placed(&config, n, &[record().key(key)])[0]);
                assert_eq!(placed, expected, "{sign} {key:?}");
            }
        }
    }

    #[test]
    fn records_without_a_key_go_anywhere() {
        let places = placed("", 12, &vec![record(); 400]);
        assert_eq!(places.iter().collect::<std::collections::BTreeSet<_>>().len(), 12);
        let places = placed(r#"{ "keyless": "sticky" }"#, 12, &vec![record(); 400]);
        assert!(places.iter().all(|place| *place == places[0]));
    }

    #[test]
    fn a_bad_configuration_is_refused() {
        let error = open_partitioner::<Fnv1a>(r#"{ "sign": "none" }"#).expect_err("the configuration is bad");
        assert!(error.contains("unknown variant `none`"), "{error}");
    }
}
