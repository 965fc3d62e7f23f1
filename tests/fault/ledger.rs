//! A ledger that is damaged, half there, or was left in the middle of a write.

use std::{fs, path::PathBuf};

use agentwall_tests::{Who, World};

use crate::{
    kit::{Fault, Verdict, changed, ids, ledger_verifies, need, next_run_works, run, say, session},
    tools::{Running, host, remove},
};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("ledger/tile-truncated", truncated),
        Fault::new("ledger/entries-truncated", entries_truncated),
        Fault::new("ledger/checkpoint-missing", checkpoint_missing),
        Fault::new("ledger/checkpoint-empty", checkpoint_empty),
        Fault::new("ledger/key-missing", key_missing),
        Fault::new("ledger/key-damaged", key_damaged),
        Fault::new("ledger/put-back", put_back),
        Fault::new("ledger/folder-gone", folder_gone),
        Fault::new("ledger/left-over-lock", left_over),
        Fault::new("ledger/read-only", read_only),
        Fault::new("ledger/two-sessions-at-once", together),
        Fault::new("ledger/pipe-closed", pipe_closed),
        Fault::new("ledger/replayed", replayed).rules(
            r#"  - { id: guarded, priority: 5, action: [file.write, file.create], resource: "${workspace}/guarded/**", effect: deny }
  - { id: no-uname, priority: 5, action: process.exec, resource: "**/uname", when: 'size(args) > 1', effect: deny }"#,
        ),
    ]
}

/// Files below the ledger's folder whose path contains `part`.
fn files(w: &World, part: &str) -> Vec<PathBuf> {
    fn walk(dir: PathBuf, part: &str, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(path, part, out);
            } else if path.to_string_lossy().contains(part) {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    walk(w.path("state/ledger"), part, &mut out);
    out.sort();
    out
}

/// A first session, with a change that waits.
fn begun(w: &World) -> Result<String, String> {
    session(w, "echo AGENT > {work}/readme.txt")?.ended(0)?;
    ids(w)?.pop().ok_or("no session".into())
}

/// `verify` finds it; no agent starts; a commit does not begin; the change waits.
fn found(w: &World, id: &str, verify: &[&str], run: &[&str]) -> Verdict {
    say(w, "ledger verify")?
        .ended(1)?
        .says(verify)?
        .harmless()?;
    session(w, "")?.refused(125, run)?;
    say(w, &format!("commit {id}"))?.refused(1, &["nothing was committed"])?;
    say(w, &format!("discard {id}"))?.refused(1, &["nothing was dropped"])?;
    need(
        w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "the original was changed",
    )?;
    need(changed(w, id)?.len() == 1, "the change is lost")?;
    need(
        ids(w)?.len() == 1,
        "folders of sessions that never began are left",
    )
}

/// Damages a file, looks, and puts it back: then all is well.
fn damaged(w: &World, file: PathBuf, to: Option<&[u8]>, verify: &[&str], run: &[&str]) -> Verdict {
    let id = ids(w)?.pop().ok_or("no session")?;
    let whole = fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mode = fs::metadata(&file)
        .map_err(|e| e.to_string())?
        .permissions();
    match to {
        Some(to) => fs::write(&file, to),
        None => fs::remove_file(&file),
    }
    .map_err(|e| e.to_string())?;
    found(w, &id, verify, run)?;
    let shown = say(w, "ledger show")?;
    need(shown.status <= 1, shown.brief())?;
    shown.harmless()?;
    fs::write(&file, whole)
        .and_then(|()| fs::set_permissions(&file, mode))
        .map_err(|e| e.to_string())?;
    w.own(&file);
    next_run_works(w)
}

fn truncated(w: &World) -> Verdict {
    begun(w)?;
    let file = files(w, "/tile/0/").pop().ok_or("no tile")?;
    let half = fs::read(&file).map_err(|e| e.to_string())?;
    damaged(
        w,
        file,
        Some(&half[..half.len() / 2]),
        &["tile/0"],
        &["cannot write the ledger", "agentwall ledger verify"],
    )
}

fn entries_truncated(w: &World) -> Verdict {
    begun(w)?;
    let file = files(w, "/tile/entries/").pop().ok_or("no entries")?;
    let half = fs::read(&file).map_err(|e| e.to_string())?;
    damaged(
        w,
        file,
        Some(&half[..half.len() / 2]),
        &["tile/entries"],
        &["cannot write the ledger", "agentwall ledger verify"],
    )
}

fn checkpoint_missing(w: &World) -> Verdict {
    begun(w)?;
    damaged(
        w,
        w.path("state/ledger/checkpoint"),
        None,
        &["checkpoint"],
        &["cannot write the ledger", "agentwall ledger verify"],
    )
}

fn checkpoint_empty(w: &World) -> Verdict {
    begun(w)?;
    damaged(
        w,
        w.path("state/ledger/checkpoint"),
        Some(b""),
        &["checkpoint"],
        &["cannot write the ledger", "agentwall ledger verify"],
    )
}

fn key_missing(w: &World) -> Verdict {
    begun(w)?;
    damaged(
        w,
        w.path("state/keys/ledger.key"),
        None,
        &["cannot read the ledger's key"],
        &["its key", "is gone", "put the key back"],
    )
}

fn key_damaged(w: &World) -> Verdict {
    begun(w)?;
    damaged(
        w,
        w.path("state/keys/ledger.key"),
        Some(b"\xff\x1b[2J\n"),
        &["ledger's key"],
        &["cannot use the ledger's key"],
    )
}

/// An older genuine log: this host remembers the newest checkpoint.
fn put_back(w: &World) -> Verdict {
    let id = begun(w)?;
    let (ledger, old) = (w.path("state/ledger"), w.path("run/old"));
    host(
        "cp",
        &["-a", &ledger.to_string_lossy(), &old.to_string_lossy()],
    )?;
    next_run_works(w)?;
    for other in ids(w)?.into_iter().filter(|i| *i != id) {
        remove(&w.path("state/sessions").join(other))?;
    }
    fs::rename(&ledger, w.path("run/new")).map_err(|e| e.to_string())?;
    fs::rename(&old, &ledger).map_err(|e| e.to_string())?;
    found(
        w,
        &id,
        &["older"],
        &["cannot write the ledger", "agentwall ledger verify"],
    )?;
    fs::remove_dir_all(&ledger).map_err(|e| e.to_string())?;
    fs::rename(w.path("run/new"), &ledger).map_err(|e| e.to_string())?;
    next_run_works(w)
}

/// The whole log is gone, its key and memory are not: that is not a new log.
fn folder_gone(w: &World) -> Verdict {
    let id = begun(w)?;
    fs::rename(w.path("state/ledger"), w.path("run/ledger")).map_err(|e| e.to_string())?;
    session(w, "")?.refused(125, &["cannot write the ledger"])?;
    say(w, "ledger verify")?.ended(1)?;
    need(changed(w, &id)?.len() == 1, "the change is lost")?;
    let _ = fs::remove_dir_all(w.path("state/ledger"));
    fs::rename(w.path("run/ledger"), w.path("state/ledger")).map_err(|e| e.to_string())?;
    next_run_works(w)
}

/// Lock files and half-written files of dead processes hold nobody up.
fn left_over(w: &World) -> Verdict {
    let id = begun(w)?;
    let plant = |name: &str| {
        let path = w.path(name);
        if !path.exists() {
            w.put(name, "99999\n");
        }
    };
    for name in [
        "state/ledger/lock",
        "state/ledger/checkpoint.tmp",
        "state/keys/ledger.head.tmp",
    ] {
        plant(name);
    }
    for name in ["lock", "control.sock", "session.json.99999.new"] {
        plant(&format!("state/sessions/{id}/{name}"));
    }
    say(w, "sessions")?.ended(0)?.says(&[&id, "kept"])?;
    say(w, "pending")?.ended(0)?.says(&["no questions wait"])?;
    next_run_works(w)?;
    say(w, &format!("discard {id}"))?
        .ended(0)?
        .says(&["1 change discarded"])?;
    ledger_verifies(w)
}

/// The ledger's own folder cannot be written any more.
fn read_only(w: &World) -> Verdict {
    let id = begun(w)?;
    if w.who == Who::Root {
        let path = w.path("state/ledger").to_string_lossy().into_owned();
        host("mount", &["--bind", &path, &path])?;
        host("mount", &["-o", "remount,bind,ro", &path])?;
    } else {
        for dir in [
            "state/ledger",
            "state/ledger/tile",
            "state/ledger/tile/0",
            "state/ledger/tile/entries",
        ] {
            w.mode(dir, 0o500);
        }
        for file in files(w, "") {
            let _ = fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o400));
        }
    }
    session(w, "")?.refused(125, &["ledger", "agentwall ledger verify"])?;
    say(w, &format!("commit {id}"))?.refused(1, &["nothing was committed"])?;
    need(
        w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "committed without a record",
    )?;
    need(changed(w, &id)?.len() == 1, "the change is lost")?;
    // The clean-up must be able to enter.
    if w.who == Who::User {
        host(
            "chmod",
            &["-R", "u+w", &w.path("state/ledger").to_string_lossy()],
        )?;
    }
    Ok(())
}

/// Two sessions and a commit write one log.
fn together(w: &World) -> Verdict {
    let script = "echo READY; i=0; while [ $i -lt 40 ]; do /bin/true; i=$((i+1)); done; echo END";
    let one = Running::start(w, "one", script, "READY")?;
    let two = Running::start(w, "two", script, "READY")?;
    ledger_verifies(w)?;
    one.end()?.ended(0)?;
    two.end()?.ended(0)?;
    ledger_verifies(w)?;
    let shown = say(w, "ledger show --type session_end --json")?;
    need(shown.out().lines().count() == 2, shown.brief())
}

/// A reader that had enough is no failure.
fn pipe_closed(w: &World) -> Verdict {
    session(
        w,
        "i=0; while [ $i -lt 60 ]; do /bin/true; echo $i > {work}/f$i; i=$((i+1)); done",
    )?
    .ended(0)?;
    for line in [
        "ledger show",
        "ledger show --json",
        "diff",
        "diff --patch",
        "diff --json",
        "sessions",
        "man",
        "--help",
    ] {
        for reader in ["head -n 1", "true", "sleep 0"] {
            let text = w.fill(&format!(
                "{{wall}} {line} | {reader} > /dev/null; echo \"${{PIPESTATUS[0]}}\""
            ));
            let said = run(w.as_user("/bin/bash").args(["-c", &text]))?;
            let status = said.out().trim().to_owned();
            need(
                (status == "0" || status == "141") && said.err.is_empty(),
                format!("{line} | {reader}: status {status}, {}", said.brief()),
            )?;
        }
    }
    Ok(())
}

/// What a session really recorded is replayed whole: under its own policy nothing flips, under
/// another one what that policy says differently, and nothing of a log that does not verify.
fn replayed(w: &World) -> Verdict {
    let script = "mkdir -p guarded; echo x > guarded/x; uname -a; uname; cat {home}/.ssh/id_ed25519; \
                  exec 3<>/dev/tcp/example.org/80; true";
    session(w, script)?;
    let replay = |policy: &str| {
        let said = say(w, &format!("policy replay --policy {policy} --json"))?;
        Ok::<_, String>((said.status, said.json()?))
    };
    let (status, same) = replay("{policy}")?;
    let summary = same.to_string();
    need(
        status == 0 && same["flips"] == 0 && same["not_replayed"] == 0,
        format!("under its own policy: {status}, {summary}"),
    )?;
    need(
        same["replayed"].as_u64() >= Some(4),
        format!("little was recorded: {summary}"),
    )?;
    let text = w.read("policy.yaml");
    w.put(
        "run/new.yaml",
        &text.replace("when: 'size(args) > 1'", "when: 'size(args) == 1'"),
    );
    let (status, new) = replay("{run}/new.yaml")?;
    let summary = new.to_string();
    need(
        status == 1
            && new["classes"]["newly_denied"] == 1
            && new["classes"]["newly_allowed"].as_u64() >= Some(1)
            && summary.contains("uname"),
        format!("under another one: {status}, {summary}"),
    )?;
    for file in files(w, "tile/entries") {
        let mut bytes = fs::read(&file).map_err(|e| e.to_string())?;
        bytes[40] ^= 1;
        fs::write(&file, bytes).map_err(|e| e.to_string())?;
    }
    say(w, "policy replay --policy {policy}")?
        .refused(1, &["does not verify"])
        .map(drop)
}
