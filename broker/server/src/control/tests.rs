//! The control thread as a whole: proposals, events and the admin endpoint, over a real socket.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, mpsc},
};

use tidegate_model::metadata::{Broker, MetadataChange, MetadataError, MetadataImage};

use super::{
    admin::AdminOptions,
    controller::{Control, ControlError, ControlEvent, ControlOptions, EventSink, Readiness},
    metrics::MetricsPage,
    plugins::tests::TextHost,
};
use crate::config::Address;

fn options(directory: &Path, listen: &str, token_file: Option<&Path>) -> ControlOptions {
    let broker = Broker { id: 1, host: "localhost".to_owned(), port: 9092, rack: None };
    ControlOptions {
        data_directory: directory.to_path_buf(),
        empty: MetadataImage::new("cluster".to_owned(), broker, BTreeMap::new()),
        admin: AdminOptions {
            listen: Address::parse(listen).unwrap(),
            token_file: token_file.map(Path::to_path_buf),
            upload_bytes_max: 1 << 20,
        },
        page: MetricsPage::new(vec![Arc::default()]),
        plugin_host: Arc::new(TextHost::default()),
        object_store: None,
        fatal: Box::new(|reason| panic!("{reason}")),
    }
}

/// The status and the body of the answer to a request.
fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn create(name: &str) -> MetadataChange {
    MetadataChange::CreateTopic { name: name.to_owned(), id: String::new(), partitions: 2, configs: BTreeMap::new() }
}

#[test]
fn a_proposer_is_answered_when_every_shard_has_taken_the_change() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(options(directory.path(), "127.0.0.1:0", None)).unwrap();
    let (sender, receiver) = mpsc::channel();
    let (taken_sender, taken_receiver) = mpsc::channel();
    let sinks = (0..2).map(|shard| {
        let (sender, taken_sender) = (sender.clone(), taken_sender.clone());
        let sink: EventSink = Box::new(move |event| {
            let ControlEvent::Metadata { image, taken } = event else { return };
            sender.send(format!("shard {shard}: {} topics", image.topics().count())).unwrap();
            taken_sender.send(taken).unwrap();
        });
        sink
    });
    control.handle.subscribe(sinks.collect(), control.image.version);
    let propose = |name: &str| {
        let sender = sender.clone();
        control.handle.propose(create(name), move |result| {
            let text = match result {
                Ok(committed) => format!("committed: {} topics", committed.image.topics().count()),
                Err(MetadataError::TopicExists { name }) => format!("{name} exists"),
                Err(other) => other.to_string(),
            };
            sender.send(text).unwrap();
        });
    };
    propose("a");
    assert_eq!(receiver.recv().unwrap(), "shard 0: 1 topics");
    assert_eq!(receiver.recv().unwrap(), "shard 1: 1 topics");
    // A refusal waits for nobody, and overtakes.
    propose("a");
    assert_eq!(receiver.recv().unwrap(), "a exists");
    // One shard takes it in, the other is gone.
    taken_receiver.recv().unwrap()();
    assert!(receiver.try_recv().is_err());
    drop(taken_receiver.recv().unwrap());
    assert_eq!(receiver.recv().unwrap(), "committed: 1 topics");
    let handle = control.handle.clone();
    control.stop();
    let (sender, receiver) = mpsc::channel();
    handle.propose(create("late"), move |result| sender.send(result.unwrap_err().to_string()).unwrap());
    assert!(receiver.recv().unwrap().contains("stopping"));
    let again = Control::start(options(directory.path(), "127.0.0.1:0", None)).unwrap();
    assert_eq!(again.image.topic("a").unwrap().partitions, 2);
    again.stop();
}

#[test]
fn health_readiness_and_metrics_are_answered() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(options(directory.path(), "127.0.0.1:0", None)).unwrap();
    let get = |path| ask(control.admin, "GET", path, "", b"");
    assert_eq!(get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz").0, 503);
    control.handle.set_readiness(Readiness::Ready);
    assert_eq!(get("/readyz"), (200, "ready\n".to_owned()));
    let (status, page) = get("/metrics");
    assert_eq!(status, 200);
    assert!(page.contains("tidegate_shard_utilisation{shard=\"0\"}"), "{page}");
    let (status, text) = get("/nowhere");
    assert_eq!(status, 404);
    assert!(text.contains("\"error\"") && text.contains("/metrics"), "{text}");
    assert_eq!(ask(control.admin, "POST", "/metrics", "", b"").0, 405);
    control.stop();
}

#[test]
fn beyond_loopback_it_needs_and_asks_for_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let start = |listen: &str, token: Option<&str>| {
        let file = directory.path().join("token");
        if let Some(token) = token {
            std::fs::write(&file, token).unwrap();
        }
        Control::start(options(directory.path(), listen, token.map(|_| file.as_path())))
    };
    let refused = |result: Result<Control, ControlError>, words: &str| match result {
        Ok(_) => panic!("it started"),
        Err(error) => assert!(error.to_string().contains(words), "{error}"),
    };
    refused(start("0.0.0.0:0", None), "--admin-token-file");
    refused(start("0.0.0.0:0", Some("short\n")), "at least 16");
    let control = start("0.0.0.0:0", Some("0123456789abcdef\nnot this line\n")).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], control.admin.port()));
    for (header, expected) in [
        ("", 401),
        ("authorization: Bearer 0123456789abcde\r\n", 401),
        ("authorization: Bearer 0123456789abcdefg\r\n", 401),
        ("authorization: Bearer 1123456789abcdef\r\n", 401),
        ("authorization: Basic 0123456789abcdef\r\n", 401),
        ("authorization: Bearer 0123456789abcdef\r\n", 200),
        ("authorization: bearer 0123456789abcdef\r\n", 200),
        ("authorization: Basic 0123456789abcdef\r\n", 401),
        ("authorization: Bear\r\n", 401),
    ] {
        for path in ["/healthz", "/metrics"] {
            assert_eq!(ask(address, "GET", path, header, b"").0, expected, "{header}{path}");
        }
    }
    control.stop();
}

#[test]
fn an_address_that_is_taken_is_an_error_with_a_mend() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let Err(error) = Control::start(options(directory.path(), &listen, None)) else { panic!("it started") };
    assert!(error.to_string().contains("--admin HOST:PORT"), "{error}");
}

fn create_routed(name: &str, router: &str, config: &str) -> MetadataChange {
    let configs = [("tidegate.router", router), ("tidegate.router.config", config)];
    let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    MetadataChange::CreateTopic { name: name.to_owned(), id: String::new(), partitions: 1, configs }
}

/// Proposes and waits for the answer's text.
fn propose(control: &Control, change: MetadataChange) -> String {
    let (sender, receiver) = mpsc::channel();
    control.handle.propose(change, move |result| {
        sender.send(result.map_or_else(|error| error.to_string(), |_| "committed".to_owned())).unwrap();
    });
    receiver.recv().unwrap()
}

#[test]
fn a_plugin_is_uploaded_listed_attached_swapped_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(options(directory.path(), "127.0.0.1:0", None)).unwrap();
    let (sender, events) = mpsc::channel();
    let sink: EventSink = Box::new(move |event| {
        let text = match event {
            ControlEvent::Metadata { image, .. } => format!("{} plugins", image.plugins().count()),
            ControlEvent::Plugin(plugin) => format!("{} {} {}", plugin.name, plugin.version, plugin.compiled.world()),
            ControlEvent::Readers(_) => "readers".to_owned(),
        };
        sender.send(text).unwrap();
    });
    control.handle.subscribe(vec![sink], control.image.version);
    let plugin =
        |method: &str, name: &str, body: &[u8]| ask(control.admin, method, &format!("/v1/plugins/{name}"), "", body);
    let refused = |(status, text): (u16, String), expected: u16, words: &str| {
        assert!(status == expected && text.contains("\"error\"") && text.contains(words), "{status} {text}");
    };
    refused(plugin("PUT", "split", b""), 400, "no body");
    refused(plugin("PUT", "split", b"nonsense"), 422, "no world");
    refused(plugin("PUT", "..%2fsplit", b"router x"), 422, "not a plugin name");
    refused(plugin("PUT", "split", &vec![b'x'; (1 << 20) + 1]), 413, "plugin.upload.max.bytes");
    // Far more than the sockets hold: the answer was lost in a broken pipe.
    refused(plugin("PUT", "split", &vec![b'x'; 64 << 20]), 413, "plugin.upload.max.bytes");
    let waits = "expect: 100-continue\r\n";
    let announced = "PUT /v1/plugins/split HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 67108864\r\n";
    let mut stream = TcpStream::connect(control.admin).unwrap();
    stream.write_all(format!("{announced}{waits}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "who asks first is not asked for it: {answer}");
    refused(plugin("GET", "split", b""), 404, "no plugin named");
    refused(plugin("DELETE", "split", b""), 404, "no plugin named");
    assert!(propose(&control, create_routed("orders", "split", "x")).contains("no plugin named"));

    let (status, text) = plugin("PUT", "split", b"router x");
    assert!(status == 201 && text.contains("\"version\":1"), "{status} {text}");
    assert_eq!(events.recv().unwrap(), "split 1 router");
    assert_eq!(events.recv().unwrap(), "1 plugins");
    // The same again changes nothing.
    assert_eq!(plugin("PUT", "split", b"router x"), (200, text));

    // Attaching: opened on trial, refused in its own words.
    let refusal = propose(&control, create_routed("orders", "split", "y"));
    assert!(refusal.contains("I do not like \"y\""), "{refusal}");
    assert_eq!(propose(&control, create_routed("orders", "split", "x")), "committed");
    assert_eq!(events.recv().unwrap(), "1 plugins");
    let (_, list) = ask(control.admin, "GET", "/v1/plugins", "", b"");
    assert!(list.contains("\"topics\":[\"orders\"]"), "{list}");

    // Attached, it is not removed, and not replaced by what does not take its configuration or is of another world.
    refused(plugin("DELETE", "split", b""), 409, "orders");
    refused(plugin("PUT", "split", b"router other"), 409, "orders");
    refused(plugin("PUT", "split", b"partitioner x"), 409, "orders");
    refused(plugin("GET", "nothing", b""), 404, "nothing");
    refused(ask(control.admin, "POST", "/v1/plugins/split/rollback", "", b""), 409, "one version only");
    control.stop();

    // It is there after a restart, with its code.
    let control = Control::start(options(directory.path(), "127.0.0.1:0", None)).unwrap();
    let loaded: Vec<_> = control.plugins.iter().map(|plugin| (plugin.name.as_str(), plugin.version)).collect();
    assert_eq!(loaded, [("split", 1)]);
    let id = control.image.topic("orders").unwrap().id.to_hex();
    assert_eq!(propose(&control, MetadataChange::DeleteTopic { id }), "committed");
    let (status, text) = ask(control.admin, "PUT", "/v1/plugins/split", "", b"partitioner z");
    assert!(status == 200 && text.contains("\"version\":2"), "{status} {text}");
    // Back to what was before, and back again; what could be gone back to is kept, also over a restart.
    let rollback = |control: &Control| ask(control.admin, "POST", "/v1/plugins/split/rollback", "", b"");
    let (status, text) = rollback(&control);
    assert!(
        status == 200 && text.contains("\"version\":3") && text.contains("\"world\":\"router\""),
        "{status} {text}"
    );
    let files = || std::fs::read_dir(directory.path().join("plugins")).unwrap().count();
    assert_eq!(files(), 4, "two components, and the code of both");
    control.stop();
    let control = Control::start(options(directory.path(), "127.0.0.1:0", None)).unwrap();
    // Not where an attached topic would not take it: it is tried as an upload is.
    assert_eq!(propose(&control, create_routed("orders", "split", "x")), "committed");
    let (status, text) = rollback(&control);
    assert!(status == 409 && text.contains("orders"), "{status} {text}");
    let id = control.image.topic("orders").map(|topic| topic.id.to_hex());
    let id = id.unwrap_or_else(|| control.handle.image().topic("orders").unwrap().id.to_hex());
    assert_eq!(propose(&control, MetadataChange::DeleteTopic { id }), "committed");
    let (status, text) = rollback(&control);
    assert!(status == 200 && text.contains("\"version\":4") && text.contains("partitioner"), "{status} {text}");
    assert_eq!(ask(control.admin, "PUT", "/v1/plugins/split", "", b"router other").0, 200);
    assert_eq!(files(), 4, "what is two versions old is gone");
    assert_eq!(ask(control.admin, "DELETE", "/v1/plugins/split", "", b"").0, 204);
    assert_eq!(std::fs::read_dir(directory.path().join("plugins")).unwrap().count(), 0);
    control.stop();
}

/// Attaching once took any name; each batch was refused afterwards, for a topic that nobody had created.
#[test]
fn a_router_is_attached_where_the_topics_that_it_names_exist() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(options(directory.path(), "127.0.0.1:0", None)).unwrap();
    let upload = |body: &[u8]| ask(control.admin, "PUT", "/v1/plugins/split", "", body);
    assert_eq!(upload(b"router x").0, 201);
    let refusal = propose(&control, create_routed("orders", "split", "to eu us"));
    assert!(refusal.contains("'split' names topic 'eu'") && refusal.contains("create it first"), "{refusal}");
    assert_eq!(propose(&control, create("eu")), "committed");
    let refusal = propose(&control, create_routed("orders", "split", "to eu us"));
    assert!(refusal.contains("'us'"), "{refusal}");
    assert_eq!(propose(&control, create_routed("orders", "split", "to eu orders")), "committed", "itself is there");

    // What is created with it counts, before and after, and where each names the other.
    let (sender, receiver) = mpsc::channel();
    for change in [create_routed("a", "split", "to b c"), create_routed("b", "split", "to a"), create("c")] {
        let sender = sender.clone();
        control.handle.propose(change, move |result| sender.send(result.map(drop)).unwrap());
    }
    for _ in 0..3 {
        receiver.recv().unwrap().unwrap();
    }

    // Deleted under a router, it does not hold up other configurations, nor their alteration; a new attachment and a new version it does.
    let id = control.handle.image().topic("eu").unwrap().id.to_hex();
    assert_eq!(propose(&control, MetadataChange::DeleteTopic { id }), "committed");
    let alter = |router: &str, retention: &str| MetadataChange::AlterTopicConfig {
        name: "orders".to_owned(),
        configs: [("tidegate.router", "split"), ("tidegate.router.config", router), ("retention.ms", retention)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        based_on: None,
    };
    assert_eq!(propose(&control, alter("to eu orders", "5")), "committed");
    assert!(propose(&control, alter("to eu", "5")).contains("'eu'"));
    let (status, text) = upload(b"router y");
    assert!(status == 409 && text.contains("'eu'") && text.contains("orders"), "{status} {text}");
    control.stop();
}
