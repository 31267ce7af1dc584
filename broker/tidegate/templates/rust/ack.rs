//! An acknowledgement hook: it says whether batches are taken, and when their write counts as acknowledged.

use tidegate_sdk::{
    Batch, Error, Failure, Header, Setup,
    ack::{AckHook, Arrival, Decisions},
};

/// What `tidegate.ack.config` says, as JSON.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who may own a record.
    owners: Vec<String>,
}

/// Every record names its owner in a header, and it is a known one.
pub struct Owned {
    owner: Header,
    owners: Vec<String>,
}

impl AckHook for Owned {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "owners": ["payments", "shop"] }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.owners.is_empty() {
            return Err("'owners' is empty: no record could ever be taken".into());
        }
        Ok(Self { owner: setup.read_header("owner"), owners: config.owners })
    }

    fn decide(&mut self, batch: &Batch, _: &[Arrival], decisions: &mut Decisions) -> Result<(), Failure> {
        for (record, owner) in batch.header(self.owner).iter().enumerate() {
            match owner {
                // The producer's application reads these words (KIP-467).
                None => decisions.reject(record, "the header 'owner' is missing"),
                Some(owner) if self.owners.iter().any(|known| known.as_bytes() == owner) => {}
                Some(owner) => {
                    decisions.reject(record, format!("'{}' is no known owner", String::from_utf8_lossy(owner)));
                }
            }
        }
        // When a write counts: as the producer's acks say. See `Decisions` for what else there is.
        decisions.rest_as_asked();
        Ok(())
    }
}

tidegate_sdk::export!(ack: Owned);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{Decided, open_ack, record};

    use super::*;

    #[test]
    fn records_without_a_known_owner_are_rejected() {
        let mut hook = open_ack::<Owned>(Owned::EXAMPLE).expect("the example opens");
        let shop = record().header("owner", "shop");
        assert_eq!(hook.decide(&[shop.clone()]), Ok(Decided::AsAsked));
        let decided = hook.decide(&[shop, record(), record().header("owner", "mallory")]);
        let rejected = vec![
            (1, "the header 'owner' is missing".to_owned()),
            (2, "'mallory' is no known owner".to_owned()),
        ];
        assert_eq!(decided, Ok(Decided::Rejected(rejected)));
    }

    #[test]
    fn a_mistake_in_the_configuration_is_named() {
        let error = open_ack::<Owned>(r#"{ "owners": [] }"#).expect_err("nobody is known");
        assert_eq!(error, "'owners' is empty: no record could ever be taken");
    }
}
