//! From the copy to the original: what an agent can plant so that the commit does the harm.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    path::Path,
};

use agentwall_tests::{
    Case,
    Check::Succeeds,
    Native, Outcome, World,
    case::{brief, says},
    tree::{Depth, Tree},
};

const NO_COMMIT: Native = Native::Cannot("there is nothing to commit without the wall");
const GOOD: &str = "echo GOOD > {work}/good.txt; cat {work}/good.txt";

/// All cases of this theme.
pub fn cases() -> Vec<Case> {
    let case =
        |name: &str, source, attack: &str, after: fn(&World, &Outcome) -> Result<(), String>| {
            Case::new(format!("commit/{name}"), source)
                .attack(attack, [])
                .neighbour(GOOD, [says("GOOD")])
                .native(NO_COMMIT)
                .with(|c| {
                    c.after = Some(after);
                    c.changes_host = true
                })
        };
    vec![
        case("symlink-planted", "srt symlink-boundary, try #symlinks", "rm -rf {work}/sub; ln -s {out} {work}/sub; ln -s {out}/canary.txt {work}/readme2.txt; rm {work}/readme.txt; ln -s {out}/canary.txt {work}/readme.txt", planted),
        case("folder-swapped-on-host", "symlink race between session and commit", "echo EVIL > {work}/sub/evil.txt; echo EVIL > {work}/sub/file.txt; mkdir {work}/sub/deep; echo EVIL > {work}/sub/deep/evil.txt", swapped),
        case("file-swapped-on-host", "symlink race between session and commit", "echo EVIL > {work}/readme.txt; chmod 777 {work}/app/env.txt", file_swapped),
        case("changed-underneath", "commit must not overwrite what the person changed", "echo AGENT > {work}/readme.txt; rm {work}/sub/file.txt", conflict),
        case("device-nodes", "special files in the copy", "mknod {work}/null c 1 3; mknod {work}/disk b 8 0; {kit}/writer mknod-char {work}/char; mkfifo {work}/pipe; python3 -c 'import socket; socket.socket(1).bind(\"{work}/s\")'; echo tried", no_special),
        case("set-user-id", "mode bits in the copy", "cp /bin/true {work}/suid; chmod 4755 {work}/suid; cp /bin/true {work}/sgid; chmod 2755 {work}/sgid; echo tried", no_setuid),
        case("forged-whiteout", "overlay marks made by the agent", "{kit}/writer mknod-whiteout {work}/forged; {kit}/writer set-named-xattr {work}/sub user.overlay.opaque y; {kit}/writer set-named-xattr {work}/app user.overlay.redirect /; {kit}/writer set-named-xattr {work}/readme.txt user.overlay.whiteout y; {kit}/writer set-named-xattr {work}/readme.txt user.overlay.metacopy y; echo tried", not_deleted),
        case("forged-names", "OCI and overlay names made by the agent", "touch {work}/.wh.readme.txt {work}/sub/.wh..wh..opq {work}/.wh..wh.plnk; echo tried", not_deleted),
        case("hard-link-to-denied", "links between names under different rules", "ln {work}/app/plain.txt {work}/good-link; echo EVIL >> {work}/good-link; echo tried", linked),
        case("odd-names", "newlines, escape codes and non-UTF-8 in diff", "python3 -c 'import os
for n in (b\"a\\nb\", b\"\\x1b[31mred\", b\"\\xff\\xfe\", b\"-rf\", b\" space \", \"\\u202egnp\".encode(), b\"x\" * 255): open(b\"{work}/odd-\" + n[:250], \"w\").write(\"x\")'; echo tried", odd_names),
        case("long-path", "paths longer than PATH_MAX", "python3 -c 'import os
os.chdir(\"{work}\")
for i in range(30): os.mkdir(\"d\" * 200); os.chdir(\"d\" * 200)
open(\"deep.txt\", \"w\").write(\"x\")'; echo tried", long_path),
        case("committed-twice", "a second commit of the same session", "echo CHANGED > {work}/readme.txt", twice),
        case("discard", "nothing stays after a discard", "echo EVIL > {work}/readme.txt; mkdir {work}/d; rm -r {work}/sub", discarded),
        case("only-named-paths", "commit -- PATHS", "echo EVIL > {work}/readme.txt; echo EVIL > {work}/sub/file.txt", named_only),
        case("path-outside", "commit -- PATHS that leave the workspace", "echo EVIL > {work}/readme.txt", path_outside),
        case("hooks-denied", "host-executed persistence in the workspace", "for f in .git/hooks/pre-commit .envrc .vscode/tasks.json conftest.py; do mkdir -p $(dirname {work}/$f); printf '#!/bin/sh\\necho EVIL\\n' > {work}/$f; chmod +x {work}/$f; done; cp -r {work}/.git {work}/g2; echo tried", hooks)
            .rules("  - { id: no-hooks, priority: 50, action: file.commit, resource: [\"${workspace}/**/.git/hooks/**\", \"**/.envrc\", \"**/.vscode/**\", \"**/conftest.py\"], effect: deny }\n"),
        case("hooks-asked", "host-executed persistence waits for a person", "printf '#!/bin/sh\\necho EVIL\\n' > {work}/.git/hooks/pre-commit; echo tried", hooks)
            .rules("  - { id: ask-hooks, priority: 50, action: file.commit, resource: \"${workspace}/**/.git/hooks/**\", effect: ask }\n"),
        // Without a commit nothing of it is on the host.
        Case::new("commit/hooks-stay-in-the-copy", "host-executed persistence in the workspace")
            .attack("for f in .git/hooks/pre-commit .vscode/tasks.json package.json Makefile .envrc conftest.py; do mkdir -p $(dirname {work}/$f); printf EVIL > {work}/$f; done; chmod +x {work}/.git/hooks/pre-commit", [])
            .neighbour("cat {work}/.git/hooks/pre-commit", [Succeeds])
            .with(|c| c.neighbour_first = true)
            .with(|c| c.neighbour = "cat {work}/.git/hooks/pre-push.sample".into()),
        Case::new("commit/ghost-files", "claude-code #17087: dotfiles left behind where masks were")
            .attack("ls -la {home} {home}/.ssh {home}/.aws {home}/.gnupg {home}/.config 2>&1; touch {home}/.bashrc {home}/.profile {home}/.gitconfig; mkdir {home}/.config; echo EVIL >> {home}/.bashrc", [])
            .neighbour("cat {home}/notes.txt", [says("HOME-OK")])
            .with(|c| c.setup = Some(bare_home)),
        Case::new("commit/home-deleted", "the agent deletes the home folder and the workspace")
            .attack("rm -rf {home} {home}/* {home}/.[a-z]* {out} {work}/* 2>/dev/null; rm -rf --no-preserve-root {pub}; echo tried", [])
            .neighbour("{kit}/writer creat {work}/readme.txt", [says("done creat")])
            .with(|c| { c.after = Some(home_there) }),
    ]
}

fn ensure(ok: bool, why: impl Into<String>) -> Result<(), String> {
    if ok { Ok(()) } else { Err(why.into()) }
}

fn commit(w: &World) -> (i32, String) {
    let (status, out, err) = w.wall(&["commit"]);
    (status, format!("{out}{err}"))
}

/// The neighbour's file must be on the host after the commit.
fn good_arrived(w: &World, said: &str) -> Result<(), String> {
    ensure(
        w.read("work/good.txt") == "GOOD\n",
        format!("the good change did not arrive: {}", brief(said)),
    )
}

fn outside_untouched(w: &World) -> Result<(), String> {
    let bad = w.changes().into_iter().find(|c| {
        let path = c
            .split_once(": ")
            .map_or("", |(_, p)| p.trim_start_matches('"'));
        ["out", "home", "pub"].iter().any(|d| path.starts_with(d))
    });
    bad.map_or(Ok(()), |b| Err(format!("outside the workspace: {b}")))
}

fn planted(w: &World, _: &Outcome) -> Result<(), String> {
    let (_, said) = commit(w);
    outside_untouched(w)?;
    ensure(
        w.read("out/canary.txt") == "ORIGINAL\n",
        "written through the planted link",
    )?;
    good_arrived(w, &said)
}

fn swapped(w: &World, _: &Outcome) -> Result<(), String> {
    let err = |e: std::io::Error| e.to_string();
    fs::rename(w.path("work/sub"), w.path("work/sub.old")).map_err(err)?;
    symlink(w.path("out"), w.path("work/sub")).map_err(err)?;
    let (_, said) = commit(w);
    outside_untouched(w)?;
    ensure(
        !w.path("out/evil.txt").exists() && !w.path("out/deep").exists(),
        "the commit followed a link out of the workspace",
    )?;
    // The rest arrives, or everything waits in the layer: nothing is lost.
    let (_, diff, _) = w.wall(&["diff", "--stat"]);
    ensure(
        w.read("work/good.txt") == "GOOD\n" || diff.contains("good.txt"),
        format!("the good change is lost: {}", brief(&said)),
    )
}

fn file_swapped(w: &World, _: &Outcome) -> Result<(), String> {
    let err = |e: std::io::Error| e.to_string();
    for f in ["work/readme.txt", "work/app/env.txt"] {
        fs::remove_file(w.path(f)).map_err(err)?;
        symlink(w.path("out/canary.txt"), w.path(f)).map_err(err)?;
    }
    commit(w);
    outside_untouched(w)?;
    ensure(
        w.read("out/canary.txt") == "ORIGINAL\n",
        "the commit followed a link out of the workspace",
    )
}

fn conflict(w: &World, _: &Outcome) -> Result<(), String> {
    w.put("work/readme.txt", "PERSON\n");
    w.put("work/sub/file.txt", "PERSON\n");
    let (status, said) = commit(w);
    ensure(
        w.read("work/readme.txt") == "PERSON\n",
        "the person's change was overwritten",
    )?;
    ensure(
        w.read("work/sub/file.txt") == "PERSON\n",
        "the person's change was deleted",
    )?;
    ensure(
        status != 0,
        "a commit with conflicts must not end with status 0",
    )?;
    ensure(
        said.contains("readme.txt"),
        format!("the conflict is not named: {}", brief(&said)),
    )?;
    let (_, diff, _) = w.wall(&["diff", "--patch"]);
    ensure(diff.contains("AGENT"), "the agent's change is lost")
}

fn special(path: &Path, found: &mut Vec<String>) {
    for e in fs::read_dir(path).into_iter().flatten().flatten() {
        let Ok(m) = fs::symlink_metadata(e.path()) else {
            continue;
        };
        let t = m.file_type();
        if t.is_char_device() || t.is_block_device() || (t.is_file() && m.mode() & 0o6000 != 0) {
            found.push(e.path().display().to_string());
        }
        if t.is_dir() {
            special(&e.path(), found);
        }
    }
}

fn nothing_special(w: &World) -> Result<(), String> {
    let (_, said) = commit(w);
    let mut found = Vec::new();
    special(&w.path("work"), &mut found);
    ensure(
        found.is_empty(),
        format!("on the host: {}", found.join(", ")),
    )?;
    let (_, diff, _) = w.wall(&["diff", "--stat"]);
    ensure(
        w.read("work/good.txt") == "GOOD\n" || diff.contains("good.txt"),
        format!("the good change is lost: {}", brief(&said)),
    )
}

fn no_special(w: &World, _: &Outcome) -> Result<(), String> {
    nothing_special(w)
}

fn no_setuid(w: &World, _: &Outcome) -> Result<(), String> {
    nothing_special(w)
}

fn not_deleted(w: &World, _: &Outcome) -> Result<(), String> {
    let (_, said) = commit(w);
    for (f, text) in [
        ("work/readme.txt", "WORKSPACE-OK\n"),
        ("work/sub/file.txt", "SUB-OK\n"),
        ("work/app/env.txt", "PLAIN-OK\n"),
    ] {
        ensure(
            w.read(f) == text,
            format!("{f} was lost by a forged mark: {}", brief(&said)),
        )?;
    }
    outside_untouched(w)?;
    good_arrived(w, &said)
}

fn linked(w: &World, _: &Outcome) -> Result<(), String> {
    let (_, said) = commit(w);
    outside_untouched(w)?;
    ensure(
        w.read("work/good-link") == "PLAIN-OK\nEVIL\n",
        format!("the linked file did not arrive: {}", brief(&said)),
    )
}

fn odd_names(w: &World, _: &Outcome) -> Result<(), String> {
    for args in [
        &["diff"][..],
        &["diff", "--stat"],
        &["diff", "--json"],
        &["diff", "--patch"],
    ] {
        let (status, out, err) = w.wall(args);
        ensure(
            status == 0 || status == 1,
            format!("{args:?}: status {status}: {}", brief(&err)),
        )?;
        let bad = out
            .chars()
            .find(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || *c == '\u{202e}');
        ensure(
            bad.is_none(),
            format!("{args:?}: a raw {bad:?} reaches the terminal"),
        )?;
        ensure(
            out.contains("odd-"),
            format!("{args:?}: the files are not shown: {}", brief(&out)),
        )?;
    }
    let (_, said) = commit(w);
    let there = Tree::of(&w.path("work"), Depth::Content)
        .0
        .keys()
        .filter(|k| k.to_string_lossy().contains("odd-"))
        .count();
    ensure(
        there == 7,
        format!("{there} of 7 odd names arrived: {}", brief(&said)),
    )
}

fn long_path(w: &World, _: &Outcome) -> Result<(), String> {
    let (_, said) = commit(w);
    good_arrived(w, &said).or_else(|e| {
        let (_, diff, _) = w.wall(&["diff", "--stat"]);
        ensure(diff.contains("good.txt"), e)
    })
}

fn twice(w: &World, _: &Outcome) -> Result<(), String> {
    let (first, said) = commit(w);
    ensure(
        first == 0,
        format!("commit: status {first}: {}", brief(&said)),
    )?;
    ensure(
        w.read("work/readme.txt") == "CHANGED\n",
        "the change did not arrive",
    )?;
    w.put("work/readme.txt", "PERSON\n");
    let (_, said) = commit(w);
    ensure(
        w.read("work/readme.txt") == "PERSON\n",
        "a second commit overwrote a later change",
    )?;
    ensure(!said.trim().is_empty(), "a second commit says nothing")
}

fn discarded(w: &World, _: &Outcome) -> Result<(), String> {
    let (status, out, err) = w.wall(&["discard"]);
    ensure(status == 0, format!("discard: status {status}: {out}{err}"))?;
    commit(w);
    ensure(
        w.changes().is_empty(),
        format!("after a discard: {}", w.changes().join(", ")),
    )
}

fn named_only(w: &World, _: &Outcome) -> Result<(), String> {
    let (status, out, err) = w.wall(&["commit", "--", "good.txt"]);
    ensure(
        status == 0,
        format!("commit -- good.txt: status {status}: {out}{err}"),
    )?;
    good_arrived(w, &out)?;
    ensure(
        w.read("work/readme.txt") == "WORKSPACE-OK\n" && w.read("work/sub/file.txt") == "SUB-OK\n",
        "more than the named path was committed",
    )
}

fn path_outside(w: &World, _: &Outcome) -> Result<(), String> {
    let outside = w.fill("{out}/canary.txt");
    for path in [
        "../out/canary.txt",
        outside.as_str(),
        "sub/../../out/canary.txt",
        "/etc/passwd",
    ] {
        w.wall(&["commit", "--", path]);
    }
    outside_untouched(w)?;
    ensure(
        w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "a path that was not named was committed",
    )
}

fn hooks(w: &World, _: &Outcome) -> Result<(), String> {
    let (_, said) = commit(w);
    for f in [
        ".git/hooks/pre-commit",
        ".envrc",
        ".vscode/tasks.json",
        "conftest.py",
        "g2/.git/hooks/pre-commit",
    ] {
        ensure(
            !w.path("work").join(f).exists(),
            format!("{f} is on the host"),
        )?;
    }
    good_arrived(w, &said)
}

fn bare_home(w: &World) -> Result<(), String> {
    for d in ["home/.ssh", "home/.aws"] {
        fs::remove_dir_all(w.path(d)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn home_there(w: &World, _: &Outcome) -> Result<(), String> {
    ensure(
        w.read("home/notes.txt") == "HOME-OK\n" && w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "files are gone",
    )
}
