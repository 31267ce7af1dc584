//! A partitioner: it says, for each record, which partition of its topic it goes to.

use tidegate_sdk::{Batch, Error, Failure, Partitioner, Placement, Setup, config::Keyless, hash};

/// What `tidegate.partitioner.config` says, as JSON; here `{}` will do.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where records without a key go.
    #[serde(default)]
    keyless: Keyless,
}

/// Records of one customer stay together: the customer is the part of the key before the first dot.
pub struct ByCustomer {
    keyless: Keyless,
}

impl Partitioner for ByCustomer {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "keyless": "sticky" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        // Only what is asked for is handed over: see `Setup`.
        setup.read_keys();
        Ok(Self { keyless: config.keyless })
    }

    fn partition(&mut self, batch: &Batch, placement: &mut Placement) -> Result<(), Failure> {
        let (partitions, keys) = (batch.topic_partitions(), batch.keys());
        // A run is what came in one batch of one producer; its seed is the same when it is sent again.
        for run in batch.runs() {
            let mut keyless = self.keyless.begin(run.context, partitions);
            for key in keys.range(run.records) {
                placement.to(match key {
                    Some(key) => {
                        let customer = key.split(|byte| *byte == b'.').next().unwrap_or_default();
                        (hash::stable(customer) % u64::from(partitions)) as u32
                    }
                    None => keyless.place(),
                });
            }
        }
        Ok(())
    }
}

tidegate_sdk::export!(partitioner: ByCustomer);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{open_partitioner, record};

    use super::*;

    #[test]
    fn records_of_a_customer_stay_together() {
        let mut partitioner = open_partitioner::<ByCustomer>(ByCustomer::EXAMPLE).expect("the example opens");
        let records = [record().key("acme.1"), record().key("acme.2"), record().key("acme")];
        let placed = partitioner.partition(&records).expect("it always answers");
        assert!(placed.iter().all(|partition| *partition == placed[0]));
    }

    #[test]
    fn a_mistake_in_the_configuration_is_named() {
        let error = open_partitioner::<ByCustomer>(r#"{ "keyles": "sticky" }"#).err().expect("there is no such field");
        assert!(error.contains("unknown field `keyles`"), "{error}");
    }
}
