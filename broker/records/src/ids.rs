//! The identifiers of the broker, as types that do not mix.
//!
//! Names are Kafka's own. Each wraps the integer that the protocol carries, so that a bare `i64` never crosses a module.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// The position of a record in its partition. The first is 0; -1 means "unknown" where the protocol allows it.
    Offset(i64)
);
id!(
    /// Counts the leaders of a partition; stamped into each batch (KIP-101). -1 means "unknown".
    LeaderEpoch(i32)
);
id!(
    /// A broker of the cluster.
    BrokerId(i32)
);
id!(
    /// The index of a partition within its topic, from 0.
    PartitionIndex(i32)
);
id!(
    /// An idempotent or transactional producer (KIP-98). -1 stands for "none".
    ProducerId(i64)
);
id!(
    /// Fences the earlier incarnations of a producer id (KIP-98).
    ProducerEpoch(i16)
);
id!(
    /// The number of a producer's record within a partition; wraps from `i32::MAX` to 0 (KIP-98). -1 stands for "none".
    Sequence(i32)
);
id!(
    /// One core's executor and everything that it owns, from 0.
    ShardId(u16)
);

impl Offset {
    /// What the protocol answers where there is no offset.
    pub const UNKNOWN: Self = Self(-1);

    /// The offset `count` records on.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl ProducerId {
    /// A batch that no idempotent producer wrote.
    pub const NONE: Self = Self(-1);

    /// Whether this names a producer at all.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl Sequence {
    /// The sequence of a batch that no idempotent producer wrote.
    pub const NONE: Self = Self(-1);

    /// The sequence `count` records on, wrapping as Kafka does: after `i32::MAX` comes 0.
    #[must_use]
    pub fn plus(self, count: i32) -> Self {
        debug_assert!(count >= 0, "sequences only go forward");
        let headroom = i32::MAX - self.0;
        if count > headroom { Self(count - headroom - 1) } else { Self(self.0 + count) }
    }
}

/// The unique id of a topic, stable from its creation to its deletion (KIP-516).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// The id that the protocol uses for "none".
    pub const ZERO: Self = Self([0; 16]);

    /// Thirty-two lower-case hex digits; the name of the topic's directories.
    #[must_use]
    pub fn to_hex(self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(32), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The inverse of [`TopicId::to_hex`].
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(id))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({})", self.to_hex())
    }
}

/// One partition of one topic: the key of everything that a shard owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: TopicId,
    pub partition: PartitionIndex,
}

impl TopicPartition {
    #[must_use]
    pub fn new(topic: TopicId, partition: PartitionIndex) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_wraps_to_zero() {
        assert_eq!(Sequence(i32::MAX).plus(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(4), Sequence(2));
        assert_eq!(Sequence(5).plus(4), Sequence(9));
    }

    #[test]
    fn a_topic_id_survives_its_name() {
        let id = TopicId(*b"0123456789abcdef");
        assert_eq!(TopicId::from_hex(&id.to_hex()), Some(id));
        assert_eq!(TopicId::from_hex("zz"), None);
        assert_eq!(TopicId::from_hex(&"g".repeat(32)), None);
    }
}
