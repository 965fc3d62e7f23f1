//! What a path means to the broker, beside what it means to the kernel.

use proptest::prelude::*;
use rustix::fs::mkdirat;

use super::*;

fn resolver() -> Resolver {
    let open = |p: &str| {
        openat(
            rustix::fs::CWD,
            p,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    };
    Resolver {
        root: open("/"),
        host_proc: open("/proc"),
        self_fd: open("/proc/self/fd"),
        detached: Vec::new(),
    }
}

/// A tree, and paths below it in which `ROOT` stands for it.
#[derive(Debug)]
struct World {
    /// Links: in which folder, and where they lead.
    links: Vec<(usize, String)>,
    paths: Vec<String>,
}

const FOLDERS: [&str; 4] = ["", "a", "a/b", "c"];

/// Names that are there in some folders, links among them, and one that is nowhere.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "f"]),
        4 => prop::sample::select(vec!["l0", "l1", "l2", "l3"]),
        2 => Just(".."),
        2 => Just("."),
        1 => Just("none"),
    ];
    let slashes = prop_oneof![4 => Just("/"), 1 => Just("//"), 1 => Just("///")];
    let start = prop_oneof![2 => Just(""), 1 => Just("ROOT/"), 1 => Just("ROOT//")];
    let end = prop_oneof![5 => Just(""), 2 => Just("/"), 1 => Just("//"), 1 => Just("/.")];
    let parts = prop::collection::vec((part, slashes), 1..6);
    (start, parts, end).prop_map(|(start, parts, end)| {
        let last = parts.len() - 1;
        let each = parts.iter().enumerate();
        let text: String = each
            .map(|(n, (part, slash))| format!("{part}{}", if n < last { slash } else { "" }))
            .collect();
        format!("{start}{text}{end}")
    })
}

fn world() -> impl Strategy<Value = World> {
    let links = prop::collection::vec((0..FOLDERS.len(), path()), 4);
    let paths = prop::collection::vec(path(), 16);
    (links, paths).prop_map(|(links, paths)| World { links, paths })
}

/// Which object the kernel finds, by its own walk without any limit, or its error.
fn of_the_kernel(dir: &OwnedFd, path: &[u8], follow: bool) -> Result<(u64, u64), Option<i32>> {
    let flags = libc::O_PATH | libc::O_CLOEXEC | if follow { 0 } else { libc::O_NOFOLLOW };
    let how = OpenHow {
        flags: flags as u64,
        mode: 0,
        resolve: 0,
    };
    let fd = sys::openat2(dir.as_fd(), &CString::new(path).unwrap(), how);
    let fd = fd.map_err(|e| e.raw_os_error())?;
    Ok(id(&fstat(&fd).unwrap()))
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

proptest! {
    /// Each way in which the broker looks a path up, against openat2(2) and what the kernel then makes
    /// there.
    #[test]
    fn the_walk_agrees_with_the_kernel(world in world(), at in 0..FOLDERS.len()) {
        let (r, me) = (resolver(), std::process::id());
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().canonicalize().unwrap();
        for folder in ["a/b/c", "a/c", "c/a"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["f", "a/f", "a/b/f"] {
            std::fs::write(root.join(file), "x").unwrap();
        }
        let whole = |text: &str| text.replace("ROOT", root.to_str().unwrap());
        for (n, (folder, target)) in world.links.iter().enumerate() {
            let name = root.join(FOLDERS[*folder]).join(format!("l{n}"));
            std::os::unix::fs::symlink(whole(target), name).unwrap();
        }
        let here = rustix::fs::open(
            root.join(FOLDERS[at]),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let dirfd = here.as_raw_fd();
        for text in &world.paths {
            let text = whole(text);
            let path = text.as_bytes();
            for follow in [true, false] {
                let kernel = of_the_kernel(&here, path, follow);
                let found = r.existing(me, dirfd, path, follow);
                if let Ok(object) = &found {
                    let by_name = rustix::fs::lstat(&object.path).unwrap();
                    prop_assert_eq!(id(&by_name), id(&object.stat), "{} {}", text, follow);
                }
                let found = found.map(|o| id(&o.stat)).map_err(|e| e.raw_os_error());
                prop_assert_eq!(found, kernel, "{} {}", text, follow);
                let walked = r
                    .walk(me, here.try_clone().unwrap(), path, follow)
                    .map(|fd| id(&fstat(&fd).unwrap()))
                    .map_err(|e| e.raw_os_error());
                prop_assert_eq!(walked, kernel, "walk {} {}", text, follow);
            }
            names_agree(&r, me, &here, path)?;
        }
    }
}

/// Names: what has one, and where the kernel makes what has none yet.
fn names_agree(r: &Resolver, me: u32, here: &OwnedFd, path: &[u8]) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(path).into_owned();
    let plain = trim_slashes(path);
    let kernel = of_the_kernel(here, plain, false);
    let special = [libc::EBUSY, libc::EINVAL, libc::ENOTEMPTY].map(Some);
    match r.name(me, here.as_raw_fd(), path) {
        Ok(name) => match &name.object {
            Some(object) => prop_assert_eq!(Ok(id(&object.stat)), kernel, "{}", text),
            None => {
                prop_assert_eq!(kernel, Err(Some(libc::ENOENT)), "{}", text);
                mkdirat(here, path, Mode::from(0o700)).unwrap();
                let made = rustix::fs::lstat(name.path());
                rustix::fs::unlinkat(here, plain, AtFlags::REMOVEDIR).unwrap();
                let made = made.map(|s| FileType::from_raw_mode(s.st_mode));
                prop_assert_eq!(made, Ok(FileType::Directory), "{}", text);
            }
        },
        Err(e) if special.contains(&e.raw_os_error()) => {
            let last = plain.rsplit(|b| *b == b'/').next();
            prop_assert!(matches!(last, Some(b"" | b"." | b"..")), "{} {}", text, e);
        }
        Err(e) => prop_assert_eq!(Err(e.raw_os_error()), kernel, "{}", text),
    }
    let create = || {
        openat(
            here,
            path,
            OFlags::CREATE | OFlags::WRONLY,
            Mode::from(0o600),
        )
    };
    match r.name_to_create(me, here.as_raw_fd(), path) {
        Ok(name) => match &name.object {
            Some(object) if name.must_be_dir && !object.is_dir() => {}
            Some(object) => {
                let kernel = of_the_kernel(here, path, true);
                prop_assert_eq!(Ok(id(&object.stat)), kernel, "create {}", text);
            }
            None if name.must_be_dir => prop_assert!(create().is_err(), "create {}", text),
            None => {
                let made = fstat(create().unwrap()).unwrap();
                let there = rustix::fs::lstat(name.path()).map(|s| id(&s));
                let _ = std::fs::remove_file(name.path());
                prop_assert_eq!(there, Ok(id(&made)), "create {}", text);
            }
        },
        Err(e) => prop_assert!(
            of_the_kernel(here, path, true).is_ok_and(|_| special.contains(&e.raw_os_error()))
                || create().is_err(),
            "create {} {}",
            text,
            e
        ),
    }
    Ok(())
}

#[test]
fn self_and_magic_links_mean_the_caller() {
    let r = resolver();
    let mut child = std::process::Command::new("sleep")
        .arg("30")
        .current_dir("/usr")
        .spawn()
        .unwrap();
    let pid = child.id();
    let seen = |p: &str| {
        r.existing(pid, libc::AT_FDCWD, p.as_bytes(), true)
            .unwrap()
            .path
    };
    // The walk is what handles these; ask it directly so that the host's own /proc/self does
    // not answer first.
    let walk = |p: &str| {
        let fd = r
            .walk(pid, r.root.try_clone().unwrap(), p.as_bytes(), true)
            .unwrap();
        r.path_of(fd.as_fd()).unwrap()
    };
    assert_eq!(walk("/proc/self/cwd"), Path::new("/usr"));
    assert_eq!(walk("/proc/self/root/usr/bin"), Path::new("/usr/bin"));
    assert_eq!(seen("bin"), Path::new("/usr/bin"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_dot_or_a_slash_at_the_end_means_the_folder_behind_a_link() {
    let (r, me) = (resolver(), std::process::id());
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    // The walk follows these: the broker's openat2(2) stops at a magic link.
    for end in ["/", "/.", "/./"] {
        let path = |name: &str| format!("/proc/self/{name}{end}").into_bytes();
        let found = r.existing(me, libc::AT_FDCWD, &path("cwd"), false).unwrap();
        assert_eq!(found.path, here, "{end}");
        let program = r.existing(me, libc::AT_FDCWD, &path("exe"), true);
        let error = program.unwrap_err().raw_os_error();
        assert_eq!(error, Some(libc::ENOTDIR), "{end}");
    }
}

#[test]
fn a_slash_behind_a_link_to_nothing_still_asks_for_a_folder() {
    let (r, me) = (resolver(), std::process::id());
    let tmp = tempfile::tempdir().unwrap();
    let link = tmp.path().join("link");
    std::os::unix::fs::symlink("nothing", &link).unwrap();
    let create = |path: String| {
        let name = r.name_to_create(me, libc::AT_FDCWD, path.as_bytes());
        name.unwrap().must_be_dir
    };
    let link = link.display();
    assert_eq!(
        (create(format!("{link}")), create(format!("{link}/"))),
        (false, true)
    );
}

#[test]
fn last_components() {
    let r = resolver();
    let me = std::process::id();
    let code = |p: &str| {
        r.name(me, libc::AT_FDCWD, p.as_bytes())
            .map(|_| ())
            .unwrap_err()
            .raw_os_error()
    };
    assert_eq!(code("/"), Some(libc::EBUSY));
    assert_eq!(code("/usr/."), Some(libc::EINVAL));
    assert_eq!(code("/usr/.."), Some(libc::ENOTEMPTY));
    assert_eq!(code(""), Some(libc::ENOENT));
    let name = r.name(me, libc::AT_FDCWD, b"/usr/nothing-here/").unwrap();
    assert!(name.object.is_none() && name.must_be_dir);
    assert_eq!(name.path(), Path::new("/usr/nothing-here"));
}
