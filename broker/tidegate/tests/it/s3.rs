//! An S3-compatible server in this process (`s3s-fs`, not the crate that the broker talks to it with), which can go away and come back.

use std::net::{SocketAddr, TcpListener};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;

pub(crate) const BUCKET: &str = "segments";
pub(crate) const ACCESS_KEY: &str = "an-access-key";
pub(crate) const SECRET_KEY: &str = "a-secret-key";

pub(crate) struct S3 {
    pub(crate) address: SocketAddr,
    root: TempDir,
    running: Option<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl S3 {
    /// Starts with one empty bucket.
    pub(crate) fn start() -> Self {
        let root = tempfile::Builder::new().prefix("tidegate-s3-").tempdir().expect("a temporary directory");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut s3 = Self { address, root, running: None };
        s3.serve(listener);
        s3
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let files = FileSystem::new(self.root.path()).expect("a directory");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        listener.set_nonblocking(true).expect("a socket");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let accept = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        let service = service.clone();
                        tokio::spawn(async move {
                            let served = Builder::new(TokioExecutor::new());
                            let _ = served.serve_connection(TokioIo::new(socket), service).await;
                        });
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
            // Connections end with it.
            runtime.shutdown_background();
        });
        self.running = Some((stop, thread));
    }

    /// Whoever connects is refused from now on, and whoever is connected no more.
    pub(crate) fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().expect("it ends");
        }
    }

    pub(crate) fn start_again(&mut self) {
        let listener = loop {
            // Ends of connections that are closing may be in the way for a moment.
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(_) => std::thread::yield_now(),
            }
        };
        self.serve(listener);
    }

    /// Whether an object of this key is there.
    pub(crate) fn objects(&self) -> Vec<String> {
        crate::offload::files_below(&self.root.path().join(BUCKET))
    }

    /// The lines of configuration that lead to it. The keys are files in its own directory.
    pub(crate) fn settings(&self) -> String {
        let file = |name: &str, key: &str| {
            let path = self.root.path().join(name);
            std::fs::write(&path, format!("{key}\n")).expect("a file");
            path
        };
        format!(
            "object.store.url = \"s3://{BUCKET}/a/prefix\"\nobject.store.endpoint = \"http://{}\"\nobject.store.region = \"eu-central-1\"\n\
             object.store.allow.http = true\nobject.store.access.key.file = {:?}\nobject.store.secret.key.file = {:?}\n",
            self.address,
            file("access.key", ACCESS_KEY),
            file("secret.key", SECRET_KEY),
        )
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop();
    }
}
