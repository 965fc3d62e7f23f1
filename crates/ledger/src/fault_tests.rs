//! Stopping the world between any two writes: whatever was acknowledged is still there, the log
//! verifies before and after it is opened again, and it goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;

use crate::{
    AppendError, Log, LogOptions, OpenError, Reader, Signer, VerifyOptions,
    store::{CHECKPOINT, Disk, RealDisk},
    verify,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The process ends: what was written stays, a write may be torn.
    Killed,
    /// The power fails: what was not flushed is empty or torn, new folders whose parent was not
    /// flushed are gone, and a rename that was not flushed has not happened.
    PowerLost,
    /// The operation fails once, everything after it works.
    Once,
}

#[derive(Debug)]
struct Faulty {
    kind: Fault,
    /// Operations before the fault.
    left: AtomicUsize,
    dead: AtomicBool,
    hit: AtomicBool,
    unflushed: Mutex<BTreeSet<PathBuf>>,
    new_dirs: Mutex<BTreeSet<PathBuf>>,
    replaced: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
}

impl Faulty {
    fn new(kind: Fault, left: usize) -> Arc<Self> {
        Arc::new(Faulty {
            kind,
            left: AtomicUsize::new(left),
            dead: AtomicBool::new(false),
            hit: AtomicBool::new(false),
            unflushed: Mutex::default(),
            new_dirs: Mutex::default(),
            replaced: Mutex::default(),
        })
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
    fn lose_power(&self) {
        for (path, bytes) in self.replaced.lock().expect("lock").iter() {
            if bytes.is_empty() {
                let _ = fs::remove_file(path);
            } else {
                fs::write(path, bytes).expect("restored");
            }
        }
        for (i, path) in self.unflushed.lock().expect("lock").iter().enumerate() {
            if let Ok(bytes) = fs::read(path) {
                let keep = if i % 2 == 0 { 0 } else { bytes.len() / 2 };
                fs::write(path, &bytes[..keep]).expect("torn");
            }
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

    fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        self.step()?;
        self.unflushed.lock().expect("lock").remove(path);
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

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let old = fs::read(to).unwrap_or_default();
        let mut replaced = self.replaced.lock().expect("lock");
        replaced.entry(to.to_owned()).or_insert(old);
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
}

impl Scene {
    fn new(size: u64) -> Self {
        let scene = Scene {
            root: tempfile::tempdir().expect("a folder"),
        };
        if size > 0 {
            let log = scene.open(Arc::new(RealDisk)).expect("opened");
            batch(&log, 0, size).expect("appended");
        }
        scene
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("ledger")
    }

    fn open(&self, disk: Arc<dyn Disk>) -> Result<Log, OpenError> {
        let options = LogOptions {
            head: Some(self.root.path().join("head")),
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
                u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
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

/// Batches that stay in a bundle, fill it, and go over several.
fn story(log: &Log, size: u64, acknowledged: &mut u64) -> Result<(), AppendError> {
    let mut at = size;
    for step in [1, 2, 260] {
        let first = batch(log, at, at + step)?;
        assert_eq!(first, at);
        at += step;
        *acknowledged = at;
    }
    Ok(())
}

fn crash_everywhere(kind: Fault, size: u64) {
    for left in 0.. {
        let scene = Scene::new(size);
        let disk = Faulty::new(kind, left);
        let mut acknowledged = size;
        if let Ok(log) = scene.open(disk.clone()) {
            let _ = story(&log, size, &mut acknowledged);
        }
        let hit = disk.hit.load(Ordering::SeqCst);
        if kind == Fault::PowerLost {
            disk.lose_power();
        }
        let what = format!("{kind:?} at operation {left} from {size}");
        if scene.dir().join(CHECKPOINT).exists() {
            let (found, _) = scene.verify();
            assert!(found >= acknowledged, "{what}: {found} < {acknowledged}");
        } else {
            assert_eq!(acknowledged, 0, "{what}");
        }
        let log = scene.open(Arc::new(RealDisk)).expect(&what);
        let (now, unfinished) = scene.verify();
        assert_eq!(unfinished, 0, "{what}");
        batch(&log, now, now + 10).expect(&what);
        log.close().expect(&what);
        assert_eq!(scene.verify(), (now + 10, 0), "{what}");
        let all: Vec<u64> = (0..now + 10).collect();
        assert_eq!(scene.entries(), all, "{what}");
        if !hit {
            assert_eq!(acknowledged, size + 263);
            assert!(left > 20, "the story has {left} operations");
            return;
        }
    }
}

#[test]
fn killed_between_any_two_writes() {
    crash_everywhere(Fault::Killed, 254);
}

#[test]
fn power_lost_between_any_two_writes() {
    crash_everywhere(Fault::PowerLost, 0);
}

/// One operation fails, as on a full disk; the log stays usable and nothing is there twice.
#[test]
fn a_failed_write_is_reported_and_survived() {
    for left in 0..26 {
        let scene = Scene::new(254);
        let disk = Faulty::new(Fault::Once, left);
        let log = scene.open(disk.clone()).expect("opened");
        let mut at = 254;
        let mut failures = 0;
        for step in [1, 2, 300] {
            match batch(&log, at, at + step) {
                Ok(first) => assert_eq!(first, at),
                Err(AppendError::NotLogged(_)) => {
                    failures += 1;
                    assert_eq!(batch(&log, at, at + step).expect("the next try"), at);
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
        assert!(disk.hit.load(Ordering::SeqCst));
        log.close().expect("closed");
        scene.verify();
        assert_eq!(scene.entries(), (0..at).collect::<Vec<_>>());
    }
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
