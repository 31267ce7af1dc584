//! Lines for the operator: `tidegate plugin logs` shows them, with the plugin's name and topic. They are limited in number and
//! length, so log what is rare.

use crate::{bindings::base::tidegate::plugin::log::Level, host};

pub fn error(message: impl AsRef<str>) {
    host::log(Level::Error, message.as_ref());
}

pub fn warn(message: impl AsRef<str>) {
    host::log(Level::Warn, message.as_ref());
}

pub fn info(message: impl AsRef<str>) {
    host::log(Level::Info, message.as_ref());
}

pub fn debug(message: impl AsRef<str>) {
    host::log(Level::Debug, message.as_ref());
}
