//! Keeps every record where it is; what a call costs without any work.

use tidegate_sdk::{Batch, Error, Failure, Router, Routes, Setup};

#[derive(serde::Deserialize)]
struct Config {
    keys: bool,
    values: bool,
    timestamps: bool,
    headers: Vec<String>,
}

struct NoOp;

impl Router for NoOp {
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

    fn route(&mut self, _: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        routes.keep_all();
        Ok(())
    }
}

tidegate_sdk::export!(router: NoOp);
