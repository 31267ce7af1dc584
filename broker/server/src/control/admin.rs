//! The admin endpoint: health, metrics and plugins, over HTTP, for operators and their tools.
//!
//! On a loopback address it answers everyone who can reach it. Elsewhere it answers only with the token of `admin-token-file`, and the
//! broker refuses to start without one: whoever uploads a plugin decides about data. Errors are JSON, `{"error": "..."}`, and say
//! what to do.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_lite::StreamExt as _;
use serde_json::json;
use tokio::sync::{Mutex, oneshot};

use super::{
    controller::{ControlHandle, Readiness},
    metrics::MetricsPage,
    plugin_api,
};
use crate::config::Address;

/// A shorter secret could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// How the endpoint is to be served.
#[derive(Clone, Debug)]
pub struct AdminOptions {
    pub listen: Address,
    pub token_file: Option<PathBuf>,
    /// `plugin.upload.max.bytes`.
    pub upload_bytes_max: usize,
}

/// Why it cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("the admin token cannot be read from {}: {source}. Write a secret into it: head -c 32 /dev/urandom | base64 > {}", path.display(), path.display())]
    TokenUnreadable { path: PathBuf, source: io::Error },
    #[error(
        "the admin token in {} has {found} characters, and must have at least {TOKEN_BYTES_MIN} on its first line. Write a better one: \
         head -c 32 /dev/urandom | base64 > {}",
        path.display(), path.display()
    )]
    TokenTooShort { path: PathBuf, found: usize },
    #[error(
        "the admin endpoint would listen on {address}, which other machines can reach, and there is no token: name a file with a secret by \
         --admin-token-file FILE, or listen on a loopback address"
    )]
    TokenNeeded { address: SocketAddr },
    #[error(
        "the admin endpoint cannot listen on {address}: {source}. Name another address with --admin HOST:PORT (port 0 takes a free one)"
    )]
    Listen { address: Address, source: io::Error },
}

/// The secret that requests must carry.
pub(super) struct Token(Vec<u8>);

impl Token {
    /// Reads the first line of a file.
    pub(super) fn read(path: &Path) -> Result<Self, AdminError> {
        let unreadable = |source| AdminError::TokenUnreadable { path: path.to_path_buf(), source };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let token = text.lines().next().unwrap_or_default().trim();
        if token.len() < TOKEN_BYTES_MIN {
            return Err(AdminError::TokenTooShort { path: path.to_path_buf(), found: token.len() });
        }
        if fs::metadata(path).map_err(unreadable)?.mode() & 0o044 != 0 {
            tracing::warn!(path = %path.display(), "other users can read the admin token: chmod 600 it");
        }
        Ok(Self(token.as_bytes().to_vec()))
    }

    /// Whether `given` is the secret. Takes as long for any that is as long, so that it cannot be found byte by byte.
    fn is(&self, given: &[u8]) -> bool {
        let difference = self.0.iter().zip(given).fold(0, |difference, (ours, theirs)| difference | (ours ^ theirs));
        std::hint::black_box(difference) == 0 && self.0.len() == given.len()
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        // The scheme is in any case (RFC 9110, 11.1).
        let token = given.and_then(|value| value.split_at_checked(b"Bearer ".len()));
        token.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"Bearer ") && self.is(given))
    }
}

/// What the handlers share.
#[derive(Clone)]
pub(super) struct AdminState {
    pub(super) control: ControlHandle,
    pub(super) page: Arc<MetricsPage>,
    token: Option<Arc<Token>>,
    pub(super) upload_bytes_max: usize,
    /// Held by who changes the plugins.
    pub(super) uploads: Arc<Mutex<()>>,
}

impl AdminState {
    pub(super) fn new(
        control: ControlHandle,
        page: Arc<MetricsPage>,
        token: Option<Token>,
        options: &AdminOptions,
    ) -> Self {
        Self {
            control,
            page,
            token: token.map(Arc::new),
            upload_bytes_max: options.upload_bytes_max,
            uploads: Arc::default(),
        }
    }
}

/// What is read of a request that is too large, and for how long, so that its sender gets to read why.
const DRAIN_BYTES_MAX: usize = 1 << 30;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// An error as the client sees it.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

/// Takes the address. `has_token` says whether requests will be asked for one.
pub(super) fn bind(options: &AdminOptions, has_token: bool) -> Result<TcpListener, AdminError> {
    let failed = |source| AdminError::Listen { address: options.listen.clone(), source };
    let listener = TcpListener::bind((options.listen.host.as_str(), options.listen.port)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    // Asked of what was bound in fact: a name may stand for more than one address.
    if !address.ip().is_loopback() && !has_token {
        return Err(AdminError::TokenNeeded { address });
    }
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Serves until `stopped`.
pub(super) async fn serve(listener: TcpListener, state: AdminState, stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin endpoint cannot be served"),
    };
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(async {
        // Also when the sender is gone.
        let _ = stopped.await;
    });
    if let Err(error) = server.await {
        tracing::error!(%error, "the admin endpoint has ended");
    }
}

fn router(state: AdminState) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/plugins", get(plugin_api::list))
        .route("/v1/plugins/{name}", get(plugin_api::show).put(plugin_api::upload).delete(plugin_api::remove))
        .route("/v1/plugins/{name}/component", get(plugin_api::component))
        .route("/v1/plugins/{name}/rollback", post(plugin_api::rollback))
        .route("/v1/attachments", get(plugin_api::attachments))
        .route("/v1/plugin-log", get(plugin_api::log))
        .route("/v1/topics/{topic}/batches", get(plugin_api::batches))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(state.upload_bytes_max))
        .layer(middleware::from_fn_with_state(state.clone(), refuse_too_large))
        .layer(middleware::from_fn_with_state(state.clone(), authorise))
        .with_state(state)
}

async fn authorise(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    match &state.token {
        Some(token) if !token.allows(request.headers()) => {
            let message = "this endpoint answers only with its token: send the header `Authorization: Bearer TOKEN`, with the first line of \
                           the broker's admin-token-file";
            let refusal = Refusal { status: StatusCode::UNAUTHORIZED, message: message.to_owned() };
            ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
        }
        _ => next.run(request).await,
    }
}

/// Refuses what says that it is too large, before it is held in memory. Who does not wait to be asked for it (`Expect: 100-continue`) sends
/// it first and reads the answer afterwards: it is read, and thrown away, or the answer would be lost with the connection.
async fn refuse_too_large(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_none_or(|length: u64| length <= state.upload_bytes_max as u64) {
        return next.run(request).await;
    }
    if !request.headers().contains_key(header::EXPECT) {
        let mut body = request.into_body().into_data_stream();
        let mut left = DRAIN_BYTES_MAX;
        let drain = async {
            while let Some(Ok(bytes)) = body.next().await {
                left = left.saturating_sub(bytes.len());
                if left == 0 {
                    break;
                }
            }
        };
        // Who is slower gets a broken connection.
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain).await;
    }
    plugin_api::too_large(&state).into_response()
}

async fn ready(State(state): State<AdminState>) -> Response {
    match state.control.readiness() {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting: recovering logs\n").into_response(),
        Readiness::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match state.page.render() {
        Ok(page) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page)
            .into_response(),
        Err(error) => Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message: error.to_string() }.into_response(),
    }
}

async fn unknown(request: Request) -> Refusal {
    let message = format!(
        "there is nothing at {}; there is /healthz, /readyz, /metrics, /v1/plugins, /v1/attachments and /v1/plugin-log",
        request.uri().path()
    );
    Refusal { status: StatusCode::NOT_FOUND, message }
}

async fn wrong_method(request: Request) -> Refusal {
    let message = format!("{} does not answer to {}", request.uri().path(), request.method());
    Refusal { status: StatusCode::METHOD_NOT_ALLOWED, message }
}
