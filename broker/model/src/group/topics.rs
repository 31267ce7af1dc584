//! The topics that exist, as far as groups care: name, id, number of partitions.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_records::ids::TopicId;

use super::request::Text;

/// An image of all topics; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicsImage {
    topics: Arc<Topics>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Topics {
    by_name: BTreeMap<Text, (TopicId, i32)>,
    by_id: BTreeMap<TopicId, Text>,
}

impl TopicsImage {
    /// An image of these (name, id, partition count).
    pub fn new(topics: impl IntoIterator<Item = (Text, TopicId, i32)>) -> Self {
        let mut image = Topics::default();
        for (name, id, partitions) in topics {
            image.by_id.insert(id, name.clone());
            image.by_name.insert(name, (id, partitions));
        }
        Self { topics: Arc::new(image) }
    }

    pub(super) fn by_name(&self, name: &str) -> Option<(TopicId, i32)> {
        self.topics.by_name.get(name).copied()
    }

    pub(super) fn by_id(&self, id: TopicId) -> Option<&Text> {
        self.topics.by_id.get(&id)
    }

    /// All topics, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Text, TopicId, i32)> {
        self.topics.by_name.iter().map(|(name, (id, partitions))| (name, *id, *partitions))
    }
}
