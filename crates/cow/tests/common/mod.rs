//! A session by hand: an original tree, a real overlay over it in a user namespace, and what the
//! crate makes of it afterwards. A machine that cannot mount the overlay fails the test.
#![allow(dead_code, clippy::unwrap_used)]

pub mod byhand;
pub mod ops;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use agentwall_cow::{
    Archive, ArchiveLimits, Change, ChangeSet, CommitError, CommitOptions, CommitReport,
    Disposition, ExportError, ExportOptions, Exported, ImportOptions, Layer, Limits, NewCheckpoint,
    Piece, Place, ScanOptions, Sealed, Status, UndoError, UndoOptions, UndoReport, Unpacked, What,
    acknowledge_roll_back, base_timestamp, checkpoint, commit, export, inspect, roll_back, scan,
    scan_with, take, undo, unpack,
};
use tempfile::TempDir;

pub struct Session {
    pub tmp: TempDir,
    pub layer: Layer,
}

/// Runs a shell script in a folder and fails the test if it fails.
pub fn sh(dir: &Path, script: &str) {
    let status = Command::new("sh")
        .arg("-ec")
        .arg(script)
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(status.success(), "script failed: {script}");
}

/// Runs a script as root of a new user and mount namespace.
pub fn in_namespace(dir: &Path, script: &str) -> String {
    let out = Command::new("unshare")
        .args(["-Urm", "--map-root-user", "sh", "-ec", script])
        .current_dir(dir)
        .output()
        .expect("unshare is installed");
    assert!(
        out.status.success(),
        "this test needs user namespaces and overlayfs: {} {}",
        String::from_utf8_lossy(&out.stderr),
        String::from_utf8_lossy(&out.stdout)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// All of a layer, for an archive.
pub fn whole(layer: &Layer) -> Piece<'_> {
    Piece {
        layer,
        below: PathBuf::new(),
        place: Place::Workspace,
        path: PathBuf::new(),
    }
}

/// A piece as an archive, whose proof is its digest.
pub fn exported(piece: Piece<'_>) -> Result<(Vec<u8>, Exported), ExportError> {
    let mut out = Vec::new();
    let what = What {
        session: "20261121-0259-k3f9",
        name: "agent",
        pieces: &[piece],
        left_out: Vec::new(),
    };
    let seal = &mut |sealed: &Sealed<'_>| Ok(sealed.digest.as_bytes().to_vec());
    let done = export(&mut out, &what, &ExportOptions::default(), seal)?;
    Ok((out, done))
}

/// An archive that is believed.
pub fn read_archive(archive: &[u8]) -> Archive {
    inspect(&mut Cursor::new(archive), ArchiveLimits::default()).unwrap()
}

/// Another machine: a copy of the originals, arranged further, and the archive as a session.
pub fn imported(archive: &[u8], originals: &Path, arrange: &str) -> (Session, Unpacked) {
    let tmp = tempfile::tempdir().unwrap();
    for dir in ["upper", "work", "merged", "locks"] {
        std::fs::create_dir(tmp.path().join(dir)).unwrap();
    }
    let from = originals.to_str().unwrap();
    sh(tmp.path(), &format!("cp -a {from} root"));
    let root = std::fs::canonicalize(tmp.path().join("root")).unwrap();
    sh(&root, arrange);
    let base = base_timestamp(tmp.path(), None).unwrap();
    let at = |name| tmp.path().join(name);
    let layer = Layer::begin(root, at("upper"), at("work"), base).unwrap();
    let session = Session { tmp, layer };
    session.take_manifest();
    let found = unpack(
        &mut Cursor::new(archive),
        &read_archive(archive),
        &[Some(session.layer.clone())],
        ImportOptions::default(),
    )
    .unwrap();
    (session, found)
}

impl Session {
    /// An original tree made by `setup`, and a session that begins after it and has its manifest.
    pub fn new(setup: &str) -> Session {
        let session = Session::by_change_times(setup);
        session.take_manifest();
        session
    }

    /// The same without a manifest.
    pub fn by_change_times(setup: &str) -> Session {
        let tmp = tempfile::tempdir().unwrap();
        for dir in ["root", "upper", "work", "merged", "locks"] {
            std::fs::create_dir(tmp.path().join(dir)).unwrap();
        }
        let root = std::fs::canonicalize(tmp.path().join("root")).unwrap();
        sh(&root, setup);
        let base = base_timestamp(tmp.path(), None).unwrap();
        let layer = Layer::begin(
            root,
            tmp.path().join("upper"),
            tmp.path().join("work"),
            base,
        )
        .unwrap();
        Session { tmp, layer }
    }

    /// The same, after its original tree was arranged further.
    pub fn begun_now(mut self) -> Session {
        self.layer.base = base_timestamp(self.tmp.path(), None).unwrap();
        self.take_manifest();
        self
    }

    pub fn take_manifest(&self) {
        take(&self.layer, Limits::default()).unwrap().unwrap();
    }

    pub fn root(&self) -> &Path {
        &self.layer.root
    }

    pub fn upper(&self) -> &Path {
        &self.layer.upper
    }

    /// The agent works: `script` runs inside the mounted overlay.
    pub fn agent(&self, script: &str) -> String {
        let mount = "mount -t overlay overlay \
             -o lowerdir=root,upperdir=upper,workdir=work,userxattr merged";
        let script = format!("{mount}\ncd merged\n{script}\ncd ..\numount merged\n");
        in_namespace(self.tmp.path(), &script)
    }

    /// Someone else works on the original.
    pub fn user(&self, script: &str) {
        sh(self.root(), script);
    }

    pub fn scan(&self) -> ChangeSet {
        scan(std::slice::from_ref(&self.layer)).unwrap()
    }

    pub fn scan_trusting(&self) -> ChangeSet {
        let options = ScanOptions {
            trust_directories: true,
        };
        scan_with(std::slice::from_ref(&self.layer), options).unwrap()
    }

    pub fn commit(&self, set: &ChangeSet) -> CommitReport {
        self.commit_with(set, |_| Disposition::Commit)
    }

    pub fn commit_with(
        &self,
        set: &ChangeSet,
        mut decide: impl FnMut(&Change) -> Disposition,
    ) -> CommitReport {
        let options = CommitOptions::new(self.tmp.path().join("locks"));
        loop {
            match commit(
                std::slice::from_ref(&self.layer),
                set,
                &mut decide,
                &options,
            ) {
                // A child that another test is just starting holds a copy of an earlier lock.
                Err(CommitError::Locked { .. }) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    /// Scans and commits everything; every change must pass and nothing may be left over.
    pub fn commit_all(&self) -> CommitReport {
        let set = self.scan();
        let report = self.commit(&set);
        assert!(report.is_complete(), "{report:#?}");
        assert!(
            report.warnings.is_empty() && report.kept.is_empty(),
            "{report:#?}"
        );
        let again = self.scan();
        assert!(again.is_empty(), "left over: {again:#?}");
        self.no_litter();
        report
    }

    /// No temporary name in the original tree; in the trash nothing but what an undo needs.
    pub fn no_litter(&self) {
        for path in tree(self.root()).keys() {
            assert!(
                !path.to_string_lossy().contains(".agentwall-"),
                "litter: {path:?}"
            );
        }
        let needed = agentwall_cow::can_undo(std::slice::from_ref(&self.layer)).is_ok();
        assert!(needed || !self.tmp.path().join("upper.trash").exists());
    }

    /// Once the last commit needs no undo, nothing is left of it.
    pub fn no_trash(&self) {
        let kept = agentwall_cow::forget(std::slice::from_ref(&self.layer)).unwrap();
        assert_eq!(kept, Vec::<String>::new());
        assert!(!self.tmp.path().join("upper.trash").exists());
    }

    /// Takes back the last commit, all or nothing.
    pub fn undo(&self) -> UndoReport {
        let options = UndoOptions::new(CommitOptions::new(self.tmp.path().join("locks")));
        loop {
            match undo(std::slice::from_ref(&self.layer), &options) {
                Err(UndoError::Commit(CommitError::Locked { .. })) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    /// Makes a checkpoint.
    pub fn checkpoint(&self, name: &str) {
        let name = name.to_owned();
        let new = NewCheckpoint { name, at_ms: 1 };
        checkpoint(std::slice::from_ref(&self.layer), &new).unwrap();
    }

    /// Goes back to a checkpoint; what was there becomes the checkpoint `before`.
    pub fn roll_back(&self, name: &str, before: &str) {
        let (layers, name, at_ms) = (std::slice::from_ref(&self.layer), name, 2);
        let before = NewCheckpoint {
            name: before.to_owned(),
            at_ms,
        };
        roll_back(layers, name, &before).unwrap();
        acknowledge_roll_back(layers).unwrap();
    }

    /// What the session would change, with its conflicts.
    pub fn shows(&self) -> Vec<String> {
        summary(&self.scan(), self.root())
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.root().join(name)).unwrap()
    }

    pub fn exists(&self, name: &str) -> bool {
        std::fs::symlink_metadata(self.root().join(name)).is_ok()
    }
}

/// `kind path[!conflict]` per change, for comparing with what a test expects.
pub fn summary(set: &ChangeSet, root: &Path) -> Vec<String> {
    set.changes
        .iter()
        .map(|c| {
            let path = c.path.strip_prefix(root).unwrap().display();
            let conflict = c.conflict.as_ref().map(|c| {
                let json = serde_json::to_value(c).unwrap();
                format!(" !{}", json["reason"].as_str().unwrap())
            });
            format!("{:?} {path}{}", c.kind, conflict.unwrap_or_default())
        })
        .collect()
}

pub fn status<'a>(report: &'a CommitReport, name: &str) -> &'a Status {
    let found = report.outcomes.iter().find(|o| o.path.ends_with(name));
    &found
        .unwrap_or_else(|| panic!("no outcome for {name}: {report:#?}"))
        .status
}

/// Everything below a folder: type, mode, content or target.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let text = if kind.is_symlink() {
                format!("link {:?}", std::fs::read_link(&path).unwrap())
            } else if kind.is_dir() {
                stack.push(path.clone());
                format!("dir {:o}", meta.mode() & 0o7777)
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap_or_else(|e| e.to_string().into_bytes());
                let shown = if bytes.len() < 200 {
                    bytes.escape_ascii().to_string()
                } else {
                    let sum = bytes.iter().fold(7u64, |h, b| {
                        h.wrapping_mul(1_099_511_628_211) ^ u64::from(*b)
                    });
                    format!("{} bytes {sum:x}", bytes.len())
                };
                format!("file {:o} {shown}", meta.mode() & 0o7777)
            } else {
                format!("node {} {:o}", kind.is_fifo(), meta.mode() & 0o7777)
            };
            out.insert(path.strip_prefix(root).unwrap().to_path_buf(), text);
        }
    }
    out
}

/// Everything below a folder with all that an undo promises: type, mode, owner, time, attributes,
/// content, and which inode it is. `inodes` leaves the last out.
pub fn exact(root: &Path, inodes: bool) -> BTreeMap<PathBuf, String> {
    let mut out = tree(root);
    for (path, text) in &mut out {
        let at = root.join(path);
        let meta = std::fs::symlink_metadata(&at).unwrap();
        let time = (meta.mtime(), meta.mtime_nsec());
        text.push_str(&format!(" {}:{} {time:?}", meta.uid(), meta.gid()));
        if inodes {
            text.push_str(&format!(" inode {} of {}", meta.ino(), meta.nlink()));
        }
        if !meta.file_type().is_symlink() {
            let mut names = vec![0u8; 4096];
            let n = rustix::fs::listxattr(&at, &mut names[..]).unwrap_or(0);
            for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
                let mut value = vec![0u8; 4096];
                let n = rustix::fs::getxattr(&at, name, &mut value[..]).unwrap_or(0);
                let (name, value) = (name.escape_ascii(), value[..n].escape_ascii());
                text.push_str(&format!(" {name}={value}"));
            }
        }
    }
    out
}

/// Groups of names that are one inode, sorted.
pub fn link_groups(root: &Path) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for path in tree(root).keys() {
        let meta = std::fs::symlink_metadata(root.join(path)).unwrap();
        if meta.is_file() && meta.nlink() > 1 {
            let name = path.as_os_str().as_bytes().escape_ascii().to_string();
            groups.entry(meta.ino()).or_default().push(name);
        }
    }
    let mut out: Vec<_> = groups.into_values().filter(|g| g.len() > 1).collect();
    out.iter_mut().for_each(|g| g.sort());
    out.sort();
    out
}
