//! What is kept against what was there at the base, with a copy of bytes in the place of `FICLONE`, so
//! that it runs on every file system and others can write in the middle of it. Real clones are in
//! `tests/fault/reflink.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::clock::base_timestamp;
use crate::content::copy_sparse;
use crate::manifest::{AtBase, Limits, Manifest, take};

struct Tree {
    tmp: tempfile::TempDir,
    layer: Layer,
    manifest: Manifest,
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
    take(&layer, Limits::default()).unwrap().unwrap();
    let manifest = Manifest::of(&layer).unwrap().unwrap();
    Tree {
        tmp,
        layer,
        manifest,
    }
}

impl Tree {
    fn put(&self, name: &str, text: &str) {
        fs::write(self.layer.root.join(name), text).unwrap();
    }

    /// The session has a copy of it.
    fn copy(&self, name: &str) {
        let path = self.layer.upper.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "copy").unwrap();
    }

    fn seen(&self, name: &str) -> Snapshot {
        match self.manifest.at(name.as_bytes()) {
            AtBase::There(was) if was.known => was.seen,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn kept(&self, name: &str) -> Option<String> {
        let kept = kept_original(&self.layer, &self.seen(name)).unwrap();
        kept.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn begin<'a>(&'a self, limits: KeepLimits, clone: &'a keep::Cloner<'a>) -> Keeping<'a> {
        Keeping::begin(&self.layer, limits, clone).unwrap()
    }

    /// While the session runs.
    fn keep(&self, limits: KeepLimits, clone: &keep::Cloner<'_>) -> Result<Kept, NotKept> {
        let mut keeping = self.begin(limits, clone);
        assert!(keeping.all(&AtomicBool::new(false))?);
        keeping.finish()
    }

    /// When it has ended.
    fn changed(&self, clone: &keep::Cloner<'_>) -> Result<Kept, NotKept> {
        let mut keeping = self.begin(KeepLimits::default(), clone);
        keeping.changed()?;
        keeping.finish()
    }

    fn beside(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.tmp.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.starts_with("upper."))
            .collect();
        names.sort();
        names
    }
}

/// Copies the bytes.
fn copying(to: &OwnedFd, from: &OwnedFd) -> Result<(), Errno> {
    let size = Snapshot::new(&fstat(from)?).size;
    copy_sparse(from.as_fd(), to.as_fd(), size)
}

fn limits(files: u64, file: u64, bytes: u64) -> KeepLimits {
    KeepLimits {
        files,
        file,
        bytes,
        ..KeepLimits::default()
    }
}

#[test]
fn what_a_merge_could_use_is_kept_and_private() {
    let t = tree(|root| {
        for dir in ["d/e", ".git", "d/.git"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for name in ["a", "d/b", "d/e/c", ".git/index", "d/.git/index", "set-id"] {
            fs::write(root.join(name), name).unwrap();
        }
        fs::write(root.join("empty"), "").unwrap();
        fs::write(root.join("linked"), "two names").unwrap();
        fs::hard_link(root.join("linked"), root.join("other")).unwrap();
        fs::write(root.join("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
        fs::write(root.join("just"), vec![b'x'; 1 << 20]).unwrap();
        symlink("a", root.join("link")).unwrap();
        let mode = fs::Permissions::from_mode(0o4755);
        fs::set_permissions(root.join("set-id"), mode).unwrap();
    });
    assert!(t.layer.is_untouched() && !keeps_originals(&t.layer));
    let kept = t.keep(KeepLimits::default(), &copying).unwrap();
    assert_eq!((kept.files, kept.whole), (4, true));
    for name in ["a", "d/b", "d/e/c"] {
        assert_eq!(t.kept(name).as_deref(), Some(name));
    }
    assert_eq!(t.kept("just").unwrap().len(), 1 << 20);
    for name in [
        ".git/index",
        "d/.git/index",
        "set-id",
        "empty",
        "linked",
        "other",
        "large",
    ] {
        assert_eq!(t.kept(name), None, "{name}");
    }
    assert_eq!(t.beside(), ["upper.manifest", "upper.originals"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&t.layer.originals_path()), 0o700);
    for entry in fs::read_dir(t.layer.originals_path()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o400);
    }
    // An edit afterwards is none of its business.
    t.put("a", "edited");
    assert_eq!(t.kept("a").as_deref(), Some("a"));
}

#[test]
fn the_least_deep_come_first_and_there_are_bounds() {
    let t = tree(|root| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        for name in ["a/b/deep", "a/mid", "z-top", "y-top"] {
            fs::write(root.join(name), "1234").unwrap();
        }
    });
    for (bounds, expected) in [
        (limits(3, 9, 99), vec!["a/mid", "y-top", "z-top"]),
        (limits(9, 9, 11), vec!["y-top", "z-top"]),
        (
            limits(9, 9, 16),
            vec!["a/b/deep", "a/mid", "y-top", "z-top"],
        ),
    ] {
        let kept = t.keep(bounds, &copying).unwrap();
        assert_eq!(kept.files, expected.len() as u64);
        assert_eq!(kept.whole, expected.len() == 4);
        let names = ["a/b/deep", "a/mid", "y-top", "z-top"];
        let found: Vec<_> = names.into_iter().filter(|n| t.kept(n).is_some()).collect();
        assert_eq!(found, expected);
        remove(&t.layer).unwrap();
    }
    assert!(matches!(
        t.keep(limits(9, 3, 99), &copying),
        Err(NotKept::Nothing)
    ));
    assert_eq!(t.beside(), ["upper.manifest"]);
}

#[test]
fn what_was_not_finished_is_never_believed() {
    let t = tree(|root| {
        for name in ["a", "b", "c"] {
            fs::write(root.join(name), name).unwrap();
        }
    });
    let stop = AtomicBool::new(false);
    let calls = AtomicUsize::new(0);
    let stopping = |to: &OwnedFd, from: &OwnedFd| {
        stop.store(
            calls.fetch_add(1, Ordering::Relaxed) == 1,
            Ordering::Relaxed,
        );
        copying(to, from)
    };
    let mut keeping = t.begin(KeepLimits::default(), &stopping);
    assert!(!keeping.all(&stop).unwrap());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    drop(keeping);
    assert_eq!(t.beside(), ["upper.manifest"]);

    // Killed.
    stop.store(false, Ordering::Relaxed);
    let mut keeping = t.begin(KeepLimits::default(), &copying);
    assert!(keeping.all(&stop).unwrap());
    std::mem::forget(keeping);
    assert_eq!(t.beside(), ["upper.manifest", "upper.originals.new"]);
    assert!(!keeps_originals(&t.layer));
    assert_eq!(t.kept("a"), None);
    // Nobody takes them over either: they were not checked by whoever comes next.
    t.put("a", "x");
    let kept = t.keep(KeepLimits::default(), &copying).unwrap();
    assert_eq!(kept.files, 2);
    assert_eq!((t.kept("a"), t.kept("b")), (None, Some("b".into())));
    fs::create_dir(t.layer.originals_temporary()).unwrap();
    crate::discard_all(std::slice::from_ref(&t.layer)).unwrap();
    assert!(t.beside().is_empty(), "{:?}", t.beside());
}

#[test]
fn an_ended_session_keeps_what_it_changed_and_no_more() {
    let t = tree(|root| {
        fs::create_dir(root.join("d")).unwrap();
        for name in ["a", "b", "c", "d/e", "d/f"] {
            fs::write(root.join(name), name).unwrap();
        }
    });
    t.keep(limits(2, 9, 99), &copying).unwrap();
    assert!(t.kept("a").is_some() && t.kept("b").is_some() && t.kept("d/e").is_none());
    // Somebody edits what is kept, what is not kept, and the agent changes those, and more.
    t.put("b", "edited");
    t.put("d/f", "edited");
    for name in ["b", "d/e", "d/f", "new", ".git/index"] {
        t.copy(name);
    }
    let kept = t.changed(&copying).unwrap();
    assert_eq!((kept.files, kept.whole), (2, true));
    let all = ["a", "b", "c", "d/e", "d/f"].map(|n| t.kept(n));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(all, [None, some("b"), None, some("d/e"), None]);
    // The next run of the session begins with these.
    t.keep(KeepLimits::default(), &copying).unwrap();
    assert!(t.kept("a").is_some() && t.kept("b").is_some());

    // One that changed no original keeps none.
    fs::remove_dir_all(&t.layer.upper).unwrap();
    fs::create_dir(&t.layer.upper).unwrap();
    assert!(matches!(t.changed(&copying), Err(NotKept::Nothing)));
    assert_eq!(t.beside(), ["upper.manifest"]);
}

#[test]
fn a_file_system_without_reflink_is_asked_once() {
    let names = |root: &Path| {
        for n in 0..100 {
            fs::write(root.join(n.to_string()), "text").unwrap();
        }
    };
    let t = tree(names);
    for (error, asked) in [
        (Errno::OPNOTSUPP, 1),
        (Errno::XDEV, 1),
        (Errno::NOTTY, 1),
        (Errno::INVAL, 64),
    ] {
        let calls = AtomicUsize::new(0);
        let refusing = |_: &OwnedFd, _: &OwnedFd| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(error)
        };
        let kept = t.keep(KeepLimits::default(), &refusing);
        assert!(matches!(kept, Err(NotKept::NoReflink)), "{kept:?}");
        assert_eq!(calls.load(Ordering::Relaxed), asked, "{error:?}");
        assert_eq!(t.beside(), ["upper.manifest"]);
    }
    // One file that cannot be cloned is left out, a full disk ends it.
    for (error, files) in [(Errno::INVAL, Some(99)), (Errno::NOSPC, None)] {
        let calls = AtomicUsize::new(0);
        let once = |to: &OwnedFd, from: &OwnedFd| match calls.fetch_add(1, Ordering::Relaxed) {
            5 => Err(error),
            _ => copying(to, from),
        };
        let kept = t.keep(KeepLimits::default(), &once);
        assert_eq!(kept.ok().map(|k| k.files), files, "{error:?}");
        assert_eq!(keeps_originals(&t.layer), files.is_some());
        remove(&t.layer).unwrap();
    }
}

#[test]
fn the_real_call_answers_for_this_file_system() {
    let t = tree(|root| fs::write(root.join("a"), "text").unwrap());
    let kept = t.keep(KeepLimits::default(), &ficlone);
    match can_clone(&t.layer) {
        true => assert_eq!(t.kept("a").as_deref(), Some("text")),
        false => assert!(matches!(kept, Err(NotKept::NoReflink)), "{kept:?}"),
    }
    // Nothing with a name is left of the question.
    let left: Vec<_> = t
        .beside()
        .into_iter()
        .filter(|n| n.ends_with("new"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_clone_that_was_damaged_is_an_error() {
    let t = tree(|root| fs::write(root.join("a"), "text").unwrap());
    t.keep(KeepLimits::default(), &copying).unwrap();
    let path = t.layer.originals_path().join(name_of(&t.seen("a")));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "longer than before").unwrap();
    assert!(kept_original(&t.layer, &t.seen("a")).is_err());
    fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert!(kept_original(&t.layer, &t.seen("a")).is_err());
    // Another version of the same object has another name.
    let mut later = t.seen("a");
    later.ctime.nsec ^= 1;
    assert!(kept_original(&t.layer, &later).unwrap().is_none());
}

#[test]
fn a_copied_layer_has_them_and_a_checkpoint_holds_them() {
    let t = tree(|root| fs::write(root.join("a"), "text").unwrap());
    t.keep(KeepLimits::default(), &copying).unwrap();
    t.copy("a");
    let other: PathBuf = t.tmp.path().join("other");
    fs::create_dir(&other).unwrap();
    let (copy, _) = crate::copy_layer(&t.layer, other.join("upper"), other.join("work")).unwrap();
    assert_eq!(
        kept_original(&copy, &t.seen("a")).unwrap().unwrap(),
        b"text"
    );

    let new = |name: &str, at_ms| crate::NewCheckpoint {
        name: name.into(),
        at_ms,
    };
    let layers = std::slice::from_ref(&t.layer);
    crate::checkpoint(layers, &new("c1", 1)).unwrap();
    crate::discard_all(layers).unwrap();
    assert!(t.kept("a").is_some() && !t.layer.is_blank());
    // The roll-back brings manifest and changes back, and the originals are there.
    crate::roll_back(layers, "c1", &new("before-1", 2)).unwrap();
    crate::acknowledge_roll_back(layers).unwrap();
    assert!(Manifest::of(&t.layer).unwrap().is_ok());
    crate::discard_all(layers).unwrap();
    for name in ["before-1", "c1"] {
        assert!(t.kept("a").is_some());
        crate::remove_checkpoint(layers, name).unwrap();
    }
    assert!(t.kept("a").is_none());
    assert!(t.beside().is_empty(), "{:?}", t.beside());
    // The copy is not touched by that.
    assert_eq!(
        kept_original(&copy, &t.seen("a")).unwrap().unwrap(),
        b"text"
    );
}

/// What somebody does to an original.
#[derive(Debug, Clone, Copy)]
enum Edit {
    SameLength,
    Append,
    Replace,
    /// With the modification time put back.
    InSecret,
    Mode,
    Remove,
}

fn edit(path: &Path, edit: Edit) {
    let Ok(meta) = fs::metadata(path) else { return };
    let text = vec![b'!'; usize::try_from(meta.len()).unwrap()];
    match edit {
        Edit::SameLength => fs::write(path, text).unwrap(),
        Edit::Append => fs::write(path, [text, b"more".to_vec()].concat()).unwrap(),
        Edit::Replace => {
            fs::write(path.with_extension("new"), text).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }
        Edit::InSecret => {
            fs::write(path, text).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(meta.modified().unwrap()).unwrap();
        }
        Edit::Mode => fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap(),
        Edit::Remove => fs::remove_file(path).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is edited at whatever moment: what is kept is what was there at the base, and everything
    /// that nobody touched is kept.
    #[test]
    fn an_edit_is_never_the_base(
        edits in prop::collection::vec((0usize..8, any::<bool>(), 0usize..8, 0usize..6), 0..12)
    ) {
        const KINDS: [Edit; 6] = [
            Edit::SameLength,
            Edit::Append,
            Edit::Replace,
            Edit::InSecret,
            Edit::Mode,
            Edit::Remove,
        ];
        let t = tree(|root| {
            for n in 0..8 {
                fs::write(root.join(format!("f{n}")), format!("text {n}")).unwrap();
            }
        });
        let touched = Mutex::new([false; 8]);
        let calls = AtomicUsize::new(0);
        let play = |call: usize, after: bool| {
            for (_, _, file, kind) in edits.iter().filter(|e| (e.0, e.1) == (call, after)) {
                edit(&t.layer.root.join(format!("f{file}")), KINDS[*kind]);
                touched.lock().unwrap()[*file] = true;
            }
        };
        let racing = |to: &OwnedFd, from: &OwnedFd| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            play(call, false);
            let cloned = copying(to, from);
            play(call, true);
            cloned
        };
        let kept = t.keep(KeepLimits::default(), &racing);
        prop_assert!(matches!(kept, Ok(_) | Err(NotKept::Nothing)), "{:?}", kept);
        let touched = touched.into_inner().unwrap();
        for (n, touched) in touched.into_iter().enumerate() {
            let found = t.kept(&format!("f{n}"));
            prop_assert!(touched || found.is_some(), "f{} is lost", n);
            if let Some(found) = found {
                prop_assert_eq!(found, format!("text {n}"));
            }
        }
    }
}
