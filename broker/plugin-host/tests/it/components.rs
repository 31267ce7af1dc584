//! What can be uploaded, and what is refused.

use bytes::Bytes;
use tidegate_plugin_host::{
    Compiled, Engine, EngineConfig, Partitioner, Router, World,
    compile::{self, CacheError},
    component::{COMPONENT_BYTES_MAX, ComponentError, inspect},
};
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use crate::{ENGINE, FIRST_ROUTER, HOSTILE, MURMUR2, ROUTER_TOPIC, patient, route};

fn inspected(bytes: impl Into<Bytes>) -> Result<World, ComponentError> {
    inspect(&bytes.into(), COMPONENT_BYTES_MAX).map(|component| component.world)
}

/// A core module that does nothing but fit `world p` of a WIT text. The interface of this repository can be used in it.
fn module(wit: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_dir(crate::repository().join("wit/since-0.1.0")).expect("the released interface");
    let package = resolve.push_str("test.wit", wit).expect("the text is WIT");
    let world = resolve.select_world(&[package], Some("p")).expect("it has a world p");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("it fits");
    module
}

fn component(wit: &str) -> Vec<u8> {
    ComponentEncoder::default().module(&module(wit)).and_then(|encoder| encoder.encode()).expect("it encodes")
}

const EXPORTS: &str = "export tidegate:plugin/lifecycle@0.1.0; export tidegate:plugin/routing@0.1.0;";

#[test]
fn plugins_are_known_by_their_world() {
    assert_eq!(HOSTILE.component().world, World::Router);
    assert_eq!(ROUTER_TOPIC.component().world, World::Router);
    assert_eq!(MURMUR2.component().world, World::Partitioner);
    assert_eq!(MURMUR2.component().interface, "0.1.2");
}

#[test]
fn a_component_and_a_core_module_with_its_type_are_both_taken() {
    let wit = format!("package a:b; world p {{ import tidegate:plugin/topics@0.1.0; {EXPORTS} }}");
    assert_eq!(inspected(module(&wit)).expect("a module"), World::Router);
    assert_eq!(inspected(component(&wit)).expect("a component"), World::Router);
}

#[test]
fn what_is_no_plugin_is_refused_by_name() {
    let check = |bytes: Vec<u8>, expected: &str| {
        let error = inspected(bytes).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(b"".to_vec(), "the file is no WebAssembly");
    check(b"#!/bin/sh".to_vec(), "the file is no WebAssembly");
    check(b"\0asm\x07\0\0\0".to_vec(), "the file is WebAssembly of an unknown version");
    check(b"\0asm\x01\0\0\0".to_vec(), "the file is a core module without an interface");
    check(b"\0asm\x0d\0\x01\0".to_vec(), "the component is no plugin: it exports nothing");
    check(b"\0asm\x0d\0\x01\0garbage".to_vec(), "the component is damaged");
    let world = |body: &str| component(&format!("package a:b; interface i {{ f: func(); }} world p {{ {body} }}"));
    check(world("export i;"), "the component is no plugin: it exports a:b/i");
    check(
        world("export tidegate:plugin/routing@0.1.0;"),
        "the component is of the world `router` but does not export `lifecycle`",
    );
    check(
        world(&format!("{EXPORTS} export tidegate:plugin/partitioning@0.1.0;")),
        "the component is of the worlds `router` and `partitioner`",
    );
    check(
        world(
            "import tidegate:plugin/topics@0.1.0; export tidegate:plugin/lifecycle@0.1.0; export tidegate:plugin/partitioning@0.1.0;",
        ),
        "a plugin of the world `partitioner` may not import `topics`",
    );
    check(
        world(&format!("import i; import f: func(); {EXPORTS}")),
        "the component imports a:b/i, f, which the broker does not provide",
    );
}

/// Files, sockets, the environment, real time, randomness: whoever asks for one of them is told which, and gets none.
#[test]
fn wasi_is_refused_by_name() {
    for interface in [
        "cli/environment",
        "cli/exit",
        "cli/stdin",
        "cli/stdout",
        "cli/stderr",
        "clocks/monotonic-clock",
        "clocks/wall-clock",
        "filesystem/preopens",
        "filesystem/types",
        "http/outgoing-handler",
        "io/poll",
        "io/streams",
        "random/insecure",
        "random/insecure-seed",
        "random/random",
        "sockets/instance-network",
        "sockets/ip-name-lookup",
        "sockets/network",
        "sockets/tcp",
        "sockets/udp",
    ] {
        let (package, name) = interface.split_once('/').expect("two parts");
        let wit = format!(
            "package a:b; world p {{ import wasi:{interface}@0.2.3; {EXPORTS} }}
             package wasi:{package}@0.2.3 {{ interface {name} {{ ask: func() -> list<string>; }} }}"
        );
        let error = inspected(component(&wit)).expect_err("the broker has no such thing").to_string();
        assert!(error.contains(&format!("wasi:{interface}@0.2.3")), "{error}");
    }
}

#[test]
fn an_interface_of_another_version_is_refused_by_its_number() {
    let wit = "package tidegate:plugin@0.2.0; interface lifecycle { f: func(); } interface routing { f: func(); }
               world p { export lifecycle; export routing; }";
    let mut resolve = Resolve::default();
    let package = resolve.push_str("next.wit", wit).expect("WIT");
    let world = resolve.select_world(&[package], Some("p")).expect("a world");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("it fits");
    let error = inspected(module).expect_err("it is of tomorrow").to_string();
    assert_eq!(error, "the component needs the interface tidegate:plugin 0.2.0; this broker speaks 0.1");
}

/// The component model takes 0.1.x for one another, so a plugin built against a later patch runs as long as it uses nothing new.
#[test]
fn a_lying_interface_is_refused_before_it_runs() {
    let wit = "package tidegate:plugin@0.1.0; interface lifecycle { f: func(); } interface routing { f: func(); }
               world p { export lifecycle; export routing; }";
    let mut resolve = Resolve::default();
    let package = resolve.push_str("other.wit", wit).expect("WIT");
    let world = resolve.select_world(&[package], Some("p")).expect("a world");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("it fits");
    let component = inspect(&module.into(), COMPONENT_BYTES_MAX).expect("its names are right");
    let compiled = compile::compile(&ENGINE, &component).expect("its imports are right");
    let error = compiled.describe(&patient()).expect_err("its exports are not").to_string();
    assert!(error.starts_with("the plugin cannot be used: "), "{error}");
}

/// It has every function of its world, and each traps at once. It is described ten thousand times.
#[test]
fn a_trap_in_describe_is_told_and_leaves_nothing_behind() {
    let wit = format!("package a:b; world p {{ import tidegate:plugin/topics@0.1.0; {EXPORTS} }}");
    let component = inspect(&module(&wit).into(), COMPONENT_BYTES_MAX).expect("it is a plugin");
    let compiled = compile::compile(&ENGINE, &component).expect("its imports are right");
    let mut begun_with = 0;
    for round in 0..10_000 {
        let error = compiled.describe(&patient()).expect_err("it traps").to_string();
        assert!(error.contains("trapped"), "{error}");
        let error = Router::open(&compiled, "", &patient()).expect_err("it traps").to_string();
        assert!(error.contains("trapped"), "{error}");
        Partitioner::open(&compiled, "", &patient()).expect_err("it is of another world");
        // What is kept for reuse is there by then.
        if round == 2_000 {
            begun_with = resident_bytes();
        }
    }
    let grown = resident_bytes().saturating_sub(begun_with);
    assert!(grown < 64 << 20, "{grown} bytes more (other tests of this process are among them)");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn a_file_that_is_too_large_is_refused_before_it_is_read() {
    let error = inspect(&Bytes::from(vec![0; 100]), 99).expect_err("too large").to_string();
    assert_eq!(error, "the file has 100 bytes; a plugin may have 99");
}

#[test]
fn no_prefix_of_a_component_is_one() {
    let whole = MURMUR2.component().bytes.clone();
    for cut in (0..whole.len()).step_by(97) {
        inspected(whole.slice(..cut)).expect_err("half a component");
    }
}

/// Whatever the bytes: an error or a component, never a panic.
#[test]
fn flipped_bytes_are_no_danger() {
    let whole = MURMUR2.component().bytes.clone();
    for at in (0..whole.len()).step_by(1511) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x55;
        if let Ok(component) = inspect(&bytes.into(), COMPONENT_BYTES_MAX) {
            let _ = compile::compile(&ENGINE, &component);
        }
    }
}

#[allow(unsafe_code, reason = "the bytes are from `to_cache`, or refused before they are run")]
fn kept(engine: &Engine, sha256: &[u8; 32], bytes: &[u8]) -> Result<Compiled, CacheError> {
    // SAFETY: every caller hands over what `to_cache` wrote, or a copy of it that the checksum gives away.
    unsafe { compile::from_cache(engine, sha256, bytes) }
}

#[test]
fn machine_code_is_kept_and_taken_up_again() {
    let compiled = FIRST_ROUTER.compiled();
    let bytes = compiled.to_cache().expect("it is written");
    let again = kept(&ENGINE, compiled.sha256(), &bytes).expect("it is taken up");
    assert_eq!((again.world(), again.interface(), again.sha256()), (World::Router, "0.1.2", compiled.sha256()));
    let config = r#"{ "regions": { "eu": "orders-eu" } }"#;
    let mut router = Router::open(&again, config, &patient()).expect("it opens");
    route(&mut router, &[Some("eu")]).expect("it answers");
}

#[test]
fn machine_code_that_is_not_what_it_should_be_is_refused() {
    let compiled = FIRST_ROUTER.compiled();
    let bytes = compiled.to_cache().expect("it is written");
    let refused = |bytes: &[u8], expected: CacheError| {
        assert_eq!(kept(&ENGINE, compiled.sha256(), bytes).expect_err("refused"), expected);
    };
    refused(b"", CacheError::Damaged);
    refused(&bytes[..bytes.len() - 1], CacheError::Damaged);
    for (at, expected) in [
        (0, CacheError::Damaged),
        (4, CacheError::Damaged),
        (5, CacheError::Damaged),
        (6, CacheError::OtherComponent),
        (38, CacheError::OtherEngine),
        (70, CacheError::Damaged),
        (102, CacheError::Damaged),
        (bytes.len() / 2, CacheError::Damaged),
    ] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        refused(&damaged, expected);
    }
    let other = Engine::new(&EngineConfig {
        metering: tidegate_plugin_host::Metering::Fuel,
        instances_max: 0,
        ..EngineConfig::default()
    });
    let other = other.expect("an engine");
    assert_eq!(kept(&other, compiled.sha256(), &bytes).expect_err("refused"), CacheError::OtherEngine);
    let names = [&*ENGINE, &other].map(|engine| compile::cache_file_name(engine, compiled.sha256()));
    assert_ne!(names[0], names[1]);
}
