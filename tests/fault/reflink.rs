//! Originals that are kept by reflink, on a real btrfs and a real xfs: what somebody edited in place
//! while a session ran is merged without git, an edit is never taken for the base, and what is kept goes
//! with the session.
//!
//! The world of each case lies on a small file system of its own (a loop device, mounted for this case
//! alone). Where none can be made the cases are skipped.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::World;
use serde_json::Value;

use crate::{
    kit::{
        Fault, NOT_HERE, PATIENCE, Said, Verdict, changed, ids, ledger_verifies, need, run, say,
        session, session_args, wall,
    },
    tools::{Running, host, mount, signal},
};

const BASE: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
const USER: &str = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
const BOTH: &str = "one\n2\n3\n4\nfive\n6\n7\n8\n9\n";
/// What the agent does to a file.
const AGENT: &str = "sed -i 1s/1/one/ ";

/// The host's own may be so large that a short session does not wait for its manifest.
const NO_TMP: &str =
    "  - { id: no-tmp, priority: 5, action: \"file.*\", resource: \"/tmp/**\", effect: deny }\n";

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    let all = vec![
        Fault::new("reflink/btrfs-merge", |w| merged(w, "btrfs")),
        Fault::new("reflink/btrfs-racing-edits", |w| racing(w, "btrfs")),
        Fault::new("reflink/btrfs-killed", |w| killed(w, "btrfs")),
        Fault::new("reflink/btrfs-sessions", |w| sessions(w, "btrfs")),
        Fault::new("reflink/xfs-merge", |w| merged(w, "xfs")),
        Fault::new("reflink/xfs-racing-edits", |w| racing(w, "xfs")),
        Fault::new("reflink/xfs-killed", |w| killed(w, "xfs")),
        Fault::new("reflink/xfs-sessions", |w| sessions(w, "xfs")),
        Fault::new("reflink/none-on-tmpfs", none),
    ];
    let all = all.into_iter();
    all.map(|c| c.mounts().commits().rules(NO_TMP)).collect()
}

/// Moves the world to a new file system of its own.
fn disk(w: &World, kind: &str) -> Verdict {
    let (image, at) = (w.dir.with_extension("img"), w.dir.with_extension("disk"));
    let not_here = |why: String| format!("{NOT_HERE}{why}");
    // The smallest that mkfs.xfs makes is 300 MB; the file has holes.
    fs::File::create(&image)
        .and_then(|file| file.set_len(512 << 20))
        .and_then(|()| fs::create_dir(&at))
        .map_err(|e| format!("{}: {e}", image.display()))?;
    let (image, at) = (image.to_string_lossy(), at.to_string_lossy());
    host(&format!("/usr/sbin/mkfs.{kind}"), &["-q", &image]).map_err(not_here)?;
    host("mount", &["-o", "loop", &image, &at]).map_err(not_here)?;
    // The loop device holds it.
    host("rm", &[&image])?;
    let world = w.dir.to_string_lossy();
    host("cp", &["-a", &format!("{world}/."), &at])?;
    host("mount", &["--move", &at, &world])
}

/// The folders beside the layers that are called so.
fn beside(w: &World, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let sessions = fs::read_dir(w.path("state/sessions")).into_iter().flatten();
    for session in sessions.flatten() {
        let layers = fs::read_dir(session.path().join("layers"));
        let layers = layers.into_iter().flatten().flatten();
        found.extend(layers.map(|l| l.path().join(name)).filter(|p| p.exists()));
    }
    found
}

/// Waits until originals are kept.
fn kept(w: &World) -> Result<PathBuf, String> {
    wait_for(w, &["upper.originals"])
}

/// Waits until they are being made; they may be kept by then.
fn begun(w: &World) -> Result<PathBuf, String> {
    wait_for(w, &["upper.originals.new", "upper.originals"])
}

fn wait_for(w: &World, names: &[&str]) -> Result<PathBuf, String> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(found) = names.iter().find_map(|name| beside(w, name).pop()) {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(format!("there was no {names:?}"))
}

/// Nothing of them is left.
fn gone(w: &World) -> Verdict {
    for name in ["upper.originals", "upper.originals.new"] {
        let left = beside(w, name);
        need(left.is_empty(), format!("left: {left:?}"))?;
    }
    Ok(())
}

/// What the kept files hold, by their names.
fn contents(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let say = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(say)? {
        let path = entry.map_err(say)?.path();
        let text = fs::read_to_string(&path).map_err(say)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        all.insert(name.into_owned(), text);
    }
    Ok(all)
}

/// `reflink` or `none` for the layer over the workspace of the newest session.
fn told(w: &World) -> Result<String, String> {
    let list = say(w, "sessions --all --json")?.json()?;
    let layers = list[0]["layers"].as_array().ok_or("no layers")?;
    let work = w.path("work");
    let ours = layers
        .iter()
        .find(|l| l["root"] == work.to_string_lossy().as_ref());
    let ours = ours.map(|l| l["originals"].clone());
    match ours {
        Some(Value::String(text)) => Ok(text),
        other => Err(format!(
            "what is kept of the workspace is not told: {other:?}"
        )),
    }
}

fn newest(w: &World) -> Result<String, String> {
    ids(w)?
        .into_iter()
        .next()
        .ok_or_else(|| "the session is lost".into())
}

/// Writes over an original as an editor does that saves in place.
fn edit(w: &World, name: &str, text: &str) -> Verdict {
    let path = w.path("work").join(name);
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn reads(w: &World, name: &str, text: &str) -> Verdict {
    let found = w.read(&format!("work/{name}"));
    need(
        found == text,
        format!("{name} holds {found:?}, not {text:?}"),
    )
}

/// A session whose agent has done its part and waits; ends when its input is closed.
fn waiting(w: &World, name: &str, script: &str) -> Result<Running, String> {
    let script = format!("cd {{work}}; {script}; echo READY; read x || :");
    Running::fed(w, name, &script, "READY", Stdio::piped())
}

fn ended(mut running: Running) -> Result<Said, String> {
    drop(running.child.stdin.take());
    running.end()
}

fn merged(w: &World, kind: &str) -> Verdict {
    disk(w, kind)?;
    w.put("work/a.txt", BASE);
    w.put("work/sub/b.txt", BASE);
    w.put("work/c.txt", BASE);
    w.put("work/.git/index", "of git");
    w.own(&w.path("work/sub"));

    // While the agent works: kept, private, without git's own folder.
    let script = format!("{AGENT} a.txt sub/b.txt");
    let running = waiting(w, "first", &script)?;
    let folder = kept(w)?;
    let kept: Vec<String> = contents(&folder)?.into_values().collect();
    let ours = kept.iter().filter(|text| *text == BASE).count();
    let git = kept.iter().any(|text| text == "of git");
    need(ours == 3 && !git, format!("kept: {kept:?}"))?;
    let mode = fs::metadata(&folder)
        .map_err(|e| e.to_string())?
        .permissions();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777;
    need(mode == 0o700, format!("its mode is {mode:o}"))?;
    edit(w, "a.txt", USER)?;
    edit(w, "sub/b.txt", USER)?;
    ended(running)?.ended(0)?;
    let id = newest(w)?;
    need(
        told(w)? == "reflink",
        "it is not told that originals are kept",
    )?;
    // What the session did not change cannot be merged.
    let kept = contents(&folder)?.len();
    need(kept == 2, format!("{kept} are kept after the end"))?;

    say(w, &format!("commit {id}"))?.ended(3)?;
    reads(w, "a.txt", USER)?;
    say(w, &format!("commit {id} --merge"))?
        .ended(0)?
        .says(&["merged"])?;
    reads(w, "a.txt", BOTH)?;
    reads(w, "sub/b.txt", BOTH)?;
    say(w, &format!("undo {id}"))?.ended(0)?;
    reads(w, "a.txt", USER)?;
    say(w, &format!("commit {id} --merge -- a.txt"))?.ended(0)?;
    reads(w, "a.txt", BOTH)?;
    say(w, &format!("undo {id}"))?.ended(0)?;
    say(w, &format!("discard {id}"))?.ended(0)?;
    gone(w)?;
    reads(w, "a.txt", USER)?;

    // A session that is over before anything was kept: what it changed is kept when it ends.
    session(w, &format!("cd {{work}}; {AGENT} c.txt"))?.ended(0)?;
    let id = newest(w)?;
    need(told(w)? == "reflink", "a short session keeps nothing")?;
    edit(w, "c.txt", USER)?;
    say(w, &format!("commit {id} --merge"))?.ended(0)?;
    reads(w, "c.txt", BOTH)?;
    say(w, "gc")?.ended(0)?;
    ledger_verifies(w)
}

/// Somebody edits originals while they are being cloned.
fn racing(w: &World, kind: &str) -> Verdict {
    disk(w, kind)?;
    const FILES: usize = 2000;
    for round in 0.. {
        need(round < 20, "no edit fell into the time of the clones")?;
        host("rm", &["-rf", &w.path("work/t").to_string_lossy()])?;
        for n in 0..FILES {
            w.put(&format!("work/t/{n}"), &format!("{BASE}file {n}\n"));
        }
        w.own(&w.path("work/t"));
        let script = format!("for n in 0 1 2 3 4 5 6 7 8 9; do {AGENT} t/$((n * 100)); done");
        let running = waiting(w, "racing", &script)?;
        let making = begun(w)?.with_file_name("upper.originals.new");
        let (mut during, mut edited) = (0, 0);
        // From the end, where the clones come last, in steps that meet the agent's files, too.
        for n in (0..FILES).rev().step_by(4) {
            let text = format!("{USER}file {n}\n");
            edit(w, &format!("t/{n}"), &text)?;
            edited += 1;
            during += usize::from(making.exists());
        }
        for n in (0..10).map(|n| n * 100) {
            edit(w, &format!("t/{n}"), &format!("{USER}file {n}\n"))?;
        }
        let kept = contents(&kept(w)?)?;
        for text in kept.values().filter(|t| t.contains("file ")) {
            need(
                text.starts_with(BASE) && !text.contains("five"),
                format!("an edit is kept as the base: {text:?}"),
            )?;
        }
        need(
            kept.len() + edited + 10 >= FILES,
            "something else is not kept",
        )?;
        ended(running)?.ended(0)?;
        let id = newest(w)?;
        if during == 0 {
            say(w, &format!("discard {id}"))?.ended(0)?;
            continue;
        }
        // What is merged has both sides; what cannot be is what somebody wrote.
        let said = say(w, &format!("commit {id} --merge"))?;
        need([0, 3].contains(&said.status), said.brief())?;
        for n in (0..10).map(|n| n * 100) {
            let text = w.read(&format!("work/t/{n}"));
            let (both, user) = (format!("{BOTH}file {n}\n"), format!("{USER}file {n}\n"));
            need(text == both || text == user, format!("{n} holds {text:?}"))?;
        }
        break;
    }
    ledger_verifies(w)
}

/// The supervisor is killed in the middle: what was made by then is never believed.
fn killed(w: &World, kind: &str) -> Verdict {
    disk(w, kind)?;
    for n in 0..4000 {
        w.put(&format!("work/t/{n}"), BASE);
    }
    w.own(&w.path("work/t"));
    for round in 0.. {
        need(round < 20, "the supervisor was never killed in the middle")?;
        edit(w, "t/0", BASE)?;
        let running = waiting(w, &format!("killed{round}"), &format!("{AGENT} t/0"))?;
        begun(w)?;
        signal(running.child.id(), "KILL")?;
        running.end()?;
        let left = w.leftovers(Duration::from_secs(5));
        need(left.is_empty(), left.join("; "))?;
        // A process that is going lets go of the session's lock a moment after it is seen last.
        let end = Instant::now() + Duration::from_secs(5);
        while say(w, "sessions")?.out().contains("running") && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        let id = newest(w)?;
        let in_the_middle = !beside(w, "upper.originals.new").is_empty();
        if in_the_middle {
            need(told(w)? == "none", "what is not finished is told as kept")?;
            edit(w, "t/0", &USER.replace("1\n", "1 \n"))?;
            say(w, &format!("commit {id} --merge"))?
                .ended(3)?
                .says(&["no reflink of it is kept"])?;
        }
        say(w, &format!("discard {id}"))?.ended(0)?;
        gone(w)?;
        if in_the_middle {
            break;
        }
    }
    ledger_verifies(w)
}

/// Copies, checkpoints, sessions that go on, that leave nothing, and that changed nothing.
fn sessions(w: &World, kind: &str) -> Verdict {
    disk(w, kind)?;
    for name in ["a.txt", "b.txt", "c.txt"] {
        w.put(&format!("work/{name}"), BASE);
    }
    session(w, &format!("cd {{work}}; {AGENT} a.txt"))?.ended(0)?;
    let first = newest(w)?;
    edit(w, "a.txt", USER)?;

    let with = |option: &[&str], script: &str| {
        let mut args = session_args(w, &format!("cd {{work}}; {script}"));
        args.splice(1..1, option.iter().map(Into::into));
        if option.contains(&"--ephemeral") {
            args.retain(|arg| arg != "--keep");
        }
        run(&mut wall(w, args))
    };
    // A copy has what the first one has.
    with(&["--from", &first], "true")?.ended(0)?;
    let copy = newest(w)?;
    need(copy != first && told(w)? == "reflink", "the copy has none")?;
    say(w, &format!("commit {copy} --merge"))?.ended(0)?;
    reads(w, "a.txt", BOTH)?;
    say(w, &format!("undo {copy}"))?.ended(0)?;
    say(w, &format!("discard {copy}"))?.ended(0)?;
    // Not with the copy's end.
    say(w, &format!("commit {first} --merge"))?.ended(0)?;
    reads(w, "a.txt", BOTH)?;

    // It goes on, and changes what it had not changed.
    with(&["--on", &first], &format!("{AGENT} b.txt"))?.ended(0)?;
    edit(w, "b.txt", USER)?;
    say(w, &format!("commit {first} --merge"))?.ended(0)?;
    reads(w, "b.txt", BOTH)?;

    // A checkpoint brings a discarded session back, with its base.
    session(w, &format!("cd {{work}}; {AGENT} c.txt"))?.ended(0)?;
    let second = newest(w)?;
    edit(w, "c.txt", USER)?;
    say(w, &format!("checkpoint {second}"))?.ended(0)?;
    say(w, &format!("discard {second}"))?.ended(0)?;
    say(w, &format!("rollback {second} c1 --yes"))?.ended(0)?;
    say(w, &format!("commit {second} --merge"))?.ended(0)?;
    reads(w, "c.txt", BOTH)?;

    // Nothing of these is ever merged.
    let all = beside(w, "upper.originals").len();
    with(&["--ephemeral"], "sleep 0.6")?.ended(0)?;
    session(w, "sleep 0.6")?.ended(0)?;
    let now = beside(w, "upper.originals").len();
    need(now == all, format!("{now} folders instead of {all}"))?;
    need(changed(w, &newest(w)?)?.is_empty(), "changes")?;
    need(beside(w, "upper.originals.new").is_empty(), "not finished")?;
    ledger_verifies(w)
}

/// A file system that cannot share blocks: no originals, and it is said why there is no base.
fn none(w: &World) -> Verdict {
    for name in ["work", "state"] {
        mount(w, "tmpfs", "size=16m", name)?;
    }
    w.put("work/a.txt", BASE);
    let running = waiting(w, "none", &format!("{AGENT} a.txt"))?;
    wait_for(w, &["upper.manifest"])?;
    edit(w, "a.txt", USER)?;
    ended(running)?.ended(0)?;
    let id = newest(w)?;
    need(told(w)? == "none", "something is told as kept")?;
    gone(w)?;
    say(w, &format!("commit {id} --merge"))?
        .ended(3)?
        .says(&["no reflink of it is kept"])?;
    reads(w, "a.txt", USER)
}
