//! Listening: HTTP/1.1 and HTTP/2 on one port, with limits, until it is told to end.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Connections at a time. More wait to be taken.
const MAX_CONNECTIONS: usize = 1024;

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);

/// Most bytes of a head, and of an HTTP/2 header list.
const MAX_HEAD: usize = 32 << 10;

/// Most requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 128;

/// How long calls that are under way may take when the gateway ends.
const DRAIN: Duration = Duration::from_secs(10);

/// Any body that goes to an agent.
pub type Body = BoxBody<bytes::Bytes, BodyError>;

/// An answer broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// On the side of the API.
    #[error("the API's answer broke off: {0}")]
    Upstream(#[from] hyper::Error),
    /// What the other side said does not go on.
    #[error("{0}")]
    Message(String),
    /// By revocation.
    #[error("the agent was revoked")]
    Revoked,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The address that the connection came from; behind a proxy the proxy's.
    Ip(IpAddr),
    /// A process that may open the Unix socket.
    Local,
}

/// Takes connections.
pub trait Listen: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn take(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn take(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, peer) = self.accept().await?;
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer::Ip(peer.ip().to_canonical())))
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn take(&self) -> io::Result<(UnixStream, Peer)> {
        Ok((self.accept().await?.0, Peer::Local))
    }
}

/// Answers requests.
pub trait Service: Send + Sync + 'static {
    /// The answer to one request.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves until `over` comes, then takes no more and waits for what is under way, at most ten seconds.
pub async fn serve<L: Listen, S: Service>(
    listener: L,
    service: Arc<S>,
    over: impl Future<Output = ()>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Some(Duration::from_secs(20)));
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    tokio::pin!(over);
    loop {
        let taken = tokio::select! {
            taken = take(&listener, &room) => taken,
            () = &mut over => break,
        };
        let Some((stream, peer, permit)) = taken else {
            continue;
        };
        let service = Arc::clone(&service);
        let asked = Arc::new(AtomicBool::new(false));
        let has_asked = Arc::clone(&asked);
        let answer = hyper::service::service_fn(move |request| {
            has_asked.store(true, Ordering::Relaxed);
            let service = Arc::clone(&service);
            async move { Ok::<_, Infallible>(service.answer(request, peer).await) }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::pin!(connection);
            // Whatever breaks a connection is between the two ends of it.
            tokio::select! {
                _ = &mut connection => return,
                () = tokio::time::sleep(HEAD) => {}
            }
            // The builder's own timer begins when it knows which protocol is spoken: who says nothing, or half of a
            // preface, is given up here.
            if asked.load(Ordering::Relaxed) {
                let _ = connection.await;
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

async fn take<L: Listen>(
    listener: &L,
    room: &Arc<Semaphore>,
) -> Option<(L::Stream, Peer, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.take().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        // Out of descriptors, or the peer is gone by now.
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}
