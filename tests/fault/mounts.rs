//! An isolated tree that holds other mounts: what lies between them is worked with as everywhere,
//! nothing of what they cover shows, and a mount that no copy layer can be laid over hinders nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
};

use agentwall_tests::World;

use crate::{
    kit::{Fault, Verdict, changed, ids, need, next_run_works, say, session},
    tools::{Running, host},
};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    let fine = "  - { id: hooks, priority: 5, action: [file.write, file.create], resource: \"{work}/**/*.hook\", effect: deny }\n";
    let hidden = "  - { id: hidden, priority: 5, action: \"file.*\", resource: \"{work}/hidden.txt\", effect: deny }\n";
    let hidden_by_name = "  - { id: hidden, priority: 5, action: \"file.*\", resource: \"{work}/**/hidden.*\", effect: deny }\n";
    vec![
        Fault::new("mounts/between-them", between)
            .mounts()
            .commits(),
        Fault::new("mounts/between-them-brokered", between)
            .rules(fine)
            .mounts()
            .commits(),
        Fault::new("mounts/temporary-names", temporary_names).mounts(),
        Fault::new("mounts/nothing-beneath", beneath)
            .rules(hidden)
            .mounts()
            .commits(),
        Fault::new("mounts/nothing-beneath-brokered", beneath)
            .rules(hidden_by_name)
            .mounts()
            .commits(),
        Fault::new("mounts/others-work-meanwhile", meanwhile)
            .mounts()
            .commits(),
        Fault::new("mounts/others-work-at-the-start", at_the_start)
            .mounts()
            .commits(),
        Fault::new("mounts/a-session-goes-on", goes_on)
            .mounts()
            .commits(),
        Fault::new("mounts/unusable", unusable).mounts().commits(),
    ]
}

/// Mounts a file system of the user's over a folder of the workspace, with a file in it.
fn mounted(w: &World, name: &str) -> Result<PathBuf, String> {
    let path = w.path("work").join(name);
    fs::create_dir_all(&path).map_err(|e| e.to_string())?;
    let at = path.to_string_lossy();
    host(
        "mount",
        &["-t", "tmpfs", "-o", "mode=755", "agentwall-test", &at],
    )?;
    w.own(&path);
    w.put(&format!("work/{name}/inside.txt"), "INSIDE-OK\n");
    Ok(path)
}

/// Everything below a folder: types and contents.
fn look(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut work = vec![dir.to_owned()];
    while let Some(dir) = work.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let what = match entry.file_type() {
                Ok(t) if t.is_dir() => {
                    work.push(path.clone());
                    "folder".to_owned()
                }
                Ok(t) if t.is_symlink() => format!("{:?}", fs::read_link(&path)),
                Ok(t) if t.is_file() => {
                    format!(
                        "{:x?}",
                        fs::read(&path).map(|b| String::from_utf8_lossy(&b).into_owned())
                    )
                }
                other => format!("{other:?}"),
            };
            found.insert(path, what);
        }
    }
    found
}

/// A workspace with a mount two levels down, loose files, one of them too large to be copied.
fn arrange(w: &World) -> Verdict {
    mounted(w, "deep/mounted")?;
    w.put("work/loose.txt", "LOOSE\n");
    w.put("work/gone.txt", "GONE\n");
    w.put("work/deep/loose.txt", "DEEP\n");
    w.put("work/large", "LARGE\n");
    let large = fs::File::options().write(true).open(w.path("work/large"));
    let grown = large.and_then(|f| f.set_len((16 << 20) + 1));
    grown.map_err(|e| e.to_string())?;
    std::os::unix::fs::symlink("loose.txt", w.path("work/link")).map_err(|e| e.to_string())?;
    w.own(&w.path("work/link"));
    w.own(&w.path("work/deep"));
    Ok(())
}

/// New names are made, moved and removed, old ones changed and removed; it is reviewed, committed and
/// taken back as all else.
fn between(w: &World) -> Verdict {
    arrange(w)?;
    let work = w.path("work");
    let before = look(&work);
    let said = session(
        w,
        "set -e; cd {work}
t=$(mktemp -p .); echo text >$t; rm $t; d=$(mktemp -d -p deep); rmdir $d
git init -q repository; mkdir made made/in; echo one >new; mv new newer; mv made/in made/out; echo two >deep/new
echo more >>loose.txt; test \"$(cat link)\" = \"LOOSE
more\"; chmod 600 readme.txt; rm gone.txt; ln -s x deep/link; mv deep/loose.txt deep/moved.txt
echo again >gone.txt; rm gone.txt; cat readme.txt deep/mounted/inside.txt; echo x >deep/mounted/y; head -c 5 large
! mv deep other 2>/dev/null; ! rmdir deep/mounted 2>/dev/null
for refused in 'echo x >>large' 'rm -f large' 'mv large l' 'mv newer large' ': >large'; do
  if sh -c \"$refused\" 2>/dev/null; then echo NOT-REFUSED $refused; fi
done
cp large copy; echo x >>copy; rm copy; test \"$(ls)\" = \"$(ls -U | sort)\"; echo ALL-DONE",
    )?;
    said.ended(0)?
        .says(&["WORKSPACE-OK", "INSIDE-OK", "LARGE", "ALL-DONE"])?;
    need(!said.out().contains("NOT-REFUSED"), said.brief())?;
    need(look(&work) == before, "the host changed before the commit")?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    let paths = changed(w, &id)?;
    let is = |name: &str| {
        paths
            .iter()
            .any(|p| p.ends_with(&format!("/work/{name}\"")))
    };
    for name in [
        "loose.txt",
        "gone.txt",
        "newer",
        "made",
        "made/out",
        "deep/new",
        "deep/link",
        "readme.txt",
        "deep/loose.txt",
        "deep/moved.txt",
        "deep/mounted/y",
        "repository",
    ] {
        need(is(name), format!("{name} is not in the changes: {paths:?}"))?;
    }
    // Nothing stands for the names that the agent could not touch.
    for name in [
        "large",
        "deep",
        "deep/mounted",
        "sub",
        "app",
        "link",
        "new",
        "copy",
    ] {
        need(!is(name), format!("{name} is in the changes: {paths:?}"))?;
    }
    say(w, &format!("commit {id} --held"))?.ended(0)?;
    need(
        w.read("work/loose.txt") == "LOOSE\nmore\n",
        "the change did not arrive",
    )?;
    need(
        w.read("work/deep/moved.txt") == "DEEP\n",
        "the move did not arrive",
    )?;
    need(
        !w.path("work/gone.txt").exists() && w.path("work/repository/.git/HEAD").exists(),
        "names did not arrive",
    )?;
    // What another file system holds is not kept for an undo.
    say(w, &format!("undo {id} --partial"))?;
    let _ = fs::remove_file(w.path("work/deep/mounted/y"));
    let after = look(&work);
    need(
        after == before,
        format!("an undo is not exact: {:?}", differing(&before, &after)),
    )?;
    say(w, &format!("discard {id}"))?.ended(0)?;
    need(changed(w, &id)?.is_empty(), "changes are left")?;
    next_run_works(w)
}

fn differing(a: &BTreeMap<PathBuf, String>, b: &BTreeMap<PathBuf, String>) -> Vec<PathBuf> {
    let names = a.keys().chain(b.keys());
    names.filter(|n| a.get(*n) != b.get(*n)).cloned().collect()
}

/// As on a desktop where a program has mounted itself below `/tmp`.
fn temporary_names(w: &World) -> Verdict {
    let place = Path::new("/tmp").join(format!(".mount-{}", w.token));
    fs::create_dir(&place).map_err(|e| e.to_string())?;
    let at = place.to_string_lossy().into_owned();
    let verdict = host("mount", &["-t", "tmpfs", "agentwall-test", &at]).and_then(|()| {
        let script = "f=$(mktemp) && d=$(mktemp -d) && echo x >$d/f && mv $d/f $f && rmdir $d && rm $f && echo ALL-DONE";
        session(w, script)?.ended(0)?.says(&["ALL-DONE"])?;
        let id = ids(w)?.pop().ok_or("the session is lost")?;
        need(changed(w, &id)?.is_empty(), "changes are left of names that are gone")
    });
    let _ = host("umount", &[&at]);
    fs::remove_dir(&place).map_err(|e| e.to_string())?;
    verdict
}

/// What a mount covers on the host is not to be had, nor what the policy hides between the mounts;
/// what stands in for a name cannot be touched.
fn beneath(w: &World) -> Verdict {
    arrange(w)?;
    let secret = format!("BENEATH-{}\n", w.token);
    w.put("work/covered/beneath.txt", &secret);
    mounted(w, "covered")?;
    w.put("work/hidden.txt", &secret);
    // A mount need not be a folder.
    w.put("work/bound.txt", &secret);
    let bound = w.path("work/bound.txt");
    let bound = bound.to_string_lossy();
    host(
        "mount",
        &["--bind", &w.path("pub/data.txt").to_string_lossy(), &bound],
    )?;
    let before = look(&w.path("work"));
    let said = session(
        w,
        "cd {work}; exec 2>&1
umount covered; umount -l covered; umount -l bound.txt; umount {work}; rm -f bound.txt; cat bound.txt; rmdir covered; rm -rf covered/beneath.txt; rmdir sub; perl -e 'for (\"covered\", \"sub\") { rename($_, \"$_.moved\") and print \"RENAMED\" }'
unshare -Urm sh -c 'umount -l covered; umount -l {work}; cat covered/beneath.txt hidden.txt'
unshare -Urm sh -c 'mount --bind {work} /mnt; cat /mnt/covered/beneath.txt /mnt/hidden.txt'
cat covered/beneath.txt /proc/self/root{work}/covered/beneath.txt /proc/1/root{work}/covered/beneath.txt
cat hidden.txt; cp hidden.txt stolen; ln hidden.txt linked; ln -s hidden.txt link2; cat link2; cat linked stolen; mv hidden.txt moved; cat moved; grep -r BENEATH- .
for f in hidden.txt large; do echo x >other; mv -T other $f; rm -rf $f; ln -f loose.txt $f; sh -c \": >$f\"; chmod 700 $f; touch $f; done
mkdir hidden.txt large covered sub
rm -f other; echo y >covered/new.txt && cat covered/inside.txt loose.txt && rm covered/new.txt; echo ALL-DONE",
    )?;
    said.ended(0)?.says(&["INSIDE-OK", "LOOSE", "ALL-DONE"])?;
    need(
        !said.out().contains("RENAMED"),
        "a mount point has another name",
    )?;
    need(
        !(said.out() + &said.err()).contains("BENEATH-"),
        "the secret was read",
    )?;
    need(look(&w.path("work")) == before, "the host changed")?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    let paths = changed(w, &id)?;
    let touched = |name: &str| {
        paths
            .iter()
            .any(|p| p.ends_with(&format!("/work/{name}\"")))
    };
    // An attempt may have changed the mode of the folder that the copy layer of a mount is.
    for name in [
        "hidden.txt",
        "large",
        "sub",
        "sub/file.txt",
        "bound.txt",
        "covered/beneath.txt",
        "moved",
    ] {
        need(
            !touched(name),
            format!("{name} is in the changes: {paths:?}"),
        )?;
    }
    say(w, &format!("commit {id} --held"))?;
    for covering in [&w.path("work/covered").to_string_lossy(), &bound] {
        host("umount", &[covering])?;
    }
    need(
        w.read("work/bound.txt") == secret,
        "the file beneath a file changed",
    )?;
    need(
        w.read("work/covered/beneath.txt") == secret,
        "the file beneath changed",
    )?;
    need(
        w.read("work/hidden.txt") == secret,
        "the hidden file changed",
    )?;
    next_run_works(w)
}

/// What others make, change or remove between the mounts while the agent works is theirs.
fn meanwhile(w: &World) -> Verdict {
    arrange(w)?;
    let script = "cd {work}; echo READY; read go
echo agent >both; mkdir folder; echo agent >folder/agent; echo agent >>loose.txt; rm gone.txt; echo agent >>readme.txt; echo agent >alone; echo SAID";
    let mut running = Running::fed(w, "meanwhile", script, "READY", Stdio::piped())?;
    w.put("work/both", "user\n");
    w.put("work/folder/user", "user\n");
    w.own(&w.path("work/folder"));
    w.put("work/loose.txt", "user\n");
    w.put("work/gone.txt", "user\n");
    fs::remove_file(w.path("work/readme.txt")).map_err(|e| e.to_string())?;
    let told = running
        .child
        .stdin
        .take()
        .map(|mut to| to.write_all(b"go\n"));
    need(matches!(told, Some(Ok(()))), "the agent cannot be told")?;
    running.until("SAID")?;
    running.end()?.ended(0)?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    say(w, &format!("commit {id}"))?.ended(3)?;
    for (name, text) in [
        ("both", "user\n"),
        ("folder/user", "user\n"),
        ("folder/agent", "agent\n"),
        ("loose.txt", "user\n"),
        ("gone.txt", "user\n"),
        ("readme.txt", ""),
        ("alone", "agent\n"),
    ] {
        let found = w.read(&format!("work/{name}"));
        need(found == text, format!("{name} holds {found:?}"))?;
    }
    w.put("work/readme.txt", "WORKSPACE-OK\n");
    next_run_works(w)
}

/// A file that somebody writes to while the wall is built: what the agent made of an older copy never
/// goes over it.
fn at_the_start(w: &World) -> Verdict {
    arrange(w)?;
    let path = w.path("work/log");
    let (stop, mut written) = (AtomicBool::new(false), 0u64);
    for round in 0..8 {
        fs::write(&path, "").map_err(|e| e.to_string())?;
        w.own(&path);
        stop.store(false, Ordering::Relaxed);
        let verdict = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut file = fs::File::options().append(true).open(&path)?;
                let mut lines = 0;
                while !stop.load(Ordering::Relaxed) {
                    writeln!(file, "line")?;
                    lines += 1;
                    std::thread::sleep(std::time::Duration::from_micros(500));
                }
                std::io::Result::Ok(lines)
            });
            // It stops somewhere while the wall is built, or later.
            let stopper = scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(15 * (round + 1)));
                stop.store(true, Ordering::Relaxed);
            });
            let said = session(w, "echo agent >>{work}/log");
            let _ = stopper.join();
            let lines = writer.join().map_err(|_| "the writer died")?;
            written = lines.map_err(|e| e.to_string())?;
            said?.ended(0).map(drop)
        });
        verdict?;
        say(w, "commit -- log")?;
        let found = w.read("work/log");
        let lines = found.lines().filter(|l| *l == "line").count() as u64;
        need(
            lines == written,
            format!("round {round}: {written} lines were written, {lines} are left"),
        )?;
        let _ = say(w, "discard")?;
    }
    next_run_works(w)
}

/// A second run in the same session sees what the first one made of each name.
fn goes_on(w: &World) -> Verdict {
    arrange(w)?;
    session(
        w,
        "cd {work}; echo one >>loose.txt; rm gone.txt; echo one >new; mkdir dir",
    )?
    .ended(0)?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    // Others go on, too: the file that the session has its own copy of outgrows what is copied.
    let loose = fs::File::options()
        .write(true)
        .open(w.path("work/loose.txt"));
    let grown = loose.and_then(|f| f.set_len((16 << 20) + 1));
    grown.map_err(|e| e.to_string())?;
    w.put("work/theirs", "THEIRS-OK\n");
    let script = "cd {work}; cat loose.txt theirs; test ! -e gone.txt && test -d dir && echo two >>new && rm loose.txt && test ! -e loose.txt && echo ALL-DONE";
    let args = [
        "run", "--on", &id, "--policy", "{policy}", "--keep", "--", "/bin/sh", "-c", script,
    ];
    let args = args.map(|a| w.fill(a));
    let said = crate::kit::run(&mut crate::kit::wall(w, &args))?;
    said.ended(0)?
        .says(&["LOOSE\none", "THEIRS-OK", "ALL-DONE"])?;
    say(w, &format!("commit {id}"))?
        .ended(3)?
        .says(&["loose.txt"])?;
    need(
        w.path("work/loose.txt").exists(),
        "a file that others changed is gone",
    )?;
    need(
        !w.path("work/gone.txt").exists(),
        "the deletion did not arrive",
    )?;
    need(
        w.read("work/new") == "one\ntwo\n",
        "the new file did not arrive",
    )?;
    next_run_works(w)
}

/// Mounts that no copy layer can be laid over, or that this user cannot even look at.
fn unusable(w: &World) -> Verdict {
    arrange(w)?;
    let work = w.path("work");
    let make = |name: &str| {
        let path = work.join(name);
        fs::create_dir_all(&path).map_err(|e| e.to_string())?;
        Ok::<_, String>(path.to_string_lossy().into_owned())
    };
    // Another user's, closed.
    let closed = make("closed")?;
    host(
        "mount",
        &["-t", "tmpfs", "-o", "mode=700", "agentwall-test", &closed],
    )?;
    // An overlay over an overlay: as deep as file systems may be stacked.
    let layers = make("closed/layers")?;
    let mut lower = w.path("pub").to_string_lossy().into_owned();
    for level in ["one", "two"] {
        let at = match level {
            "two" => make("stacked")?,
            _ => make(&format!("closed/layers/{level}-merged"))?,
        };
        let (upper, inner) = (
            format!("{layers}/{level}-upper"),
            format!("{layers}/{level}-work"),
        );
        for dir in [&upper, &inner] {
            fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        }
        let options = format!("lowerdir={lower},upperdir={upper},workdir={inner}");
        host(
            "mount",
            &["-t", "overlay", "-o", &options, "agentwall-test", &at],
        )?;
        lower = at;
    }
    // A program that served a file system and died.
    let dead = make("dead")?;
    let serve =
        "exec 3<>/dev/fuse; mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 x \"$0\"";
    let fuse = host("sh", &["-c", serve, &dead]).is_ok();
    let script = "cd {work}; cat stacked/data.txt readme.txt; echo x >>stacked/data.txt && echo WROTE; echo y >new && cat new; ls closed; ls dead
rmdir dead closed stacked && echo REMOVED; rm -f loose.txt; echo ALL-DONE";
    let said = session(w, script)?;
    said.ended(0)?.says(&[
        "PUBLIC-OK",
        "WORKSPACE-OK",
        "ALL-DONE",
        "stacked is read-only in this session",
    ])?;
    let out = said.out();
    need(
        !out.contains("WROTE") && !out.contains("REMOVED"),
        said.brief(),
    )?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    let paths = changed(w, &id)?;
    need(paths.len() == 2, format!("changes: {paths:?}"))?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/new") == "y\n" && !w.path("work/loose.txt").exists(),
        "the changes did not arrive",
    )?;
    if fuse {
        host("umount", &["-l", &dead])?;
    }
    host("umount", &[&lower])?;
    next_run_works(w)
}
