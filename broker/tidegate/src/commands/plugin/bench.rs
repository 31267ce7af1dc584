//! `tidegate plugin bench`: what a plugin costs a record, beside one of the same kind that does nothing.

use std::{
    fs,
    hint::black_box,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use tidegate_plugin_host::{
    Engine, World,
    build::{Profile, Progress, build_component},
};
use tidegate_records::columns::Columns;

use super::{
    super::{Json, produce::Draft},
    project,
    sandbox::{Loaded, Opened, Surroundings, engine},
    test::{Configuration, read_records},
};
use crate::output::{self, Align, Table};

/// Records of a call.
const BATCHES: [usize; 4] = [1, 10, 100, 1000];
/// Measured in turns, so that a machine that grows faster or slower does so for both; the best turn counts.
const TURNS: usize = 15;
const TURN: Duration = Duration::from_millis(2);

/// Measure what a plugin costs a record, beside one that does nothing
///
/// The one that does nothing asks for the same columns, so the difference is the plugin's own work. It is built once, with cargo; without
/// cargo the plugin is measured alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate plugin bench router_topic.component.wasm --config '{\"bindings\":[{\"pattern\":\"eu.#\",\"topic\":\"eu\"}]}'
  tidegate plugin bench . --records records.jsonl --config-file config.json")]
pub(super) struct Bench {
    /// A component, or the folder of a plugin
    plugin: PathBuf,
    #[command(flatten)]
    config: Configuration,
    /// A file with records, one JSON object a line; without it, keys such as eu.order.0000042 and values of 100 bytes
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

/// The best of many calls, in nanoseconds.
#[derive(Serialize)]
struct Measured {
    records: usize,
    plugin_ns_per_call: f64,
    plugin_ns_per_record: f64,
    no_op_ns_per_call: Option<f64>,
    no_op_ns_per_record: Option<f64>,
}

impl Bench {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let config = self.config.read()?;
        let records = match &self.records {
            Some(file) => read_records(file, 100_000)?,
            None => made_up(),
        };
        anyhow::ensure!(!records.is_empty(), "there are no records to measure with");
        let engine = engine()?;
        let loaded = Loaded::from_path(&engine, &self.plugin)?;
        let mut plugin = loaded.open(&config)?;
        let mut no_op = match no_op(&engine, loaded.component.world, &plugin) {
            Ok(no_op) => Some(no_op),
            Err(error) => {
                // Standard error may be closed; there is nobody left to tell.
                let _ = writeln!(std::io::stderr(), "measured alone: {}", output::whole(&error));
                None
            }
        };
        let around = Surroundings {
            topic: "sent-to".to_owned(),
            partitions: 12,
            now: Some(1_700_000_000_000),
            seed: 1,
            principal: None,
            client_id: None,
        };
        let mut measured = Vec::new();
        for size in BATCHES {
            let batch: Vec<Draft> = records.iter().cycle().take(size).cloned().collect();
            measured.push(measure(&mut plugin, no_op.as_mut(), &batch, &around)?);
        }
        if self.json.json { output::json(out, &measured) } else { show(&measured, out) }
    }
}

fn measure(
    plugin: &mut Opened,
    mut no_op: Option<&mut Opened>,
    batch: &[Draft],
    around: &Surroundings,
) -> anyhow::Result<Measured> {
    let columns = plugin.columns(batch);
    let (mut best, mut best_no_op) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..TURNS {
        best = best.min(turn(plugin, &columns, around)?);
        if let Some(no_op) = &mut no_op {
            best_no_op = best_no_op.min(turn(no_op, &columns, around)?);
        }
    }
    let records = batch.len();
    let no_op = no_op.map(|_| best_no_op);
    Ok(Measured {
        records,
        plugin_ns_per_call: best,
        plugin_ns_per_record: best / records as f64,
        no_op_ns_per_call: no_op,
        no_op_ns_per_record: no_op.map(|call| call / records as f64),
    })
}

/// Nanoseconds of a call, over as many as fit in a turn.
fn turn(plugin: &mut Opened, columns: &Columns, around: &Surroundings) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut calls = 0_u32;
    loop {
        plugin.call(black_box(columns), around).context("the plugin does not answer")?;
        calls += 1;
        let passed = begin.elapsed();
        if passed >= TURN {
            return Ok(passed.as_nanos() as f64 / f64::from(calls));
        }
    }
}

fn show(measured: &[Measured], out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("RECORDS A CALL", Align::Right),
        ("A CALL", Align::Right),
        ("A RECORD", Align::Right),
        ("NO-OP, A RECORD", Align::Right),
        ("THE PLUGIN'S OWN", Align::Right),
    ]);
    for one in measured {
        let no_op = one.no_op_ns_per_record;
        table.row([
            one.records.to_string(),
            nanoseconds(one.plugin_ns_per_call),
            nanoseconds(one.plugin_ns_per_record),
            no_op.map_or("-".to_owned(), nanoseconds),
            no_op.map_or("-".to_owned(), |no_op| nanoseconds((one.plugin_ns_per_record - no_op).max(0.0))),
        ]);
    }
    Ok(table.write(out)?)
}

pub(super) fn nanoseconds(count: f64) -> String {
    match count {
        0.0..100.0 => format!("{count:.1} ns"),
        100.0..10_000.0 => format!("{count:.0} ns"),
        10_000.0..10_000_000.0 => format!("{:.1} us", count / 1e3),
        _ => format!("{:.1} ms", count / 1e6),
    }
}

fn made_up() -> Vec<Draft> {
    (0..1000)
        .map(|index| {
            let region = ["eu", "us", "asia"][index % 3];
            let value = format!(
                r#"{{"region":"{region}","order":{{"id":{index},"total":{}}},"note":"{:40}"}}"#,
                index * 7 % 500,
                ""
            );
            Draft {
                key: Some(format!("{region}.order.{index:07}").into_bytes()),
                value: Some(value.into_bytes()),
                timestamp: Some(1_700_000_000_000 + index as i64),
                ..Draft::default()
            }
        })
        .collect()
}

/// A plugin of the same kind that does nothing, opened so that it is handed the same columns.
fn no_op(engine: &Engine, world: World, plugin: &Opened) -> anyhow::Result<Opened> {
    let name = format!("no-op-{}", world.name());
    let folder = cache_folder().join(format!("{name}-{}", env!("CARGO_PKG_VERSION")));
    let component = folder.join("component.wasm");
    if !component.is_file() {
        let _ = writeln!(std::io::stderr(), "building a {} that does nothing, once", world.name());
        project::write_no_op(&folder, &name, world)?;
        let built = build_component(&folder, Profile::Release, Progress::Quiet)?;
        // Complete or not there: another process may look at the same moment.
        let part = folder.join(format!("component.{}.part", std::process::id()));
        fs::write(&part, &built.component.bytes)
            .and_then(|()| fs::rename(&part, &component))
            .with_context(|| format!("cannot write {}", component.display()))?;
    }
    let wanted = &plugin.needs().columns;
    let config = json!({
        "keys": wanted.keys,
        "values": wanted.values,
        "timestamps": wanted.timestamps,
        "headers": wanted.headers,
    });
    Loaded::from_path(engine, &component)?.open(&config.to_string())
}

fn cache_folder() -> PathBuf {
    let of_user = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    of_user.unwrap_or_else(std::env::temp_dir).join("tidegate")
}
