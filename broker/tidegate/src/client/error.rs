//! What can go wrong between the command line and a broker, and what to do about it.

use std::io;

use kafka_protocol::{error::ResponseError, protocol::StrBytes};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{address:?} is not an address: write HOST:PORT, or several with commas between them")]
    Address { address: String },
    #[error("cannot find the address of {address}: {source}")]
    Resolve { address: String, source: io::Error },
    #[error("cannot connect to {address}: {source}{}", hint(source))]
    Connect { address: String, source: io::Error },
    #[error("{address} closed the connection or did not answer {api}: {source}{}", slow(source))]
    Broken { address: String, api: &'static str, source: io::Error },
    #[error(
        "{address} announced an answer of {bytes} bytes to {api}; at most {} are read. Does it speak the Kafka protocol?",
        super::RESPONSE_BYTES_MAX
    )]
    TooLong { address: String, api: &'static str, bytes: u64 },
    #[error("{address} gave an answer to {api} that cannot be read: {reason}")]
    Garbled { address: String, api: &'static str, reason: String },
    #[error("{address} does not offer {api}: it speaks {offered}, and this command needs {needed}")]
    Unsupported { address: String, api: &'static str, offered: String, needed: String },
    #[error("broker {broker} is not among the brokers of the cluster; its partitions are offline for now")]
    NoSuchBroker { broker: i32 },
    #[error(
        "broker {broker} says that clients reach it at {address}, which does not work from here: {source}\nset its --advertise HOST:PORT (advertised.listeners) to an address that works"
    )]
    Advertised { broker: i32, address: String, source: Box<Self> },
    #[error("{what}: {}", describe(*error, message.as_deref()))]
    Refused { what: String, error: ResponseError, message: Option<String> },
    #[error("{what}: the broker left it out of its answer")]
    Missing { what: String },
}

impl ClientError {
    /// The error code that a broker answered, where it did.
    pub(crate) fn code(&self) -> Option<ResponseError> {
        match self {
            Self::Refused { error, .. } => Some(*error),
            _ => None,
        }
    }
}

/// `Ok` where `code` is 0, else what the broker says of `what`.
pub(crate) fn check(what: impl Into<String>, code: i16, message: Option<&StrBytes>) -> Result<(), ClientError> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => {
            Err(ClientError::Refused { what: what.into(), error, message: message.map(ToString::to_string) })
        }
    }
}

/// An error's name as Kafka's documentation spells it: `UNKNOWN_TOPIC_OR_PARTITION`.
pub(crate) fn kafka_name(error: ResponseError) -> String {
    let camel = error.to_string();
    if let ResponseError::Unknown(code) = error {
        return format!("error {code}");
    }
    let mut name = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn describe(error: ResponseError, message: Option<&str>) -> String {
    let mut text = match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{message} ({})", kafka_name(error)),
        None => match words(error) {
            Some(words) => format!("{words} ({})", kafka_name(error)),
            None => kafka_name(error),
        },
    };
    if let Some(advice) = advice(error) {
        text.push('\n');
        text.push_str(advice);
    }
    text
}

/// Plain words for the errors that brokers answer without any.
fn words(error: ResponseError) -> Option<&'static str> {
    Some(match error {
        ResponseError::UnknownTopicOrPartition => "there is none of that name",
        ResponseError::NonEmptyGroup => "it is in use",
        ResponseError::GroupIdNotFound => "there is none of that name",
        ResponseError::CoordinatorNotAvailable => "it has no coordinator at the moment",
        ResponseError::NotLeaderOrFollower | ResponseError::LeaderNotAvailable => "it has no leader at the moment",
        _ => return None,
    })
}

fn advice(error: ResponseError) -> Option<&'static str> {
    Some(match error {
        ResponseError::UnknownTopicOrPartition => {
            "see which topics there are with: tidegate topic list\ncreate one with: tidegate topic create NAME"
        }
        ResponseError::TopicAlreadyExists => "add --if-not-exists where that is all right",
        ResponseError::NonEmptyGroup => "it has active members: stop its consumers first",
        ResponseError::GroupIdNotFound => "see which groups there are with: tidegate group list",
        ResponseError::InvalidReplicationFactor => "there are not as many brokers: see tidegate cluster info",
        ResponseError::SaslAuthenticationFailed | ResponseError::ClusterAuthorizationFailed => {
            "the cluster wants credentials, which this command does not have"
        }
        _ => return None,
    })
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => {
            "\nis a broker running there? start one with: tidegate serve\nor name another with --bootstrap HOST:PORT (or TIDEGATE_BOOTSTRAP)"
        }
        io::ErrorKind::TimedOut => "\nis the address right, and does no firewall stand between?",
        _ => "",
    }
}

fn slow(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "\nno answer came in time: is it a Kafka broker, without TLS, and is it healthy?"
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "\nis it a Kafka broker, and does it expect neither TLS nor a password? its log may say why"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_kafkas_own_names() {
        let check = |error, expected: &str| assert_eq!(kafka_name(error), expected);
        check(ResponseError::UnknownTopicOrPartition, "UNKNOWN_TOPIC_OR_PARTITION");
        check(ResponseError::NotLeaderOrFollower, "NOT_LEADER_OR_FOLLOWER");
        check(ResponseError::Unknown(1234), "error 1234");
    }

    #[test]
    fn a_refusal_says_what_the_broker_said_and_what_to_do() {
        let message = StrBytes::from_static_str("Topic 'a' already exists.");
        let error = check("cannot create topic \"a\"", 36, Some(&message)).unwrap_err();
        insta::assert_snapshot!(error, @r#"
        cannot create topic "a": Topic 'a' already exists. (TOPIC_ALREADY_EXISTS)
        add --if-not-exists where that is all right
        "#);
        assert!(check("x", 0, None).is_ok());
    }
}
