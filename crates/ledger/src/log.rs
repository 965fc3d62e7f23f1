//! The log as its writers see it: many threads and processes append, each commit serves all that
//! wait.
//!
//! Inside a process there is one queue. Whoever finds nobody committing takes everything that is
//! queued and commits it at once (group commit); the others wait for the result. Entries are
//! logged in the order in which they were handed over. Between processes the log's lock file
//! orders commits.
//!
//! [`Log::append`] returns when the entry is durable; [`Log::append_later`] at once, for records
//! that must not hold up the action they tell about. Nothing is dropped silently: a queue that is
//! full blocks, entries whose commit failed stay queued, and the error is handed to the next call.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    checkpoint::Checkpoint,
    hash::{Hash, leaf_hash},
    journal::Logged,
    note::{Signer, Verifier},
    rotation,
    store::{Disk, FileError, RealDisk},
    subject::{Held, SubjectError, Subjects, make_folder},
    tile::MAX_ENTRY,
    values::{Text, TextFolders},
    writer::{Beside, CommitError, OpenError, Step, Writer},
};

/// A queued entry is committed within this time.
pub const MAX_DELAY: Duration = Duration::from_millis(100);
/// Publishing takes at most one part in so many of the time: on a slow disk the checkpoint lags behind
/// for longer than [`LogOptions::lag`].
const PUBLISH_SHARE: u32 = 20;
/// But not for more than this beyond it.
pub const MAX_REST: Duration = Duration::from_secs(1);
/// So many queued entries are committed at once.
pub const MAX_QUEUED: usize = 256;
/// From so many queued entries on, [`Log::append_later`] waits.
const FULL_ENTRIES: usize = 4096;
/// The type of the entry after which nobody writes with a session's key any more.
const SESSION_END: &str = "session_end";
/// From so many queued bytes on, [`Log::append_later`] waits.
const FULL_BYTES: usize = 16 << 20;

/// How to open a log.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// The file outside the log's folder that remembers the newest checkpoint of this host; its
    /// folder must exist. With it a log that was put back to an older state is not extended.
    pub head: Option<PathBuf>,
    /// The file of the signer's key. With it the key can be [replaced](Log::rotate_key), and a log whose key another
    /// process has replaced is gone on with.
    pub key: Option<PathBuf>,
    /// For how long the checkpoint may lag behind. With zero every commit writes tiles and checkpoint,
    /// which takes several flushes. Otherwise a commit is one write and one flush of the journal, and
    /// tiles and checkpoint follow within this time (on a slow disk up to [`MAX_REST`] later), with
    /// [`Log::flush`], or when the log is opened next. Readers see what is published: a process that ends
    /// without flushing leaves its last entries, durable, to whoever opens the log for writing, or
    /// [settles](crate::settle()) it. Who removes
    /// the journal before that takes them away without a trace.
    pub lag: Duration,
    /// Where text goes. With it an entry is a record in its canonical form ([`Entry::to_bytes`]): its leaf in the
    /// tree has commitments in place of its text, and the text, encrypted with a key of its session, is in
    /// these folders, durable together with the leaf. Without it an entry is any bytes, and the leaf is these.
    pub text: Option<TextFolders>,
}

/// An append-only log, open for writing. Share it between threads by reference or [`Arc`].
///
/// Dropping it commits what is queued; use [`Log::close`] to learn whether that worked.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// For the background thread: there is something to do in time.
    due: Condvar,
    writer: Mutex<Writer>,
    verifier: Verifier,
    lag: Duration,
    text: Option<Keys>,
}

/// The keys of the sessions that entries are written of; each until the end of its session is logged.
#[derive(Debug)]
struct Keys {
    subjects: Subjects,
    held: Mutex<HashMap<String, Arc<Held>>>,
}

impl Keys {
    fn close(&self, record: &[u8], rotation: bool) -> Result<Logged, AppendError> {
        let random = |e: getrandom::Error| AppendError::Key(SubjectError::Random(e.to_string()));
        let text = Text::new(record).map_err(random)?;
        let leaf = text.leaf().ok_or(AppendError::NotARecord)?;
        if !rotation && leaf.kind == rotation::KIND {
            return Err(AppendError::Rotation);
        }
        let known = lock(&self.held).get(&leaf.session).cloned();
        let held = match known {
            Some(held) => held,
            None => {
                let held = self.subjects.hold(&leaf.session);
                let held = Arc::new(held.map_err(AppendError::Key)?);
                lock(&self.held).insert(leaf.session.clone(), Arc::clone(&held));
                held
            }
        };
        let sealed = text
            .seal(&held.key, leaf.seq, &leaf.bytes)
            .map_err(random)?;
        if leaf.kind == SESSION_END {
            lock(&self.held).remove(&leaf.session);
        }
        let leaf = leaf.bytes;
        Ok(Logged { leaf, sealed })
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Entries and bytes of the items that nobody waits for.
    later: usize,
    later_bytes: usize,
    /// When the oldest of them came.
    since: Option<Instant>,
    /// When the oldest entry was committed that is not under a checkpoint.
    unpublished: Option<Instant>,
    /// Somebody is committing.
    busy: bool,
    /// A commit of entries that nobody waits for has failed.
    error: Option<AppendError>,
    closed: bool,
}

#[derive(Debug)]
struct Item {
    entries: Vec<Logged>,
    /// Where the waiting caller finds the result; `None` for [`Log::append_later`].
    result: Option<Arc<Slot>>,
}

/// Empty until the commit is over.
type Slot = Mutex<Option<Result<u64, AppendError>>>;

/// Why an entry is not (known to be) in the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Longer than a bundle can hold.
    #[error(
        "an entry has at most {MAX_ENTRY} bytes, found {found}: keep the payload outside and log its digest"
    )]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// The log keeps text apart, and this is no record to be taken apart.
    #[error("the entry is not a record in its canonical form")]
    NotARecord,
    /// Only [`Log::rotate_key`] writes such an entry: without its proof it is a forgery to whoever verifies.
    #[error(
        "an entry of type '{}' is written when the key is replaced",
        rotation::KIND
    )]
    Rotation,
    /// The key was not replaced, or that is not finished.
    #[error("the log's key: {0}")]
    NotRotated(Arc<OpenError>),
    /// There is no key for the entry's text.
    #[error("the text of the entry cannot be encrypted: {0}")]
    Key(SubjectError),
    /// The log cannot be extended; the entry is not in it.
    #[error("the entry was not logged: {0}")]
    NotLogged(Arc<OpenError>),
    /// The entry is in the log but may be lost if the power fails.
    #[error("entry {index} was logged but may not survive a power loss: {error}")]
    NotDurable {
        /// The entry's number.
        index: u64,
        /// What failed.
        error: FileError,
    },
    /// The entry is in the log; the head file could not be replaced.
    #[error("entry {index} was logged, but the newest checkpoint could not be remembered: {error}")]
    Head {
        /// The entry's number.
        index: u64,
        /// What failed.
        error: FileError,
    },
    /// All entries are in the log and durable; the head file may be older after a power loss.
    #[error("the newest checkpoint could not be remembered for good: {error}")]
    HeadNotDurable {
        /// What failed.
        error: FileError,
    },
    /// All entries are in the log and durable; tiles and checkpoint do not have them all yet. The next
    /// commit, or whoever opens the log next, tries again.
    #[error("the checkpoint could not be brought up to date: {0}")]
    NotPublished(Arc<OpenError>),
    /// The background thread cannot be started.
    #[error("the thread that commits queued entries cannot be started: {0}")]
    Thread(Arc<std::io::Error>),
    /// Entries handed to [`Log::append_later`] before this call could not be committed. They stay
    /// queued unless `error` says that they are logged; the entry of this call was not accepted.
    #[error("earlier entries could not be committed: {error}")]
    Earlier {
        /// What failed.
        error: Box<AppendError>,
    },
}

impl Log {
    /// Opens the log in `dir` (made if it does not exist) without a head file. The log's origin is
    /// the signer's name.
    pub fn open(dir: &Path, signer: Signer) -> Result<Self, OpenError> {
        Log::open_with(dir, signer, LogOptions::default())
    }

    /// Opens the log in `dir`. Checks the signed checkpoint and the right edge of the tree, and
    /// removes what a commit that was cut off has left. Reads O(log n) files.
    pub fn open_with(dir: &Path, signer: Signer, options: LogOptions) -> Result<Self, OpenError> {
        Log::open_on(dir, signer, options, Arc::new(RealDisk))
    }

    pub(crate) fn open_on(
        dir: &Path,
        signer: Signer,
        options: LogOptions,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let verifier = signer.verifier();
        let (text, values) = match options.text {
            None => (None, None),
            Some(folders) => {
                make_folder(&folders.values)
                    .map_err(|e| FileError::new("make", &folders.values, e))?;
                let keys = Keys {
                    subjects: Subjects::new(&folders.subjects),
                    held: Mutex::default(),
                };
                (Some(keys), Some(folders.values))
            }
        };
        let journaling = !options.lag.is_zero();
        let beside = Beside {
            head: options.head,
            values,
            key: options.key,
        };
        let writer = Writer::open(dir, signer, beside, journaling, disk, None)?;
        Ok(Log {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                changed: Condvar::new(),
                due: Condvar::new(),
                writer: Mutex::new(writer),
                verifier,
                lag: options.lag,
                text,
            }),
            thread: Mutex::new(None),
        })
    }

    /// The log's public key when it was opened.
    pub fn verifier(&self) -> &Verifier {
        &self.shared.verifier
    }

    /// The newest checkpoint that this process has seen; `None` after a failed commit, until the
    /// next one.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let writer = lock(&self.shared.writer);
        let (checkpoint, _) = Checkpoint::parse_note(writer.note()?.as_bytes()).ok()?;
        Some(checkpoint)
    }

    /// Appends an entry and returns its number (from 0) when it is durable.
    pub fn append(&self, entry: &[u8]) -> Result<u64, AppendError> {
        self.append_batch(&[entry])
    }

    /// Appends entries one after another, in one commit, and returns the number of the first when
    /// all are durable. Either all or none are in the log.
    pub fn append_batch(&self, entries: &[&[u8]]) -> Result<u64, AppendError> {
        self.append_hashed(entries).map(|(first, _)| first)
    }

    /// The same, with the leaf hash of the last one.
    pub(crate) fn append_hashed(&self, entries: &[&[u8]]) -> Result<(u64, Hash), AppendError> {
        let entries = entries.iter().map(|e| self.shared.close(e));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let leaf = leaf_hash(entries.last().map_or(&[], |e| &e.leaf));
        if !self.shared.lag.is_zero() {
            self.start_thread()?;
        }
        let result = Arc::new(Mutex::new(None));
        let mut queue = self.shared.lock_queue();
        take_error(&mut queue)?;
        queue.items.push_back(Item {
            entries,
            result: Some(Arc::clone(&result)),
        });
        loop {
            if let Some(result) = lock(&result).take() {
                return result.map(|first| (first, leaf));
            }
            queue = if queue.busy {
                self.shared.wait(queue)
            } else {
                self.shared.lead(queue)
            };
        }
    }

    /// Queues an entry; it is committed within [`MAX_DELAY`], or with the next commit of this
    /// process. Waits while the queue is full. Gives its leaf hash. An error means that this entry was not queued.
    pub fn append_later(&self, entry: &[u8]) -> Result<Hash, AppendError> {
        let entry = self.shared.close(entry)?;
        let leaf = leaf_hash(&entry.leaf);
        self.start_thread()?;
        let mut queue = self.shared.lock_queue();
        loop {
            take_error(&mut queue)?;
            if queue.later < FULL_ENTRIES && queue.later_bytes < FULL_BYTES {
                break;
            }
            queue = self.shared.wait(queue);
        }
        queue.later += 1;
        queue.later_bytes += entry.length();
        queue.items.push_back(Item {
            entries: vec![entry],
            result: None,
        });
        if queue.since.is_none() {
            queue.since = Some(Instant::now());
            self.shared.due.notify_one();
        } else if queue.later == MAX_QUEUED {
            self.shared.due.notify_one();
        }
        Ok(leaf)
    }

    /// Replaces the log's key by `next`, which must be the one that is [prepared](crate::key::prepare) beside the file of
    /// [`LogOptions::key`], if the log has one. `record` is the entry that says so
    /// ([`KeyRotation`](crate::entry::KeyRotation)), its number is given back. Everything that is queued is under the old
    /// key. When this returns, the new key is durable in its place, and the old one written over. After an error the
    /// key may have been replaced all the same; whoever opens the log next finishes that.
    pub fn rotate_key(&self, record: &[u8], next: &Signer) -> Result<u64, AppendError> {
        self.flush()?;
        let entry = self.shared.close_as(record, true)?;
        lock(&self.shared.writer)
            .rotate(next, &entry)
            .map_err(|e| AppendError::NotRotated(Arc::new(e)))
    }

    /// How many entries of [`Log::append_later`] are not committed.
    pub fn queued(&self) -> usize {
        self.shared.lock_queue().later
    }

    /// Commits everything that is queued, and makes the head file durable.
    pub fn flush(&self) -> Result<(), AppendError> {
        self.shared.flush()
    }

    /// Destroys the text of these entries, durably, wherever this log has it; the entries stay. Whoever does so
    /// has logged a [`Redaction`](crate::entry::Redaction) before, else the text is only lost.
    pub(crate) fn destroy_text(&self, entries: &[u64]) -> Result<(), AppendError> {
        self.flush()?;
        lock(&self.shared.writer)
            .destroy(entries)
            .map_err(|e| AppendError::NotPublished(Arc::new(e)))
    }

    /// What the log is written on.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        lock(&self.shared.writer).disk()
    }

    /// Like [`Log::flush`], then closes the log.
    pub fn close(self) -> Result<(), AppendError> {
        self.stop_thread();
        self.shared.flush()
    }

    fn start_thread(&self) -> Result<(), AppendError> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name("ledger".into())
                .spawn(move || shared.commit_in_time())
                .map_err(|e| AppendError::Thread(Arc::new(e)))?;
            *thread = Some(started);
        }
        Ok(())
    }

    fn stop_thread(&self) {
        self.shared.lock_queue().closed = true;
        self.shared.due.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // The thread does not panic; if it did, the queue is still there to be flushed.
            let _ = thread.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop_thread();
        // Nobody is left to hear of an error; `close` is for those who want to.
        let _ = self.shared.flush();
    }
}

impl Shared {
    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// An entry as it goes into the log.
    fn close(&self, entry: &[u8]) -> Result<Logged, AppendError> {
        self.close_as(entry, false)
    }

    /// `rotation`: the entry is to replace the key.
    fn close_as(&self, entry: &[u8], rotation: bool) -> Result<Logged, AppendError> {
        let logged = match &self.text {
            Some(keys) => keys.close(entry, rotation)?,
            None => Logged {
                leaf: entry.to_vec(),
                sealed: Vec::new(),
            },
        };
        match logged.leaf.len() {
            0..=MAX_ENTRY => Ok(logged),
            found => Err(AppendError::TooLong { found }),
        }
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits all that is queued, without the queue's lock, and hands out the results.
    fn lead<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let items: Vec<Item> = queue.items.drain(..).collect();
        (queue.later, queue.later_bytes) = (0, 0);
        let since = queue.since.take();
        queue.busy = true;
        drop(queue);
        let entries: Vec<&Logged> = items.iter().flat_map(|i| &i.entries).collect();
        let mut writer = lock(&self.writer);
        let result = writer.commit(&entries);
        let unpublished = writer.unpublished();
        drop(writer);
        let mut queue = self.lock_queue();
        queue.busy = false;
        // After a failure the journal may have what no checkpoint covers, too.
        let unpublished = unpublished || !self.lag.is_zero() && result.is_err();
        let before = queue.unpublished.filter(|_| unpublished);
        queue.unpublished = before.or_else(|| unpublished.then(Instant::now));
        self.hand_out(&mut queue, items, result, since);
        if queue.since.is_some() || before.is_none() && unpublished {
            self.due.notify_one();
        }
        self.changed.notify_all();
        queue
    }

    fn hand_out(
        &self,
        queue: &mut Queue,
        items: Vec<Item>,
        result: Result<u64, CommitError>,
        since: Option<Instant>,
    ) {
        let (mut at, wrong) = match result {
            Ok(first) => (first, None),
            Err(CommitError::Logged { first, step, error }) => (first, Some((step, error))),
            Err(CommitError::Open(error)) => {
                let error = AppendError::NotLogged(Arc::new(error));
                return self.take_back(queue, items, &error, since);
            }
        };
        for item in items {
            let index = at;
            let result = match wrong.clone() {
                None => Ok(index),
                Some((Step::Durable, error)) => Err(AppendError::NotDurable { index, error }),
                Some((Step::Head, error)) => Err(AppendError::Head { index, error }),
            };
            at += item.entries.len() as u64;
            match (item.result, result) {
                (Some(slot), result) => *lock(&slot) = Some(result),
                (None, Err(error)) => queue.error = Some(error),
                (None, Ok(_)) => {}
            }
        }
    }

    /// Nothing was committed: whoever waits is told; entries that nobody waits for go back to the
    /// front of the queue.
    fn take_back(
        &self,
        queue: &mut Queue,
        items: Vec<Item>,
        error: &AppendError,
        since: Option<Instant>,
    ) {
        for item in items.into_iter().rev() {
            match item.result {
                Some(slot) => *lock(&slot) = Some(Err(error.clone())),
                None => {
                    queue.error = Some(error.clone());
                    queue.later += item.entries.len();
                    queue.later_bytes += item.entries.iter().map(Logged::length).sum::<usize>();
                    queue.since = since.or(queue.since);
                    queue.items.push_front(item);
                }
            }
        }
    }

    fn flush(&self) -> Result<(), AppendError> {
        let mut queue = self.lock_queue();
        loop {
            if queue.busy {
                queue = self.wait(queue);
            } else if queue.items.is_empty() {
                break;
            } else {
                // An error from before this try is answered by the try itself.
                queue.error = None;
                queue = self.lead(queue);
                if queue.error.is_some() {
                    break;
                }
            }
        }
        take_error(&mut queue)?;
        queue.unpublished = None;
        drop(queue);
        let mut writer = lock(&self.writer);
        if !self.lag.is_zero() {
            writer
                .publish()
                .map_err(|e| AppendError::NotPublished(Arc::new(e)))?;
        }
        writer
            .flush_head()
            .map_err(|error| AppendError::HeadNotDurable { error })
    }

    /// The background thread: commits what nobody waits for, and publishes what the journal has, in time.
    fn commit_in_time(&self) {
        let mut queue = self.lock_queue();
        let mut failed: Option<Instant> = None;
        let mut rested = Instant::now();
        while !queue.closed {
            let due = match (queue.since, failed) {
                _ if queue.busy => None,
                (None, _) => None,
                (Some(_), Some(at)) => Some(at + MAX_DELAY),
                (Some(_), None) if queue.later >= MAX_QUEUED => Some(Instant::now()),
                (Some(since), None) => Some(since + MAX_DELAY),
            };
            let now = Instant::now();
            if due.is_some_and(|at| at <= now) {
                queue = self.lead(queue);
                failed = (!queue.items.is_empty() && queue.error.is_some()).then(Instant::now);
                drop(queue);
                let result = lock(&self.writer).flush_head();
                queue = self.lock_queue();
                if let Err(error) = result {
                    queue.error = Some(AppendError::HeadNotDurable { error });
                }
                continue;
            }
            let publish = queue.unpublished.map(|at| rested.max(at + self.lag));
            if publish.is_some_and(|at| at <= now) {
                queue.unpublished = None;
                drop(queue);
                let result = lock(&self.writer).publish();
                rested = Instant::now() + MAX_REST.min(now.elapsed() * PUBLISH_SHARE);
                queue = self.lock_queue();
                if result.is_err() {
                    // All entries are durable: nobody is refused for it, `flush` tells what stays wrong, and
                    // the journal takes no more than it has room for.
                    queue.unpublished = Some(now);
                }
                continue;
            }
            queue = match due.into_iter().chain(publish).min() {
                None => self.due.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    let woken = self.due.wait_timeout(queue, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// A thread that panicked while holding one of our locks has left nothing half done that matters:
/// the queue is a list, and the writer reads its state again after any failure.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_error(queue: &mut Queue) -> Result<(), AppendError> {
    match mem::take(&mut queue.error) {
        Some(error) => Err(AppendError::Earlier {
            error: Box::new(error),
        }),
        None => Ok(()),
    }
}
