//! A small HTTP/1.1 server: hyper reads and writes, a [`Service`] answers.
//!
//! Plain HTTP on loopback or a Unix socket; TLS is the business of what stands before it. A request is
//! bounded in size and time, and so is their number; answers are made on a few threads of their own, because
//! they may wait for a disk. The process may be ended at any time.
//!
//! On loopback only requests that name this host are answered: a page in a browser here that has pointed its own
//! name to 127.0.0.1 (DNS rebinding) reads nothing. A browser cannot reach a Unix socket.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{HOST, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

/// How long a peer may take for a request's head, and again for its body.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 128;
/// Answers that are made at a time.
const MAX_THREADS: usize = 8;

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// The longest body that a request may have, in bytes.
    fn max_body(&self) -> usize;

    /// Answers one request; `path` is as it was sent, with its query.
    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Reply;
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The content; not sent to a HEAD request.
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer in plain text that is not to be stored.
    pub fn text(status: u16, text: &str) -> Self {
        Reply {
            status,
            headers: vec![
                ("content-type", "text/plain; charset=utf-8"),
                ("cache-control", "no-store"),
            ],
            body: text.as_bytes().to_vec(),
        }
    }

    /// What is not there.
    pub fn not_found() -> Self {
        Reply::text(404, "not found\n")
    }

    /// Another method than `allowed`.
    pub fn method(allowed: &'static str) -> Self {
        let mut reply = Reply::text(405, "this method is not for this resource\n");
        reply.headers.push(("allow", allowed));
        reply
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and port, `127.0.0.1:8080`; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket, `unix:/run/witness.sock`.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this host can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Listen::Unix(path.into())),
                false => Err("expected an absolute path after 'unix:'".to_owned()),
            };
        }
        text.parse().map(Listen::Tcp).map_err(|_| {
            "expected an address and port such as 127.0.0.1:8080, or unix:/PATH".to_owned()
        })
    }
}

/// As it is read.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a server cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {at}: {source}")]
pub struct ListenError {
    at: Listen,
    source: io::Error,
}

/// A server that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    at: Listen,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens, with its true port.
    pub fn at(&self) -> &Listen {
        &self.at
    }

    /// Serves until the process ends.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            // Nobody tells it to stop.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A service and who it is for.
struct Face {
    service: Arc<dyn Service>,
    /// Requests have to name this host.
    own_name: bool,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Begins to serve, on a thread of its own.
pub fn serve(at: &Listen, service: Arc<dyn Service>) -> Result<Server, ListenError> {
    let failed = |source| ListenError {
        at: at.clone(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_THREADS)
        .build()
        .map_err(failed)?;
    let entered = runtime.enter();
    let (listener, bound) = match at {
        Listen::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            let bound = Listen::Tcp(listener.local_addr().map_err(failed)?);
            let listener = TcpListener::from_std(listener).map_err(failed)?;
            (Listener::Tcp(listener), bound)
        }
        Listen::Unix(path) => {
            // One that a server before has left; nothing else is taken away.
            if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                && std::os::unix::net::UnixStream::connect(path).is_err()
            {
                fs::remove_file(path).map_err(failed)?;
            }
            let listener = UnixListener::bind(path).map_err(failed)?;
            // For its user and group: what is served may be private.
            fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
            (Listener::Unix(listener), at.clone())
        }
    };
    drop(entered);
    let own_name = matches!(at, Listen::Tcp(address) if address.ip().is_loopback());
    let face = Arc::new(Face { service, own_name });
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("http".into())
        .spawn(move || {
            runtime.block_on(async {
                let serving = tokio::spawn(accept(listener, face));
                // The sender says nothing: it is dropped.
                let _ = stopped.await;
                serving.abort();
            });
        })
        .map_err(failed)?;
    Ok(Server {
        at: bound,
        stop: Some(stop),
        thread: Some(thread),
    })
}

async fn accept(listener: Listener, face: Arc<Face>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(connection(TokioIo::new(stream), Arc::clone(&face), place));
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(connection(TokioIo::new(stream), Arc::clone(&face), place));
            }),
        };
        if accepted.is_err() {
            // Out of descriptors, or the peer is gone already.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn connection<S>(stream: S, face: Arc<Face>, _place: OwnedSemaphorePermit)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let answer = service_fn(move |request| {
        let face = Arc::clone(&face);
        async move { Ok::<_, std::convert::Infallible>(respond(request, face).await) }
    });
    // A peer that breaks off, or does not speak HTTP, needs nothing.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(stream, answer)
        .await;
}

async fn respond(request: Request<Incoming>, face: Arc<Face>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let host = head.headers.get(HOST).and_then(|h| h.to_str().ok());
    let ours = !face.own_name || host.is_some_and(names_this_host);
    let body = Limited::new(body, face.service.max_body()).collect();
    let reply = match timeout(PATIENCE, body).await {
        Err(_) => Reply::text(408, "the request took too long\n"),
        Ok(Err(_)) => Reply::text(413, "the request is too long, or broke off\n"),
        Ok(Ok(_)) if !ours => Reply::text(403, "this server answers to names of this host alone\n"),
        Ok(Ok(body)) => {
            let body = body.to_bytes();
            let (method, path) = (head.method.clone(), head.uri.clone());
            let made = tokio::task::spawn_blocking(move || {
                let path = path.path_and_query().map_or("", |p| p.as_str());
                face.service.answer(method.as_str(), path, &body)
            });
            let failed = |_| Reply::text(500, "the request could not be answered\n");
            made.await.unwrap_or_else(failed)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    // Services give statuses that exist.
    *response.status_mut() = hyper::StatusCode::from_u16(reply.status)
        .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in reply.headers {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let plain = HeaderValue::from_static("nosniff");
    headers.insert(HeaderName::from_static("x-content-type-options"), plain);
    response
}

/// Whether the header `Host` is this host itself, with any port.
fn names_this_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    is_this_host(name)
}

/// `localhost`, or a loopback address as a URL has it.
pub(crate) fn is_this_host(name: &str) -> bool {
    let ip = name.trim_start_matches('[').trim_end_matches(']');
    let ip = ip.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_in_one_spelling() {
        for good in ["127.0.0.1:80", "[::1]:0", "0.0.0.0:1", "unix:/a/b"] {
            let at: Listen = good.parse().expect(good);
            assert_eq!(at.to_string(), good);
            assert_eq!(at.is_local(), good != "0.0.0.0:1");
        }
        for bad in [
            "",
            "localhost:80",
            "127.0.0.1",
            "unix:a",
            "unix:",
            "http://127.0.0.1:80",
        ] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_names_of_this_host() {
        for own in [
            "localhost",
            "LOCALHOST:8736",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(names_this_host(own), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:8736",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "10.0.0.1",
        ] {
            assert!(!names_this_host(other), "{other}");
        }
    }
}
