//! How a session is started and how it ends: environment, folder, streams, statuses.

use std::{fs, process::Stdio};

use agentwall_tests::World;

use crate::kit::{
    Fault, Verdict, ids, ledger_verifies, need, next_run_works, run, run_with, say, session,
    session_args, wall,
};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("start/command-not-found", not_found),
        Fault::new("start/not-executable", not_executable),
        Fault::new("start/refused-by-the-policy", refused_program),
        Fault::new("start/no-command", no_command),
        Fault::new("start/own-status", own_status),
        Fault::new("start/killed-by-signal", by_signal),
        Fault::new("start/no-home", no_home),
        Fault::new("start/home-nowhere", home_nowhere),
        Fault::new("start/no-path", no_path),
        Fault::new("start/empty-environment", empty_environment),
        Fault::new("start/folder-deleted", folder_deleted),
        Fault::new("start/workspace-not-readable", workspace_closed),
        Fault::new("start/streams-closed", streams_closed),
        Fault::new("start/input-ends-at-once", input_ends),
        Fault::new("start/output-closed-in-the-middle", output_closed),
        Fault::new("start/inside-the-wall", inside).rules(OWN_BINARY),
    ]
}

const OWN_BINARY: &str = "  - { id: own-binary, priority: 90, action: [process.exec, file.read, file.exec], resource: \"{bin}/**\", effect: allow }\n";

/// `run` of this program, its words separated by spaces.
fn program(w: &World, line: &str) -> Result<crate::kit::Said, String> {
    say(
        w,
        &format!("run --policy {{policy}} --workspace {{work}} --keep -- {line}"),
    )
}

fn not_found(w: &World) -> Verdict {
    for line in [
        "no-such-command",
        "/usr/bin/no-such-command",
        "./no-such-command",
        "{work}/none/x",
    ] {
        program(w, line)?
            .refused(127, &["cannot start"])
            .map_err(|e| format!("{line}: {e}"))?;
    }
    ledger_verifies(w)?;
    next_run_works(w)
}

fn not_executable(w: &World) -> Verdict {
    w.put("home/plain", "text\n");
    for line in ["{work}/readme.txt", "./readme.txt", "{work}", "/etc/passwd"] {
        program(w, line)?
            .refused(126, &["cannot start"])
            .map_err(|e| format!("{line}: {e}"))?;
    }
    fs::remove_file(w.path("home/plain")).map_err(|e| e.to_string())?;
    next_run_works(w)
}

/// Executable, and no rule lets it start.
fn refused_program(w: &World) -> Verdict {
    w.script("out/bin/agent", "#!/bin/sh\necho AGENT-RAN\n");
    let said = program(w, "{out}/bin/agent")?;
    said.refused(126, &["cannot start"])?;
    fs::remove_file(w.path("out/bin/agent")).map_err(|e| e.to_string())
}

fn no_command(w: &World) -> Verdict {
    say(w, "run --policy {policy} --")?.refused(125, &["CMD", "--help"])?;
    run(wall(w, ["run", "--policy", &w.fill("{policy}"), "--"]).arg(""))?
        .refused(126, &["cannot start"])?;
    say(w, "run --polcy {policy} -- /bin/true")?.refused(125, &["--polcy", "--policy"])?;
    say(w, "run --policy {policy} --keep --discard -- /bin/true")?
        .refused(125, &["--keep", "--discard"])?;
    say(w, "run --policy {policy} --ask-timeout never -- /bin/true")?
        .refused(125, &["--ask-timeout"])?;
    need(
        ids(w)?.len() <= 1,
        "sessions of wrong command lines are left",
    )
}

fn own_status(w: &World) -> Verdict {
    for status in [0, 1, 2, 3, 100, 125, 126, 127, 255] {
        session(w, &format!("exit {status}"))?.ended(status)?;
    }
    ledger_verifies(w)
}

fn by_signal(w: &World) -> Verdict {
    for (name, number) in [
        ("HUP", 1),
        ("INT", 2),
        ("ABRT", 6),
        ("KILL", 9),
        ("SEGV", 11),
        ("PIPE", 13),
        ("TERM", 15),
    ] {
        session(w, &format!("kill -{name} $$; sleep 5"))?.ended(128 + number)?;
    }
    let listed = say(w, "sessions --json")?.json()?;
    need(listed[0]["exit"] == 143, format!("{}", listed[0]["exit"]))?;
    ledger_verifies(w)
}

fn no_home(w: &World) -> Verdict {
    // A state folder and a policy that are named need no home.
    let said = run(wall(w, session_args(w, "echo \"home=$HOME.\"")).env_remove("HOME"))?;
    said.ended(0)?.says(&["home=."])?;
    for home in [None, Some(""), Some("relative")] {
        let set = |cmd: &mut std::process::Command| {
            cmd.env_remove("HOME").env_remove("AGENTWALL_STATE");
            if let Some(home) = home {
                cmd.env("HOME", home);
            }
        };
        let mut cmd = wall(w, session_args(w, ""));
        set(&mut cmd);
        run(&mut cmd)?.refused(
            125,
            &["HOME is not set to an absolute path", "AGENTWALL_STATE"],
        )?;
        for line in ["sessions", "diff", "commit", "pending", "ledger show"] {
            let mut cmd = wall(w, line.split(' '));
            set(&mut cmd);
            run(&mut cmd)?.refused(1, &["HOME is not set", "AGENTWALL_STATE"])?;
        }
    }
    run(run_with(w, &[]).env_remove("HOME"))?.refused(125, &["HOME is not set"])?;
    Ok(())
}

fn home_nowhere(w: &World) -> Verdict {
    let nowhere = w.path("nowhere");
    run(wall(w, session_args(w, "")).env("HOME", &nowhere))?.says(&["AGENT-RAN"])?;
    let mut cmd = run_with(w, &[]);
    run(cmd.env("HOME", &nowhere))?.refused(125, &["there is no policy in", "agentwall init"])?;
    need(!nowhere.exists(), "a home folder was made")
}

fn no_path(w: &World) -> Verdict {
    run(wall(w, session_args(w, "ls {work}")).env_remove("PATH"))?
        .ended(0)?
        .says(&["readme.txt"])?;
    let args = [
        "run",
        "--policy",
        &w.fill("{policy}"),
        "--keep",
        "--",
        "true",
    ];
    run(wall(w, args).env("PATH", ""))?.refused(127, &["cannot start"])?;
    run(wall(w, args).env_remove("PATH"))?.ended(0).map(drop)
}

fn empty_environment(w: &World) -> Verdict {
    let mut cmd = wall(w, session_args(w, ""));
    // The harness looks for what is left by this one.
    cmd.env_clear()
        .env("AGENTWALL_CASE", &w.token)
        .env("AGENTWALL_STATE", w.path("state"));
    if w.who == agentwall_tests::Who::User && agentwall_tests::options::am_root() {
        cmd.env("PATH", "/usr/bin:/bin");
    }
    run(&mut cmd)?.ended(0)?.says(&["AGENT-RAN"]).map(drop)
}

/// The current folder was deleted: an error and its next step, or work that does not need it.
fn folder_deleted(w: &World) -> Verdict {
    session(w, "echo x > {work}/new.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    let from_nowhere = |line: &str| {
        let gone = w.path("run/gone");
        fs::create_dir_all(&gone).map_err(|e| e.to_string())?;
        w.own(&gone);
        let text = w.fill(&format!(
            "cd {} && rmdir {} && exec {{wall}} {line}",
            gone.display(),
            gone.display()
        ));
        run(w
            .as_user("/bin/sh")
            .args(["-c", &text])
            .stdin(Stdio::null()))
    };
    from_nowhere("run --policy {policy} --keep -- /bin/echo AGENT-RAN")?
        .refused(125, &["cannot tell the current folder"])?;
    for verb in ["diff", "commit", "discard"] {
        from_nowhere(verb)?.refused(1, &["cannot tell the current folder", "name the session"])?;
    }
    from_nowhere("sessions")?.refused(1, &["cannot tell the current folder", "--all"])?;
    for line in ["sessions --all", "pending", "ledger show", "ledger verify"] {
        from_nowhere(line)?.ended(0)?;
    }
    for verb in ["diff", "discard"] {
        from_nowhere(&format!("{verb} {id}"))?.ended(0)?;
    }
    Ok(())
}

fn workspace_closed(w: &World) -> Verdict {
    w.mode("work", 0o000);
    let script = "cat {work}/readme.txt 2>/dev/null; echo x > {work}/new.txt && echo WROTE";
    let said = run(wall(w, session_args(w, script)).current_dir(w.path("home")));
    w.mode("work", 0o755);
    let said = said?;
    // Behind the wall nobody has more than the file's own permissions, the superuser neither.
    let out = said.out();
    need(
        !out.contains("WORKSPACE-OK") && !out.contains("WROTE") && said.status != 0,
        format!("the agent may more than its user: {}", said.brief()),
    )?;
    need(!w.path("work/new.txt").exists(), "it wrote the original")
}

/// Every combination of closed streams: the session runs behind the wall and its descriptors are
/// the agent's own.
fn streams_closed(w: &World) -> Verdict {
    let args: Vec<String> =
        session_args(w, "ls -l /proc/self/fd > {work}/fds.txt 2>/dev/null; true")
            .iter()
            .map(|a| format!("'{}'", a.to_string_lossy().replace('\'', "'\\''")))
            .collect();
    for closed in [
        "<&-",
        ">&-",
        "2>&-",
        "<&- >&-",
        "<&- 2>&-",
        ">&- 2>&-",
        "<&- >&- 2>&-",
    ] {
        let text = format!("{} {} {closed}", w.shared.wall.display(), args.join(" "));
        let said = run(w.as_user("/bin/sh").args(["-c", &text]))?;
        said.ended(0).map_err(|e| format!("{closed}: {e}"))?;
        let id = ids(w)?.into_iter().next().ok_or("no session")?;
        let patch = say(w, &format!("diff {id} --patch"))?.out();
        let inherited = patch.lines().filter(|l| {
            l.contains(" -> ") && l.contains(&*w.dir.to_string_lossy()) && !l.contains("fds.txt")
        });
        let inherited: Vec<&str> = inherited.collect();
        need(
            inherited.is_empty(),
            format!("{closed}: the agent has {inherited:?}"),
        )?;
        need(
            patch.contains("fds.txt"),
            format!("{closed}: the agent did not run: {patch}"),
        )?;
    }
    for line in [
        "sessions",
        "diff",
        "ledger show",
        "pending",
        "commit --stat",
    ] {
        let text = w.fill(&format!("{{wall}} {line} <&- >&- 2>&-"));
        run(w.as_user("/bin/sh").args(["-c", &text]))?
            .ended(0)
            .map_err(|e| format!("{line}: {e}"))?;
    }
    ledger_verifies(w)
}

fn input_ends(w: &World) -> Verdict {
    session(w, "cat; echo end")?.ended(0)?.says(&["end"])?;
    // A review without an answer keeps everything.
    let mut args = session_args(w, "echo x > {work}/new.txt");
    for arg in &mut args {
        if arg == "--keep" {
            *arg = "--review".into();
        }
    }
    run(&mut wall(w, args))?.ended(0)?.says(&["kept"])?;
    let id = ids(w)?.into_iter().next().ok_or("no session")?;
    need(
        crate::kit::changed(w, &id)?.len() == 1,
        "silence dropped or committed the change",
    )?;
    need(
        !w.path("work/new.txt").exists(),
        "silence committed the change",
    )
}

/// Whoever reads the agent has had enough: the agent gets SIGPIPE, the session ends in order.
fn output_closed(w: &World) -> Verdict {
    let args: Vec<String> = session_args(w, "echo x > {work}/new.txt; yes AGENT")
        .iter()
        .map(|a| format!("'{}'", a.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    let text = format!(
        "{} {} | head -n 3 > /dev/null; echo \"${{PIPESTATUS[0]}}\"",
        w.shared.wall.display(),
        args.join(" ")
    );
    let said = run(w.as_user("/bin/bash").args(["-c", &text]))?;
    need(said.out().trim() == "141", said.brief())?;
    let id = ids(w)?.into_iter().next().ok_or("no session")?;
    need(
        crate::kit::changed(w, &id)?.len() == 1,
        "the change is lost",
    )?;
    ledger_verifies(w)
}

/// Started inside the wall, `agentwall run` starts nothing.
fn inside(w: &World) -> Verdict {
    let said = session(
        w,
        "{wall} run --policy {policy} --workspace {work} -- /bin/echo INNER-RAN; echo status $?",
    )?;
    said.ended(0)?.says(&[
        "inside a wall already",
        "start agents from outside",
        "status 125",
    ])?;
    need(!said.out().contains("INNER-RAN"), said.brief())
}
