//! Plugins that were built against a released interface keep working: as files that nobody builds again.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidegate_plugin_host::{Compiled, Limits, Partitioner, Router, compile, component};

use super::{ENGINE, TOPIC, context, keyed, names, patient, repository, route};

/// A component from the folder of the version that it was built with.
fn old(version: &str, name: &str) -> Compiled {
    let path = repository().join(format!("broker/plugin-host/tests/built-with-{version}/{name}.wasm"));
    let bytes = std::fs::read(&path).expect("the file is part of the repository");
    let component = component::inspect(&Bytes::from(bytes), 1 << 20).expect("a plugin");
    assert_eq!(component.interface, version, "it says what it was built against");
    compile::compile(&ENGINE, &component).expect("it compiles")
}

#[test]
fn plugins_built_against_0_1_0_work() {
    let config = r#"{ "regions": { "eu": "orders-eu", "us": "orders-us" } }"#;
    let mut router = Router::open(&old("0.1.0", "first-router"), config, &Limits::default()).expect("it opens");
    let answer = route(&mut router, &[Some("eu.1"), Some("us"), None]).expect("it answers");
    assert_eq!(names(&router, &answer, 3), [["orders-eu"], ["orders-us"], ["-"]]);

    let murmur2 = old("0.1.0", "partitioner-murmur2");
    let mut partitioner = Partitioner::open(&murmur2, "", &patient()).expect("it opens");
    let placement = partitioner.partition(&TOPIC, &keyed(&[Some("foobar")]), &[context(1)]).expect("it answers");
    assert_eq!(placement.partitions, [1_357_151_166 % 12]);
}

/// Whoever releases an interface leaves components that were built against it.
#[test]
fn every_released_interface_has_components_that_were_built_against_it() {
    let folders = |folder: &str, prefix: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(repository().join(folder)).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_prefix(prefix).map(str::to_owned)).collect()
    };
    assert_eq!(folders("wit", "since-"), folders("broker/plugin-host/tests", "built-with-"));
}
