//! Load without a client library: ready-made Produce requests, for the limits that a client library does not reach.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;
use kafka_protocol::{
    messages::{
        ApiKey, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, StrBytes},
};
use tidegate_records::{batch::Compression, build::BatchBuilder, time::Timestamp};

/// The version of Produce that is sent.
const VERSION: i16 = 9;

/// A paced request that is answered later is in arrears.
const LATE: Duration = Duration::from_millis(20);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) partitions: i32,
    pub(crate) batch_bytes: usize,
    pub(crate) batches_in_a_request: i32,
    pub(crate) connections: usize,
    /// Requests that wait for their answers, on each connection.
    pub(crate) in_flight: usize,
}

pub(crate) const SMALL: Shape =
    Shape { partitions: 1_000, batch_bytes: 1_024, batches_in_a_request: 100, connections: 4, in_flight: 4 };
pub(crate) const LARGE: Shape =
    Shape { partitions: 64, batch_bytes: 262_144, batches_in_a_request: 1, connections: 4, in_flight: 8 };

/// Requests under way on several connections.
pub(crate) struct Flood {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
    streams: Vec<TcpStream>,
}

struct Shared {
    acknowledged: AtomicU64,
    stop: AtomicBool,
    /// Requests that were due after this are timed.
    timed_from: OnceLock<Instant>,
    latency: Mutex<Histogram<u64>>,
    /// When an answer last came after more than [`LATE`].
    late: Mutex<Instant>,
}

impl Flood {
    /// Sends as many batches as are acknowledged, or `per_second` of them.
    pub(crate) fn start(address: &str, topic: &str, shape: Shape, per_second: Option<u64>) -> Result<Self> {
        let requests: Arc<Vec<Bytes>> = Arc::new(requests(topic, shape)?);
        let shared = Arc::new(Shared {
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            timed_from: OnceLock::new(),
            latency: Mutex::new(Histogram::new_with_bounds(1, 120_000_000, 3)?),
            late: Mutex::new(Instant::now()),
        });
        // Each connection's share of the requests.
        let step = per_second.map(|batches| {
            let requests = batches as f64 / f64::from(shape.batches_in_a_request) / shape.connections as f64;
            Duration::from_secs_f64(1.0 / requests)
        });
        let mut flood = Self { shared, threads: Vec::new(), streams: Vec::new() };
        for connection in 0..shape.connections {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            flood.streams.push(stream.try_clone()?);
            // A paced connection sends when it is time, whatever is under way.
            let in_flight = if step.is_some() { 10_000 } else { shape.in_flight };
            let (sent, answers) = mpsc::sync_channel(in_flight);
            let (shared, requests, write) = (Arc::clone(&flood.shared), Arc::clone(&requests), stream.try_clone()?);
            let delay = step.unwrap_or_default().mul_f64(connection as f64 / shape.connections as f64);
            flood.threads.push(thread::spawn(move || send(write, &requests, connection, &shared, step, delay, &sent)));
            let shared = Arc::clone(&flood.shared);
            flood.threads.push(thread::spawn(move || receive(stream, &shared, shape, &answers)));
        }
        Ok(flood)
    }

    /// Batches so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Fails if a connection ended.
    pub(crate) fn check(&self) -> Result<()> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            bail!("a connection ended before its time");
        }
        Ok(())
    }

    /// Waits until a paced load has been answered in time for a second, or a minute is over. A steady rate is about files that are there:
    /// the first batches of a partition make them, and ext4 takes long to do that where as many were removed within the last minutes
    /// (it does not reuse their inodes and searches past them), as they are between two runs.
    pub(crate) fn settle(&self) -> Result<()> {
        let begun = Instant::now();
        let late = || *self.shared.late.lock().expect("no thread panics with it");
        while late().elapsed() < Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(10));
            self.check()?;
        }
        Ok(())
    }

    /// Counts the latencies of what is due from here on.
    pub(crate) fn time_from_now(&self) {
        self.shared.timed_from.get_or_init(Instant::now);
    }

    /// Ends, and gives the latencies of the requests in microseconds.
    pub(crate) fn stop(self) -> Result<Histogram<u64>> {
        let ended_early = self.check();
        self.shared.stop.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Write);
        }
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
        }
        ended_early?;
        Ok(self.shared.latency.lock().expect("no thread panics with it").clone())
    }
}

fn send(
    mut stream: TcpStream,
    requests: &[Bytes],
    first: usize,
    shared: &Shared,
    step: Option<Duration>,
    delay: Duration,
    sent: &SyncSender<Instant>,
) -> Result<()> {
    let mut due = Instant::now() + delay;
    let mut next = first;
    while !shared.stop.load(Ordering::Relaxed) {
        match step {
            None => due = Instant::now(),
            Some(step) => {
                due += step;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        if sent.send(due).is_err() {
            break;
        }
        if let Err(error) = stream.write_all(&requests[next % requests.len()]) {
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
            return Err(error).context("sending a request");
        }
        next += 1;
    }
    Ok(())
}

fn receive(mut stream: TcpStream, shared: &Shared, shape: Shape, answers: &Receiver<Instant>) -> Result<()> {
    while let Ok(due) = answers.recv() {
        match answer(&mut stream) {
            Ok(frame) => check(&frame)?,
            Err(_) if shared.stop.load(Ordering::Relaxed) => break,
            Err(error) => return Err(error).context("waiting for an answer"),
        }
        shared.acknowledged.fetch_add(shape.batches_in_a_request as u64, Ordering::Relaxed);
        if due.elapsed() > LATE {
            *shared.late.lock().expect("no thread panics with it") = Instant::now();
        }
        if shared.timed_from.get().is_some_and(|from| due >= *from) {
            let took = due.elapsed().as_micros() as u64;
            shared.latency.lock().expect("no thread panics with it").saturating_record(took);
        }
    }
    Ok(())
}

fn answer(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

/// Fails unless every partition's batch was accepted.
fn check(frame: &[u8]) -> Result<()> {
    let mut frame = frame;
    ResponseHeader::decode(&mut frame, ApiKey::Produce.response_header_version(VERSION))?;
    let answer = ProduceResponse::decode(&mut frame, VERSION)?;
    for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
        if partition.error_code != 0 {
            bail!("partition {} was refused with error {}", partition.index, partition.error_code);
        }
    }
    Ok(())
}

/// One request for each group of partitions.
fn requests(topic: &str, shape: Shape) -> Result<Vec<Bytes>> {
    let batch = batch(shape.batch_bytes);
    let partitions: Vec<i32> = (0..shape.partitions).collect();
    let groups = partitions.chunks(shape.batches_in_a_request as usize);
    groups.map(|group| request(topic, group, &batch)).collect()
}

fn request(topic: &str, partitions: &[i32], batch: &Bytes) -> Result<Bytes> {
    let data = partitions
        .iter()
        .map(|&index| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone())))
        .collect();
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_data(data);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::Produce as i16)
        .with_request_api_version(VERSION)
        .with_client_id(Some(StrBytes::from_static_str("side-by-side")));
    let mut body = BytesMut::new();
    header.encode(&mut body, ApiKey::Produce.request_header_version(VERSION))?;
    request.encode(&mut body, VERSION)?;
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_i32(i32::try_from(body.len())?);
    frame.put_slice(&body);
    Ok(frame.freeze())
}

/// A batch of one record, about `bytes` long in all.
fn batch(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let value: Vec<u8> = (0..bytes.saturating_sub(75)).map(|at| b'a' + (at * 31 % 26) as u8).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |past| past.as_millis());
    builder.push(Timestamp(now as i64), None, Some(&value), std::iter::empty());
    builder.build().0
}
