//! A manifest against the tree it was taken of, bytes that are no manifest, and entries that could
//! have changed before they were recorded.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;

use super::format::{self, BlockHead, Object};
use super::*;
use crate::clock::base_timestamp;

struct Tree {
    tmp: tempfile::TempDir,
    layer: Layer,
}

fn tree(fill: impl FnOnce(&Path)) -> Tree {
    let tmp = tempfile::tempdir().unwrap();
    for name in ["root", "upper", "work"] {
        fs::create_dir(tmp.path().join(name)).unwrap();
    }
    let at = fs::canonicalize(tmp.path()).unwrap();
    fill(&at.join("root"));
    let base = base_timestamp(&at, None).unwrap();
    let layer = Layer::begin(at.join("root"), at.join("upper"), at.join("work"), base).unwrap();
    Tree { tmp, layer }
}

impl Tree {
    fn root(&self) -> &Path {
        &self.layer.root
    }

    fn taken(&self) -> Manifest {
        take(&self.layer, Limits::default()).unwrap().unwrap();
        Manifest::of(&self.layer).unwrap().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        self.taken();
        fs::read(self.layer.manifest_path()).unwrap()
    }
}

fn sample(root: &Path) {
    for dir in ["a/b/c", "a/e", "z"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for (name, size) in [
        ("a/b/c/deep", 5),
        ("a/one", 0),
        ("z/x", 300),
        ("top", 70_000),
    ] {
        fs::write(root.join(name), vec![b'x'; size]).unwrap();
    }
    fs::hard_link(root.join("top"), root.join("z/top")).unwrap();
    symlink("/etc", root.join("a/link")).unwrap();
    symlink("../a", root.join("z/dir")).unwrap();
    fs::set_permissions(root.join("z/x"), fs::Permissions::from_mode(0o6751)).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo, 0o640.into(), 0).unwrap();
}

/// All paths below a folder with what `lstat` says.
fn listed(root: &Path) -> BTreeMap<Vec<u8>, Snapshot> {
    let tree = crate::dir::Tree::open(root, true).unwrap();
    let mut out = BTreeMap::new();
    let mut stack = vec![Vec::new()];
    while let Some(rel) = stack.pop() {
        let found = tree.stat(&rel).unwrap().unwrap();
        if found.kind == EntryKind::Directory {
            use std::os::fd::AsFd as _;
            for name in crate::dir::list_all(tree.dir(&rel).unwrap().as_fd()).unwrap() {
                stack.push(crate::dir::join(&rel, &name));
            }
        }
        out.insert(rel, found);
    }
    out
}

fn recorded(manifest: &Manifest) -> BTreeMap<Vec<u8>, Recorded> {
    let mut out = BTreeMap::new();
    manifest.each(|rel, at| {
        let AtBase::There(was) = at else {
            panic!("{rel:?}: {at:?}");
        };
        assert!(out.insert(rel.to_vec(), was).is_none(), "{rel:?} twice");
    });
    out
}

#[test]
fn it_holds_what_lstat_says_of_every_object() {
    let t = tree(sample);
    let manifest = t.taken();
    let (found, expected) = (recorded(&manifest), listed(t.root()));
    assert_eq!(manifest.len() as usize, expected.len());
    assert_eq!(expected.len(), 14);
    assert!(manifest.is_whole());
    let seen: BTreeMap<_, _> = found
        .iter()
        .map(|(k, r)| (k.clone(), r.seen.clone()))
        .collect();
    assert_eq!(seen, expected);
    assert!(found.values().all(|r| r.known && r.in_place && !r.late));
    assert_eq!(found[b"top".as_slice()].seen.nlink, 2);
    assert_eq!(found[b"z/x".as_slice()].seen.mode, 0o6751);
    let absent = AtBase::Absent { exact: true };
    for rel in [
        "nothing",
        "a/b/nothing",
        "top/below",
        "a/link/passwd",
        "a//b",
        "/a",
        "z/dir/one",
    ] {
        assert_eq!(manifest.at(rel.as_bytes()), absent, "{rel}");
    }
}

#[test]
fn the_file_is_private_and_the_same_each_time() {
    let t = tree(sample);
    let first = t.bytes();
    assert_eq!(first, t.bytes());
    let meta = fs::metadata(t.layer.manifest_path()).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert!(!t.layer.manifest_temporary().exists());
    assert!(first.len() < 14 * 60, "compact: {} bytes", first.len());
}

#[test]
fn a_hundred_thousand_files() {
    let t = tree(|root| {
        for d in 0..200 {
            let dir = root.join(format!("d{d}/sub"));
            fs::create_dir_all(&dir).unwrap();
            for f in 0..500 {
                fs::File::create(dir.join(format!("file-{f}"))).unwrap();
            }
        }
    });
    let manifest = t.taken();
    assert_eq!(manifest.len(), 1 + 200 * 2 + 100_000);
    assert!(manifest.is_whole());
    let AtBase::There(last) = manifest.at(b"d199/sub/file-499") else {
        panic!("the last file is not there");
    };
    let meta = fs::metadata(t.root().join("d199/sub/file-499")).unwrap();
    assert_eq!(last.seen.id.ino, meta.ino());
    assert!(last.known);
}

#[test]
fn what_changed_before_it_was_recorded_is_not_known() {
    let t = tree(|root| {
        for dir in ["edited", "p/saved", "quiet", "p/gone", "from/moved/in"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for name in [
            "edited/f",
            "edited/g",
            "p/saved/f",
            "quiet/f",
            "p/gone/f",
            "from/moved/in/f",
        ] {
            fs::write(root.join(name), "x").unwrap();
        }
    });
    let root = t.root();
    fs::write(root.join("edited/f"), "y").unwrap();
    fs::write(root.join("p/saved/new"), "y").unwrap();
    fs::remove_file(root.join("p/gone/f")).unwrap();
    // The folder changes, too, and so does the one that holds it: it may be another one.
    fs::rename(root.join("from/moved"), root.join("moved")).unwrap();
    let manifest = t.taken();
    let at = |rel: &str| match manifest.at(rel.as_bytes()) {
        AtBase::There(r) => (r.known, r.in_place, r.late),
        other => panic!("{rel}: {other:?}"),
    };
    let (known, late) = ((true, true, false), (false, true, true));
    assert_eq!(at("edited/f"), late);
    assert_eq!(at("edited/g"), known);
    assert_eq!(at("edited"), known);
    assert_eq!(at("quiet/f"), known);
    assert_eq!(at("p/saved/f"), known);
    // A late folder in one that did not change is the one that was there.
    assert_eq!(at("p/saved"), late);
    // A late file in a late folder: even that it was there is not known.
    assert_eq!(at("p/saved/new"), (false, false, true));
    // The root is late because of the move, so a late folder in it may have been moved.
    assert_eq!(at("moved"), (false, false, true));
    // Its change time is from before the base; it lay elsewhere.
    assert_eq!(at("moved/in/f"), (false, false, false));
    assert_eq!(manifest.at(b"p/gone/f"), AtBase::Absent { exact: false });
    assert_eq!(manifest.at(b"quiet/g"), AtBase::Absent { exact: true });
}

#[test]
fn a_folder_that_cannot_be_read_is_unread() {
    if rustix::process::geteuid().is_root() {
        // Root reads everything; the same mark is tested by the forged file below.
        return;
    }
    let t = tree(|root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/f"), "x").unwrap();
        fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o0)).unwrap();
    });
    let manifest = t.taken();
    assert!(!manifest.is_whole());
    assert_eq!(manifest.at(b"d/f"), AtBase::Unread);
    fs::set_permissions(t.root().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_tree_that_is_too_large_says_so() {
    let t = tree(sample);
    let limits = |objects, time| Limits { objects, time };
    let long = std::time::Duration::from_secs(60);
    assert_eq!(take(&t.layer, limits(14, long)).unwrap(), Ok(14));
    for (limits, refusal) in [
        (limits(13, long), Refusal::TooMany),
        (limits(14, std::time::Duration::ZERO), Refusal::TooLong),
    ] {
        assert_eq!(take(&t.layer, limits).unwrap(), Err(refusal));
        assert_eq!(Manifest::of(&t.layer).unwrap().unwrap_err(), refusal);
    }
    fs::remove_file(t.layer.manifest_path()).unwrap();
    assert_eq!(Manifest::of(&t.layer).unwrap().unwrap_err(), Refusal::None);
}

#[test]
fn a_clock_that_went_back_meanwhile_leaves_none() {
    let mut t = tree(sample);
    t.layer.base.sec += 3600;
    assert_eq!(
        take(&t.layer, Limits::default()).unwrap(),
        Err(Refusal::Clock)
    );
    assert_eq!(Manifest::of(&t.layer).unwrap().unwrap_err(), Refusal::Clock);
}

#[test]
fn a_stamp_is_late_by_the_fineness_it_shows() {
    let base = Timestamp {
        sec: 1001,
        nsec: 123_456_789,
    };
    for (sec, nsec, expected) in [
        (1001, 123_456_789, true),
        (1001, 123_456_788, false),
        // 100 ns, a microsecond, a millisecond, ten milliseconds
        (1001, 123_456_700, true),
        (1001, 123_456_600, false),
        (1001, 123_456_000, true),
        (1001, 123_455_000, false),
        (1001, 123_000_000, true),
        (1001, 122_000_000, false),
        (1001, 120_000_000, true),
        (1001, 110_000_000, false),
        // whole seconds, of which some file systems store every other
        (1001, 0, true),
        (1000, 0, true),
        (999, 0, false),
        (1000, 999_999_999, false),
    ] {
        let mut seen = snapshot(EntryKind::File, 1);
        seen.ctime = Timestamp { sec, nsec };
        assert_eq!(super::walk::late(&seen, base), expected, "{sec} {nsec}");
    }
}

#[test]
fn nobody_waits_for_one_that_is_not_needed() {
    let t = tree(sample);
    drop(Taker::start(vec![t.layer.clone()], Limits::default()));
    assert!(!t.layer.manifest_path().exists() && !t.layer.manifest_temporary().exists());
    let taken = Taker::start(vec![t.layer.clone()], Limits::default()).finish();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].root, t.layer.root);
    assert!(matches!(taken[0].manifest, Ok(Ok(14))), "{taken:?}");
    Manifest::of(&t.layer).unwrap().unwrap();
    let wish = super::take::Wish::default();
    wish.hurry.store(true, Ordering::Relaxed);
    let walked = super::walk::walk(&t.layer, Limits::default(), &wish).unwrap();
    let refused = super::write::write(&t.layer, walked).unwrap();
    assert_eq!(refused, Err(Refusal::TooLong));
    wish.cancelled.store(true, Ordering::Relaxed);
    let walked = super::walk::walk(&t.layer, Limits::default(), &wish);
    assert!(matches!(walked, Err(TakeError::Cancelled)));
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let t = tree(sample);
    let bytes = t.bytes();
    for end in 0..bytes.len() {
        assert!(
            Manifest::parse(bytes[..end].to_vec()).is_err(),
            "cut at {end}"
        );
    }
    for at in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[at / 8] ^= 1 << (at % 8);
        assert!(Manifest::parse(other).is_err(), "bit {at}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let t = tree(sample);
    let bytes = t.bytes();
    let resummed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = bytes[..bytes.len() - SUM].to_vec();
        change(&mut body);
        Manifest::parse(summed(body)).map(|m| m.map(|_| ()))
    };
    assert_eq!(resummed(&|_| {}), Ok(Ok(())));
    assert_eq!(resummed(&|b| b[0] = b'x'), Err(ManifestError::NotOne));
    assert_eq!(
        resummed(&|b| b[16] = 2),
        Err(ManifestError::Version { found: 2 })
    );
    let damage = |found: Result<Result<(), Refusal>, ManifestError>| match found {
        Err(ManifestError::Damaged { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let more = damage(resummed(&|b| b.push(0)));
    assert_eq!(more, "there is more after the last directory");
    let count = damage(resummed(&|b| b[48] = 13));
    assert_eq!(count, "the number of objects is not what the head says");
    let reason = damage(resummed(&|b| b[18] = 9));
    assert_eq!(reason, "an unknown reason for taking none");
    let content = damage(resummed(&|b| b[18] = 1));
    assert_eq!(content, "there is content where none was taken");
    let time = damage(resummed(&|b| b[31] = 0xff));
    assert_eq!(time, "nanoseconds are not below 1,000,000,000");
    assert_eq!(
        Manifest::parse(bytes[..20].to_vec()).map(|_| ()),
        Err(ManifestError::Cut { found: 20 })
    );
}

#[test]
fn a_manifest_of_another_session_or_tree_is_foreign() {
    let t = tree(sample);
    t.taken();
    let mut other = t.layer.clone();
    other.base.nsec ^= 1;
    let error = Manifest::of(&other).unwrap_err().to_string();
    assert!(
        error.contains("is of the tree") && error.contains("move it away"),
        "{error}"
    );
    let mut other = t.layer.clone();
    other.root_id = Some(FileId { dev: 1, ino: 2 });
    assert!(Manifest::of(&other).is_err());
    assert!(Manifest::of(&t.layer).is_ok());
    assert!(t.tmp.path().join("upper.manifest").exists());
}

/// The bytes of a manifest with its checksum.
pub(crate) fn summed(mut body: Vec<u8>) -> Vec<u8> {
    use sha2::Digest as _;
    let sum = sha2::Sha256::digest(&body);
    body.extend_from_slice(&sum);
    body
}

fn snapshot(kind: EntryKind, ino: u64) -> Snapshot {
    let time = Timestamp { sec: -3, nsec: 7 };
    Snapshot {
        kind,
        id: FileId { dev: 9, ino },
        nlink: 1,
        size: u64::MAX,
        mode: 0o7777,
        uid: u32::MAX,
        gid: 0,
        mtime: time,
        ctime: Timestamp {
            sec: i64::MAX,
            nsec: 0,
        },
    }
}

/// One directory with these names, as a whole file.
fn forged(names: &[&[u8]], marks: u8, count: u64) -> Result<Manifest, ManifestError> {
    let base = Timestamp {
        sec: i64::MIN,
        nsec: 1,
    };
    let directory = Object {
        seen: snapshot(EntryKind::Directory, 1),
        late: false,
    };
    let head = Head {
        state: 0,
        base,
        root: directory.seen.id,
        objects: 1 + names.len() as u64,
    };
    let mut body = head.to_bytes().to_vec();
    let block = BlockHead {
        directory: directory.clone(),
        marks,
        count,
    };
    format::put_block_head(&mut body, &block);
    for name in names {
        let object = Object {
            seen: snapshot(EntryKind::File, u64::MAX),
            late: true,
        };
        format::put_entry(&mut body, name, &object, &directory.seen);
    }
    Manifest::parse(summed(body)).map(|m| m.unwrap())
}

#[test]
fn names_and_marks_are_checked_and_extremes_come_back() {
    let manifest = forged(&[b"a", b"b\xff"], 0, 2).unwrap();
    let AtBase::There(found) = manifest.at(b"b\xff") else {
        panic!("not there");
    };
    assert_eq!(found.seen, snapshot(EntryKind::File, u64::MAX));
    assert!(!found.known && found.in_place);
    assert_eq!(forged(&[], UNREAD, 0).unwrap().at(b"x"), AtBase::Unread);
    let doubtful = forged(&[b"a"], DOUBTFUL, 1).unwrap();
    assert!(matches!(doubtful.at(b"a"), AtBase::There(r) if !r.in_place && !r.known));
    for (names, marks, count, wrong) in [
        (&[b"b".as_slice(), b"a"][..], 0, 2, "names are not in order"),
        (&[b"a", b"a"], 0, 2, "names are not in order"),
        (&[b""], 0, 1, "a name that no file can have"),
        (&[b".."], 0, 1, "a name that no file can have"),
        (&[b"a/b"], 0, 1, "a name that no file can have"),
        (&[b"a\0"], 0, 1, "a name that no file can have"),
        (
            &[b"a"],
            UNREAD,
            1,
            "a directory that was not read has entries",
        ),
        (&[], 4, 0, "a directory has unknown marks"),
        (&[], 0, u64::MAX, "more bytes are announced than are there"),
        (&[b"a"], 0, 0, "there is more after the last directory"),
    ] {
        match forged(names, marks, count) {
            Err(ManifestError::Damaged { what, .. }) => assert_eq!(what, wrong),
            other => panic!("{names:?}: {other:?}"),
        }
    }
}

/// The seed of the fuzz target comes from a writer of its own (`fuzz/make-seeds`), made from the page.
#[test]
fn a_file_that_another_writer_made_is_read() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/cow_manifest");
    let manifest = Manifest::parse(summed(fs::read(seed.join("tree")).unwrap()));
    let manifest = manifest.unwrap().unwrap();
    assert_eq!((manifest.len(), manifest.is_whole()), (9, false));
    let at = |rel: &[u8]| match manifest.at(rel) {
        AtBase::There(found) => found,
        other => panic!("{rel:?}: {other:?}"),
    };
    assert_eq!(
        at(b"").seen.id,
        FileId {
            dev: 66_306,
            ino: 2
        }
    );
    assert_eq!(at(b"a").seen.kind, EntryKind::File);
    assert!(!at(b"b").known && at(b"c").known);
    assert_eq!(manifest.at(b"e/anything"), AtBase::Unread);
    assert!(!at(b"f").in_place && !at(b"f/in \xff").known);
    let other = at(b"with own owner").seen;
    assert_eq!((other.uid, other.size), (0, 1 << 40));
    assert_eq!(other.mtime.sec, 1_700_000_000);
    assert_eq!(other.ctime.nsec, 999_999_999);
    let none = Manifest::parse(summed(fs::read(seed.join("none")).unwrap()));
    assert_eq!(none.unwrap().unwrap_err(), Refusal::TooMany);
}
