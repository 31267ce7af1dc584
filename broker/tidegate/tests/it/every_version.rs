//! Every API in every version that is advertised: well-formed requests, good ones and wrong ones, and what is answered.
//!
//! The answers are decoded with the version of the request, nothing may follow them, and what they say is a snapshot. With
//! `TIDEGATE_COMPARE_WITH=HOST:PORT` the same requests go to that broker too, a fresh Apache Kafka of one node with id 1, and
//! every difference is printed: this is how the snapshot was judged.

mod lives;
mod requests;

use std::{collections::BTreeMap, net::TcpStream};

use bytes::{BufMut as _, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, ApiVersionsResponse, RequestHeader, RequestKind, ResponseHeader, ResponseKind},
    protocol::{Decodable as _, Encodable as _, StrBytes},
};
use requests::Known;

use crate::{broker::Broker, raw::Raw};

/// One answer, as text without what differs from run to run.
struct Line {
    version: i16,
    text: String,
}

/// Everything that a broker answered, by API and subject in the order of the requests.
struct Transcript {
    raw: Raw,
    known: Known,
    lines: Vec<(ApiKey, String, Vec<Line>)>,
}

impl Transcript {
    fn of(address: &str, left_out: &[&str]) -> Self {
        let connection = TcpStream::connect(address).expect("the broker accepts connections");
        let mut transcript = Self { raw: Raw::new(connection), known: Known::default(), lines: Vec::new() };
        transcript.prepare();
        for range in advertised() {
            let api = ApiKey::try_from(range.api_key).expect("a known API");
            let first = if api == ApiKey::Produce { 3 } else { range.min_version };
            for version in first..=range.max_version {
                let requests = requests::of(api, version, &transcript.known);
                for (subject, request) in requests.into_iter().filter(|(subject, _)| !left_out.contains(subject)) {
                    transcript.ask(api, version, subject, &request);
                }
            }
        }
        transcript.lives();
        transcript
    }

    /// Topics, records, and a coordinator.
    fn prepare(&mut self) {
        for (api, version, request) in requests::preparation() {
            loop {
                let answer = self.call(api, version, &request);
                let text = format!("{answer:?}");
                if let ResponseKind::CreateTopics(answer) = &answer {
                    for topic in &answer.topics {
                        assert_eq!(topic.error_code, 0, "{topic:?}");
                        self.known.topics.insert(topic.name.0.to_string(), topic.topic_id);
                    }
                }
                // The coordinator may still be loading, and a leader may not be there yet.
                if !["14", "15", "16", "3", "5", "6"].iter().any(|code| text.contains(&format!("error_code: {code},")))
                {
                    break;
                }
            }
        }
    }

    /// The life of a member, in every version of both group protocols.
    fn lives(&mut self) {
        for version in 0..=9 {
            let mut life = lives::ClassicLife::new(version);
            while let Some((api, version, subject, request)) = life.next() {
                let answer = self.ask(api, version, subject, &request);
                life.answered(&answer);
            }
        }
        for version in 0..=1 {
            let mut life = lives::ConsumerLife::new(version, &self.known);
            while let Some((api, version, subject, request)) = life.next() {
                let answer = self.ask(api, version, subject, &request);
                life.answered(&answer);
            }
        }
    }

    fn ask(&mut self, api: ApiKey, version: i16, subject: &str, request: &RequestKind) -> ResponseKind {
        let answer = self.call(api, version, request);
        let text = self.known.plain(&format!("{answer:?}"), version);
        let line = Line { version, text };
        match self.lines.iter_mut().find(|(other, name, _)| *other == api && name == subject) {
            Some((_, _, lines)) => lines.push(line),
            None => self.lines.push((api, subject.to_owned(), vec![line])),
        }
        answer
    }

    fn call(&mut self, api: ApiKey, version: i16, request: &RequestKind) -> ResponseKind {
        let mut frame = BytesMut::new();
        let header = RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(StrBytes::from_static_str("it")));
        header.encode(&mut frame, api.request_header_version(version)).expect("the header is encoded");
        request
            .encode(&mut frame, version)
            .unwrap_or_else(|error| panic!("{api:?} v{version}: {error} in {request:?}"));
        self.raw.send_frame(&frame);
        let mut answer =
            self.raw.receive_frame().unwrap_or_else(|error| panic!("{api:?} v{version}: {error} after {request:?}"));
        let header = ResponseHeader::decode(&mut answer, api.response_header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, 7);
        let decoded = ResponseKind::decode(api, &mut answer, version)
            .unwrap_or_else(|error| panic!("the answer to {api:?} v{version} cannot be decoded: {error}"));
        assert!(answer.is_empty(), "{} bytes follow the answer to {api:?} v{version}", answer.len());
        decoded
    }

    /// One line for each subject and each row of versions that have the same answer.
    fn text(&self) -> BTreeMap<String, String> {
        let mut text = BTreeMap::new();
        for (api, subject, lines) in &self.lines {
            for same in lines.chunk_by(|one, next| one.text == next.text) {
                let versions = format!("v{}-{}", same[0].version, same[same.len() - 1].version);
                text.insert(format!("{api:?} {subject} {versions}"), same[0].text.clone());
            }
        }
        text
    }
}

/// Requests that Apache Kafka 4.3 logs an exception for and leaves without an answer.
const KAFKA_NEVER_ANSWERS: &[&str] = &["no records"];

/// What this broker advertises.
fn advertised() -> Vec<kafka_protocol::messages::api_versions_response::ApiVersion> {
    let broker = Broker::start();
    let mut raw = Raw::new(broker.connect());
    let mut frame = BytesMut::new();
    frame.put_slice(&[0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
    raw.send_frame(&frame);
    let mut answer = raw.receive_frame().expect("an answer").split_off(4);
    ApiVersionsResponse::decode(&mut answer, 0).expect("an answer of v0").api_keys
}

#[test]
fn every_api_answers_in_every_version() {
    let broker = Broker::start_with(&["--shards", "1"]);
    let ours = Transcript::of(&broker.kafka, &[]).text();
    if let Ok(other) = std::env::var("TIDEGATE_COMPARE_WITH") {
        let theirs = Transcript::of(&other, KAFKA_NEVER_ANSWERS).text();
        for subject in ours.keys().chain(theirs.keys().filter(|subject| !ours.contains_key(*subject))) {
            let (ours, theirs) = (ours.get(subject), theirs.get(subject));
            if ours != theirs {
                eprintln!("{subject}\n  ours   {}", ours.map_or("-", String::as_str));
                eprintln!("  theirs {}", theirs.map_or("-", String::as_str));
            }
        }
    }
    let text: Vec<String> = ours.iter().map(|(subject, answer)| format!("{subject}\n    {answer}")).collect();
    insta::assert_snapshot!(text.join("\n"));
}
