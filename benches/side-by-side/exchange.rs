//! Routing beside RabbitMQ: the same keys through the same bindings, in RabbitMQ a topic exchange, here `plugins/router-topic`.
//!
//! Both promise that what is confirmed is on the disk, and both deliver everything to a consumer that acknowledges it. Each is driven
//! with the client that its users have, within this process: librdkafka here, `lapin` there.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use futures_lite::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};

use crate::{
    broker::Broker,
    cases::{Durations, Figures, TOPIC, Window},
    load::{KEY_WORDS, Load, Reader, Shape, create_topic, keys, payloads},
};

/// Queues, or topics that records are routed to.
const DESTINATIONS: usize = 10;
/// Publishing connections to RabbitMQ; one is bound by its one channel process.
const PUBLISHERS: usize = 2;
/// Messages of a publisher that are not confirmed.
const UNCONFIRMED_MAX: usize = 2_000;
/// What RabbitMQ delivers to a consumer ahead of its acknowledgements.
const PREFETCH: u16 = 1_000;
/// Deliveries that are acknowledged at once.
const ACKNOWLEDGED_AT_ONCE: u64 = 100;

fn destination(number: usize) -> String {
    format!("routed-{}", number % DESTINATIONS)
}

/// Each pattern and where it leads.
fn bindings() -> impl Iterator<Item = (String, String)> {
    (0..KEY_WORDS).map(|word| (format!("*.{word}.#"), destination(word)))
}

/// Creates `topic` with a router of these bindings, and their destinations.
pub(crate) fn bind(broker: &Broker, topic: &str, partitions: i32) -> Result<()> {
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/router-topic");
    let built = broker.tidegate(&["plugin", "build", &plugin.to_string_lossy(), "--path"])?;
    broker.tidegate(&["plugin", "deploy", "patterns", built.trim()])?;
    for number in 0..DESTINATIONS {
        create_topic(&broker.bootstrap, &destination(number), partitions)?;
    }
    create_topic(&broker.bootstrap, topic, partitions)?;
    let bindings: Vec<String> =
        bindings().map(|(pattern, topic)| format!(r#"{{"pattern": "{pattern}", "topic": "{topic}"}}"#)).collect();
    let config = format!(r#"tidegate.router.config={{"bindings": [{}], "unmatched": "reject"}}"#, bindings.join(", "));
    broker.tidegate(&["topic", "alter", topic, "--config", "tidegate.router=patterns", "--config", &config])?;
    Ok(())
}

/// Figures of what was acknowledged in the window and has been read by a consumer group: the window ends when all of it has.
pub(crate) fn tidegate(broker: &Broker, shape: Shape, durations: Durations) -> Result<Figures> {
    bind(broker, TOPIC, shape.partitions)?;
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let reading = {
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        let topics: Vec<String> = (0..DESTINATIONS).map(destination).collect();
        let mut reader = Reader::in_group(&broker.bootstrap, &topics)?;
        thread::spawn(move || reader.read_until(&stop, &count))
    };
    let produced = (|| {
        let mut load = Load::new(&broker.bootstrap, TOPIC, shape)?;
        load.flat_out(durations.warm_up)?;
        let window = Window::open(broker, load.acknowledged())?;
        load.flat_out(durations.window)?;
        load.finish()?;
        wait_for(&count, load.acknowledged())?;
        window.close(broker, load.acknowledged(), shape.record_bytes)
    })();
    stop.store(true, Ordering::Relaxed);
    reading.join().map_err(|_| anyhow!("the reading thread panicked"))??;
    produced
}

/// Waits until so many have been consumed.
fn wait_for(count: &AtomicU64, records: u64) -> Result<()> {
    let began = Instant::now();
    while count.load(Ordering::Relaxed) < records {
        ensure!(began.elapsed() < Duration::from_secs(120), "the consumers are two minutes behind");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The same of what was confirmed, and what consumers have acknowledged.
pub(crate) fn rabbitmq(broker: &Broker, record_bytes: usize, durations: Durations) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let address = format!("amqp://guest:guest@{}/%2f", broker.bootstrap);
    let figures = runtime.block_on(async {
        let connection = Connection::connect(&address, ConnectionProperties::default()).await?;
        declare(&connection.create_channel().await?).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let (count, confirmed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        // A connection for each half of the queues, so that no connection's process bounds the broker.
        let mut consuming = Vec::new();
        let mut connections = Vec::new();
        for half in 0..2 {
            let connection = Connection::connect(&address, ConnectionProperties::default()).await?;
            for number in (half..DESTINATIONS).step_by(2) {
                let channel = connection.create_channel().await?;
                channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
                consuming.push(tokio::spawn(consume(channel, destination(number), Arc::clone(&count))));
            }
            connections.push(connection);
        }
        let mut publishing = Vec::new();
        for _ in 0..PUBLISHERS {
            let connection = Connection::connect(&address, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            publishing.push(tokio::spawn(publish(channel, record_bytes, Arc::clone(&stop), Arc::clone(&confirmed))));
            connections.push(connection);
        }
        tokio::time::sleep(durations.warm_up).await;
        let window = Window::open(broker, confirmed.load(Ordering::Relaxed))?;
        tokio::time::sleep(durations.window).await;
        stop.store(true, Ordering::Relaxed);
        for publisher in publishing {
            publisher.await??;
        }
        let sent = confirmed.load(Ordering::Relaxed);
        // Less what each consumer keeps for its next acknowledgement.
        let consumed = sent.saturating_sub(DESTINATIONS as u64 * ACKNOWLEDGED_AT_ONCE);
        tokio::task::spawn_blocking({
            let count = Arc::clone(&count);
            move || wait_for(&count, consumed)
        })
        .await??;
        let figures = window.close(broker, sent, record_bytes)?;
        for consumer in &consuming {
            ensure!(!consumer.is_finished(), "a consumer has ended before it was told to");
            consumer.abort();
        }
        anyhow::Ok(figures)
    })?;
    ensure!(figures.get("records/s").is_some_and(|rate| *rate > 0.0), "nothing was consumed");
    Ok(figures)
}

async fn declare(channel: &Channel) -> Result<()> {
    let exchange = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(TOPIC.into(), ExchangeKind::Topic, exchange, FieldTable::default()).await?;
    for number in 0..DESTINATIONS {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(destination(number).into(), QueueDeclareOptions::durable(), arguments).await?;
    }
    for (pattern, queue) in bindings() {
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.into(), TOPIC.into(), pattern.into(), options, FieldTable::default()).await?;
    }
    Ok(())
}

async fn publish(channel: Channel, record_bytes: usize, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (keys, payloads) = (keys(), payloads(record_bytes));
    // Persistent.
    let properties = BasicProperties::default().with_delivery_mode(2);
    let mut unconfirmed = VecDeque::new();
    for sent in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if unconfirmed.len() >= UNCONFIRMED_MAX {
            let confirm = unconfirmed.pop_front().context("there are some")?;
            confirmed(confirm).await?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        let (key, payload) = (&keys[sent % keys.len()], &payloads[sent % payloads.len()]);
        let options = BasicPublishOptions::default();
        let confirm =
            channel.basic_publish(TOPIC.into(), key.as_str().into(), options, payload, properties.clone()).await?;
        unconfirmed.push_back(confirm);
    }
    for confirm in unconfirmed {
        confirmed(confirm).await?;
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn confirmed(confirm: impl Future<Output = lapin::Result<Confirmation>>) -> Result<()> {
    let confirmation = confirm.await?;
    ensure!(matches!(confirmation, Confirmation::Ack(_)), "a message was not confirmed: {confirmation:?}");
    Ok(())
}

async fn consume(channel: Channel, queue: String, count: Arc<AtomicU64>) -> Result<()> {
    let (options, tag) = (BasicConsumeOptions::default(), format!("of-{queue}"));
    let mut consumer = channel.basic_consume(queue.into(), tag.into(), options, FieldTable::default()).await?;
    let mut waiting = 0;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        std::hint::black_box(delivery.data.len());
        waiting += 1;
        if waiting == ACKNOWLEDGED_AT_ONCE {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
            count.fetch_add(waiting, Ordering::Relaxed);
            waiting = 0;
        }
    }
    Ok(())
}
