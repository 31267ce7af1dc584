//! The broker as its users meet it: the real binary, stock clients, bad input, crashes.
//!
//! One binary for all of it, so that it is linked once. Clients that are not installed are skipped, saying so; with
//! `TIDEGATE_REQUIRE_CLIENTS=1` they are an error. See README.md beside this file.

mod acknowledging;
mod admin;
mod authors;
mod bounds;
mod broker;
mod cleaning;
mod cli;
mod clients;
mod clock;
mod damage;
mod durability;
mod every_version;
mod failures;
mod faults;
mod full_disk;
mod hostile;
mod librdkafka;
mod log;
mod moving;
mod offload;
mod plugins;
mod proxy;
mod rabbitmq;
mod raw;
mod retention;
mod routed;
mod s3;
mod serve;
mod shadow;
mod tidy;
mod traps;
mod volume;
