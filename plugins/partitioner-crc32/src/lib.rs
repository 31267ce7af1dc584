//! Chooses partitions as librdkafka does by default: CRC-32 of the key, modulo the number of partitions. That is also the default
//! of everything built on it: confluent-kafka for Python, .NET and Go, node-rdkafka, rust-rdkafka.

use tidegate_sdk::{Batch, Error, Failure, Partitioner, Placement, Setup, config::Keyless};

/// `{ "partitioner": "consistent_random", "keyless": "sticky" }`; `{}` is the same.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    partitioner: Variant,
    /// Where `consistent_random` puts records that it does not hash.
    #[serde(default)]
    keyless: Keyless,
}

/// librdkafka's names, from its setting `partitioner`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// A record without a key is anywhere, and so is one with an empty key.
    #[default]
    ConsistentRandom,
    /// They are on one partition: the CRC of nothing is 0.
    Consistent,
}

#[derive(Debug)]
pub struct Crc32 {
    partitioner: Variant,
    keyless: Keyless,
}

impl Partitioner for Crc32 {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "partitioner": "consistent_random", "keyless": "sticky" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        setup.read_keys();
        Ok(Self { partitioner: config.partitioner, keyless: config.keyless })
    }

    fn partition(&mut self, batch: &Batch, placement: &mut Placement) -> Result<(), Failure> {
        let partitions = batch.topic_partitions();
        let keys = batch.keys();
        for run in batch.runs() {
            let mut keyless = self.keyless.begin(run.context, partitions);
            for key in keys.range(run.records) {
                let key = key.unwrap_or_default();
                let drawn = key.is_empty() && self.partitioner == Variant::ConsistentRandom;
                placement.to(if drawn { keyless.place() } else { crc32(key) % partitions });
            }
        }
        Ok(())
    }
}

/// CRC-32 as in zlib and librdkafka's `rd_crc32`: polynomial 0xedb88320, reflected. Eight bytes a step.
#[must_use]
pub fn crc32(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    let (chunks, rest) = data.as_chunks::<8>();
    for chunk in chunks {
        let [a, b, c, d, e, f, g, h] = *chunk;
        let [s, t, u, v] = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        crc = [s, t, u, v, e, f, g, h]
            .iter()
            .zip(TABLES.iter().rev())
            .fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)]);
    }
    !rest.iter().fold(crc, |crc, byte| TABLES[0][usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// `TABLES[n][byte]`: what a byte adds that is followed by n more.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
};

tidegate_sdk::export!(partitioner: Crc32);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{TestRecord, open_partitioner, record};

    use super::*;

    fn placed(config: &str, partitions: u32, records: &[TestRecord]) -> Vec<u32> {
        let mut partitioner = open_partitioner::<Crc32>(config).expect("the configuration is good");
        partitioner.partitions = partitions;
        let placed = partitioner.partition(records).expect("it always answers");
        placed.into_iter().map(|partition| partition.expect("it rejects nothing")).collect()
    }

    const CONSISTENT: &str = r#"{ "partitioner": "consistent" }"#;

    /// What `rd_kafka_msg_partitioner_consistent` of librdkafka 2.16 answers for 1, 7, 12, 100 and 2147483647 partitions.
    #[test]
    fn a_key_has_the_partition_that_librdkafka_gives_it() {
        let vectors: [(&[u8], [u32; 5]); 11] = [
            (b"", [0, 0, 0, 0, 0]),
            (b"1234", [0, 2, 7, 59, 467_919_012]),
            (b"PreAmbleWillBeRemoved,ThePrePartThatIs", [0, 6, 2, 10, 1_573_627_963]),
            (b"\xff\xfe\x00\x80", [0, 6, 3, 83, 765_658_136]),
            (b"a", [0, 4, 3, 7, 1_756_872_260]),
            (b"eu.order.1234567", [0, 0, 7, 83, 1_433_421_283]),
            (b"foobar", [0, 6, 5, 69, 519_446_422]),
            (b"giberish123456789", [0, 2, 11, 71, 2_067_435_071]),
            (b"kafka", [0, 6, 11, 99, 1_539_077_399]),
            (b"key", [0, 5, 1, 37, 177_253_290]),
            (b"this is another string with more length", [0, 5, 7, 15, 142_163_215]),
        ];
        for (key, expected) in vectors {
            let at = |config: &str| [1, 7, 12, 100, 2_147_483_647].map(|n| placed(config, n, &[record().key(key)])[0]);
            assert_eq!(at(CONSISTENT), expected, "{key:?}");
            if !key.is_empty() {
                assert_eq!(at(""), expected, "{key:?}");
            }
        }
    }

    /// The check value of CRC-32/ISO-HDLC, and its update by bytes against the update by eight.
    #[test]
    fn the_sum_is_zlibs() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"The quick brown fox jumps over the lazy dog"), 0x414f_a339);
    }

    #[test]
    fn records_without_a_key_and_with_an_empty_one_are_alike() {
        let records: Vec<TestRecord> = (0..400).map(|n| if n % 2 == 0 { record() } else { record().key("") }).collect();
        assert_eq!(placed(CONSISTENT, 12, &records), vec![0; 400]);
        let sticky = placed("", 12, &records);
        assert_eq!(sticky, vec![sticky[0]; 400]);
        let random = placed(r#"{ "keyless": "random" }"#, 12, &records);
        assert_eq!(random.iter().collect::<std::collections::BTreeSet<_>>().len(), 12);
    }

    #[test]
    fn a_bad_configuration_is_refused() {
        let error = open_partitioner::<Crc32>(r#"{ "partitioner": "murmur2" }"#).expect_err("it is another plugin");
        assert!(error.contains("unknown variant `murmur2`"), "{error}");
    }
}
