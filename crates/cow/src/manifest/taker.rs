//! Taking the manifests of a session beside it, on a thread of its own.
//!
//! A session starts no later for it: it has the processors to itself for a moment first. One that ends at once and changed nothing does not wait for it
//! either: what was walked is written only when the session has lived for a moment or says that it is
//! needed, since syncing a file costs more than walking a small tree. And nobody waits for long: after
//! some seconds, the ended session has no manifest of that tree.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::take::{Limits, Refusal, TakeError, Wish};
use super::walk::walk;
use super::write::write;
use crate::layer::Layer;

/// How long a session has the processors to itself before its trees are walked unasked.
const HEAD_START: Duration = Duration::from_millis(20);
/// How long a session then lives before its manifests are written unasked.
const GRACE: Duration = Duration::from_millis(100);
/// How long somebody waits for trees that are still being walked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of the manifest of one tree.
pub type Taken = (PathBuf, Result<Result<u64, Refusal>, TakeError>);

/// Manifests that are being taken.
#[derive(Debug)]
pub struct Taker {
    wish: Arc<Wish>,
    wanted: Sender<()>,
    taken: Receiver<Vec<Taken>>,
    thread: Option<JoinHandle<()>>,
}

impl Taker {
    /// Begins with layers whose base is the present moment.
    pub fn start(layers: Vec<Layer>, limits: Limits) -> Taker {
        let wish = Arc::new(Wish::default());
        let (wanted, asked) = channel();
        let (done, taken) = channel();
        let thread = {
            let wish = Arc::clone(&wish);
            std::thread::Builder::new()
                .name("manifest".into())
                .spawn(move || {
                    // Nobody may be there to hear it.
                    let _ = done.send(all(&layers, limits, &wish, &asked));
                })
                .ok()
        };
        Taker {
            wish,
            wanted,
            taken,
            thread,
        }
    }

    /// The manifests are needed now: waits until they are written, or for some seconds. One entry per
    /// layer; none when no thread could be made, and then no layer has a manifest.
    pub fn finish(self) -> Vec<Taken> {
        let _ = self.wanted.send(());
        self.taken.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            self.wish.hurry.store(true, Ordering::Relaxed);
            self.taken.recv().unwrap_or_default()
        })
    }
}

impl Drop for Taker {
    /// Nobody needs them any more. Waits for the thread: no file appears afterwards.
    fn drop(&mut self) {
        self.wish.cancelled.store(true, Ordering::Relaxed);
        let _ = self.wanted.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn all(layers: &[Layer], limits: Limits, wish: &Wish, asked: &Receiver<()>) -> Vec<Taken> {
    // Answered at once when the session has ended meanwhile.
    let needed = asked.recv_timeout(HEAD_START).is_ok();
    let walked: Vec<_> = layers
        .iter()
        .map(|layer| (layer, walk(layer, limits, wish)))
        .collect();
    if !needed {
        let _ = asked.recv_timeout(GRACE);
    }
    walked
        .into_iter()
        .map(|(layer, walked)| {
            let result = walked.and_then(|walked| match wish.cancelled.load(Ordering::Relaxed) {
                true => Err(TakeError::Cancelled),
                false => write(layer, walked),
            });
            (layer.root.clone(), result)
        })
        .collect()
}
