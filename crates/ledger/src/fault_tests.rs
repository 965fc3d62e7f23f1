//! Stopping the world between any two writes: whatever was acknowledged is still there, the log
//! verifies before and after it is opened again, and it goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io, mem,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;

use crate::{
    AppendError, Entry, Log, LogOptions, OpenError, Reader, Record, Sealed, Signer, TextFolders,
    VerifyOptions,
    entry::{Gap, Intent},
    journal::{Journal, Logged, Tail},
    store::{CHECKPOINT, Disk, JOURNAL, RealDisk},
    verify,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process ends: what was written stays, a write may be torn.
    Killed,
    /// The power fails: what was not flushed is empty or torn, or as it was before it was written
    /// over, new folders whose parent was not flushed are gone, and a rename that was not flushed has
    /// not happened.
    PowerLost,
    /// The operation fails once, everything after it works.
    Once,
}

#[derive(Debug)]
pub(crate) struct Faulty {
    kind: Fault,
    /// Operations before the fault.
    left: AtomicUsize,
    dead: AtomicBool,
    hit: AtomicBool,
    unflushed: Mutex<BTreeSet<PathBuf>>,
    new_dirs: Mutex<BTreeSet<PathBuf>>,
    replaced: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    /// Where files were written over since they were flushed, and what had been there.
    overwritten: Mutex<Vec<(PathBuf, u64, Vec<u8>)>>,
}

impl Faulty {
    pub(crate) fn new(kind: Fault, left: usize) -> Arc<Self> {
        Arc::new(Faulty {
            kind,
            left: AtomicUsize::new(left),
            dead: AtomicBool::new(false),
            hit: AtomicBool::new(false),
            unflushed: Mutex::default(),
            new_dirs: Mutex::default(),
            replaced: Mutex::default(),
            overwritten: Mutex::default(),
        })
    }

    /// Whether the fault has come.
    pub(crate) fn was_hit(&self) -> bool {
        self.hit.load(Ordering::SeqCst)
    }

    /// `Ok` when the operation may happen.
    fn step(&self) -> io::Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("dead"));
        }
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left == 0 {
            self.hit.store(true, Ordering::SeqCst);
            self.left.store(usize::MAX / 2, Ordering::SeqCst);
            self.dead.store(self.kind != Fault::Once, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    /// What the disk looks like after the power failed.
    pub(crate) fn lose_power(&self) {
        for (path, bytes) in self.replaced.lock().expect("lock").iter() {
            if bytes.is_empty() {
                let _ = fs::remove_file(path);
            } else {
                RealDisk.write(path, bytes).expect("restored");
            }
        }
        for (i, path) in self.unflushed.lock().expect("lock").iter().enumerate() {
            if let Ok(bytes) = fs::read(path) {
                let keep = if i % 2 == 0 { 0 } else { bytes.len() / 2 };
                fs::write(path, &bytes[..keep]).expect("torn");
            }
        }
        for (i, (path, offset, old)) in self
            .overwritten
            .lock()
            .expect("lock")
            .iter()
            .enumerate()
            .rev()
        {
            let file = RealDisk.open(path, false).expect("there");
            // Nothing of it has reached the disk, or the first half.
            let keep = if i % 2 == 0 { 0 } else { old.len() / 2 };
            file.write_all_at(&old[keep..], offset + keep as u64)
                .expect("restored");
        }
        for dir in self.new_dirs.lock().expect("lock").iter().rev() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

impl Disk for Faulty {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        if let Err(e) = self.step() {
            if !self.dead.load(Ordering::SeqCst) || self.left.load(Ordering::SeqCst) > 0 {
                let _ = RealDisk.write(path, &bytes[..bytes.len() / 2]);
                self.unflushed.lock().expect("lock").insert(path.to_owned());
            }
            return Err(e);
        }
        let file = RealDisk.write(path, bytes)?;
        self.unflushed.lock().expect("lock").insert(path.to_owned());
        Ok(file)
    }

    fn open(&self, path: &Path, make: bool) -> io::Result<File> {
        if make {
            self.step()?;
        }
        RealDisk.open(path, make)
    }

    fn write_at(&self, path: &Path, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return self.step();
        }
        let step = self.step();
        let mut old = fs::read(path)?.split_off(offset as usize);
        // Beyond the end there are zeros: what a file system shows of space that was not flushed.
        old.resize(bytes.len(), 0);
        let mut overwritten = self.overwritten.lock().expect("lock");
        overwritten.push((path.to_owned(), offset, old));
        let end = if step.is_ok() {
            bytes.len()
        } else {
            bytes.len() / 2
        };
        RealDisk.write_at(path, file, offset, &bytes[..end])?;
        step
    }

    fn sync_data(&self, path: &Path, file: &File) -> io::Result<()> {
        self.sync(path, file)
    }

    fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        self.step()?;
        self.unflushed.lock().expect("lock").remove(path);
        self.overwritten
            .lock()
            .expect("lock")
            .retain(|(p, _, _)| p != path);
        let _ = file;
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let mut dirs = self.new_dirs.lock().expect("lock");
        dirs.retain(|d| d.parent() != Some(path));
        let mut replaced = self.replaced.lock().expect("lock");
        replaced.retain(|p, _| p.parent() != Some(path));
        Ok(())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.make_dir(path)?;
        self.new_dirs.lock().expect("lock").insert(path.to_owned());
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.link(from, to)?;
        let mut replaced = self.replaced.lock().expect("lock");
        replaced.entry(to.to_owned()).or_default();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let (old, new) = (fs::read(to).unwrap_or_default(), fs::read(from)?);
        let mut replaced = self.replaced.lock().expect("lock");
        replaced.entry(to.to_owned()).or_insert(old);
        replaced.entry(from.to_owned()).or_insert(new);
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.remove_dir(path)
    }
}

struct Scene {
    root: tempfile::TempDir,
    lag: Duration,
    /// Entries are records, and their text is apart.
    text: bool,
}

/// So long that nothing is published behind a test's back.
const LATER: Duration = Duration::from_secs(3600);

impl Scene {
    fn new(size: u64) -> Self {
        Scene::lagging(size, Duration::ZERO)
    }

    fn lagging(size: u64, lag: Duration) -> Self {
        Scene::of(size, lag, false)
    }

    fn of(size: u64, lag: Duration, text: bool) -> Self {
        let scene = Scene {
            root: tempfile::tempdir().expect("a folder"),
            lag,
            text,
        };
        if size > 0 {
            let log = scene.open(Arc::new(RealDisk)).expect("opened");
            scene.batch(&log, 0, size).expect("appended");
        }
        scene
    }

    fn batch(&self, log: &Log, from: u64, to: u64) -> Result<u64, AppendError> {
        match self.text {
            false => batch(log, from, to),
            true => {
                let entries: Vec<_> = (from..to).map(record).collect();
                let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
                log.append_batch(&entries)
            }
        }
    }

    /// The batches of a story. To encrypt takes its time in a test that is not optimised.
    fn steps(&self) -> [u64; 3] {
        [1, 2, if self.text { 20 } else { 260 }]
    }

    fn text(&self) -> Option<TextFolders> {
        self.text.then(|| TextFolders {
            values: self.root.path().join("values"),
            subjects: self.root.path().join("subjects"),
        })
    }

    /// The entries that are published have their own texts: the newest, those around a new bundle, some others.
    fn check_text(&self, what: &str) {
        let Some(folders) = self.text() else { return };
        let reader = Reader::open(&self.dir()).expect(what).with_text(folders);
        let size = reader.size();
        let looked_at = |i: &u64| i.is_multiple_of(37) || (253..258).contains(i) || i + 12 >= size;
        for index in (0..size).filter(looked_at) {
            let told = reader.told(index).expect(what);
            assert!(
                told.restored,
                "{what}: entry {index}: {:?}",
                told.withheld()
            );
            assert_eq!(told.bytes, record(index), "{what}");
        }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("ledger")
    }

    fn open(&self, disk: Arc<dyn Disk>) -> Result<Log, OpenError> {
        let options = LogOptions {
            head: Some(self.root.path().join("head")),
            lag: self.lag,
            text: self.text(),
            key: None,
        };
        Log::open_on(&self.dir(), signer(), options, disk)
    }

    /// Verifies, and gives the size and the number of files left over.
    fn verify(&self) -> (u64, usize) {
        let mut options = VerifyOptions::new(signer().verifier());
        options.head = Some(self.root.path().join("head"));
        options.records = false;
        let report = verify(&self.dir(), &options).expect("genuine");
        (report.size, report.unfinished.len())
    }

    fn entries(&self) -> Vec<u64> {
        let reader = Reader::open(&self.dir()).expect("readable");
        reader
            .entries(0..u64::MAX)
            .map(|e| {
                let bytes = e.expect("an entry").1;
                match self.text {
                    true => Entry::from_bytes(&bytes).expect("an entry").seq,
                    false => u64::from_be_bytes(bytes.try_into().expect("eight bytes")),
                }
            })
            .collect()
    }
}

fn signer() -> Signer {
    Signer::new("log.example", SigningKey::from_bytes(&[1; 32])).expect("a name")
}

fn batch(log: &Log, from: u64, to: u64) -> Result<u64, AppendError> {
    let entries: Vec<[u8; 8]> = (from..to).map(u64::to_be_bytes).collect();
    let entries: Vec<&[u8]> = entries.iter().map(<[u8; 8]>::as_slice).collect();
    log.append_batch(&entries)
}

/// With a text of another length for each.
fn record(n: u64) -> Vec<u8> {
    let reason = "text ".repeat(1 + n as usize % 7);
    let gap = Gap {
        lost: n,
        reason,
        ..Gap::default()
    };
    let entry = Entry {
        time: "2026-01-02T03:04:05.678Z".into(),
        session: "s".into(),
        seq: n,
        record: Record::Gap(gap),
    };
    entry.to_bytes()
}

/// Batches that stay in a bundle, fill it, and go over several; in between and at the end everything is
/// published.
fn story(scene: &Scene, log: &Log, size: u64, acknowledged: &mut u64) -> Result<(), AppendError> {
    let mut at = size;
    for step in scene.steps() {
        let first = scene.batch(log, at, at + step)?;
        assert_eq!(first, at);
        at += step;
        *acknowledged = at;
        if step == 2 {
            log.flush()?;
        }
    }
    log.flush()
}

fn crash_everywhere(kind: Fault, size: u64, lag: Duration) {
    crash(kind, size, lag, false);
}

fn crash(kind: Fault, size: u64, lag: Duration, text: bool) {
    for left in 0.. {
        let scene = Scene::of(size, lag, text);
        let disk = Faulty::new(kind, left);
        let mut acknowledged = size;
        let mut published = size;
        if let Ok(log) = scene.open(disk.clone()) {
            if story(&scene, &log, size, &mut acknowledged).is_ok() {
                published = acknowledged;
            }
            // No time to publish: the process is gone.
            mem::forget(log);
        }
        let hit = disk.was_hit();
        if kind == Fault::PowerLost {
            disk.lose_power();
        }
        let what = format!("{kind:?} at operation {left} from {size}, lag {lag:?}");
        if scene.dir().join(CHECKPOINT).exists() {
            // What is published verifies as it stands; with a lag it may have less than was promised.
            let (found, _) = scene.verify();
            let least = if lag.is_zero() {
                acknowledged
            } else {
                published
            };
            assert!(found >= least, "{what}: {found} < {least}");
            scene.check_text(&what);
        } else {
            assert_eq!(acknowledged, 0, "{what}");
        }
        let log = scene.open(Arc::new(RealDisk)).expect(&what);
        // Opening brings in what the journal has.
        let (now, unfinished) = scene.verify();
        assert!(now >= acknowledged, "{what}: {now} < {acknowledged}");
        assert_eq!(unfinished, 0, "{what}");
        scene.batch(&log, now, now + 10).expect(&what);
        log.close().expect(&what);
        assert_eq!(scene.verify(), (now + 10, 0), "{what}");
        scene.check_text(&what);
        let all: Vec<u64> = (0..now + 10).collect();
        assert_eq!(scene.entries(), all, "{what}");
        if !hit {
            assert_eq!(acknowledged, size + scene.steps().iter().sum::<u64>());
            assert!(left > 20, "the story has {left} operations");
            return;
        }
    }
}

#[test]
fn killed_between_any_two_writes() {
    crash_everywhere(Fault::Killed, 254, Duration::ZERO);
}

#[test]
fn power_lost_between_any_two_writes() {
    crash_everywhere(Fault::PowerLost, 0, Duration::ZERO);
}

#[test]
fn killed_between_any_two_writes_with_a_journal() {
    crash_everywhere(Fault::Killed, 254, LATER);
}

#[test]
fn power_lost_between_any_two_writes_with_a_journal() {
    crash_everywhere(Fault::PowerLost, 0, LATER);
    crash_everywhere(Fault::PowerLost, 254, LATER);
}

/// An entry that is there has its text, whenever it stops.
#[test]
fn no_entry_without_its_text() {
    for lag in [Duration::ZERO, LATER] {
        crash(Fault::Killed, 0, lag, true);
        crash(Fault::PowerLost, 254, lag, true);
    }
}

/// Seals an intent after two entries, and then does what it is about; gives whether that was done.
fn seal_and_do(log: &Log, done: &Path) -> bool {
    let session_start = Entry::now("s", 0, Record::Gap(Gap::default()));
    let policy = Entry::now("s", 1, Record::Gap(Gap::default()));
    let intent = Intent {
        action_id: "a".into(),
        ..Intent::default()
    };
    let execute = |sealed: &Sealed<Intent>| fs::write(done, sealed.index().to_string()).is_ok();
    log.seal(&[session_start, policy], "s", 2, intent)
        .is_ok_and(|sealed| execute(&sealed))
}

#[test]
fn what_was_executed_was_sealed_whenever_the_world_stops() {
    for (kind, lag) in [
        (Fault::Killed, Duration::ZERO),
        (Fault::PowerLost, Duration::ZERO),
        (Fault::Killed, LATER),
        (Fault::PowerLost, LATER),
        (Fault::Once, Duration::ZERO),
    ] {
        let mut executed = 0;
        for left in 0.. {
            let scene = Scene::lagging(3, lag);
            let disk = Faulty::new(kind, left);
            let done = scene.root.path().join("done");
            if let Ok(log) = scene.open(disk.clone()) {
                let did = seal_and_do(&log, &done);
                assert_eq!(did, done.exists());
                mem::forget(log);
            }
            let hit = disk.was_hit();
            if kind == Fault::PowerLost {
                disk.lose_power();
            }
            let log = scene.open(Arc::new(RealDisk)).expect("opens again");
            log.flush().expect("published");
            let reader = Reader::open(&scene.dir()).expect("readable");
            let found = (0..reader.size()).find(|index| {
                let bytes = reader.entry(*index).expect("an entry");
                matches!(
                    Entry::from_bytes(&bytes).map(|e| e.record),
                    Ok(Record::Intent(_))
                )
            });
            let what = format!("{kind:?} at operation {left}, lag {lag:?}");
            if let Ok(index) = fs::read_to_string(&done) {
                executed += 1;
                assert_eq!(found.map(|i| i.to_string()), Some(index), "{what}");
            }
            if !hit {
                assert!(executed > 0, "{what}: nothing was in the way");
                break;
            }
        }
    }
}

/// One operation fails, as on a full disk; the log stays usable and nothing is there twice.
#[test]
fn a_failed_write_is_reported_and_survived() {
    for left in 0..26 {
        fail_once(left, Duration::ZERO, false);
        fail_once(left, Duration::ZERO, true);
    }
    for left in 0..14 {
        fail_once(left, LATER, false);
        fail_once(left, LATER, true);
    }
}

fn fail_once(left: usize, lag: Duration, text: bool) {
    {
        let scene = Scene::of(254, lag, text);
        let disk = Faulty::new(Fault::Once, left);
        let log = scene.open(disk.clone()).expect("opened");
        let mut at = 254;
        let mut failures = 0;
        for step in [1, 2, 300] {
            match scene.batch(&log, at, at + step) {
                Ok(first) => assert_eq!(first, at),
                Err(AppendError::NotLogged(_)) => {
                    failures += 1;
                    assert_eq!(scene.batch(&log, at, at + step).expect("the next try"), at);
                }
                Err(AppendError::NotDurable { index, .. }) => {
                    failures += 1;
                    assert_eq!(index, at);
                }
                Err(other) => panic!("{other}"),
            }
            at += step;
        }
        // A failed removal of a replaced file is no failure of the append.
        assert!(failures <= 1);
        if let Err(error) = log.flush() {
            assert!(matches!(error, AppendError::NotPublished(_)), "{error}");
            assert_eq!(failures, 0);
        }
        assert!(disk.hit.load(Ordering::SeqCst), "{left} of {lag:?}");
        log.close().expect("closed");
        scene.verify();
        assert_eq!(scene.entries(), (0..at).collect::<Vec<_>>());
        scene.check_text("after a failure");
    }
}

/// Four records in the journal of a log of ten entries, and nobody who has published them.
fn journalled() -> (Scene, PathBuf) {
    let scene = Scene::lagging(0, LATER);
    let log = scene.open(Arc::new(RealDisk)).expect("opened");
    batch(&log, 0, 10).expect("appended");
    log.flush().expect("published");
    for at in 10..14 {
        batch(&log, at, at + 1).expect("appended");
    }
    mem::forget(log);
    assert_eq!(scene.verify(), (10, 0));
    let journal = scene.dir().join(JOURNAL);
    (scene, journal)
}

#[test]
fn a_journal_is_believed_by_its_tags_alone() {
    // Records of one entry of eight bytes: head, length and entry, length of no text, tag.
    const RECORD: usize = 12 + 2 + 8 + 4 + 32;
    let reopened = |scene: &Scene| {
        scene
            .open(Arc::new(RealDisk))
            .expect("opened")
            .close()
            .expect("closed");
        assert_eq!(scene.verify().1, 0);
        scene.entries()
    };
    let (scene, journal) = journalled();
    let genuine = fs::read(&journal).expect("a journal");
    assert_eq!(reopened(&scene), (0..14).collect::<Vec<_>>());
    // What a checkpoint covers is not brought in again.
    assert_eq!(reopened(&scene), (0..14).collect::<Vec<_>>());

    for (at, kept) in [
        (0, 10),
        (5, 10),
        (20, 10),
        (RECORD - 1, 10),
        (RECORD, 11),
        (3 * RECORD + 15, 13),
    ] {
        let (scene, journal) = journalled();
        let mut bytes = fs::read(&journal).expect("a journal");
        assert_eq!(bytes, genuine, "the same keys and entries");
        bytes[at] ^= 1;
        fs::write(&journal, &bytes).expect("written");
        assert_eq!(reopened(&scene), (0..kept).collect::<Vec<_>>(), "byte {at}");
    }
    // Left out, put in twice, in another order, cut, of no length at all, no file.
    let part = |n: usize| &genuine[n * RECORD..(n + 1) * RECORD];
    for (bytes, kept) in [
        ([part(1), part(2)].concat(), 10),
        ([part(0), part(0), part(1)].concat(), 11),
        ([part(0), part(2), part(1)].concat(), 11),
        ([part(0), &part(1)[..RECORD / 2]].concat(), 11),
        (vec![0xff; 4096], 10),
        (Vec::new(), 10),
    ] {
        let (scene, journal) = journalled();
        fs::write(&journal, &bytes).expect("written");
        assert_eq!(reopened(&scene), (0..kept).collect::<Vec<_>>());
    }
    // By another key, from the same checkpoint.
    let (scene, journal) = journalled();
    let stranger = Signer::new("log.example", SigningKey::from_bytes(&[2; 32])).expect("a name");
    let note = fs::read_to_string(scene.dir().join(CHECKPOINT)).expect("a checkpoint");
    fs::remove_file(&journal).expect("removed");
    let forged = Logged {
        leaf: b"forged".to_vec(),
        sealed: Vec::new(),
    };
    Journal::new(&scene.dir(), &stranger)
        .append(&RealDisk, Tail::after(&note), 10, &[&forged])
        .expect("written");
    assert_eq!(reopened(&scene), (0..10).collect::<Vec<_>>());
    // A link is not followed, and the log is not extended beside it.
    let (scene, journal) = journalled();
    fs::rename(&journal, scene.root.path().join("aside")).expect("moved");
    std::os::unix::fs::symlink(scene.root.path().join("aside"), &journal).expect("a link");
    assert!(matches!(
        scene.open(Arc::new(RealDisk)),
        Err(OpenError::File(_))
    ));
}

/// More than the journal has room for, and entries that one record could not hold.
#[test]
fn a_full_journal_is_published() {
    let scene = Scene::lagging(0, LATER);
    let log = scene.open(Arc::new(RealDisk)).expect("opened");
    let long = vec![7; 60_000];
    for at in 0..300 {
        assert_eq!(log.append(&long).expect("appended"), at);
    }
    assert!(scene.verify().0 >= 139, "the journal has 8 MiB");
    let many = vec![long.as_slice(); 200];
    assert_eq!(log.append_batch(&many).expect("appended"), 300);
    assert_eq!(scene.verify(), (500, 0));
    assert_eq!(log.append(&long).expect("appended"), 500);
    drop(log);
    assert_eq!(scene.verify(), (501, 0));
    assert!(
        fs::metadata(scene.dir().join(JOURNAL))
            .expect("there")
            .len()
            <= 8 << 20
    );
}

#[test]
fn queued_entries_are_committed_in_time() {
    let scene = Scene::new(0);
    let log = scene.open(Arc::new(RealDisk)).expect("opened");
    for i in 0..3u64 {
        log.append_later(&i.to_be_bytes()).expect("queued");
    }
    let start = Instant::now();
    while scene.entries().len() < 3 {
        assert!(start.elapsed() < Duration::from_secs(10), "never committed");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Order is kept between the two ways.
    log.append_later(&3u64.to_be_bytes()).expect("queued");
    assert_eq!(log.append(&4u64.to_be_bytes()).expect("appended"), 4);
    log.append_later(&5u64.to_be_bytes()).expect("queued");
    log.flush().expect("flushed");
    assert_eq!(scene.entries().len(), 6);
    for i in 6..9_000u64 {
        log.append_later(&i.to_be_bytes()).expect("queued");
    }
    drop(log);
    assert_eq!(scene.entries(), (0..9_000).collect::<Vec<_>>());
    assert_eq!(scene.verify(), (9_000, 0));
}

#[test]
fn queued_entries_survive_a_failure_and_the_error_is_told() {
    let scene = Scene::new(0);
    drop(scene.open(Arc::new(RealDisk)).expect("opened"));
    let disk = Faulty::new(Fault::Once, 0);
    let log = scene.open(disk.clone()).expect("opened");
    log.append_later(&0u64.to_be_bytes()).expect("queued");
    let start = Instant::now();
    while scene.entries().is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "never tried again"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(disk.hit.load(Ordering::SeqCst));
    assert!(matches!(
        log.append_later(&9u64.to_be_bytes()),
        Err(AppendError::Earlier { .. })
    ));
    log.append_later(&1u64.to_be_bytes()).expect("queued");
    log.close().expect("closed");
    assert_eq!(scene.entries(), [0, 1]);

    // On a disk that stays broken every call says so, and the entry is not lost before the end.
    let disk = Faulty::new(Fault::Killed, 0);
    let log = scene.open(disk).expect("opened");
    log.append_later(&2u64.to_be_bytes()).expect("queued");
    assert!(matches!(log.flush(), Err(AppendError::Earlier { .. })));
    assert!(matches!(log.flush(), Err(AppendError::Earlier { .. })));
    assert!(matches!(
        log.append(&3u64.to_be_bytes()),
        Err(AppendError::NotLogged(_) | AppendError::Earlier { .. })
    ));
    assert!(log.close().is_err());
    assert_eq!(scene.entries(), [0, 1]);
}

#[test]
fn long_entries() {
    let scene = Scene::new(0);
    let log = scene.open(Arc::new(RealDisk)).expect("opened");
    let longest = vec![7; 65_535];
    assert_eq!(log.append(&longest).expect("appended"), 0);
    assert!(matches!(
        log.append(&[0; 65_536]),
        Err(AppendError::TooLong { found: 65_536 })
    ));
    assert!(log.append_later(&[0; 65_536]).is_err());
    assert_eq!(log.append(b"").expect("appended"), 1);
    let reader = Reader::open(&scene.dir()).expect("readable");
    assert_eq!(reader.entry(0).expect("an entry"), longest);
    assert_eq!(reader.entry(1).expect("an entry"), b"");
}
