//! Puts every record on partition 0; what a call costs without any work.

use tidegate_sdk::{Batch, Error, Failure, Partitioner, Placement, Setup};

#[derive(serde::Deserialize)]
struct Config {
    keys: bool,
    values: bool,
    timestamps: bool,
    headers: Vec<String>,
}

struct NoOp;

impl Partitioner for NoOp {
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

    fn partition(&mut self, batch: &Batch, placement: &mut Placement) -> Result<(), Failure> {
        for _ in 0..batch.len() {
            placement.to(0);
        }
        Ok(())
    }
}

tidegate_sdk::export!(partitioner: NoOp);
