//! Write plugins for Tidegate in Rust.
//!
//! A plugin is a struct, a configuration that `serde` reads, and one trait: [`Router`], [`Partitioner`], [`AckHook`](ack::AckHook) or
//! [`Retention`](retention::Retention). It is asked for a whole batch at a time and sees columns, not records, so that a decision costs
//! nanoseconds.
//!
//! ```
//! use tidegate_sdk::{Batch, Error, Failure, Router, Routes, Setup, Topic};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     europe: String,
//! }
//!
//! /// Keys that begin with `eu.` go to a topic of their own.
//! struct Europe {
//!     topic: Topic,
//! }
//!
//! impl Router for Europe {
//!     type Config = Config;
//!
//!     fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
//!         setup.read_keys();
//!         Ok(Self { topic: setup.topic(&config.europe)? })
//!     }
//!
//!     fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
//!         for key in batch.keys() {
//!             match key {
//!                 Some(key) if key.starts_with(b"eu.") => routes.to(self.topic),
//!                 _ => routes.keep(),
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! tidegate_sdk::export!(router: Europe);
//!
//! // Plugins are tested natively: no Wasm, no broker.
//! let mut europe = tidegate_sdk::testkit::open_router::<Europe>(r#"{ "europe": "orders-eu" }"#)?;
//! let sent = europe.route(&[tidegate_sdk::testkit::record().key("eu.1"), tidegate_sdk::testkit::record().key("us.1")])?;
//! assert_eq!(sent[0].topics(), ["orders-eu"]);
//! assert_eq!(sent[1].topics(), [tidegate_sdk::testkit::SENT_TO]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Build it with `tidegate plugin build`, or with plain `cargo build --release --target wasm32-unknown-unknown`: the broker takes
//! the module that comes out. There is no WASI in it: no files, no network, no clock, no randomness. Time and a seed come with
//! each batch ([`Context`]), so that a retried batch gets the same answer.

// The generated bindings name this crate from wherever they are expanded.
extern crate self as tidegate_sdk;

pub mod ack;
mod batch;
#[doc(hidden)]
pub mod bindings;
pub mod config;
mod failure;
#[doc(hidden)]
pub mod glue;
pub mod hash;
mod host;
pub mod json;
pub mod log;
pub mod offload;
mod partitioner;
#[cfg(all(target_family = "wasm", getrandom_backend = "custom"))]
mod randomness;
pub mod retention;
mod router;
mod setup;
#[cfg(not(target_family = "wasm"))]
pub mod testkit;

pub use batch::{Batch, Column, Context, Random, Record, Records, Run, Runs, Values};
pub use failure::{Error, Failure};
pub use partitioner::{Partitioner, Placement};
pub use router::{Router, Routes, Topic};
pub use setup::{Counter, Gauge, Header, Histogram, Setup};

/// The examples of the README are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc(hidden)]
pub mod __private {
    pub use wit_bindgen;
}

/// Makes a plugin of a type, once in a crate whose `crate-type` contains `cdylib`: `export!(router: MyRouter);`, or `partitioner`, `ack`,
/// `retention`, `eraser`, `offloader` or `archivist` (an eraser that offloads) before the colon.
///
/// The name, version and description of the plugin are those of the crate.
#[macro_export]
macro_rules! export {
    (router: $plugin:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::router::exports::tidegate::plugin::routing;
            $crate::__export_lifecycle!($plugin, $crate::glue::open_router);

            impl routing::Guest for Exported {
                fn route(
                    topic: routing::Topic,
                    batch: routing::Batch,
                    contexts: ::std::vec::Vec<routing::Context>,
                ) -> ::std::result::Result<routing::Answer, routing::Failure> {
                    PLUGIN.with_borrow_mut(|plugin| {
                        let plugin = plugin.as_mut().expect("the broker opens a plugin before it calls it");
                        $crate::glue::route(plugin, &$crate::glue::batch(topic, batch, contexts))
                    })
                }
            }

    $crate::bindings::router::export_router!(Exported with_types_in $crate::bindings::router);
        };
    };
    (partitioner: $plugin:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::partitioner::exports::tidegate::plugin::partitioning;
            $crate::__export_lifecycle!($plugin, $crate::glue::open_partitioner);

            impl partitioning::Guest for Exported {
                fn partition(
                    topic: partitioning::Topic,
                    batch: partitioning::Batch,
                    contexts: ::std::vec::Vec<partitioning::Context>,
                ) -> ::std::result::Result<partitioning::Placement, partitioning::Failure> {
                    PLUGIN.with_borrow_mut(|plugin| {
                        let plugin = plugin.as_mut().expect("the broker opens a plugin before it calls it");
                        $crate::glue::partition(plugin, &$crate::glue::batch(topic, batch, contexts))
                    })
                }
            }

    $crate::bindings::partitioner::export_partitioner!(Exported with_types_in $crate::bindings::partitioner);
        };
    };
    (ack: $plugin:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::ack::exports::tidegate::plugin::acknowledging;
            $crate::__export_lifecycle!($plugin, $crate::glue::open_ack);

            impl acknowledging::Guest for Exported {
                fn strongest() -> ::std::option::Option<acknowledging::Copies> {
                    PLUGIN.with_borrow(|plugin| {
                        let plugin = plugin.as_ref().expect("the broker opens a plugin before it calls it");
                        $crate::ack::AckHook::strongest(plugin)
                    })
                }

                fn decide(
                    topic: acknowledging::Topic,
                    batch: acknowledging::Batch,
                    contexts: ::std::vec::Vec<acknowledging::Context>,
                    arrivals: ::std::vec::Vec<acknowledging::Arrival>,
                ) -> ::std::result::Result<acknowledging::Answer, acknowledging::Failure> {
                    PLUGIN.with_borrow_mut(|plugin| {
                        let plugin = plugin.as_mut().expect("the broker opens a plugin before it calls it");
                        $crate::glue::decide(plugin, &$crate::glue::batch(topic, batch, contexts), &arrivals)
                    })
                }
            }

    $crate::bindings::ack::export_ack!(Exported with_types_in $crate::bindings::ack);
        };
    };
    (retention: $plugin:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            $crate::__export_retention!($plugin);
        };
    };
    (eraser: $plugin:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            $crate::__export_retention!($plugin);
            $crate::__export_filter!();
        };
    };
    (offloader: $plugin:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            $crate::__export_retention!($plugin);
            $crate::__export_offload!();
        };
    };
    (archivist: $plugin:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            $crate::__export_retention!($plugin);
            $crate::__export_filter!();
            $crate::__export_offload!();
        };
    };
    ($kind:ident: $plugin:ty) => {
        ::core::compile_error!(::core::concat!(
            "`",
            ::core::stringify!($kind),
            "` is not a kind of plugin: write `export!(router: MyType)`, or `partitioner`, `ack`, `retention`, `eraser`, `offloader` or `archivist` for it"
        ));
    };
    ($plugin:ty) => {
        ::core::compile_error!("say what it is: `export!(router: MyType)`, or `partitioner`, `ack`, `retention`, `eraser`, `offloader` or `archivist` for it");
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_retention {
    ($plugin:ty) => {
        use $crate::bindings::retention::exports::tidegate::plugin::retaining;
        $crate::__export_lifecycle!($plugin, $crate::glue::open_retention);

        impl retaining::Guest for Exported {
            fn evaluate(
                topic: retaining::Topic,
                logs: ::std::vec::Vec<retaining::PartitionLog>,
                now: i64,
            ) -> ::std::result::Result<retaining::Answer, retaining::Failure> {
                PLUGIN.with_borrow_mut(|plugin| {
                    let plugin = plugin.as_mut().expect("the broker opens a plugin before it calls it");
                    $crate::glue::evaluate(plugin, &topic, &logs, now)
                })
            }
        }

        $crate::bindings::retention::export_retention!(Exported with_types_in $crate::bindings::retention);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_filter {
    () => {
        use $crate::bindings::filter::exports::tidegate::plugin::filtering;

        impl filtering::Guest for Exported {
            fn keep(
                topic: filtering::Topic,
                partition: u32,
                batch: filtering::Batch,
                offsets: ::std::vec::Vec<i64>,
                now: i64,
            ) -> ::std::result::Result<::std::vec::Vec<u64>, filtering::Failure> {
                PLUGIN.with_borrow_mut(|plugin| {
                    let plugin = plugin.as_mut().expect("the broker opens a plugin before it calls it");
                    $crate::glue::keep(plugin, topic, partition, batch, &offsets, now)
                })
            }
        }

        $crate::bindings::filter::export_filter!(Exported with_types_in $crate::bindings::filter);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_offload {
    () => {
        use $crate::bindings::offload::exports::tidegate::plugin::offloading;

        impl offloading::Guest for Exported {
            fn offload(
                topic: offloading::Topic,
                logs: ::std::vec::Vec<offloading::PartitionLog>,
                now: i64,
            ) -> ::std::result::Result<::std::vec::Vec<::std::vec::Vec<u32>>, offloading::Failure> {
                PLUGIN.with_borrow_mut(|plugin| {
                    let plugin = plugin.as_mut().expect("the broker opens a plugin before it calls it");
                    $crate::glue::offload(plugin, &topic, &logs, now)
                })
            }
        }

        $crate::bindings::offload::export_offload!(Exported with_types_in $crate::bindings::offload);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_lifecycle {
    ($plugin:ty, $open:path) => {
        use $crate::bindings::base::exports::tidegate::plugin::lifecycle;

        ::std::thread_local! {
            static PLUGIN: ::std::cell::RefCell<::std::option::Option<$plugin>> =
                const { ::std::cell::RefCell::new(::std::option::Option::None) };
        }

        struct Exported;

        impl lifecycle::Guest for Exported {
            fn describe() -> lifecycle::Description {
                $crate::glue::report_panics();
                lifecycle::Description {
                    name: ::std::env!("CARGO_PKG_NAME").into(),
                    version: ::std::env!("CARGO_PKG_VERSION").into(),
                    summary: ::std::env!("CARGO_PKG_DESCRIPTION").into(),
                    example: <$plugin>::EXAMPLE.into(),
                }
            }

            fn open(
                config: ::std::string::String,
            ) -> ::std::result::Result<lifecycle::Needs, ::std::string::String> {
                $crate::glue::report_panics();
                let (plugin, needs) = $open(&config)?;
                PLUGIN.set(::std::option::Option::Some(plugin));
                ::std::result::Result::Ok(lifecycle::Needs {
                    columns: needs.columns,
                    facts: needs.facts,
                    headers: needs.headers,
                })
            }
        }

        $crate::bindings::base::export_base!(Exported with_types_in $crate::bindings::base);
    };
}
