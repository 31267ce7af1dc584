//! Lets everything through; what a call costs without any work.

use tidegate_sdk::{
    Batch, Error, Failure, Setup,
    ack::{AckHook, Arrival, Decisions},
};

#[derive(serde::Deserialize)]
struct Config {
    keys: bool,
    values: bool,
    timestamps: bool,
    headers: Vec<String>,
}

struct NoOp;

impl AckHook for NoOp {
    type Config = Config;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.keys {
            setup.read_keys();
        }
        if config.values {
            setup.read_values();
        }
        if config.timestamps {
            setup.read_timestamps();
        }
        for name in &config.headers {
            setup.read_header(name);
        }
        Ok(Self)
    }

    fn decide(&mut self, _: &Batch, _: &[Arrival], decisions: &mut Decisions) -> Result<(), Failure> {
        decisions.rest_as_asked();
        Ok(())
    }
}

tidegate_sdk::export!(ack: NoOp);
