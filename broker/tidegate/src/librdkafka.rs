//! librdkafka, as `produce`, `consume` and `demo` use it: configuration in common, and what its errors and warnings look like.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Mutex,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};

/// What both kinds of client are configured with; `properties` win.
pub(crate) fn config(bootstrap: &str, defaults: &[(&str, &str)], properties: &[(String, String)]) -> ClientConfig {
    let mut merged: BTreeMap<&str, &str> = BTreeMap::from([
        ("bootstrap.servers", bootstrap),
        ("client.id", "tidegate-cli"),
        // The broker's limit decides, not the client's.
        ("message.max.bytes", "1000000000"),
        ("receive.message.max.bytes", "2147483647"),
        ("socket.nagle.disable", "true"),
        ("broker.address.family", "any"),
    ]);
    merged.extend(defaults.iter().copied());
    merged.extend(properties.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut config = ClientConfig::new();
    config.extend(merged.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
    config.set_log_level(RDKafkaLogLevel::Error);
    config
}

/// Says on standard error what librdkafka complains about, each thing once in a row.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    last: Mutex<String>,
}

impl Warnings {
    pub(crate) fn warn(&self, text: &str) {
        // A poisoned lock holds a text that is as good as any other.
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last != text {
            text.clone_into(&mut last);
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(io::stderr(), "warning: {text}");
        }
    }
}

impl ClientContext for Warnings {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        if (level as i32) <= (RDKafkaLogLevel::Critical as i32) {
            self.warn(message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is told as an error, too, where it was asked for.
        if matches!(error, KafkaError::PartitionEOF(_))
            || error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF)
        {
            return;
        }
        let text = if reason.is_empty() { error.to_string() } else { reason.to_owned() };
        self.warn(&text);
    }
}

impl ConsumerContext for Warnings {}

/// Whether a consumer can go on after this.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::OffsetOutOfRange
        )
    )
}

/// Why a record was not written, and how to learn more.
///
/// Not in the broker's own words, which the answer has: librdkafka 2.12 lends their text only as long as it reads that answer, and reports
/// deliveries later, with a pointer to memory that is free by then (`rd_kafka_message_produce_errstr`).
pub(crate) fn delivery_error(error: &KafkaError, topic: &str) -> String {
    let Some(code) = error.rdkafka_error_code() else { return error.to_string() };
    match code {
        RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::PolicyViolation => {
            format!("{code}; `tidegate plugin try --topic {topic}` says what the topic's plugins make of a record")
        }
        _ => code.to_string(),
    }
}
