//! What takes the place of a folder's names.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, XattrFlags, lsetxattr};

use super::*;

struct Filled {
    _tmp: tempfile::TempDir,
    folder: PathBuf,
    memory: PathBuf,
}

impl Filled {
    fn new() -> Filled {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        let (folder, memory) = (at("folder"), at("memory"));
        for dir in [&folder, &memory] {
            fs::create_dir(dir).unwrap();
        }
        Filled {
            _tmp: tmp,
            folder,
            memory,
        }
    }

    fn fill(&self, placed: &[&str]) -> io::Result<BTreeMap<String, Cover>> {
        let open = |path: &Path| fs::File::open(path).unwrap();
        let placed = |name: &OsStr| placed.iter().any(|p| *p == name);
        let covers = fill(
            open(&self.memory).as_fd(),
            open(&self.folder).as_fd(),
            &mut { MAX_BYTES },
            placed,
        )?;
        let text = |name: CString| name.into_string().unwrap();
        Ok(covers.into_iter().map(|(n, c)| (text(n), c)).collect())
    }

    fn sparse(&self, name: &str, size: u64) {
        let file = fs::File::create(self.folder.join(name)).unwrap();
        file.set_len(size).unwrap();
    }
}

#[test]
fn a_name_is_a_faithful_copy_or_is_covered() {
    let f = Filled::new();
    let at = |name: &str| f.folder.join(name);
    fs::write(at("plain"), "text").unwrap();
    fs::set_permissions(at("plain"), fs::Permissions::from_mode(0o4751)).unwrap();
    let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let plain = fs::File::options().write(true).open(at("plain")).unwrap();
    plain.set_modified(then).unwrap();
    symlink("no/where", at("link")).unwrap();
    let pipe = Mode::from_raw_mode(0o600);
    mknodat(CWD, at("pipe"), FileType::Fifo, pipe, 0).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/inside"), "inside").unwrap();
    fs::write(at("own"), "SECRET").unwrap();
    fs::write(at("marked"), "text").unwrap();
    lsetxattr(at("marked"), "user.mark", b"x", XattrFlags::empty()).unwrap();
    f.sparse("large", MAX_FILE + 1);
    let _listener = UnixListener::bind(at("socket")).unwrap();

    let covers = f.fill(&["own"]).unwrap();
    let expected = [
        ("folder", Cover::EmptyFolder),
        ("large", Cover::Original),
        ("marked", Cover::Original),
        ("own", Cover::EmptyFile),
        ("socket", Cover::Original),
    ];
    assert_eq!(covers, expected.map(|(n, c)| (n.to_owned(), c)).into());

    let stat = |dir: &Path, name: &str| {
        let meta = fs::symlink_metadata(dir.join(name)).unwrap();
        (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.len(),
        )
    };
    for copied in ["plain", "link", "pipe"] {
        assert_eq!(stat(&f.memory, copied), stat(&f.folder, copied), "{copied}");
    }
    assert_eq!(fs::read(f.memory.join("plain")).unwrap(), b"text");
    assert_eq!(
        fs::read_link(f.memory.join("link")).unwrap(),
        Path::new("no/where")
    );
    // Of what is covered nothing is in the memory but the name.
    for name in ["large", "marked", "own", "socket"] {
        let meta = fs::symlink_metadata(f.memory.join(name)).unwrap();
        assert!(meta.is_file() && meta.len() == 0, "{name}");
    }
    assert!(
        fs::read_dir(f.memory.join("folder"))
            .unwrap()
            .next()
            .is_none()
    );
    let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
    assert_eq!(names(&f.memory), names(&f.folder));
}

/// The memory is bounded, and most names are copies.
#[test]
fn the_largest_are_left_out_first() {
    let f = Filled::new();
    for n in 0..5 {
        f.sparse(&format!("large-{n}"), MAX_FILE - n * PAGE);
    }
    fs::write(f.folder.join("small"), "text").unwrap();
    let covers = f.fill(&[]).unwrap();
    let left_out: Vec<&str> = covers.keys().map(String::as_str).collect();
    assert_eq!(left_out, ["large-0"]);
    let copied: u64 = fs::read_dir(&f.memory)
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert!(copied <= MAX_BYTES);
}

#[test]
fn a_folder_of_too_many_mounts_is_refused() {
    let f = Filled::new();
    f.sparse("large", MAX_FILE + 1);
    for n in 1..=MAX_SHOWN {
        fs::hard_link(f.folder.join("large"), f.folder.join(format!("{n}"))).unwrap();
    }
    assert!(f.fill(&[]).unwrap_err().to_string().contains("too many"));
}

/// A file that its owner may not read is no reason to wait, or to fail.
#[test]
fn a_file_that_cannot_be_read_is_shown_as_it_is() {
    let f = Filled::new();
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o200)
        .open(f.folder.join("closed"))
        .unwrap();
    let covers = f.fill(&[]).unwrap();
    let readable = fs::File::open(f.folder.join("closed")).is_ok();
    assert_eq!(
        covers.get("closed"),
        (!readable).then_some(&Cover::Original)
    );
}
