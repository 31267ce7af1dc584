//! The positions of consumer groups in topics with a retention plugin: gathered from the reports of all shards, told to all shards.

use std::collections::BTreeMap;

use tidegate_model::metadata::MetadataImage;

use crate::metrics::ShardReport;

/// A group's position in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub group: String,
    /// The next record that it wants.
    pub committed: i64,
    /// When it committed that, in milliseconds since 1970.
    pub time: i64,
}

/// Who reads topics with a retention plugin, and how far they are. At most a few seconds old.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readers(BTreeMap<(String, i32), Vec<Position>>);

impl Readers {
    /// Those in the newest reports; `None` as long as a shard has not read all its groups' offsets: a policy must not take a group for one
    /// that has committed nothing because the broker has just started.
    #[must_use]
    pub fn gather(reports: &[ShardReport], image: &MetadataImage) -> Option<Self> {
        if !reports.iter().all(|report| report.groups_are_loaded) {
            return None;
        }
        let mut readers: BTreeMap<(String, i32), Vec<Position>> = BTreeMap::new();
        for group in reports.iter().flat_map(|report| &report.groups) {
            for committed in &group.committed {
                let governed = image.topic(&committed.topic).is_some_and(|topic| topic.config.retention.is_some());
                if governed {
                    let (group, time) = (group.group.clone(), committed.time);
                    let position = Position { group, committed: committed.offset, time };
                    readers.entry((committed.topic.clone(), committed.partition)).or_default().push(position);
                }
            }
        }
        readers.values_mut().for_each(|positions| positions.sort_by(|one, other| one.group.cmp(&other.group)));
        Some(Self(readers))
    }

    /// Those of one partition, by name.
    #[must_use]
    pub fn of(&self, topic: &str, partition: i32) -> &[Position] {
        self.0.get(&(topic.to_owned(), partition)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_model::{
        metadata::{Broker, MetadataChange, Plugin},
        topic_config::BrokerDefaults,
    };

    use super::*;
    use crate::metrics::{CommittedReport, GroupReport};

    fn image() -> MetadataImage {
        let broker = Broker { id: 1, host: "h".to_owned(), port: 1, rack: None };
        let plugin = Plugin {
            name: "keeper".to_owned(),
            version: 1,
            hash: String::new(),
            world: "retention".to_owned(),
            bytes: 0,
            uploaded_at: 0,
            previous: None,
        };
        let configs = [("tidegate.retention".to_owned(), "keeper".to_owned())].into();
        let create = |name: &str, id: &str, configs| MetadataChange::CreateTopic {
            name: name.to_owned(),
            id: id.repeat(16),
            partitions: 2,
            configs,
        };
        [
            MetadataChange::DeployPlugin(plugin),
            create("governed", "01", configs),
            create("free", "02", Default::default()),
        ]
        .iter()
        .fold(MetadataImage::new("c".to_owned(), broker, BrokerDefaults::new()), |image, change| image.apply(change))
    }

    fn report(shard: u16, group: &str, topic: &str, partition: i32, offset: i64) -> ShardReport {
        let committed = vec![CommittedReport { topic: topic.to_owned(), partition, offset, time: 5 }];
        let groups = vec![GroupReport { group: group.to_owned(), state: "Empty", committed }];
        ShardReport { shard, groups, groups_are_loaded: true, ..ShardReport::default() }
    }

    #[test]
    fn positions_of_all_shards_come_together_once_all_are_known() {
        let image = image();
        let mut reports = vec![report(0, "b", "governed", 1, 7), report(1, "a", "governed", 1, 9)];
        reports.push(report(2, "c", "free", 0, 3));
        let readers = Readers::gather(&reports, &image).expect("all are loaded");
        let found: Vec<_> = readers.of("governed", 1).iter().map(|one| (one.group.as_str(), one.committed)).collect();
        assert_eq!(found, [("a", 9), ("b", 7)]);
        assert_eq!((readers.of("governed", 0), readers.of("free", 0)), (&[][..], &[][..]));
        reports[1].groups_are_loaded = false;
        assert_eq!(Readers::gather(&reports, &image), None);
    }
}
