//! Listening: HTTP/1.1 with limits, until it is told to end.

use std::{io, sync::Arc, time::Duration};

use futures_util::future::select_all;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{Console, router};

/// Connections at a time. More wait to be taken.
const MAX_CONNECTIONS: usize = 256;
/// How long the head of a request may take, and how long a connection stays without one.
const HEAD: Duration = Duration::from_secs(20);
/// Most bytes of a head.
const MAX_HEAD: usize = 32 << 10;
/// How long requests that are under way may take when the console ends.
const DRAIN: Duration = Duration::from_secs(2);

/// Answers requests at these, one at least, until `ended` is. Streams of events end with it; what is under way may take two
/// seconds more, then its connection is closed.
pub async fn serve(
    listeners: Vec<TcpListener>,
    console: Arc<Console>,
    ended: impl Future<Output = ()> + Send + 'static,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let routes = router(Arc::clone(&console));
    tokio::pin!(ended);
    loop {
        let taken = tokio::select! {
            taken = take(&listeners, &room) => taken,
            () = &mut ended => break,
        };
        let Some((stream, permit)) = taken else {
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // Whatever breaks a connection is between the two ends of it.
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listeners);
    console.over.send_replace(true);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

async fn take(
    listeners: &[TcpListener],
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    let accepting = listeners.iter().map(|one| Box::pin(one.accept()));
    let (taken, ..): (io::Result<_>, _, _) = select_all(accepting).await;
    match taken {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, permit))
        }
        // Out of descriptors, or the peer is gone by now.
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}
