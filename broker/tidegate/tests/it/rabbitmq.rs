//! Exported definitions of RabbitMQ, imported into a running broker, and records that go where RabbitMQ would have sent them.

use std::{path::Path, process::Command};

use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tidegate_plugin_host::build::{Profile, Progress, build_component};

use crate::{
    broker::Broker,
    librdkafka::{WAIT, block_on, client, read},
    routed::deploy,
};

fn import(broker: &Broker, more: &[&str]) -> (bool, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/rabbitmq/definitions.json");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["plugin", "import-rabbitmq"])
        .arg(file)
        .args(more)
        .env("TIDEGATE_BOOTSTRAP", &broker.kafka)
        .env("TIDEGATE_ADMIN", &broker.admin)
        .output()
        .expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn definitions_become_topics_that_route_as_the_exchanges_did() {
    let broker = Broker::start();
    let (good, said) = import(&broker, &["--dry-run"]);
    assert!(good && said.contains("topic orders  (topic exchange orders)"), "{said}");
    let (good, said) = import(&broker, &[]);
    assert!(!good && said.contains("nothing was created") && said.contains("plugin deploy headers"), "{said}");
    for router in ["topic", "fanout", "direct", "headers"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../plugins/router-{router}"));
        let built =
            build_component(&folder, Profile::Release, Progress::Quiet).unwrap_or_else(|error| panic!("{error}"));
        deploy(&broker, router, built.path.to_str().expect("a path of text"));
    }
    let (good, said) = import(&broker, &["--strict"]);
    assert!(!good && said.contains("x-max-priority of queue search"), "{said}");
    let (good, said) = import(&broker, &["--partitions", "1"]);
    assert!(good && said.contains("created topic documents  (headers exchange documents)"), "{said}");
    assert!(said.contains("not translated") && said.contains("x-max-priority of queue search"), "{said}");
    // Again it changes nothing.
    let (good, said) = import(&broker, &["--partitions", "1"]);
    assert!(good && said.contains("left as it is: topic documents"), "{said}");
    // What is otherwise is said, and mended when that is asked for.
    let alter = |config: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["topic", "alter", "documents", "--bootstrap", &broker.kafka, "--unset", config])
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    alter("tidegate.router");
    let (good, said) = import(&broker, &["--partitions", "1"]);
    assert!(!good && said.contains("left otherwise: topic documents") && said.contains("--update"), "{said}");
    let (good, said) = import(&broker, &["--partitions", "1", "--update"]);
    assert!(good && said.contains("updated topic documents"), "{said}");

    let producer: FutureProducer = client(&broker).create().expect("a producer");
    let send = |exchange: &str, key: &str, value: &str, headers: &[(&str, &str)]| {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
        let record = FutureRecord::to(exchange).key(key).payload(value).headers(headers);
        block_on(producer.send(record, WAIT)).expect("delivered");
    };
    send("orders", "eu.de.1", "european", &[]);
    send("orders", "us.1", "american", &[]);
    send("everything", "any", "for all", &[]);
    send("logs", "error", "bad", &[]);
    send("logs", "debug", "dropped", &[]);
    send("documents", "", "a report", &[("format", "pdf"), ("kind", "report")]);
    send("documents", "", "dropped", &[("format", "pdf")]);
    for (queue, expected) in [
        ("orders.eu", &["european"] as &[&str]),
        ("orders.all", &["european", "american"]),
        ("audit", &["european", "american", "for all"]),
        ("search", &["european", "american", "for all"]),
        ("errors", &["bad"]),
        ("reports", &["a report"]),
    ] {
        let found = read(&broker, queue, 1, expected.len());
        let values: Vec<String> = found[&0]
            .iter()
            .map(|(_, value)| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned())
            .collect();
        assert_eq!(values, expected, "{queue}");
    }
}
