//! The commit of the real binary while the kernel refuses: each kind of system call fails once, at one
//! place after another, with the errors of a full, a limited and a broken disk; originals that cannot be
//! changed; somebody who swaps folders for links. Nothing is lost, nothing is written outside, the
//! message names what failed, and a later commit completes.
//!
//! `AGENTWALL_FAULT_PLACES` is how many places per call and error are tried (default 4, spread over all there
//! are; a run without bound takes them all).

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use agentwall_tests::{
    Who, World,
    tree::{Depth, Tree},
};

use crate::{
    kit::{Fault, Said, Verdict, changed, ids, ledger_verifies, need, run, say, session, wall},
    tools::{host, remount},
};

/// ENOSPC, EDQUOT, EIO.
const ERRORS: [(&str, i32); 3] = [("ENOSPC", 28), ("EDQUOT", 122), ("EIO", 5)];

/// Originals of which the session changes, replaces or deletes each.
const ORIGINALS: [&str; 5] = ["modified", "deleted", "folder/a", "becomes", "folder"];

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    let root = "only root makes files immutable";
    let mut all = vec![
        Fault::new("commit/fails-fsync", |w| failing(w, "fsync")),
        Fault::new("commit/fails-fdatasync", |w| failing(w, "fdatasync")),
        Fault::new("commit/fails-renameat2", |w| failing(w, "renameat2")),
        Fault::new("commit/fails-openat2", |w| failing(w, "openat2")),
        Fault::new("commit/fails-copy_file_range", |w| {
            failing(w, "copy_file_range")
        }),
        Fault::new("commit/fails-ftruncate", |w| failing(w, "ftruncate")),
        Fault::new("commit/fails-fchmod", |w| failing(w, "fchmod")),
        Fault::new("commit/fails-utimensat", |w| failing(w, "utimensat")),
        Fault::new("commit/fails-mkdirat", |w| failing(w, "mkdirat")),
        Fault::new("commit/fails-linkat", |w| failing(w, "linkat")),
        Fault::new("commit/fails-symlinkat", |w| failing(w, "symlinkat")),
        Fault::new("commit/fails-unlinkat", |w| failing(w, "unlinkat")),
        Fault::new("commit/fails-pread64", |w| failing(w, "pread64")),
        Fault::new("commit/fails-write", |w| failing(w, "write")),
        Fault::new("commit/immutable-original", |w| {
            attribute(w, "i", &ORIGINALS)
        })
        .only(Who::Root, root),
        Fault::new("commit/append-only-original", |w| {
            attribute(w, "a", &ORIGINALS)
        })
        .only(Who::Root, root),
        Fault::new("commit/immutable-folder", |w| attribute(w, "i", &["."])).only(Who::Root, root),
        Fault::new("commit/append-only-folder", |w| attribute(w, "a", &["."]))
            .only(Who::Root, root),
        Fault::new("commit/read-only-bind", read_only).mounts(),
        Fault::new("commit/racing-symlink-swapper", swapper),
    ];
    for case in &mut all {
        case.limit = 400;
    }
    all.into_iter().map(Fault::commits).collect()
}

/// What the agent does: every kind of change.
const CHANGES: &str = "cd {work}/t; echo new > modified; echo added > added; rm deleted; rm -r folder; mkdir -p fresh/in; \
    echo x > fresh/in/file; ln fresh/in/file fresh/second; ln -s modified link; chmod 600 mode; rm becomes; mkdir becomes; \
    echo y > becomes/z";

/// The original tree, made anew.
fn original(w: &World) -> Result<Tree, String> {
    host("rm", &["-rf", &w.path("work/t").to_string_lossy()])?;
    for (name, text) in [
        ("modified", "old\n"),
        ("deleted", "gone soon\n"),
        ("folder/a", "a\n"),
        ("folder/b/c", "c\n"),
        ("mode", "mode\n"),
        ("becomes", "a folder\n"),
        ("same", "same\n"),
    ] {
        w.put(&format!("work/t/{name}"), text);
    }
    for folder in ["t", "t/folder", "t/folder/b"] {
        w.own(&w.path(&format!("work/{folder}")));
    }
    w.mode("work/t/mode", 0o644);
    Ok(tree(w))
}

fn tree(w: &World) -> Tree {
    Tree::of(&w.path("work/t"), Depth::Content)
}

/// A session with all the changes; its id.
fn changes(w: &World) -> Result<String, String> {
    session(w, CHANGES)?.ended(0)?;
    ids(w)?
        .into_iter()
        .next()
        .ok_or_else(|| "the session is lost".into())
}

/// What the tree is after a commit that nothing disturbs.
fn wanted(w: &World) -> Result<Tree, String> {
    original(w)?;
    let id = changes(w)?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    Ok(tree(w))
}

/// Each name is wholly as before or wholly as after; nothing else is there but what is being built.
fn whole(before: &Tree, after: &Tree, now: &Tree) -> Verdict {
    for (path, state) in &now.0 {
        let known = before.0.get(path) == Some(state) || after.0.get(path) == Some(state);
        // A folder gets its last attributes at the end.
        let unfinished =
            path.to_string_lossy().contains(".agentwall-") || state.starts_with("dir ");
        need(
            known || unfinished,
            format!("{} is neither old nor new: {state}", path.display()),
        )?;
    }
    for path in before.0.keys().filter(|p| after.0.contains_key(*p)) {
        need(
            now.0.contains_key(path),
            format!("lost: {}", path.display()),
        )?;
    }
    Ok(())
}

/// Completes, with nothing left over.
fn completes(w: &World, id: &str, after: &Tree) -> Verdict {
    let said = say(w, &format!("commit {id}"))?;
    // A commit that was complete already has nothing to do, which is no success of this one.
    if said.status != 0 {
        need(
            changed(w, id)?.is_empty(),
            format!("not completed: {}", said.brief()),
        )?;
    }
    let left = after.diff(&tree(w));
    need(
        left.is_empty(),
        format!("not the full tree: {left:?}; {}", said.brief()),
    )?;
    need(changed(w, id)?.is_empty(), "changes are left")
}

/// The launcher, compiled once per run of the suite.
fn launcher(w: &World) -> Result<PathBuf, String> {
    let path = w.path("run/fail");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fault/fail.c");
    let to = path.to_string_lossy().into_owned();
    host("gcc", &["-O1", "-w", "-o", &to, source])?;
    host("chmod", &["755", &to])?;
    w.own(&path);
    Ok(path)
}

/// A commit in which the `n`-th call of a kind fails; what it said, and how many calls there were.
fn commit_failing(
    w: &World,
    fail: &Path,
    id: &str,
    (call, n, error): (&str, u64, i32),
) -> Result<(Said, u64), String> {
    let count = w.path("run/count");
    let _ = fs::remove_file(&count);
    let mut cmd = w.as_user(fail);
    cmd.args([call, &n.to_string(), &error.to_string()])
        .arg(&count)
        .arg(&w.shared.wall)
        .args(["commit", id, "--yes"])
        .stdin(Stdio::null());
    let said = run(&mut cmd)?;
    let seen = fs::read_to_string(&count).map_err(|e| format!("{e}: {}", said.brief()))?;
    Ok((said, seen.trim().parse().map_err(|_| "no count")?))
}

fn failing(w: &World, call: &str) -> Verdict {
    let fail = launcher(w)?;
    let after = wanted(w)?;
    let places = std::env::var("AGENTWALL_FAULT_PLACES").ok();
    let places: u64 = places.and_then(|v| v.parse().ok()).unwrap_or(4).max(1);
    // How many there are, from a commit in which none fails.
    original(w)?;
    let id = changes(w)?;
    let (said, all) = commit_failing(w, &fail, &id, (call, u64::MAX >> 1, 5))?;
    said.ended(0)?;
    if all == 0 {
        return Err(format!("a commit makes no {call}: the case tests nothing"));
    }
    let mut refused = 0;
    for (at, (name, error)) in ERRORS.iter().enumerate() {
        let step = all.div_ceil(places).max(1);
        let mut n = 1 + (at as u64 * step / 3).min(all - 1);
        while n <= all {
            let here = format!("{name} at {call} {n} of {all}");
            let before = original(w)?;
            let id = changes(w)?;
            let (said, _) = commit_failing(w, &fail, &id, (call, n, *error))?;
            said.harmless().map_err(|e| format!("{here}: {e}"))?;
            whole(&before, &after, &tree(w)).map_err(|e| format!("{here}: {e}"))?;
            if said.status != 0 {
                refused += 1;
                // A failing write may be the one of the message itself, a failing read the loader's, before
                // there is a program that could say more.
                let loader = said.err().contains("error while loading shared libraries");
                if call != "write" && !loader {
                    names_a_path(w, &said).map_err(|e| format!("{here}: {e}"))?;
                }
            }
            completes(w, &id, &after).map_err(|e| format!("{here}: then {e}"))?;
            n += step;
        }
    }
    // What cannot be tidied up is a warning: the commit itself was complete.
    need(
        refused > 0 || call == "unlinkat",
        format!("no failure of {call} was ever told"),
    )?;
    ledger_verifies(w)
}

/// The message says where it failed: a path, or the session whose own files could not be written.
fn names_a_path(w: &World, said: &Said) -> Verdict {
    let all = said.err() + &said.out();
    if all.contains(" \"/") || all.contains("of session ") {
        return Ok(());
    }
    let place = w.dir.to_string_lossy().into_owned();
    let names = [
        "modified", "added", "deleted", "folder", "fresh", "link", "mode", "becomes",
    ];
    need(
        all.contains(&place) || names.iter().any(|n| all.contains(n)),
        format!("no path in the message: {}", said.brief()),
    )
}

/// A file or folder of the original gets a file attribute that forbids its change: what needs it is held,
/// with the rest untouched or committed; without it the next commit completes.
fn attribute(w: &World, which: &str, originals: &[&str]) -> Verdict {
    let after = wanted(w)?;
    for name in originals.iter().copied() {
        let before = original(w)?;
        let id = changes(w)?;
        let path = w.path(&format!("work/t/{name}"));
        let path = path.to_string_lossy();
        host("chattr", &[&format!("+{which}"), &path])?;
        let verdict = (|| {
            let said = say(w, &format!("commit {id}"))?;
            let all = said.err() + &said.out();
            need(
                said.status != 0,
                format!("committed over it: {}", said.brief()),
            )?;
            let shown = match name {
                "." => "t/",
                other => other.split('/').next().unwrap_or(other),
            };
            need(
                all.contains(shown),
                format!("does not name it: {}", said.brief()),
            )?;
            whole(&before, &after, &tree(w))?;
            let now = tree(w);
            let same = before.0.get(Path::new(name)) == now.0.get(Path::new(name));
            need(same || name == ".", "it was changed")
        })();
        host("chattr", &[&format!("-{which}"), &path])?;
        verdict.map_err(|e| format!("+{which} {name}: {e}"))?;
        // A folder in which names change is the same folder.
        if name == "." {
            completes(w, &id, &after).map_err(|e| format!("-{which} {name}: {e}"))?;
            continue;
        }
        // Its change time tells that somebody was at the file: a conflict, of this one alone.
        let said = say(w, &format!("commit {id}"))?;
        said.ended(3)?
            .says(&["conflict", "changed after the session began"])?;
        let left = after.diff(&tree(w));
        let top = name.split('/').next().unwrap_or(name);
        need(
            left.iter().all(|line| line.contains(top)),
            format!("-{which} {name}: more than {top} is left: {left:?}"),
        )?;
        let kept = changed(w, &id)?;
        need(
            kept.iter().any(|path| path.contains(top)),
            format!("-{which} {name}: the session's version is gone: {kept:?}"),
        )?;
    }
    ledger_verifies(w)
}

/// The workspace is on a mount that becomes read-only.
fn read_only(w: &World) -> Verdict {
    let after = wanted(w)?;
    let work = w.path("work");
    let work = work.to_string_lossy();
    host("mount", &["--bind", &work, &work])?;
    let before = original(w)?;
    let id = changes(w)?;
    remount(w, "bind,ro", "work")?;
    let said = say(w, &format!("commit {id}"))?;
    need(said.status != 0, format!("committed: {}", said.brief()))?;
    said.says(&["Read-only file system"])?;
    names_a_path(w, &said)?;
    need(before.diff(&tree(w)).is_empty(), "something was changed")?;
    remount(w, "bind,rw", "work")?;
    completes(w, &id, &after)?;
    ledger_verifies(w)
}

/// Somebody swaps a folder for a link to the outside, thousands of times, while commits run.
fn swapper(w: &World) -> Verdict {
    let outside = w.path("out");
    let untouched = Tree::of(&outside, Depth::Exact);
    let (swaps, mut rounds) = (AtomicU64::new(0), 0);
    while swaps.load(Ordering::Relaxed) < 3000 {
        rounds += 1;
        need(rounds <= 60, "no swaps beside the commits")?;
        host("rm", &["-rf", &w.path("work/t").to_string_lossy()])?;
        for n in 0..120 {
            w.put(&format!("work/t/e/{n}"), "old\n");
        }
        for folder in ["t", "t/e"] {
            w.own(&w.path(&format!("work/{folder}")));
        }
        let script = "cd {work}/t/e; for i in $(seq 0 79); do echo new > $i; done; rm 100 101 102; for i in $(seq 200 240); do echo new > $i; done";
        session(w, script)?.ended(0)?;
        let id = ids(w)?.into_iter().next().ok_or("the session is lost")?;
        let stop = AtomicBool::new(false);
        let (inside, aside) = (w.path("work/t/e"), w.path("work/t/aside"));
        let said = thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&inside, &aside)?;
                    symlink(&outside, &inside)?;
                    fs::remove_file(&inside)?;
                    fs::rename(&aside, &inside)?;
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), std::io::Error>(())
            });
            let said = run(&mut wall(w, ["commit", &id, "--yes"]));
            stop.store(true, Ordering::Relaxed);
            let swapped = swapper
                .join()
                .map_err(|_| "the swapper panicked".to_owned());
            swapped?.map_err(|e| format!("the swapper: {e}"))?;
            said
        })?;
        said.harmless()?;
        let changed_outside = untouched.diff(&Tree::of(&outside, Depth::Exact));
        need(
            changed_outside.is_empty(),
            format!("written outside: {changed_outside:?}"),
        )?;
        for n in 0..120 {
            let text = w.read(&format!("work/t/e/{n}"));
            let fine = match n {
                0..80 => text == "old\n" || text == "new\n",
                100..103 => text.is_empty() || text == "old\n",
                _ => text == "old\n",
            };
            need(fine, format!("{n} holds '{text}'; {}", said.brief()))?;
        }
        // What was not committed is still in the session, and arrives now.
        let last = run(wall(w, ["commit", &id, "--yes"]).stdout(Stdio::piped()))?;
        for n in (0..80).chain(200..241) {
            let text = w.read(&format!("work/t/e/{n}"));
            need(
                text == "new\n",
                format!("{n} holds '{text}': {}", last.brief()),
            )?;
        }
    }
    ledger_verifies(w)
}
