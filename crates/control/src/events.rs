//! Live updates: which questions wait, as server-sent events.
//!
//! Gateways and sessions are asked while somebody listens, by one task for all.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde_json::{Map, Value, json};
use tokio::{sync::watch, time::Instant};

use crate::host::Host;

/// How often the host is asked.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a stream lasts; the browser connects again, and is asked again who it is.
const LONGEST: Duration = Duration::from_secs(600);

/// How often it is asked whether who listens still may, when nothing else happens.
const RECHECK: Duration = Duration::from_secs(2);

/// What all who listen share.
#[derive(Default)]
struct Shared {
    /// The last answer; `None` while nobody listens.
    told: Mutex<Option<watch::Sender<Arc<str>>>>,
    /// Somebody came since the host was asked: what they see may be newer than the last answer, so they are told the next
    /// one whether it differs or not.
    again: AtomicBool,
}

/// What waits, for all who listen.
pub struct Feed {
    host: Arc<dyn Host>,
    shared: Arc<Shared>,
}

impl Feed {
    /// Of this host.
    pub fn new(host: Arc<dyn Host>) -> Feed {
        Feed {
            host,
            shared: Arc::default(),
        }
    }

    /// Listens while `still` says so. The first event says what waits after this.
    pub fn listen<S: Fn() -> bool + Send + 'static>(
        self: &Feed,
        over: watch::Receiver<bool>,
        still: S,
    ) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<S>> {
        let end = Instant::now() + LONGEST;
        let begin = (self.subscribe(), over, still);
        let events = stream::unfold(begin, move |(mut told, mut over, still)| async move {
            let news = loop {
                let news = tokio::select! {
                    changed = told.changed() => changed.map(|()| true).ok()?,
                    () = tokio::time::sleep(RECHECK) => false,
                    _ = over.changed() => return None,
                    () = tokio::time::sleep_until(end) => return None,
                };
                if !still() {
                    return None;
                }
                if news {
                    break told.borrow_and_update().to_string();
                }
            };
            Some((
                Ok(Event::default().event("waiting").data(news)),
                (told, over, still),
            ))
        });
        Sse::new(events).keep_alive(KeepAlive::default())
    }

    fn subscribe(&self) -> watch::Receiver<Arc<str>> {
        let mut told = self.shared.lock();
        self.shared.again.store(true, Ordering::SeqCst);
        if let Some(sender) = &*told {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Arc::from(""));
        *told = Some(sender.clone());
        let (host, shared) = (Arc::clone(&self.host), Arc::clone(&self.shared));
        tokio::spawn(watch_host(host, shared, sender));
        receiver
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<watch::Sender<Arc<str>>>> {
        self.told.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Asks until nobody listens.
async fn watch_host(host: Arc<dyn Host>, shared: Arc<Shared>, sender: watch::Sender<Arc<str>>) {
    loop {
        let again = shared.again.swap(false, Ordering::SeqCst);
        let asked = {
            let host = Arc::clone(&host);
            tokio::task::spawn_blocking(move || host.waiting()).await
        };
        if let Ok(Ok(waiting)) = asked {
            let ids: Map<String, Value> = (waiting.asks.into_iter())
                .map(|ask| (ask.id, ask.digest.into()))
                .collect();
            let text: Arc<str> = json!({ "waiting": ids, "trouble": waiting.trouble })
                .to_string()
                .into();
            sender.send_if_modified(|old| {
                let other = again || *old != text;
                *old = text;
                other
            });
        }
        tokio::time::sleep(INTERVAL).await;
        let mut told = shared.lock();
        // Under the lock: nobody comes in between.
        if sender.receiver_count() == 0 {
            *told = None;
            return;
        }
    }
}
