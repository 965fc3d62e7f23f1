//! A state folder that cannot hold state.

use std::{fs, os::unix::fs::PermissionsExt};

use agentwall_tests::{Who, World};

use crate::{
    kit::{Fault, Verdict, changed, ids, ledger_verifies, need, next_run_works, say, session},
    tools::{fill_disk, mount, remount},
};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("state/not-writable", not_writable)
            .only(Who::User, "the superuser writes everywhere"),
        Fault::new("state/cannot-be-made", cannot_be_made)
            .only(Who::User, "the superuser writes everywhere"),
        Fault::new("state/of-another-user", of_another)
            .mounts()
            .only(
                Who::User,
                "the superuser's folder is what another user's is",
            ),
        Fault::new("state/others-can-write", others_can_write),
        Fault::new("state/is-a-file", is_a_file),
        Fault::new("state/below-a-file", below_a_file),
        Fault::new("state/read-only", read_only).mounts(),
        Fault::new("state/read-only-after-a-session", read_only_later)
            .mounts()
            .commits(),
        Fault::new("state/disk-full", disk_full).mounts(),
        Fault::new("state/disk-nearly-full", nearly_full).mounts(),
        Fault::new("state/no-inodes", no_inodes).mounts(),
        Fault::new("state/where-no-copy-can-lie", no_upper).mounts(),
    ]
}

/// A run is refused with these texts.
fn refused(w: &World, texts: &[&str]) -> Verdict {
    session(w, "")?.refused(125, texts).map(drop)
}

fn not_writable(w: &World) -> Verdict {
    w.mode("state", 0o500);
    refused(w, &["state folder", "not writable", "set AGENTWALL_STATE"])?;
    w.mode("state", 0o700);
    next_run_works(w)
}

fn cannot_be_made(w: &World) -> Verdict {
    fs::remove_dir(w.path("state")).map_err(|e| e.to_string())?;
    let mode =
        |m| fs::set_permissions(&w.dir, fs::Permissions::from_mode(m)).map_err(|e| e.to_string());
    mode(0o555)?;
    let verdict = refused(w, &["cannot make the state folder", "set AGENTWALL_STATE"]);
    mode(0o755)?;
    verdict
}

fn of_another(w: &World) -> Verdict {
    std::os::unix::fs::chown(w.path("state"), Some(65534), Some(65534))
        .map_err(|e| e.to_string())?;
    w.mode("state", 0o777);
    refused(w, &["belongs to user 65534", "set AGENTWALL_STATE"])
}

fn others_can_write(w: &World) -> Verdict {
    w.mode("state", 0o777);
    refused(w, &["others can write", "chmod 700"])?;
    w.mode("state", 0o700);
    next_run_works(w)
}

fn is_a_file(w: &World) -> Verdict {
    fs::remove_dir(w.path("state")).map_err(|e| e.to_string())?;
    w.put("state", "KEEP\n");
    refused(w, &["is not a folder", "set AGENTWALL_STATE"])?;
    need(w.read("state") == "KEEP\n", "the file was changed")
}

fn below_a_file(w: &World) -> Verdict {
    fs::remove_dir(w.path("state")).map_err(|e| e.to_string())?;
    w.put("state", "KEEP\n");
    let mut run = crate::kit::wall(w, crate::kit::session_args(w, ""));
    let said = crate::kit::run(run.env("AGENTWALL_STATE", w.path("state/deep/er")))?;
    said.refused(
        125,
        &[
            "cannot make the state folder",
            "is not a folder",
            "set AGENTWALL_STATE",
        ],
    )?;
    need(w.read("state") == "KEEP\n", "the file was changed")
}

fn read_only(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=8m", "state")?;
    remount(w, "ro", "state")?;
    refused(w, &["Read-only file system", "set AGENTWALL_STATE"])?;
    remount(w, "rw", "state")?;
    next_run_works(w)
}

/// Every command says what is wrong; nothing is lost when the folder is writable again.
fn read_only_later(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=8m", "state")?;
    session(w, "echo AGENT > {work}/readme.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    remount(w, "ro", "state")?;
    refused(
        w,
        &[
            "not writable",
            "Read-only file system",
            "set AGENTWALL_STATE",
        ],
    )?;
    for verb in ["commit", "discard"] {
        say(w, &format!("{verb} {id}"))?.refused(1, &["not writable", "make it writable"])?;
    }
    // Who only reads needs no writable folder.
    for (line, text) in [
        ("sessions --all", id.as_str()),
        (&format!("diff {id}"), "readme.txt"),
        ("ledger show --last 1", "session_end"),
        ("ledger verify", "verified"),
        ("ledger key", "agentwall.local/"),
        ("pending", "no questions wait"),
        ("policy replay --policy {policy}", "nothing flips"),
    ] {
        say(w, line)?.ended(0)?.says(&[text])?;
    }
    need(
        w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "the original was changed",
    )?;
    remount(w, "rw", "state")?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/readme.txt") == "AGENT\n",
        "the change did not arrive",
    )?;
    ledger_verifies(w)
}

fn disk_full(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=256k", "state")?;
    fill_disk(&w.path("state/full"), 0)?;
    refused(w, &["No space left on device", "make room"])?;
    fs::remove_file(w.path("state/full")).map_err(|e| e.to_string())?;
    nothing_left(w)?;
    next_run_works(w)
}

/// Wherever the start of a session runs out of room, it is refused, and the next one works. How much it needs depends on
/// how many trees of the host the policy isolates.
fn nearly_full(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=512k", "state")?;
    let (mut refusals, mut went) = (0, 0);
    for free in (0..40).map(|pages| pages * 4096) {
        fill_disk(&w.path("state/full"), free)?;
        let said = session(w, "(echo CHANGED > {work}/new.txt) && echo WROTE")?;
        let _ = fs::remove_file(w.path("state/full"));
        match said.status {
            0 => went += 1,
            125 if said.out().contains("AGENT-RAN") => {
                // It ran, behind the wall; only its end found no room. Its changes are there.
                said.says(&["No space left on device", "make room"])?;
                let id = ids(w)?.into_iter().next().ok_or("the session is lost")?;
                let there = changed(w, &id)?.iter().any(|p| p.contains("new.txt"));
                need(
                    there || !said.out().contains("WROTE"),
                    format!("lost with {free} bytes free: {}", said.brief()),
                )?;
            }
            _ => {
                said.refused(125, &["No space left on device", "make room"])?;
                refusals += 1;
            }
        }
        if w.path("state/ledger/checkpoint").exists() {
            ledger_verifies(w)?;
        }
        // The next one begins with an empty disk, a new key and a new log.
        for name in ["sessions", "ledger", "values", "keys", "locks"] {
            let _ = fs::remove_dir_all(w.path("state").join(name));
        }
    }
    need(
        refusals > 0 && went > 0,
        format!("{refusals} refused, {went} not"),
    )?;
    next_run_works(w)
}

fn no_inodes(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=8m,nr_inodes=5", "state")?;
    refused(w, &["No space left on device", "make room"])?;
    remount(w, "nr_inodes=1000", "state")?;
    nothing_left(w)?;
    next_run_works(w)
}

/// The state folder lies on an overlay, as in a container: no copy layer can lie there.
fn no_upper(w: &World) -> Verdict {
    for part in ["l", "u", "w"] {
        fs::create_dir_all(w.path("run/o").join(part)).map_err(|e| e.to_string())?;
    }
    let part = |p: &str| w.path("run/o").join(p).display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        part("l"),
        part("u"),
        part("w")
    );
    mount(w, "overlay", &options, "state")?;
    refused(w, &["copy layer", "AGENTWALL_STATE"])?;
    nothing_left(w)
}

/// A refused run leaves no folder of its session.
fn nothing_left(w: &World) -> Verdict {
    let left = fs::read_dir(w.path("state/sessions"))
        .into_iter()
        .flatten()
        .count();
    need(
        left == 0,
        format!("{left} folders of sessions that never began are left"),
    )
}
