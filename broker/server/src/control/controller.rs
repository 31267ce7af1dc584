//! The control thread: takes proposals from shards and the admin endpoint, commits them in batches, and tells every shard.
//!
//! Owns the quorum, the plugins and the admin endpoint, all on one tokio runtime of one thread. Shards are told in the order in which
//! things happened, and who proposed is answered once every shard has taken the change in: a client that was told of a new topic finds
//! it on whichever shard it asks next.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use tidegate_model::{
    metadata::{MetadataChange, MetadataError, MetadataImage, Plugin, ProposalResult, Topic},
    topic_config::Attachment,
};
use tidegate_records::ids::TopicId;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    admin::{self, AdminError, AdminOptions, Token},
    metrics::MetricsPage,
    objects::{self, ObjectStoreError, ObjectStoreOptions},
    plugins::{self, LoadedPlugin, PluginError, PluginHost, PluginStore, TrialError},
    quorum::{Quorum, QuorumError},
};
use crate::{metrics::ShardReport, objects::ObjectClient, readers::Readers};

/// How long the admin endpoint may still send answers when the broker stops. Connections without a request are closed at once; one whose
/// request never becomes whole would be waited for without an end.
const ENDPOINT_STOP_MAX: Duration = Duration::from_secs(1);
/// Proposals that are committed with one sync at most.
const BATCH_MAX: usize = 256;

/// What a shard is told. It comes on the control thread, so the sink only puts it into the shard's mailbox.
pub enum ControlEvent {
    /// Committed metadata has changed. `taken` is called, or dropped, once the shard answers from it.
    Metadata { image: Arc<MetadataImage>, taken: Box<dyn FnOnce() + Send> },
    /// A plugin, or another version of it, is ready to run. It comes before the metadata that name it.
    Plugin(LoadedPlugin),
    /// How far consumer groups are in topics with a retention plugin, when that has changed.
    Readers(Arc<Readers>),
}

/// Where a shard is told.
pub type EventSink = Box<dyn Fn(ControlEvent) + Send>;

/// Takes the answer to a proposal, on whichever thread was the last to learn of the change; so it only passes it on.
pub type Answer = Box<dyn FnOnce(ProposalResult) + Send>;

/// What the control thread needs to start.
pub struct ControlOptions {
    pub data_directory: PathBuf,
    /// An image that says who this broker is, and nothing else.
    pub empty: MetadataImage,
    pub admin: AdminOptions,
    pub page: Arc<MetricsPage>,
    pub plugin_host: Arc<dyn PluginHost>,
    /// Where offloaded segments go, if anywhere.
    pub object_store: Option<ObjectStoreOptions>,
    /// Called once, with the reason, when nothing can be committed any more: the process has to end.
    pub fatal: Box<dyn Fn(String) + Send>,
}

/// Why the control thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Plugins(#[from] PluginError),
    #[error(transparent)]
    ObjectStore(#[from] ObjectStoreError),
    #[error("the control thread cannot be started: {source}")]
    Thread { source: std::io::Error },
}

pub(super) enum Command {
    Propose {
        change: MetadataChange,
        answer: Answer,
    },
    /// As `Propose`, after the plugins that it attaches were tried: the topics that each named, or why it is refused.
    ProposeTried {
        change: MetadataChange,
        tried: Result<Vec<(String, Vec<String>)>, TrialError>,
        answer: Answer,
    },
    Deploy {
        plugin: Plugin,
        loaded: LoadedPlugin,
        answer: Answer,
    },
    Subscribe {
        sinks: Vec<EventSink>,
        version: u64,
    },
    Report(ShardReport),
    Stop,
}

/// How far the broker is, for `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Readiness {
    /// Recovering; connections are not accepted yet.
    Starting = 0,
    Ready = 1,
    Stopping = 2,
}

/// Talks to the control thread, from any thread. None of it waits.
#[derive(Clone)]
pub struct ControlHandle {
    commands: mpsc::UnboundedSender<Command>,
    readiness: Arc<AtomicU8>,
    image: watch::Receiver<Arc<MetadataImage>>,
    plugins: Arc<PluginStore>,
}

impl ControlHandle {
    /// Proposes a change. `answer` is called once it is committed and every shard knows of it, or it is refused.
    pub fn propose(&self, change: MetadataChange, answer: impl FnOnce(ProposalResult) + Send + 'static) {
        self.send(Command::Propose { change, answer: Box::new(answer) });
    }

    /// Sends what has to be answered.
    fn send(&self, command: Command) {
        if let Err(mpsc::error::SendError(
            Command::Propose { answer, .. } | Command::ProposeTried { answer, .. } | Command::Deploy { answer, .. },
        )) = self.commands.send(command)
        {
            answer(Err(stopping()));
        }
    }

    /// Proposes a change and waits for the answer; for tokio tasks of the control thread.
    pub(super) async fn commit(&self, change: MetadataChange) -> ProposalResult {
        let (sender, receiver) = oneshot::channel();
        self.propose(change, |result| {
            // Who asked may be gone; the change is committed all the same.
            let _ = sender.send(result);
        });
        receiver.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Commits a plugin that was stored, and hands its code to the shards.
    pub(super) async fn deploy(&self, plugin: Plugin, loaded: LoadedPlugin) -> ProposalResult {
        let (sender, receiver) = oneshot::channel();
        let answer: Answer = Box::new(|result| drop(sender.send(result)));
        self.send(Command::Deploy { plugin, loaded, answer });
        receiver.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// The newest committed metadata.
    pub(super) fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.image.borrow())
    }

    pub(super) fn plugins(&self) -> Arc<PluginStore> {
        Arc::clone(&self.plugins)
    }

    /// From now on these are told of every change, beginning with the newest image and its plugins if it is not that of `version`.
    pub fn subscribe(&self, sinks: Vec<EventSink>, version: u64) {
        // After the control thread has stopped there is nothing to be told of.
        let _ = self.commands.send(Command::Subscribe { sinks, version });
    }

    /// A shard's newest report, for the metrics.
    pub fn report(&self, report: ShardReport) {
        let _ = self.commands.send(Command::Report(report));
    }

    /// What `/readyz` says from now on.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.readiness.store(readiness as u8, Ordering::Release);
    }

    pub(super) fn readiness(&self) -> Readiness {
        match self.readiness.load(Ordering::Acquire) {
            0 => Readiness::Starting,
            1 => Readiness::Ready,
            _ => Readiness::Stopping,
        }
    }
}

fn stopping() -> MetadataError {
    MetadataError::Storage { reason: "the broker is stopping".to_owned() }
}

/// The control thread, running.
pub struct Control {
    pub handle: ControlHandle,
    /// The metadata as it was found; shards start with it.
    pub image: Arc<MetadataImage>,
    /// The topics that were deleted lately: a crash may have left files of theirs.
    pub deleted_topics: BTreeSet<TopicId>,
    /// Its plugins, ready to run; shards start with them.
    pub plugins: Vec<LoadedPlugin>,
    /// Where the admin endpoint listens.
    pub admin: std::net::SocketAddr,
    /// The object store, for shards; it may be none.
    pub objects: ObjectClient,
    thread: thread::JoinHandle<()>,
}

impl Control {
    /// Replays the metadata log, binds the admin endpoint and starts the thread.
    ///
    /// # Errors
    /// When the log is damaged, or the admin endpoint cannot listen or has no token where it needs one.
    pub fn start(options: ControlOptions) -> Result<Self, ControlError> {
        let ControlOptions { data_directory, empty, admin: admin_options, page, plugin_host, object_store, fatal } =
            options;
        let token = admin_options.token_file.as_deref().map(Token::read).transpose()?;
        let listener = admin::bind(&admin_options, token.is_some())?;
        let admin_address = listener.local_addr().map_err(|source| ControlError::Thread { source })?;
        let quorum = Quorum::open(&data_directory, empty)?;
        let image = Arc::clone(quorum.image());
        let deleted_topics = quorum.deleted_topics().clone();
        let (commands, receiver) = mpsc::unbounded_channel();
        let store = Arc::new(PluginStore::open(&data_directory, plugin_host)?);
        store.sweep(&image);
        let plugins = plugins::load_all(&store, &image);
        let (newest, newest_receiver) = watch::channel(Arc::clone(&image));
        let handle =
            ControlHandle { commands, readiness: Arc::default(), image: newest_receiver, plugins: Arc::clone(&store) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("control-blocking")
            // A plugin that is compiled must not hold up readers of an object store that is a directory.
            .max_blocking_threads(8)
            .build()
            .map_err(|source| ControlError::Thread { source })?;
        let objects = object_store.map(|options| objects::open(&options, runtime.handle())).transpose()?;
        let objects = objects.unwrap_or_default();
        let state = admin::AdminState::new(handle.clone(), page.clone(), token, &admin_options);
        let started_with = plugins.values().cloned().collect();
        // Weak: the loop ends when all handles are gone, and its own must not keep it alive.
        let again = handle.commands.downgrade();
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let (stop, stopped) = oneshot::channel();
                    let endpoint = tokio::spawn(admin::serve(listener, state, stopped));
                    let mut controller = Controller {
                        quorum,
                        sinks: Vec::new(),
                        page,
                        plugins,
                        newest,
                        readers: None,
                        trying: Vec::new(),
                        again,
                    };
                    if let Err(error) = controller.run(receiver).await {
                        fatal(error.to_string());
                    }
                    let _ = stop.send(());
                    if tokio::time::timeout(ENDPOINT_STOP_MAX, endpoint).await.is_err() {
                        tracing::debug!(
                            "connections of the admin endpoint are given up: their requests are not whole yet"
                        );
                    }
                });
                // Dropping it would wait for what blocks: a component that is compiled, the name of an object store that is looked up. Nobody
                // waits for what comes of it any more, and a crash may end it anywhere, too.
                runtime.shutdown_background();
            })
            .map_err(|source| ControlError::Thread { source })?;
        Ok(Self { handle, image, deleted_topics, plugins: started_with, admin: admin_address, objects, thread })
    }

    /// Commits what was proposed before, answers it, and ends the thread.
    pub fn stop(self) {
        self.handle.set_readiness(Readiness::Stopping);
        let _ = self.handle.commands.send(Command::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the control thread ended with a panic");
        }
    }
}

struct Controller {
    quorum: Quorum,
    sinks: Vec<EventSink>,
    page: Arc<MetricsPage>,
    /// By name.
    plugins: BTreeMap<String, LoadedPlugin>,
    newest: watch::Sender<Arc<MetadataImage>>,
    /// What shards were told last of consumer groups.
    readers: Option<Arc<Readers>>,
    /// Names of topics that are about to be created, as soon as their plugins were tried: to each other they count as there.
    trying: Vec<String>,
    /// Where a proposal goes whose plugins were tried.
    again: mpsc::WeakUnboundedSender<Command>,
}

impl Controller {
    async fn run(&mut self, mut commands: mpsc::UnboundedReceiver<Command>) -> Result<(), QuorumError> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            if commands.recv_many(&mut batch, BATCH_MAX).await == 0 {
                return Ok(());
            }
            let mut proposals = Vec::new();
            let mut stop = false;
            for command in batch.drain(..) {
                match command {
                    Command::Propose { change, answer } => {
                        let attachments = plugins::attachments(&change, self.quorum.image());
                        if attachments.is_empty() {
                            proposals.push((change, answer));
                        } else {
                            self.try_attachments(change, attachments, answer);
                        }
                    }
                    Command::ProposeTried { change, tried, answer } => {
                        // The topics that were created meanwhile are looked for too.
                        self.commit(std::mem::take(&mut proposals))?;
                        match tried.and_then(|named| self.named_exist(&change, &named)) {
                            Ok(()) => proposals.push((change.clone(), answer)),
                            Err(error) => answer(Err(MetadataError::PluginRefused(error.to_string()))),
                        }
                        if let MetadataChange::CreateTopic { name, .. } = &change
                            && let Some(index) = self.trying.iter().position(|trying| trying == name)
                        {
                            self.trying.swap_remove(index);
                        }
                    }
                    Command::Deploy { plugin, loaded, answer } => {
                        self.commit(std::mem::take(&mut proposals))?;
                        for sink in &self.sinks {
                            sink(ControlEvent::Plugin(loaded.clone()));
                        }
                        self.plugins.insert(plugin.name.clone(), loaded);
                        self.commit(vec![(MetadataChange::DeployPlugin(plugin), answer)])?;
                    }
                    Command::Report(report) => {
                        self.page.report(report);
                        self.tell_readers();
                    }
                    Command::Subscribe { sinks, version } => {
                        // What was proposed before is told to them as well: the order is kept.
                        self.commit(std::mem::take(&mut proposals))?;
                        if self.quorum.image().version != version {
                            let plugins = || self.plugins.values().cloned();
                            for sink in &sinks {
                                plugins().for_each(|plugin| sink(ControlEvent::Plugin(plugin)));
                            }
                            tell(&sinks, self.quorum.image(), Vec::new());
                        }
                        self.sinks.extend(sinks);
                    }
                    Command::Stop => stop = true,
                }
            }
            self.commit(proposals)?;
            if stop {
                return Ok(());
            }
        }
    }

    /// Opens the plugins that a change attaches, with their configurations, on a blocking thread; then the change comes back.
    fn try_attachments(&mut self, change: MetadataChange, attachments: Vec<Attachment>, answer: Answer) {
        if let MetadataChange::CreateTopic { name, .. } = &change {
            self.trying.push(name.clone());
        }
        let found: Vec<_> = attachments
            .into_iter()
            .map(|attachment| (self.plugins.get(&attachment.plugin).cloned(), attachment))
            .collect();
        let again = self.again.clone();
        let brokers = self.quorum.image().brokers.clone();
        tokio::task::spawn_blocking(move || {
            let tried = found.into_iter().map(|(plugin, attachment)| match plugin {
                Some(plugin) => Ok((plugin.name, plugin.compiled.trial(&attachment, &brokers)?)),
                None => Err(TrialError::NotLoaded { plugin: attachment.plugin }),
            });
            let tried = tried.collect();
            let Some(commands) = again.upgrade() else { return answer(Err(stopping())) };
            if let Err(mpsc::error::SendError(Command::ProposeTried { answer, .. })) =
                commands.send(Command::ProposeTried { change, tried, answer })
            {
                answer(Err(stopping()));
            }
        });
    }

    /// Whether the topics are there that the plugins of a change named. A topic that keeps an attachment as it is may name what was deleted
    /// since: its other configurations can still be changed.
    fn named_exist(&self, change: &MetadataChange, named: &[(String, Vec<String>)]) -> Result<(), TrialError> {
        let image = self.quorum.image();
        let (MetadataChange::CreateTopic { name: own, configs, .. }
        | MetadataChange::AlterTopicConfig { name: own, configs, .. }) = change
        else {
            return Ok(());
        };
        let routers = ["tidegate.router", "tidegate.router.config"];
        let kept = |topic: &Arc<Topic>| {
            let overrides = topic.config.overrides();
            routers.iter().all(|key| overrides.get(*key) == configs.get(*key))
        };
        if image.topic(own).is_some_and(kept) {
            return Ok(());
        }
        plugins::all_exist(named, |topic| {
            topic == own || image.topic(topic).is_some() || self.trying.iter().any(|trying| trying == topic)
        })
    }

    /// Tells the shards how far consumer groups are, where a retention plugin asks.
    fn tell_readers(&mut self) {
        let image = self.quorum.image();
        if image.topics().all(|topic| topic.config.retention.is_none()) {
            return;
        }
        let Some(readers) = Readers::gather(&self.page.reports(), image) else { return };
        if self.readers.as_deref() != Some(&readers) {
            let readers = Arc::new(readers);
            for sink in &self.sinks {
                sink(ControlEvent::Readers(Arc::clone(&readers)));
            }
            self.readers = Some(readers);
        }
    }

    /// Commits, tells the shards, answers.
    fn commit(&mut self, proposals: Vec<(MetadataChange, Answer)>) -> Result<(), QuorumError> {
        if proposals.is_empty() {
            return Ok(());
        }
        let before = self.quorum.image().version;
        let (changes, answers): (Vec<_>, Vec<_>) = proposals.into_iter().unzip();
        let results = match self.quorum.commit(changes) {
            Ok(results) => results,
            Err(error) => {
                for answer in answers {
                    answer(Err(MetadataError::Storage { reason: error.to_string() }));
                }
                return Err(error);
            }
        };
        let answers = answers.into_iter().zip(results).collect();
        let image = self.quorum.image();
        // A batch of refusals has nothing to be taken in.
        let sinks = if image.version == before { &[] } else { self.sinks.as_slice() };
        self.plugins.retain(|name, _| image.plugin(name).is_some());
        self.newest.send_replace(Arc::clone(image));
        tell(sinks, image, answers);
        Ok(())
    }
}

/// Tells the shards of an image; the answers are given when the last of them has taken it in.
fn tell(sinks: &[EventSink], image: &Arc<MetadataImage>, answers: Vec<(Answer, ProposalResult)>) {
    let answers = Arc::new(Answers(Mutex::new(answers)));
    for sink in sinks {
        let answers = Arc::clone(&answers);
        sink(ControlEvent::Metadata { image: Arc::clone(image), taken: Box::new(move || drop(answers)) });
    }
}

/// Answers that are given when the last shard lets go of them: because it has taken the image in, or because it is gone.
/// The mutex only makes them shareable; nobody locks it.
struct Answers(Mutex<Vec<(Answer, ProposalResult)>>);

impl Drop for Answers {
    fn drop(&mut self) {
        let answers = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (answer, result) in answers.drain(..) {
            answer(result);
        }
    }
}
