//! Plugins over the admin endpoint: upload, list, remove. See `plugins` for what becomes of them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::metadata::{MetadataChange, MetadataError, MetadataImage, Plugin};
use tidegate_plugin_host::LogLevel;
use tidegate_shard::{AttachmentCounts, ObservedBatch};

use super::{
    admin::{AdminState, Refusal},
    plugins::{self, CompiledPlugin, LoadedPlugin, PluginError},
};
use crate::observed::WATCH;

/// `PUT /v1/plugins/NAME` with the component as its body.
pub(super) async fn upload(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(&state),
        status => Refusal { status, message: rejection.body_text() },
    })?;
    if body.is_empty() {
        let message = "the request has no body: send the component, e.g. curl -T plugin.wasm".to_owned();
        return Err(Refusal { status: StatusCode::BAD_REQUEST, message });
    }
    // One after the other: compiling takes all of a core, and versions are counted here.
    let _turn = state.uploads.lock().await;
    let image = state.control.image();
    // Before the work: a bad name is refused at once.
    validate_name(&image, &name)?;
    let (hash, compiled) = {
        let (store, name, image) = (state.control.plugins(), name.clone(), image.clone());
        let body = body.clone();
        let done = tokio::task::spawn_blocking(move || {
            let (hash, compiled) = store.add(&body)?;
            plugins::try_attached(&name, compiled.as_ref(), &image)?;
            Ok((hash, compiled))
        });
        done.await.map_err(|error| internal(error.to_string()))?.map_err(refuse)?
    };
    let known = image.plugin(&name);
    if let Some(known) = known.filter(|known| known.hash == hash) {
        return Ok(Json(describe(known, &image)).into_response());
    }
    let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let shown = commit(&state, known.map(AsRef::as_ref), name, (hash, compiled), body.len() as u64).await?;
    Ok((status, Json(shown)).into_response())
}

pub(super) fn too_large(state: &AdminState) -> Refusal {
    let message = format!(
        "the component has more than {} bytes; raise plugin.upload.max.bytes in the broker's configuration",
        state.upload_bytes_max
    );
    Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message }
}

/// `POST /v1/plugins/NAME/rollback`: the component before the one that is deployed becomes a new version. Once more, and it is undone.
pub(super) async fn rollback(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let _turn = state.uploads.lock().await;
    let image = state.control.image();
    let known =
        image.plugin(&name).ok_or_else(|| refuse_change(MetadataError::UnknownPlugin { name: name.clone() }))?;
    let Some(hash) = known.previous.clone() else {
        let message = format!("plugin '{name}' has one version only: there is nothing to go back to");
        return Err(Refusal { status: StatusCode::CONFLICT, message });
    };
    let (hash, compiled, bytes) = {
        let (store, name, image) = (state.control.plugins(), name.clone(), image.clone());
        let done = tokio::task::spawn_blocking(move || {
            let bytes = store.component(&hash)?.len() as u64;
            let compiled = store.load(&hash)?;
            plugins::try_attached(&name, compiled.as_ref(), &image)?;
            Ok((hash, compiled, bytes))
        });
        done.await.map_err(|error| internal(error.to_string()))?.map_err(refuse)?
    };
    Ok(Json(commit(&state, Some(known), name, (hash, compiled), bytes).await?))
}

/// Commits a component that was tried as the next version of a plugin; what the plugin is then.
async fn commit(
    state: &AdminState,
    known: Option<&Plugin>,
    name: String,
    (hash, compiled): (String, Arc<dyn CompiledPlugin>),
    bytes: u64,
) -> Result<Value, Refusal> {
    let plugin = Plugin {
        name: name.clone(),
        version: known.map_or(1, |known| known.version + 1),
        hash: hash.clone(),
        world: compiled.world().to_owned(),
        bytes,
        uploaded_at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        previous: known.map(|known| known.hash.clone()),
    };
    let loaded = LoadedPlugin { name, version: plugin.version, hash, compiled };
    let committed = state.control.deploy(plugin.clone(), loaded).await.map_err(refuse_change)?;
    tracing::info!(plugin = plugin.name, version = plugin.version, hash = plugin.hash, "plugin deployed");
    let store = state.control.plugins();
    let image = Arc::clone(&committed.image);
    // What is two versions old is not gone back to.
    tokio::task::spawn_blocking(move || store.sweep(&image)).await.map_err(|error| internal(error.to_string()))?;
    Ok(describe(&plugin, &committed.image))
}

/// `GET /v1/plugins`.
pub(super) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let image = state.control.image();
    let plugins: Vec<Value> = image.plugins().map(|plugin| describe(plugin, &image)).collect();
    Json(json!({ "plugins": plugins }))
}

/// `GET /v1/plugins/NAME`.
pub(super) async fn show(State(state): State<AdminState>, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    let image = state.control.image();
    match image.plugin(&name) {
        Some(plugin) => Ok(Json(describe(plugin, &image))),
        None => Err(refuse_change(MetadataError::UnknownPlugin { name })),
    }
}

/// `GET /v1/plugins/NAME/component`: the bytes that were uploaded.
pub(super) async fn component(State(state): State<AdminState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let image = state.control.image();
    let hash = image.plugin(&name).map(|plugin| plugin.hash.clone());
    let hash = hash.ok_or_else(|| refuse_change(MetadataError::UnknownPlugin { name }))?;
    let store = state.control.plugins();
    let read = tokio::task::spawn_blocking(move || store.component(&hash));
    let component = read.await.map_err(|error| internal(error.to_string()))?.map_err(refuse)?;
    Ok(([(header::CONTENT_TYPE, "application/wasm")], component).into_response())
}

/// `DELETE /v1/plugins/NAME`.
pub(super) async fn remove(State(state): State<AdminState>, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    let _turn = state.uploads.lock().await;
    let committed =
        state.control.commit(MetadataChange::RemovePlugin { name: name.clone() }).await.map_err(refuse_change)?;
    tracing::info!(plugin = name, "plugin removed");
    let store = state.control.plugins();
    tokio::task::spawn_blocking(move || store.sweep(&committed.image))
        .await
        .map_err(|error| internal(error.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/attachments`: what was counted at each topic with a plugin, over all shards.
pub(super) async fn attachments(State(state): State<AdminState>) -> Json<Value> {
    let image = state.control.image();
    let mut all: BTreeMap<(String, &'static str, String), (u32, AttachmentCounts)> = BTreeMap::new();
    for topic in image.topics() {
        for (world, attachment) in topic.config.attachments() {
            let version = image.plugin(&attachment.plugin).map_or(0, |plugin| plugin.version);
            let none = (version, AttachmentCounts::default());
            all.insert((attachment.plugin.clone(), world, topic.name.clone()), none);
        }
    }
    for report in state.page.reports().into_iter().flat_map(|report| report.attachments) {
        // What is detached by now is left out.
        if let Some((_, sum)) = all.get_mut(&(report.plugin, report.world, report.topic)) {
            sum.add(&report.counts);
        }
    }
    let listed: Vec<Value> = all
        .into_iter()
        .map(|((plugin, world, topic), (version, counts))| {
            let mut shown = json!({ "plugin": plugin, "version": version, "world": world, "topic": topic });
            for (name, value) in counts.named() {
                shown[name] = value.into();
            }
            shown
        })
        .collect();
    Json(json!({ "attachments": listed }))
}

/// What is asked of [`log`].
#[derive(Deserialize)]
pub(super) struct LogQuery {
    plugin: Option<String>,
    /// Only lines with a higher number.
    #[serde(default)]
    after: u64,
}

/// `GET /v1/plugin-log?plugin=NAME&after=NUMBER`: lines that plugins logged, the newest of them that are kept.
pub(super) async fn log(
    State(state): State<AdminState>,
    Query(query): Query<LogQuery>,
) -> Result<Json<Value>, Refusal> {
    let image = state.control.image();
    if let Some(name) = query.plugin.clone().filter(|name| image.plugin(name).is_none()) {
        return Err(refuse_change(MetadataError::UnknownPlugin { name }));
    }
    let (lines, newest) = state.page.plugin_lines.after(query.after, query.plugin.as_deref());
    let lines: Vec<Value> = lines
        .into_iter()
        .map(|line| {
            let level = match line.level {
                LogLevel::Error => "error",
                LogLevel::Warn => "warn",
                LogLevel::Info => "info",
                LogLevel::Debug => "debug",
            };
            json!({
                "number": line.number,
                "time": line.time,
                "plugin": line.plugin,
                "version": line.version,
                "topic": line.topic,
                "level": level,
                "message": line.message,
            })
        })
        .collect();
    Ok(Json(json!({ "lines": lines, "newest": newest })))
}

/// What is asked of [`batches`].
#[derive(Deserialize)]
pub(super) struct BatchesQuery {
    /// Only batches with a higher number; without it none, but the number to go on from.
    after: Option<u64>,
}

/// `GET /v1/topics/TOPIC/batches?after=NUMBER`: batches that clients send to a topic, as they come, with what plugins are told of each. The topic
/// is watched as long as somebody asks; what is not asked for in time is missed, and counted.
pub(super) async fn batches(
    State(state): State<AdminState>,
    Path(topic): Path<String>,
    Query(query): Query<BatchesQuery>,
) -> Result<Json<Value>, Refusal> {
    let image = state.control.image();
    let found = image.topic(&topic).filter(|topic| !topic.is_internal()).ok_or_else(|| Refusal {
        status: StatusCode::NOT_FOUND,
        message: format!("there is no topic '{topic}' that clients write to"),
    })?;
    let fetched = state.page.observed.fetch(found.id, query.after, Instant::now());
    let observed = Arc::clone(&state.page.observed);
    tokio::spawn(async move {
        tokio::time::sleep(WATCH + Duration::from_secs(1)).await;
        observed.expire(Instant::now());
    });
    let encode = |batch: &ObservedBatch| {
        json!({
            "partition": batch.sent_to.partition.0,
            "now": batch.now.0,
            "seed": batch.seed,
            "client_id": batch.client_id,
            "acks": batch.acks,
            "batch": BASE64_STANDARD.encode(&batch.bytes),
        })
    };
    let batches: Vec<Value> = fetched.batches.iter().map(encode).collect();
    Ok(Json(
        json!({ "batches": batches, "newest": fetched.newest, "missed": fetched.missed, "interrupted": fetched.interrupted }),
    ))
}

fn describe(plugin: &Plugin, image: &MetadataImage) -> Value {
    let attached: Vec<&str> = image
        .topics()
        .filter(|topic| topic.config.attachments().any(|(_, attachment)| attachment.plugin == plugin.name))
        .map(|topic| topic.name.as_str())
        .collect();
    json!({
        "name": plugin.name,
        "version": plugin.version,
        "world": plugin.world,
        "hash": plugin.hash,
        "bytes": plugin.bytes,
        "uploaded_at": plugin.uploaded_at,
        "previous": plugin.previous,
        "topics": attached,
    })
}

fn validate_name(image: &MetadataImage, name: &str) -> Result<(), Refusal> {
    let plugin = Plugin {
        name: name.to_owned(),
        version: 1,
        hash: String::new(),
        world: String::new(),
        bytes: 0,
        uploaded_at: 0,
        previous: None,
    };
    image.validate(&MetadataChange::DeployPlugin(plugin)).map_err(refuse_change)
}

fn internal(message: String) -> Refusal {
    Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message }
}

fn refuse(error: PluginError) -> Refusal {
    let status = match error {
        PluginError::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        PluginError::Attached { .. } => StatusCode::CONFLICT,
        PluginError::Io { .. } | PluginError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal { status, message: error.to_string() }
}

fn refuse_change(error: MetadataError) -> Refusal {
    let status = match error {
        MetadataError::UnknownPlugin { .. } => StatusCode::NOT_FOUND,
        MetadataError::PluginAttached { .. } => StatusCode::CONFLICT,
        MetadataError::PluginRefused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        MetadataError::Storage { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    Refusal { status, message: error.to_string() }
}
