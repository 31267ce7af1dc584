//! Keeps everything; what a call costs without any work.

use tidegate_sdk::{
    Error, Failure, Setup,
    retention::{Eraser, Kept, Retention, Stored, Topic, Verdicts},
};

#[derive(serde::Deserialize)]
struct Config {
    keys: bool,
    values: bool,
    timestamps: bool,
    headers: Vec<String>,
}

struct NoOp;

impl Retention for NoOp {
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

    fn evaluate(&mut self, topic: &Topic<'_>, verdicts: &mut Verdicts) -> Result<(), Failure> {
        topic.logs.iter().for_each(|_| verdicts.keep());
        Ok(())
    }
}

impl Eraser for NoOp {
    fn keep(&mut self, stored: &Stored<'_>, kept: &mut Kept) -> Result<(), Failure> {
        stored.offsets.iter().for_each(|_| kept.keep());
        Ok(())
    }
}

tidegate_sdk::export!(eraser: NoOp);
