//! Who commits changes of the metadata: this broker alone, for now. A quorum of brokers will take this module's place.
//!
//! Owns the newest [`MetadataImage`] and the metadata log. A change is validated against the newest image, written and synced,
//! and only then applied and shown to anyone. The rules are `model::metadata`'s.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use tidegate_model::metadata::{Committed, MetadataChange, MetadataError, MetadataImage, ProposalResult};
use tidegate_records::ids::TopicId;

use super::metadata_log::{Entry, EntryKind, MetadataLog, MetadataLogError};

/// Why the metadata cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    #[error(transparent)]
    Log(#[from] MetadataLogError),
    #[error(
        "the entry {index} of the metadata log cannot be understood: {source}. It was written by a newer Tidegate; start the broker with \
         that one"
    )]
    Unreadable { index: u64, source: serde_json::Error },
    #[error(
        "the entry {index} of the metadata log cannot be applied: {source}. The log does not belong together; restore it from a backup"
    )]
    Inapplicable { index: u64, source: MetadataError },
}

/// The metadata of the cluster and its log.
#[derive(Debug)]
pub struct Quorum {
    log: MetadataLog,
    image: Arc<MetadataImage>,
    deleted_topics: BTreeSet<TopicId>,
}

impl Quorum {
    /// Replays the log over `empty`, which says who this broker is.
    ///
    /// # Errors
    /// A damaged log, one of another version, or what the file system says.
    pub fn open(data_directory: &Path, empty: MetadataImage) -> Result<Self, QuorumError> {
        let recovered = MetadataLog::open(data_directory)?;
        if recovered.torn_bytes > 0 {
            tracing::warn!(
                bytes = recovered.torn_bytes,
                log = %recovered.log.path().display(),
                "cut a torn end off the metadata log: a change that was being written when the broker stopped, and was not in force"
            );
        }
        let Replayed { image, deleted_topics } = replay(&recovered.entries, empty)?;
        Ok(Self { log: recovered.log, image: Arc::new(image), deleted_topics })
    }

    /// The metadata of a data directory whose broker is stopped. Changes nothing.
    ///
    /// # Errors
    /// As [`Quorum::open`].
    pub fn read(data_directory: &Path) -> Result<MetadataImage, QuorumError> {
        Self::read_with_deleted(data_directory).map(|(image, _)| image)
    }

    /// The same, and the topics that the log says were deleted.
    ///
    /// # Errors
    /// As [`Quorum::open`].
    pub fn read_with_deleted(data_directory: &Path) -> Result<(MetadataImage, BTreeSet<TopicId>), QuorumError> {
        let Replayed { image, deleted_topics } =
            replay(&MetadataLog::read(data_directory)?.0, MetadataImage::default())?;
        Ok((image, deleted_topics))
    }

    /// The topics that the log says were deleted, since its snapshot: what is left of their files may go.
    pub fn deleted_topics(&self) -> &BTreeSet<TopicId> {
        &self.deleted_topics
    }

    /// The newest image.
    pub fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }

    /// Commits changes in order, with one sync for all of them. Each is validated against the image that the ones before it made.
    ///
    /// # Errors
    /// Only what ends the broker: a failed sync. A change that is refused, or cannot be written, is told so in its place.
    pub fn commit(&mut self, changes: Vec<MetadataChange>) -> Result<Vec<ProposalResult>, QuorumError> {
        let mut newest = Arc::clone(&self.image);
        let mut payloads = Vec::new();
        let results: Vec<ProposalResult> = changes
            .into_iter()
            .map(|change| {
                let change = with_id(change);
                newest.validate(&change)?;
                payloads.push(serde_json::to_vec(&change).expect("a change is plain data"));
                let first_producer_id =
                    matches!(change, MetadataChange::AllocateProducerIds { .. }).then(|| newest.next_producer_id());
                newest = Arc::new(newest.apply(&change));
                Ok(Committed { image: Arc::clone(&newest), first_producer_id })
            })
            .collect();
        if payloads.is_empty() {
            return Ok(results);
        }
        match self.log.append(payloads.iter().map(Vec::as_slice)) {
            Ok(_) => {
                self.image = newest;
                self.compact();
                Ok(results)
            }
            Err(error @ MetadataLogError::Sync { .. }) => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "a change of the metadata was refused: the log cannot be written");
                let reason = error.to_string();
                let refuse = |result: ProposalResult| {
                    result.and_then(|_| Err(MetadataError::Storage { reason: reason.clone() }))
                };
                Ok(results.into_iter().map(refuse).collect())
            }
        }
    }

    /// Writes a snapshot where the log has outgrown it. One that fails is tried again with the next change.
    fn compact(&mut self) {
        if !self.log.wants_snapshot() {
            return;
        }
        let snapshot = serde_json::to_vec(&self.image.to_changes()).expect("changes are plain data");
        let before = self.log.bytes();
        match self.log.replace_by_snapshot(&snapshot) {
            Ok(()) => tracing::info!(before, after = self.log.bytes(), "wrote a snapshot of the metadata"),
            Err(error) => tracing::warn!(%error, "the metadata log could not be shortened"),
        }
    }
}

/// The change as it is committed: a new topic gets its id here, so that every proposer may leave it open.
struct Replayed {
    image: MetadataImage,
    deleted_topics: BTreeSet<TopicId>,
}

fn replay(entries: &[Entry], empty: MetadataImage) -> Result<Replayed, QuorumError> {
    let mut image = empty;
    let mut deleted_topics = BTreeSet::new();
    for Entry { index, kind, payload } in entries {
        let unreadable = |source| QuorumError::Unreadable { index: *index, source };
        let changes: Vec<MetadataChange> = match kind {
            EntryKind::Change => vec![serde_json::from_slice(payload).map_err(unreadable)?],
            EntryKind::Snapshot => serde_json::from_slice(payload).map_err(unreadable)?,
        };
        for change in changes {
            image.validate(&change).map_err(|source| QuorumError::Inapplicable { index: *index, source })?;
            image = image.apply(&change);
            if let MetadataChange::DeleteTopic { id } = &change {
                deleted_topics.extend(TopicId::from_hex(id));
            }
        }
    }
    Ok(Replayed { image, deleted_topics })
}

fn with_id(change: MetadataChange) -> MetadataChange {
    match change {
        MetadataChange::CreateTopic { name, id, partitions, configs } if id.is_empty() => {
            // Random (version 4) ids are never among those that KIP-516 reserves.
            let id = TopicId(*uuid::Uuid::new_v4().as_bytes()).to_hex();
            MetadataChange::CreateTopic { name, id, partitions, configs }
        }
        change => change,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_model::metadata::Broker;

    use super::*;

    fn open(directory: &Path) -> Quorum {
        let broker = Broker { id: 1, host: "localhost".to_owned(), port: 9092, rack: None };
        Quorum::open(directory, MetadataImage::new("cluster".to_owned(), broker, BTreeMap::new())).unwrap()
    }

    fn create(name: &str, partitions: i32) -> MetadataChange {
        MetadataChange::CreateTopic { name: name.to_owned(), id: String::new(), partitions, configs: BTreeMap::new() }
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut quorum = open(directory.path());
        let results = quorum
            .commit(vec![
                create("a", 1),
                create("a", 2),
                create("b", 3),
                MetadataChange::AllocateProducerIds { count: 10 },
                MetadataChange::AllocateProducerIds { count: 10 },
            ])
            .unwrap();
        assert!(matches!(&results[1], Err(MetadataError::TopicExists { .. })));
        let first_ids: Vec<_> = results.iter().flatten().filter_map(|committed| committed.first_producer_id).collect();
        assert_eq!(first_ids, [0, 10]);
        let before = quorum.image().to_changes();
        drop(quorum);
        let quorum = open(directory.path());
        assert_eq!(quorum.image().to_changes(), before);
        assert_eq!(quorum.image().topic("b").unwrap().partitions, 3);
        assert_eq!(quorum.image().next_producer_id(), 20);
    }

    #[test]
    fn a_snapshot_keeps_everything() {
        let directory = tempfile::tempdir().unwrap();
        let mut quorum = open(directory.path());
        quorum.commit(vec![create("kept", 7), create("gone", 1)]).unwrap();
        let id = quorum.image().topic("gone").unwrap().id.to_hex();
        quorum.commit(vec![MetadataChange::DeleteTopic { id }]).unwrap();
        // Enough changes that the log is written anew at least once.
        for _ in 0..30 {
            let block = (0..1000).map(|_| MetadataChange::AllocateProducerIds { count: 1 }).collect();
            assert!(quorum.commit(block).unwrap().iter().all(Result::is_ok));
        }
        assert!(quorum.log.bytes() < 2 << 20, "{}", quorum.log.bytes());
        let before = quorum.image().to_changes();
        drop(quorum);
        let quorum = open(directory.path());
        assert_eq!(quorum.image().to_changes(), before);
        assert_eq!(quorum.image().next_producer_id(), 30_000);
        assert!(quorum.image().topic("gone").is_none());
    }

    #[test]
    fn an_entry_of_the_future_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = MetadataLog::open(directory.path()).unwrap().log;
        log.append([br#"{"change":"grow-wings"}"#.as_slice()]).unwrap();
        drop(log);
        let broker = Broker { id: 1, host: "localhost".to_owned(), port: 9092, rack: None };
        let error =
            Quorum::open(directory.path(), MetadataImage::new("c".to_owned(), broker, BTreeMap::new())).unwrap_err();
        assert!(error.to_string().contains("entry 0") && error.to_string().contains("newer Tidegate"), "{error}");
    }
}
