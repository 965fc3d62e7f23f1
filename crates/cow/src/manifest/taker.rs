//! Taking the manifests of a session beside it, on a thread of its own.
//!
//! A session starts no later for it. One that ends at once and changed nothing does not wait for it
//! either: what was walked is written only when the session has lived for a moment or says that it is
//! needed, since syncing a file costs more than walking a small tree.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::take::{Limits, Refusal, TakeError, walk, write};
use crate::layer::Layer;

/// How long a session lives before its manifests are written unasked.
const GRACE: Duration = Duration::from_millis(100);

/// What became of the manifest of one tree.
pub type Taken = (PathBuf, Result<Result<u64, Refusal>, TakeError>);

/// Manifests that are being taken.
#[derive(Debug)]
pub struct Taker {
    cancelled: Arc<AtomicBool>,
    wanted: Sender<()>,
    thread: Option<JoinHandle<Vec<Taken>>>,
}

impl Taker {
    /// Begins with layers whose base is the present moment.
    pub fn start(layers: Vec<Layer>, limits: Limits) -> Taker {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (wanted, asked) = channel();
        let thread = {
            let cancelled = Arc::clone(&cancelled);
            std::thread::Builder::new()
                .name("manifest".into())
                .spawn(move || all(&layers, limits, &cancelled, &asked))
                .ok()
        };
        Taker {
            cancelled,
            wanted,
            thread,
        }
    }

    /// The manifests are needed now: waits until they are written. One entry per layer; none when no
    /// thread could be made, and then no layer has a manifest.
    pub fn finish(mut self) -> Vec<Taken> {
        let _ = self.wanted.send(());
        self.join()
    }

    fn join(&mut self) -> Vec<Taken> {
        let thread = self.thread.take();
        thread.and_then(|t| t.join().ok()).unwrap_or_default()
    }
}

impl Drop for Taker {
    /// Nobody needs them any more. Waits for the thread: no file appears afterwards.
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        let _ = self.wanted.send(());
        self.join();
    }
}

fn all(
    layers: &[Layer],
    limits: Limits,
    cancelled: &AtomicBool,
    asked: &Receiver<()>,
) -> Vec<Taken> {
    let walked: Vec<_> = layers
        .iter()
        .map(|layer| (layer, walk(layer, limits, cancelled)))
        .collect();
    // Answered at once when the session has ended meanwhile.
    let _: Result<(), RecvTimeoutError> = asked.recv_timeout(GRACE);
    walked
        .into_iter()
        .map(|(layer, walked)| {
            let result = walked.and_then(|walked| match cancelled.load(Ordering::Relaxed) {
                true => Err(TakeError::Cancelled),
                false => write(layer, walked),
            });
            (layer.root.clone(), result)
        })
        .collect()
}
