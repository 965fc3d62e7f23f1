//! What a session writes into the ledger, in its order, and what becomes of it when the ledger cannot be written.
//!
//! A policy says which (`ledger: { on_failure: … }`). *Closed*: the first record that is not accepted is an error, and
//! the session ends. *Open*: an outage begins. Records of what has happened are counted instead of kept, the ledger is
//! tried again once a second, and the first entry after the outage is a gap: from when to when, how many, why. What
//! the log had accepted before stays in its queue and is written before the gap. Numbers of the session's entries go
//! on meanwhile: the gap counts exactly those that are missing.
//!
//! [`Diary::seal`] is closed under any policy: an approval, a checkpoint or another policy that is nowhere recorded
//! does not hold.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_ledger::{AppendError, Entry, Hash, Log, Record, Sealed, entry::Gap};
use agentwall_policy::LedgerFailure;

use super::lock;
use crate::{
    clock::Clock,
    session::Unrecorded,
    state::{now_ms, rfc3339_of},
};

/// How often the ledger is tried during an outage.
const RETRY: Duration = Duration::from_secs(1);

/// The entries of one session.
#[derive(Debug)]
pub struct Diary {
    log: Arc<Log>,
    session: String,
    seq: AtomicU64,
    clock: Mutex<Clock>,
    outage: Mutex<Option<Outage>>,
    retry: Duration,
}

#[derive(Debug)]
struct Outage {
    /// The number of the gap's entry, which is tried until it is there.
    seq: u64,
    from: String,
    lost: u64,
    reason: String,
    tried: Instant,
}

impl Diary {
    /// From this number on.
    pub fn new(log: Arc<Log>, session: &str, first_seq: u64) -> Diary {
        Diary {
            log,
            session: session.to_owned(),
            seq: AtomicU64::new(first_seq),
            clock: Mutex::new(Clock::now()),
            outage: Mutex::default(),
            retry: RETRY,
        }
    }

    /// Appends a record that must be durable before anything goes on.
    ///
    /// # Errors
    /// It is not, whatever the policy says about failures.
    pub fn seal(&self, record: Record) -> Result<(), AppendError> {
        self.end_outage()?;
        let entries: Vec<_> = self.entries(record).iter().map(Entry::to_bytes).collect();
        let slices: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        self.log.append_batch(&slices).map(drop)
    }

    /// The same for what is to be shown as sealed; with the entry's number in the session.
    ///
    /// # Errors
    /// As of [`Diary::seal`].
    pub fn seal_as<T: Clone + Into<Record>>(
        &self,
        value: T,
    ) -> Result<(u64, Sealed<T>), AppendError> {
        self.end_outage()?;
        let jumped = self.jumped();
        let seq = self.next();
        let earlier = jumped.as_slice();
        let sealed = self.log.seal(earlier, &self.session, seq, value)?;
        Ok((seq, sealed))
    }

    /// Appends a record of something that has happened; durable within a bounded moment. Gives its number in the
    /// session and its leaf hash, `None` when it is lost.
    ///
    /// # Errors
    /// The ledger cannot take it, and the policy says that the session ends then.
    pub fn note(
        &self,
        record: Record,
        on_failure: impl Fn() -> LedgerFailure,
    ) -> (u64, Result<Option<Hash>, AppendError>) {
        // There is one at least.
        let entries = self.entries(record);
        let seq = entries.last().map_or(0, |e| e.seq);
        (seq, self.note_all(&entries, on_failure))
    }

    fn note_all(
        &self,
        entries: &[Entry],
        on_failure: impl Fn() -> LedgerFailure,
    ) -> Result<Option<Hash>, AppendError> {
        {
            let mut outage = lock(&self.outage);
            if let Some(open) = &mut *outage {
                let again = open.tried.elapsed() >= self.retry;
                if !again || self.end(open).is_err() {
                    open.lost += entries.len() as u64;
                    return Ok(None);
                }
                *outage = None;
            }
        }
        // Not under the lock: entries are closed side by side.
        let mut leaf = None;
        for (at, entry) in entries.iter().enumerate() {
            let error = match self.queue(&entry.to_bytes(), &on_failure) {
                Ok(hash) => {
                    leaf = Some(hash);
                    continue;
                }
                Err(error) => error,
            };
            if on_failure() == LedgerFailure::Closed {
                return Err(error);
            }
            self.lose((entries.len() - at) as u64, &error);
            return Ok(None);
        }
        Ok(leaf)
    }

    /// Counts entries that the ledger did not take, in the outage that begins with them or has begun meanwhile.
    fn lose(&self, lost: u64, error: &AppendError) {
        let mut outage = lock(&self.outage);
        if let Some(open) = &mut *outage {
            open.lost += lost;
            return;
        }
        eprintln!(
            "agentwall: the ledger cannot be written, and the policy lets the session go on without: {error}"
        );
        *outage = Some(Outage {
            seq: self.next(),
            from: rfc3339_of(now_ms()),
            lost,
            reason: format!("the ledger could not be written: {error}"),
            tried: Instant::now(),
        });
    }

    /// Brings what is durable to where readers of the ledger see it.
    pub fn publish(&self) -> Result<(), AppendError> {
        self.log.flush()
    }

    /// What is in no ledger now that the session has ended; `error` is why its end is not either.
    pub fn unrecorded(&self, error: &AppendError) -> Unrecorded {
        let queued = self.log.queued() as u64;
        match &*lock(&self.outage) {
            Some(open) => Unrecorded {
                from: open.from.clone(),
                lost: open.lost + queued + 1,
                reason: open.reason.clone(),
            },
            None => Unrecorded {
                from: rfc3339_of(now_ms()),
                lost: queued + 1,
                reason: format!("the ledger could not be written: {error}"),
            },
        }
    }

    /// A record as an entry, after one about the clock if that has jumped.
    fn entries(&self, record: Record) -> Vec<Entry> {
        let jumped = self.jumped();
        let own = Entry::now(&self.session, self.next(), record);
        jumped.into_iter().chain([own]).collect()
    }

    fn jumped(&self) -> Option<Entry> {
        let jumped = lock(&self.clock).look()?;
        Some(Entry::now(
            &self.session,
            self.next(),
            Record::Clock(jumped),
        ))
    }

    /// The number of the next entry.
    fn next(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    /// An outage is over before anything is sealed.
    fn end_outage(&self) -> Result<(), AppendError> {
        let mut outage = lock(&self.outage);
        if let Some(open) = &mut *outage {
            self.end(open)?;
            *outage = None;
        }
        Ok(())
    }

    fn queue(
        &self,
        entry: &[u8],
        on_failure: &impl Fn() -> LedgerFailure,
    ) -> Result<Hash, AppendError> {
        let first = self.log.append_later(entry);
        match first {
            // What failed was something else than accepting entries: those before are in the log, this one may be.
            Err(AppendError::Earlier { error })
                if !matches!(*error, AppendError::NotLogged(_))
                    && on_failure() == LedgerFailure::Open =>
            {
                self.log.append_later(entry)
            }
            other => other,
        }
    }

    /// Tries to write the gap.
    fn end(&self, outage: &mut Outage) -> Result<(), AppendError> {
        outage.tried = Instant::now();
        let gap = Record::Gap(Gap {
            lost: outage.lost,
            reason: outage.reason.clone(),
            from: Some(outage.from.clone()),
            to: Some(rfc3339_of(now_ms())),
        });
        let entry = Entry::now(&self.session, outage.seq, gap).to_bytes();
        match self.log.append(&entry) {
            // Of a try before this one.
            Err(AppendError::Earlier { .. }) => self.log.append(&entry),
            other => other,
        }?;
        eprintln!(
            "agentwall: the ledger can be written again; a gap of {} records is in it",
            outage.lost
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use agentwall_ledger::{Reader, Signer, VerifyOptions, key, verify};

    use super::*;

    const OPEN: fn() -> LedgerFailure = || LedgerFailure::Open;
    const CLOSED: fn() -> LedgerFailure = || LedgerFailure::Closed;

    struct Scene {
        root: tempfile::TempDir,
        diary: Diary,
    }

    impl Scene {
        fn new() -> Scene {
            let root = tempfile::tempdir().unwrap();
            let log = Log::open(&root.path().join("ledger"), signer(root.path())).unwrap();
            let mut diary = Diary::new(Arc::new(log), "s", 0);
            diary.retry = Duration::ZERO;
            Scene { root, diary }
        }

        /// From now on no checkpoint can be written.
        fn fail(&self) {
            fs::create_dir(self.root.path().join("ledger/checkpoint.tmp")).unwrap();
        }

        fn mend(&self) {
            fs::remove_dir(self.root.path().join("ledger/checkpoint.tmp")).unwrap();
        }

        /// Notes records until one is refused or lost; how many there were.
        fn note_until(&self, mode: fn() -> LedgerFailure) -> (u64, Option<AppendError>) {
            for n in 1..1000 {
                if let Err(e) = self.diary.note(mark(), mode).1 {
                    return (n, Some(e));
                }
                if lock(&self.diary.outage).is_some() {
                    return (n, None);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            panic!("the ledger was to fail");
        }

        fn entries(&self) -> Vec<Entry> {
            let dir = self.root.path().join("ledger");
            verify(
                &dir,
                &VerifyOptions::new(signer(self.root.path()).verifier()),
            )
            .unwrap();
            let reader = Reader::open(&dir).unwrap();
            let all = reader.entries(0..reader.size());
            all.map(|e| Entry::from_bytes(&e.unwrap().1).unwrap())
                .collect()
        }
    }

    fn signer(root: &Path) -> Signer {
        key::load_or_create(&root.join("key"), "log.example").unwrap()
    }

    fn mark() -> Record {
        Record::Gap(Gap::default())
    }

    fn gap(entry: &Entry) -> Option<&Gap> {
        match &entry.record {
            Record::Gap(gap) if gap.from.is_some() => Some(gap),
            _ => None,
        }
    }

    #[test]
    fn closed_hands_the_failure_to_the_session() {
        let scene = Scene::new();
        scene.diary.seal(mark()).unwrap();
        scene.fail();
        let (_, error) = scene.note_until(CLOSED);
        assert!(error.is_some());
        assert!(lock(&scene.diary.outage).is_none());
        scene.mend();
    }

    #[test]
    fn open_counts_what_is_lost_and_the_gap_comes_first() {
        let scene = Scene::new();
        scene.diary.seal(mark()).unwrap();
        scene.fail();
        let (noted, error) = scene.note_until(OPEN);
        assert!(error.is_none());
        for _ in 0..20 {
            scene.diary.note(mark(), OPEN).1.unwrap();
        }
        // What needs a record does not happen without one.
        assert!(scene.diary.seal(mark()).is_err());
        scene.mend();
        scene.diary.note(mark(), OPEN).1.unwrap();
        scene.diary.seal(mark()).unwrap();
        scene.diary.publish().unwrap();
        let entries = scene.entries();
        let at = entries.iter().position(|e| gap(e).is_some()).unwrap();
        let lost = gap(&entries[at]).unwrap().lost;
        // All that were accepted before the outage stand before the gap, and nothing else.
        assert_eq!(at as u64, 1 + noted - 1);
        assert_eq!(lost, 1 + 20);
        assert_eq!(entries.len(), at + 3);
        let numbers: BTreeSet<u64> = entries.iter().map(|e| e.seq).collect();
        let last = *numbers.last().unwrap();
        assert_eq!(last + 1 - numbers.len() as u64, lost, "{numbers:?}");
        assert!(entries.iter().filter(|e| gap(e).is_some()).count() == 1);
    }

    #[test]
    fn an_outage_that_does_not_end_is_told() {
        let scene = Scene::new();
        scene.fail();
        let (noted, _) = scene.note_until(OPEN);
        let error = scene.diary.seal(mark()).unwrap_err();
        let told = scene.diary.unrecorded(&error);
        // All of them, and the end itself.
        assert_eq!(told.lost, noted + 1);
        assert!(told.reason.contains("checkpoint.tmp"), "{}", told.reason);
        scene.mend();
    }
}
