//! One connection between an agent and its model API: plain HTTP/1.1 to the agent, TLS to the model.
//!
//! Each request goes on as it is, without the headers that belong to one connection (RFC 9110, section 7.6.1) and without a wish
//! for compression. Each answer is read by an [`Observer`] as it passes.

use std::{
    convert::Infallible,
    io,
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::SendRequest,
    header::{
        ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST,
        HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{Interest, unix::AsyncFd};
use tokio_rustls::TlsConnector;

use crate::{
    calls::ToolCall,
    observer::{MAX_BODY, Observer, Unread},
};

/// How long the model's side may take for the TLS handshake.
const PATIENCE: Duration = Duration::from_secs(30);
const HOP_BY_HOP: [HeaderName; 5] = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Where tool calls go.
pub trait Sink: Send + Sync {
    /// The model of `host` told its agent to make this call, and the agent does not have it yet. May block.
    ///
    /// # Errors
    /// The agent must not get it: the connection ends. The text says why.
    fn tool_call(&self, host: &str, call: &ToolCall) -> Result<(), String>;

    /// The agent sends this to `host`: what its tools came to stands in it, with the ids of their calls.
    fn request(&self, host: &str, body: &[u8]);

    /// An answer of `host` is handed on without being read to its end.
    fn unread(&self, host: &str, why: Unread);
}

/// What went over a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes of requests' bodies.
    pub up: u64,
    /// Bytes of answers' bodies.
    pub down: u64,
}

/// The connection could not be carried, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// The host's certificates cannot be read, or its store is empty.
    #[error("no TLS to the model: {0}")]
    Tls(#[from] rustls::Error),
    /// A socket failed.
    #[error("the connection to the model: {0}")]
    Io(#[from] io::Error),
    /// The name is none that a certificate can have.
    #[error("'{0}' is no name that a certificate can have")]
    Name(String),
    /// The agent's side broke off or is no HTTP/1.1.
    #[error("the agent's side: {0}")]
    Agent(hyper::Error),
    /// The session ended.
    #[error("the session ended")]
    Stopped,
}

/// Carries connections.
#[derive(Clone)]
pub struct Inspector {
    tls: Arc<ClientConfig>,
    sink: Arc<dyn Sink>,
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inspector")
    }
}

impl Inspector {
    /// With the certificates that the host trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` count).
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(sink: Arc<dyn Sink>) -> Result<Inspector, CarryError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Inspector::with_tls(tls, sink))
    }

    /// With another way to check who the model's side is.
    pub fn with_tls(tls: ClientConfig, sink: Arc<dyn Sink>) -> Inspector {
        Inspector {
            tls: Arc::new(tls),
            sink,
        }
    }

    /// Carries a connection to its end, on this thread. `upstream` is connected to `host`; `stop` becomes
    /// readable when the session ends.
    ///
    /// # Errors
    /// It ended otherwise than by one of its ends closing it in order.
    pub fn carry(
        &self,
        agent: OwnedFd,
        upstream: OwnedFd,
        host: &str,
        stop: &OwnedFd,
    ) -> (Carried, Result<(), CarryError>) {
        let counts = Arc::new(Counts::default());
        let result = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CarryError::Io)
            .and_then(|runtime| {
                runtime.block_on(async {
                    let stop = watched(stop)?;
                    tokio::select! {
                        done = self.run(agent, upstream, host, &counts) => done,
                        _ = stop.readable() => Err(CarryError::Stopped),
                    }
                })
            });
        let carried = Carried {
            up: counts.up.load(Ordering::Relaxed),
            down: counts.down.load(Ordering::Relaxed),
        };
        (carried, result)
    }

    async fn run(
        &self,
        agent: OwnedFd,
        upstream: OwnedFd,
        host: &str,
        counts: &Arc<Counts>,
    ) -> Result<(), CarryError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| CarryError::Name(host.to_owned()))?;
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream(upstream)?);
        let tls = tokio::time::timeout(PATIENCE, connecting)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .map_err(io::Error::other)?;
        let model = tokio::sync::Mutex::new(sender);
        let service = service_fn(|request| self.answer(request, &model, host, counts));
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream(agent)?), service);
        let mut serving = std::pin::pin!(serving);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            done = &mut serving => return done.map_err(CarryError::Agent),
            // The model's side has ended: what is under way is brought to its end, nothing more begins.
            _ = &mut connection => serving.as_mut().graceful_shutdown(),
        }
        serving.await.map_err(CarryError::Agent)
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        model: &tokio::sync::Mutex<SendRequest<BoxBody<Bytes, hyper::Error>>>,
        host: &str,
        counts: &Arc<Counts>,
    ) -> Result<Response<BoxBody<Bytes, io::Error>>, Infallible> {
        let named = request.headers().get(HOST).and_then(|h| h.to_str().ok());
        let named = named.map(|n| n.split(':').next().unwrap_or(n));
        if !named.is_some_and(|n| n.eq_ignore_ascii_case(host)) {
            let text = format!("this connection leads to {host}, and to nobody else");
            return Ok(refusal(StatusCode::MISDIRECTED_REQUEST, text));
        }
        if request.headers().contains_key(UPGRADE) {
            let text = "agentwall reads what this host's models say, and cannot after an upgrade";
            return Ok(refusal(StatusCode::NOT_IMPLEMENTED, text.to_owned()));
        }
        let (mut parts, body) = request.into_parts();
        own(&mut parts.headers);
        parts
            .headers
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Ok(value) = HeaderValue::from_str(host) {
            parts.headers.insert(HOST, value);
        }
        let body = Sent {
            body,
            read: Some(Vec::new()),
            sink: Arc::clone(&self.sink),
            host: host.to_owned(),
            counts: Arc::clone(counts),
        };
        let request = Request::from_parts(parts, body.boxed());
        let answer = model.lock().await.send_request(request).await;
        Ok(match answer {
            Ok(answer) => self.watched(answer, host, counts),
            Err(error) => refusal(
                StatusCode::BAD_GATEWAY,
                format!("{host} did not answer: {error}"),
            ),
        })
    }

    fn watched(
        &self,
        answer: Response<Incoming>,
        host: &str,
        counts: &Arc<Counts>,
    ) -> Response<BoxBody<Bytes, io::Error>> {
        let (mut parts, body) = answer.into_parts();
        let text = |name| {
            parts
                .headers
                .get(name)
                .and_then(|v: &HeaderValue| v.to_str().ok())
        };
        if text(CONTENT_ENCODING).is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
            let text = format!("{host} sends a compressed answer that nobody asked for");
            return refusal(StatusCode::BAD_GATEWAY, text);
        }
        let observer = Observer::new(text(CONTENT_TYPE).unwrap_or_default());
        own(&mut parts.headers);
        let body = Watched {
            body,
            observer,
            held: Vec::new(),
            over: false,
            sink: Arc::clone(&self.sink),
            host: host.to_owned(),
            counts: Arc::clone(counts),
        };
        Response::from_parts(parts, body.boxed())
    }
}

#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
}

/// What became `unsafe` in its newer form is a type whose descriptor changes or closes; a borrowed one does neither.
#[allow(deprecated)]
fn watched(stop: &OwnedFd) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(stop.as_fd(), Interest::READABLE)
}

fn stream(socket: OwnedFd) -> io::Result<tokio::net::TcpStream> {
    let socket = TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(socket)
}

/// Takes away what belongs to one connection, with what `Connection` names.
fn own(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| ![HOST, CONTENT_LENGTH].contains(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn refusal(status: StatusCode, text: String) -> Response<BoxBody<Bytes, io::Error>> {
    let body = Full::from(format!("agentwall: {text}\n")).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A request's body, told when it is whole.
struct Sent {
    body: Incoming,
    /// `None` when it was told, or is too long.
    read: Option<Vec<u8>>,
    sink: Arc<dyn Sink>,
    host: String,
    counts: Arc<Counts>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let me = self.get_mut();
        let frame = Pin::new(&mut me.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            me.counts.up.fetch_add(data.len() as u64, Ordering::Relaxed);
            me.read = me
                .read
                .take()
                .filter(|read| read.len() + data.len() <= MAX_BODY);
            if let Some(read) = &mut me.read {
                read.extend_from_slice(data);
            }
        }
        if me.body.is_end_stream()
            && let Some(read) = me.read.take()
        {
            me.sink.request(&me.host, &read);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body: what completes a tool call is handed on when the sink has it.
struct Watched {
    body: Incoming,
    observer: Observer,
    /// A whole answer, until it is read.
    held: Vec<u8>,
    over: bool,
    sink: Arc<dyn Sink>,
    host: String,
    counts: Arc<Counts>,
}

impl Watched {
    fn tell(&mut self, found: Result<Vec<ToolCall>, Unread>) -> io::Result<()> {
        match found {
            Ok(calls) => calls.iter().try_for_each(|call| {
                let told = self.sink.tool_call(&self.host, call);
                told.map_err(io::Error::other)
            }),
            Err(why) => {
                self.observer = Observer::new("");
                self.sink.unread(&self.host, why);
                Ok(())
            }
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let me = self.get_mut();
        while !me.over {
            let frame = match Pin::new(&mut me.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    me.over = true;
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Poll::Ready(None) => {
                    me.over = true;
                    let found = me.observer.end();
                    if let Err(error) = me.tell(found) {
                        return Poll::Ready(Some(Err(error)));
                    }
                    let held = std::mem::take(&mut me.held);
                    return Poll::Ready(
                        (!held.is_empty()).then(|| Ok(Frame::data(Bytes::from(held)))),
                    );
                }
            };
            let Some(data) = frame.data_ref() else {
                continue; // trailers: no model API has them
            };
            me.counts
                .down
                .fetch_add(data.len() as u64, Ordering::Relaxed);
            let whole = me.observer.is_whole();
            let found = me.observer.push(data);
            if let Err(error) = me.tell(found) {
                me.over = true;
                return Poll::Ready(Some(Err(error)));
            }
            me.held.extend_from_slice(data);
            if !(whole && me.observer.is_whole()) {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(std::mem::take(
                    &mut me.held,
                ))))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
