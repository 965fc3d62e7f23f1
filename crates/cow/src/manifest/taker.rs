//! Taking the manifests of a session beside it, on a thread of its own, and keeping originals then.
//!
//! A session starts no later for it: it has the processors to itself for a moment first. One that ends at once and changed nothing does not wait for it
//! either: what was walked is written only when the session has lived for a moment or says that it is
//! needed, since syncing a file costs more than walking a small tree. And nobody waits for long: after
//! some seconds, the ended session has no manifest of that tree.
//!
//! Originals are kept (`crate::originals`) when the manifests are written, on a thread that leaves the
//! processors to everybody else. It stops when the session ends; then those of what the session changed
//! are completed, and the others go.

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
use crate::originals::{KeepLimits, Keeping, Kept, NotKept, can_clone, ficlone};

/// How long a session has the processors to itself before its trees are walked unasked.
const HEAD_START: Duration = Duration::from_millis(20);
/// How long a session then lives before its manifests are written unasked.
const GRACE: Duration = Duration::from_millis(100);
/// How long somebody waits for trees that are still being walked.
const PATIENCE: Duration = Duration::from_secs(5);
/// How far the thread that clones stands back.
const NICE: i32 = 19;

/// What became of the manifest of one tree.
#[derive(Debug)]
pub struct Taken {
    /// The tree.
    pub root: PathBuf,
    /// The number of objects, or why there is no manifest.
    pub manifest: Result<Result<u64, Refusal>, TakeError>,
    /// Which originals are kept, or why none are.
    pub originals: Result<Kept, NotKept>,
}

/// Manifests that are being taken.
#[derive(Debug)]
pub struct Taker {
    wish: Arc<Wish>,
    wanted: Sender<()>,
    taken: Receiver<Vec<Manifested>>,
    kept: Receiver<Vec<Result<Kept, NotKept>>>,
    thread: Option<JoinHandle<()>>,
}

/// The root of a tree, and what became of its manifest.
type Manifested = (PathBuf, Result<Result<u64, Refusal>, TakeError>);

impl Taker {
    /// Begins with layers whose base is the present moment.
    pub fn start(layers: Vec<Layer>, limits: Limits) -> Taker {
        Taker::begin(layers, Vec::new(), limits, None)
    }

    /// The same, and keeps originals: also of layers that go on and have their manifests.
    pub fn keeping(
        layers: Vec<Layer>,
        going_on: Vec<Layer>,
        limits: Limits,
        originals: KeepLimits,
    ) -> Taker {
        Taker::begin(layers, going_on, limits, Some(originals))
    }

    fn begin(
        layers: Vec<Layer>,
        going_on: Vec<Layer>,
        limits: Limits,
        originals: Option<KeepLimits>,
    ) -> Taker {
        let wish = Arc::new(Wish::default());
        let (wanted, asked) = channel();
        let (done, taken) = channel();
        let (done_keeping, kept) = channel();
        let thread = {
            let wish = Arc::clone(&wish);
            std::thread::Builder::new()
                .name("manifest".into())
                .spawn(move || {
                    // Nobody may be there to hear it.
                    let _ = done.send(all(&layers, limits, &wish, &asked));
                    let layers = [layers, going_on].concat();
                    let _ = done_keeping.send(keep(&layers, originals, &wish, &asked));
                })
                .ok()
        };
        Taker {
            wish,
            wanted,
            taken,
            kept,
            thread,
        }
    }

    /// The session has ended, and the manifests are needed now: waits until they are written, or for
    /// some seconds. One entry per layer; none when no thread could be made, and then no layer has a
    /// manifest.
    pub fn finish(self) -> Vec<Taken> {
        self.wish.ended.store(true, Ordering::Relaxed);
        let _ = self.wanted.send(());
        let taken = self.taken.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            self.wish.hurry.store(true, Ordering::Relaxed);
            self.taken.recv().unwrap_or_default()
        });
        let mut kept = self.kept.recv().unwrap_or_default().into_iter();
        let each = taken.into_iter().map(|(root, manifest)| Taken {
            root,
            manifest,
            originals: kept.next().unwrap_or(Err(NotKept::Cancelled)),
        });
        each.collect()
    }
}

impl Drop for Taker {
    /// Nobody needs them any more. Waits for the thread: no file appears afterwards.
    fn drop(&mut self) {
        self.wish.cancelled.store(true, Ordering::Relaxed);
        self.wish.ended.store(true, Ordering::Relaxed);
        let _ = self.wanted.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn all(layers: &[Layer], limits: Limits, wish: &Wish, asked: &Receiver<()>) -> Vec<Manifested> {
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

/// Keeps originals of each tree that has a manifest: all while the session lives, and at its end those
/// that it changed and no others. The layers that go on come after those that begin.
fn keep(
    layers: &[Layer],
    limits: Option<KeepLimits>,
    wish: &Wish,
    asked: &Receiver<()>,
) -> Vec<Result<Kept, NotKept>> {
    let Some(limits) = limits else {
        return layers.iter().map(|_| Err(NotKept::Unasked)).collect();
    };
    let begun: Vec<_> = layers
        .iter()
        .map(|layer| match can_clone(layer) {
            true => while_it_runs(layer, limits, wish),
            false => Err(NotKept::NoReflink),
        })
        .collect();
    while begun.iter().any(Result::is_ok) && !wish.ended.load(Ordering::Relaxed) {
        // Whoever asks, or is gone, has set it before.
        if asked.recv().is_err() {
            break;
        }
    }
    let cancelled = wish.cancelled.load(Ordering::Relaxed);
    begun
        .into_iter()
        .zip(layers)
        .map(|(begun, layer)| {
            let mut keeping = match begun? {
                Progress::Done if cancelled && layer.is_untouched() => {
                    crate::originals::remove(layer)?;
                    return Err(NotKept::Cancelled);
                }
                _ if cancelled => return Err(NotKept::Cancelled),
                Progress::Done => Box::new(Keeping::begin(layer, limits, &ficlone)?),
                Progress::Stopped(keeping) => keeping,
            };
            keeping.changed()?;
            keeping.finish()
        })
        .collect()
}

/// How far the originals of one tree are.
enum Progress<'a> {
    /// They have their name.
    Done,
    /// The session ended first.
    Stopped(Box<Keeping<'a>>),
}

fn while_it_runs<'a>(
    layer: &'a Layer,
    limits: KeepLimits,
    wish: &Wish,
) -> Result<Progress<'a>, NotKept> {
    let mut keeping = Box::new(Keeping::begin(layer, limits, &ficlone)?);
    let ended = std::thread::scope(|scope| {
        let aside = scope.spawn(|| {
            // Of this thread alone (setpriority(2), "NOTES"). Without it, it only is in the way more.
            let _ = rustix::process::nice(NICE);
            keeping.all(&wish.ended).map(|ended| (keeping, ended))
        });
        let panicked = || std::io::Error::other("the thread that keeps originals ended").into();
        aside.join().unwrap_or_else(|_| Err(panicked()))
    });
    match ended? {
        (keeping, true) => keeping.finish().map(|_| Progress::Done),
        (keeping, false) => Ok(Progress::Stopped(keeping)),
    }
}
