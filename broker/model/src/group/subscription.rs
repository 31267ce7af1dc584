//! The one thing that a coordinator reads in the metadata of classic members: which topics consumers are subscribed to.
//!
//! The subscription of the "consumer" protocol type begins with a version and an array of topic names, in every version
//! (Apache Kafka's `ConsumerProtocolSubscription.json`, of which version 0 is a prefix of all later ones).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    request::Text,
    wire::{Lengths, Reader, WireError},
};

/// The protocol type of consumers.
pub(super) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Adds the topics of one member's metadata.
pub(super) fn read_topics(metadata: &Bytes, topics: &mut BTreeSet<Text>) -> Result<(), WireError> {
    let mut reader = Reader::new(metadata.clone(), Lengths::Classic);
    let _version = reader.i16()?;
    topics.extend(reader.array(Reader::string)?);
    Ok(())
}
