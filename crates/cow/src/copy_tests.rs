//! Copies of random upper directories are the same trees: types, modes, owners, times, attributes,
//! devices, contents, holes, and which names are one object. The source is the same afterwards, too.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags, lgetxattr,
    llistxattr, lsetxattr, makedev, mknodat, seek, utimensat,
};

use super::*;

#[derive(Debug, Clone)]
enum Kind {
    File {
        pieces: Vec<(u32, u8)>,
        size: u32,
    },
    Directory {
        opaque: bool,
    },
    Symlink(String),
    Whiteout,
    Fifo,
    Socket,
    /// Another name of the nth object that is no directory.
    Link(usize),
}

#[derive(Debug, Clone)]
struct Thing {
    within: usize,
    kind: Kind,
    mode: u32,
    time: (i64, i64),
    owner: u32,
    attribute: Option<Vec<u8>>,
}

fn kind() -> impl Strategy<Value = Kind> {
    let pieces = prop::collection::vec((0u32..200_000, any::<u8>()), 0..4);
    prop_oneof![
        4 => (pieces, 0u32..250_000).prop_map(|(pieces, size)| Kind::File { pieces, size }),
        4 => any::<bool>().prop_map(|opaque| Kind::Directory { opaque }),
        1 => "[a-z/.]{1,40}".prop_map(Kind::Symlink),
        2 => Just(Kind::Whiteout),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        3 => (0usize..20).prop_map(Kind::Link),
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    let mode = prop_oneof![
        Just(0o755),
        Just(0o644),
        Just(0),
        Just(0o4751),
        Just(0o300),
        0u32..0o10000
    ];
    let time = (-1_000_000_000i64..4_000_000_000, 0i64..1_000_000_000);
    let attribute = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    (0usize..40, kind(), mode, time, 1000u32..1003, attribute).prop_map(
        |(within, kind, mode, time, owner, attribute)| Thing {
            within,
            kind,
            mode,
            time,
            owner,
            attribute,
        },
    )
}

/// Makes the tree; permissions and times at last, leaves first.
fn make(root: &Path, things: &[Thing]) {
    fs::create_dir(root).unwrap();
    let root_user = rustix::process::geteuid().is_root();
    let mut dirs = vec![root.to_path_buf()];
    let mut objects: Vec<PathBuf> = Vec::new();
    let mut made: Vec<(PathBuf, &Thing)> = Vec::new();
    for (n, thing) in things.iter().enumerate() {
        let path = dirs[thing.within % dirs.len()].join(format!("n{n}\u{1b}"));
        match &thing.kind {
            Kind::File { pieces, size } => {
                let file = fs::File::create(&path).unwrap();
                for (at, byte) in pieces {
                    file.write_all_at(&[*byte; 700], u64::from(*at)).unwrap();
                }
                file.set_len(u64::from(*size)).unwrap();
            }
            Kind::Directory { opaque } => {
                fs::create_dir(&path).unwrap();
                if *opaque {
                    lsetxattr(&path, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
                }
                dirs.push(path.clone());
            }
            Kind::Symlink(to) => symlink(to, &path).unwrap(),
            Kind::Whiteout | Kind::Fifo | Kind::Socket => {
                let kind = match &thing.kind {
                    Kind::Whiteout => FileType::CharacterDevice,
                    Kind::Fifo => FileType::Fifo,
                    _ => FileType::Socket,
                };
                mknodat(CWD, &path, kind, Mode::empty(), makedev(0, 0)).unwrap();
            }
            Kind::Link(to) => {
                if let Some(to) = objects.get(*to) {
                    rustix::fs::linkat(CWD, to, CWD, &path, AtFlags::empty()).unwrap();
                }
                continue;
            }
        }
        if !matches!(thing.kind, Kind::Directory { .. }) {
            objects.push(path.clone());
        }
        made.push((path, thing));
    }
    for (path, thing) in made.iter().rev() {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if let Some(value) = &thing.attribute
            && (kind.is_file() || kind.is_dir())
        {
            lsetxattr(path, "user.overlay.origin", b"", XattrFlags::empty()).unwrap();
            lsetxattr(path, "user.mine", value, XattrFlags::empty()).unwrap();
        }
        if root_user {
            std::os::unix::fs::lchown(path, Some(thing.owner), Some(thing.owner)).unwrap();
        }
        if !kind.is_symlink() {
            fs::set_permissions(path, fs::Permissions::from_mode(thing.mode)).unwrap();
        }
        let time = |sec: i64| Timespec {
            tv_sec: sec,
            tv_nsec: thing.time.1,
        };
        let times = Timestamps {
            last_access: time(thing.time.0 / 2),
            last_modification: time(thing.time.0),
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Everything about a tree that a copy has to have. Only its owner or root can look so closely.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let rel = path.strip_prefix(root).unwrap().to_path_buf();
        let kind = meta.file_type();
        let (dir, file) = (kind.is_dir(), kind.is_file());
        let shut = (dir && meta.mode() & 0o500 != 0o500) || (file && meta.mode() & 0o400 == 0);
        if shut {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let mut text = format!(
            "{:o} {} {} rdev {} size {} mtime {}.{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            if dir { 0 } else { meta.size() },
            meta.mtime(),
            meta.mtime_nsec(),
        );
        if !dir {
            let first = names.entry(meta.ino()).or_insert_with(|| rel.clone());
            text += &format!(" links {} of {}", meta.nlink(), first.display());
        }
        if kind.is_symlink() {
            text += &format!(" to {:?}", fs::read_link(&path).unwrap());
        }
        if dir || file {
            let mut list = vec![0u8; 4096];
            let n = llistxattr(&path, &mut list[..]).unwrap();
            let mut keys: Vec<&[u8]> = list[..n]
                .split(|b| *b == 0)
                .filter(|k| !k.is_empty())
                .collect();
            keys.sort_unstable();
            for key in keys {
                let mut value = vec![0u8; 4096];
                let n = lgetxattr(&path, key, &mut value[..]).unwrap();
                text += &format!(" {}={:?}", String::from_utf8_lossy(key), &value[..n]);
            }
        }
        if file {
            let file = fs::File::open(&path).unwrap();
            let digest = crate::content::digest(file.as_fd(), meta.size()).unwrap();
            let mut data = Vec::new();
            let mut from = 0;
            while let Ok(start) = seek(&file, SeekFrom::Data(from)) {
                from = seek(&file, SeekFrom::Hole(start)).unwrap();
                data.push((start, from));
            }
            text += &format!(" {} {data:?}", digest.blocks);
        }
        if dir {
            let inside = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path());
            let mut inside: Vec<PathBuf> = inside.collect();
            inside.sort();
            // Names come back from the end, in their order.
            stack.extend(inside.into_iter().rev());
        }
        out.insert(rel, text);
        if shut && !dir {
            fs::set_permissions(&path, meta.permissions()).unwrap();
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_copy_is_the_same_tree(things in prop::collection::vec(thing(), 0..40)) {
        let tmp = tempfile::tempdir().unwrap();
        let (from, twin, to) = (tmp.path().join("from"), tmp.path().join("twin"), tmp.path().join("to"));
        make(&from, &things);
        make(&twin, &things);
        let copied = copy_tree(&from, &to).unwrap();
        // Looking opens what is shut, so the twin says what the source was.
        let expected = describe(&twin);
        let mut root = expected.clone();
        let mut found = describe(&to);
        root.remove(Path::new(""));
        found.remove(Path::new(""));
        prop_assert_eq!(&found, &root);
        let mut source = describe(&from);
        source.remove(Path::new(""));
        prop_assert_eq!(&source, &root);
        let several: u64 = things.iter().filter(|t| matches!(t.kind, Kind::Link(_))).count() as u64;
        prop_assert!(copied.objects <= expected.len() as u64);
        prop_assert!(copied.objects + several >= expected.len() as u64);
    }
}

#[test]
fn a_link_that_leads_out_is_copied_and_not_followed() {
    let tmp = tempfile::tempdir().unwrap();
    let outside = tmp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let (from, to) = (tmp.path().join("from"), tmp.path().join("to"));
    fs::create_dir(&from).unwrap();
    symlink(&outside, from.join("dir")).unwrap();
    symlink("/etc/passwd", from.join("file")).unwrap();
    let copied = copy_tree(&from, &to).unwrap();
    assert_eq!(copied.objects, 3);
    assert_eq!(fs::read_link(to.join("dir")).unwrap(), outside);
    assert!(fs::symlink_metadata(to.join("file")).unwrap().is_symlink());
    // A source that is itself a link is none.
    symlink(&from, tmp.path().join("link")).unwrap();
    let error = copy_tree(&tmp.path().join("link"), &tmp.path().join("to2")).unwrap_err();
    assert!(matches!(error, CopyError::Read { .. }), "{error}");
    // Nothing is ever written into something that is there.
    let error = copy_tree(&from, &to).unwrap_err();
    assert!(matches!(error, CopyError::Write { .. }), "{error}");
}

#[test]
fn a_deep_tree_and_a_huge_hole_are_copied() {
    let tmp = tempfile::tempdir().unwrap();
    let (from, to) = (tmp.path().join("from"), tmp.path().join("to"));
    fs::create_dir(&from).unwrap();
    let file = fs::File::create(from.join("huge")).unwrap();
    file.set_len(1 << 42).unwrap();
    file.write_all_at(b"far", 1 << 41).unwrap();
    // Longer than PATH_MAX.
    let mut dir = fs::File::open(&from).unwrap();
    for _ in 0..60 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&dir, &*name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &*name, OFlags::DIRECTORY, Mode::empty())
            .unwrap()
            .into();
    }
    let copied = copy_tree(&from, &to).unwrap();
    assert_eq!(copied.objects, 62);
    let meta = fs::metadata(to.join("huge")).unwrap();
    assert_eq!(meta.len(), 1 << 42);
    assert!(meta.blocks() < 100, "{} blocks", meta.blocks());
}
