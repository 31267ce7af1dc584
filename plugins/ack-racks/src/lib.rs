//! Acknowledges a write when it is durable in several racks.
//!
//! `acks=all` waits for the replicas that are in sync, wherever they are; with this hook a write that was acknowledged survives the loss of a
//! rack. It is refused where the cluster has fewer racks than it asks for.

use tidegate_sdk::{
    Batch, Error, Failure, Setup,
    ack::{AckHook, Arrival, Copies, Decisions},
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Different racks that have a copy.
    racks: u32,
    /// Copies in all; as many as racks unless it is said.
    copies: Option<u32>,
    /// Milliseconds until the producer is told to try again; 0: its own timeout.
    #[serde(default)]
    within_ms: u32,
}

#[derive(Debug)]
pub struct Racks {
    copies: Copies,
}

impl AckHook for Racks {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "racks": 2 }"#;

    fn open(config: Config, _: &mut Setup) -> Result<Self, Error> {
        let Config { racks, copies, within_ms } = config;
        if racks == 0 {
            return Err("'racks' is at least 1".into());
        }
        let count = copies.unwrap_or(racks);
        if count < racks {
            return Err(format!("{count} copies cannot be in {racks} racks").into());
        }
        Ok(Self { copies: Copies { count, racks, brokers: Vec::new(), within_ms } })
    }

    fn strongest(&self) -> Option<Copies> {
        Some(self.copies.clone())
    }

    fn decide(&mut self, _: &Batch, arrivals: &[Arrival], decisions: &mut Decisions) -> Result<(), Failure> {
        arrivals.iter().for_each(|_| decisions.until(self.copies.clone()));
        Ok(())
    }
}

tidegate_sdk::export!(ack: Racks);

#[cfg(test)]
mod tests {
    use tidegate_sdk::testkit::{Decided, open_ack, record};

    use super::*;

    #[test]
    fn it_asks_for_a_copy_in_each_rack() {
        let mut hook = open_ack::<Racks>(r#"{ "racks": 2, "copies": 3, "within_ms": 500 }"#).expect("it opens");
        assert_eq!(hook.strongest(), Some((3, 2, vec![])));
        assert_eq!(hook.decide(&[record()]), Ok(Decided::Until(3, 2, vec![], 500)));
        let mut hook = open_ack::<Racks>(Racks::EXAMPLE).expect("the example opens");
        assert_eq!(hook.decide(&[record()]), Ok(Decided::Until(2, 2, vec![], 0)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |config| open_ack::<Racks>(config).expect_err("it is refused");
        assert_eq!(refused(r#"{ "racks": 0 }"#), "'racks' is at least 1");
        assert_eq!(refused(r#"{ "racks": 3, "copies": 2 }"#), "2 copies cannot be in 3 racks");
        assert!(refused("{}").contains("missing field `racks`"));
    }
}
