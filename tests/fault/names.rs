//! Names of any bytes and any length, wherever a name can come from: files, the workspace, the
//! command and its arguments, the agent's name, questions, refusals.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use agentwall_tests::World;

use crate::kit::{
    Fault, Verdict, agent_text, bytes, ids, ledger_verifies, need, run, say, session, wall,
};

/// What names are made of here: each ends up in one file name.
pub const ODD: &[&[u8]] = &[
    b"new\nline",
    b"\x1b[31mred\x1b[2J",
    b"\x1b]0;title\x07",
    b"\xff\xfe",
    b"\xc2\x9b1m",
    "\u{202e}gnp".as_bytes(),
    "\u{200b}\u{feff}".as_bytes(),
    b"tab\t\"quote\"\\back",
    b"-rf",
    b" ",
    b"\r",
    b"\x7f",
    b"$(id)",
    b"*",
];

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("names/of-files", files).commits(),
        Fault::new("names/255-bytes", longest).commits(),
        Fault::new("names/4096-bytes", deep).commits(),
        Fault::new("names/of-the-workspace", workspaces),
        Fault::new("names/workspace-of-255-bytes", |w| {
            long_workspace(w, 1, 255)
        }),
        Fault::new("names/workspace-of-3500-bytes", |w| {
            long_workspace(w, 14, 250)
        }),
        Fault::new("names/arguments", arguments),
        Fault::new("names/program", program),
        Fault::new("names/of-the-agent", agent_name),
        Fault::new("names/of-the-policy-file", policy_file),
    ]
}

/// A shell word of any bytes.
pub fn word(name: &[u8]) -> String {
    let octal: String = name.iter().map(|b| format!("\\{b:03o}")).collect();
    // What follows keeps newlines at the end.
    format!("\"$(printf '{octal}.')\"")
}

fn odd_path(w: &World, n: usize) -> PathBuf {
    let mut name = format!("odd-{n}-").into_bytes();
    name.extend(ODD[n]);
    name.push(b'.');
    w.path("work").join(OsString::from_vec(name))
}

pub fn make_odd(verb: &str) -> String {
    let mut text = String::from("cd {work}\n");
    for (n, odd) in ODD.iter().enumerate() {
        text += &format!("{verb} odd-{n}-{}\n", word(odd));
    }
    text
}

/// Everything that shows changes shows these, harmlessly, and JSON is JSON.
fn shown_everywhere(w: &World, id: &str, count: usize) -> Verdict {
    for line in ["diff", "diff --stat", "sessions --all", "ledger show"] {
        let line = if line.starts_with("diff") {
            format!("{line} {id}")
        } else {
            line.to_owned()
        };
        let said = say(w, &line)?;
        said.ended(0)?
            .harmless()
            .map_err(|e| format!("{line}: {e}"))?;
    }
    let json = say(w, &format!("diff {id} --json"))?;
    json.ended(0)?.harmless()?;
    let found = json.json()?["changes"].as_array().map_or(0, Vec::len);
    need(
        found == count,
        format!("{found} of {count} changes in the JSON"),
    )?;
    say(w, "sessions --all --json")?.harmless()?.json()?;
    ledger_lines(w)
}

/// Every line of `ledger show --json` is JSON.
pub fn ledger_lines(w: &World) -> Verdict {
    let said = say(w, "ledger show --json")?;
    said.ended(0)?.harmless()?;
    for line in said.out().lines() {
        serde_json::from_str::<serde_json::Value>(line).map_err(|e| format!("{e}: {line}"))?;
    }
    need(said.out().lines().count() > 3, "the ledger is empty")
}

fn files(w: &World) -> Verdict {
    session(w, &make_odd("echo TEXT >"))?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    shown_everywhere(w, &id, ODD.len())?;
    // A person names one of them.
    let one = odd_path(w, 3);
    let said = run(wall(w, ["commit", &id, "--"]).arg(&one))?;
    said.ended(0)?.harmless()?.says(&["1 committed"])?;
    need(
        fs::read(&one).is_ok_and(|t| t == b"TEXT\n"),
        "the named file did not arrive",
    )?;
    let said = say(w, &format!("commit {id} --json"))?;
    said.ended(0)?.harmless()?.json()?;
    for n in 0..ODD.len() {
        let path = odd_path(w, n);
        let there = fs::read(&path).is_ok_and(|t| t == b"TEXT\n");
        need(there, format!("{} did not arrive", path.display()))?;
    }
    ledger_verifies(w)?;
    ledger_lines(w)?;
    session(w, &make_odd("rm -f --"))?.ended(0)?;
    let id = ids(w)?.into_iter().next().ok_or("no session")?;
    shown_everywhere(w, &id, ODD.len())?;
    say(w, &format!("discard {id}"))?.ended(0)?.harmless()?;
    need(odd_path(w, 0).exists(), "a dropped deletion was done")
}

fn longest(w: &World) -> Verdict {
    let name = "n".repeat(255);
    session(w, &format!("echo TEXT > {{work}}/{name}; (echo x > {{work}}/{name}x) 2>&1 | grep -o 'name too long'"))?
        .ended(0)?
        .says(&["name too long"])?;
    let id = ids(w)?.pop().ok_or("no session")?;
    shown_everywhere(w, &id, 1)?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read(&format!("work/{name}")) == "TEXT\n",
        "the file did not arrive",
    )?;
    // Changed once more: now the original has it.
    session(w, &format!("echo MORE >> {{work}}/{name}"))?.ended(0)?;
    say(w, "commit")?.ended(0)?;
    need(
        w.read(&format!("work/{name}")) == "TEXT\nMORE\n",
        "the change did not arrive",
    )
}

/// A path close to what the kernel takes (4,095 bytes), and one beyond it.
fn deep(w: &World) -> Verdict {
    let step = "d".repeat(240);
    let depth = (4095 - w.path("work").as_os_str().len() - "/deep.txt".len()) / 241;
    let walk = |n: usize| {
        format!(
            "cd {{work}}; i=0; while [ $i -lt {n} ]; do mkdir -p {step} && cd -P {step} || exit 3; i=$((i+1)); done; "
        )
    };
    session(w, &(walk(depth) + "echo TEXT > deep.txt"))?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    shown_everywhere(w, &id, depth + 1)?;
    say(w, &format!("commit {id}"))?.ended(0)?.harmless()?;
    let deep = format!("work/{}deep.txt", format!("{step}/").repeat(depth));
    need(w.read(&deep) == "TEXT\n", "the file did not arrive")?;
    // Beyond: nobody can name it as a whole, but a program can go there.
    let beyond = "perl -e 'chdir \"{work}\"; for (1..30) { mkdir(\"e\" x 240) or die $!; chdir(\"e\" x 240) or die } open(F, \">beyond.txt\") or die; print F \"x\"; close F; print \"MADE\\n\"'";
    // Made, or refused because nobody could say where it would be.
    let said = session(w, beyond)?;
    need(
        said.out().contains("MADE") || said.status == 36,
        format!("expected MADE or ENAMETOOLONG, found {}", said.brief()),
    )?;
    let id = ids(w)?.into_iter().next().ok_or("no session")?;
    for line in ["diff", "diff --json", "commit"] {
        let said = say(w, &format!("{line} {id}"))?;
        said.harmless()?;
        need(
            !said.err().contains("panicked") && said.status <= 3,
            said.brief(),
        )?;
    }
    say(w, &format!("discard {id}"))?.ended(0)?;
    ledger_verifies(w)
}

/// A session in a workspace of this name, from start to commit.
fn in_workspace(w: &World, dir: &Path) -> Verdict {
    let fail = |e: String| format!("{}: {e}", dir.display());
    let args = |script: &str| {
        let mut args: Vec<OsString> = vec!["run".into(), "--policy".into()];
        args.extend([
            w.path("policy.yaml").into(),
            "--workspace".into(),
            dir.into(),
        ]);
        args.extend(["--keep", "--", "/bin/sh", "-c"].map(OsString::from));
        args.push(agent_text(w, script).into());
        args
    };
    let said = run(wall(
        w,
        args("echo TEXT > new.txt; cat new.txt; echo x > ../escaped"),
    )
    .current_dir(dir))
    .map_err(fail)?;
    said.says(&["AGENT-RAN", "TEXT"]).map_err(fail)?;
    let left = dir.with_file_name("escaped");
    need(!left.exists(), "the agent wrote beside the workspace").map_err(fail)?;
    for line in [
        &["diff"][..],
        &["diff", "--json"],
        &["sessions"],
        &["sessions", "--json"],
    ] {
        let said = run(wall(w, line).current_dir(dir))?;
        said.ended(0).and_then(|s| s.harmless()).map_err(fail)?;
        if line.contains(&"--json") {
            said.json().map_err(fail)?;
        } else if line[0] == "diff" {
            said.says(&["new.txt", "1 change"]).map_err(fail)?;
        }
    }
    let said = run(wall(w, ["commit"]).current_dir(dir))?;
    said.ended(0)
        .and_then(|s| s.harmless())
        .and_then(|s| s.says(&["1 committed"]))
        .map_err(fail)?;
    let text = fs::read(dir.join("new.txt")).unwrap_or_default();
    need(text == b"TEXT\n", "the change did not arrive").map_err(fail)?;
    ledger_lines(w).map_err(fail)
}

fn workspaces(w: &World) -> Verdict {
    for (n, odd) in ODD.iter().enumerate() {
        let mut name = format!("{n}-").into_bytes();
        name.extend(*odd);
        let dir = w.path("run").join(OsString::from_vec(name));
        fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        w.own(&dir);
        in_workspace(w, &dir)?;
    }
    ledger_verifies(w)
}

/// It works, or it is refused with the problem and the next step.
fn long_workspace(w: &World, depth: usize, length: usize) -> Verdict {
    let mut dir = w.path("run");
    for _ in 0..depth {
        dir.push("w".repeat(length));
        fs::create_dir(&dir).map_err(|e| e.to_string())?;
        w.own(&dir);
    }
    let mut args: Vec<OsString> = vec!["run".into(), "--policy".into()];
    args.extend([
        w.path("policy.yaml").into(),
        "--workspace".into(),
        dir.clone().into(),
    ]);
    args.extend(["--keep", "--", "/bin/echo", "AGENT-RAN"].map(OsString::from));
    let said = run(wall(w, args).current_dir(&dir))?;
    said.ended(0)?;
    in_workspace(w, &dir)
}

fn arguments(w: &World) -> Verdict {
    let mut args: Vec<OsString> = vec![
        "run".into(),
        "--policy".into(),
        w.path("policy.yaml").into(),
    ];
    args.extend(["--keep", "--", "/usr/bin/printf", "%s|"].map(OsString::from));
    args.extend(ODD.iter().map(|o| bytes(o).to_owned()));
    args.push("x".repeat(100_000).into());
    let said = run(&mut wall(w, args))?;
    said.ended(0)?;
    // The agent gets them byte by byte; what is recorded and shown is escaped.
    let mut expected = ODD.join(&b'|');
    expected.push(b'|');
    need(
        said.out.starts_with(&expected),
        "the arguments did not arrive as given",
    )?;
    need(
        said.out.len() == expected.len() + 100_001,
        "the long argument was cut",
    )?;
    for line in ["sessions", "sessions --json", "ledger show", "diff"] {
        say(w, line)?
            .ended(0)?
            .harmless()
            .map_err(|e| format!("{line}: {e}"))?;
    }
    say(w, "sessions --json")?.json()?;
    ledger_lines(w)?;
    ledger_verifies(w)
}

/// The program itself has such a name: found, or not found, and told harmlessly.
fn program(w: &World) -> Verdict {
    for odd in ODD.iter().filter(|o| !o.starts_with(b"-")) {
        let name = Path::new(bytes(odd));
        let mut args: Vec<OsString> = vec![
            "run".into(),
            "--policy".into(),
            w.path("policy.yaml").into(),
        ];
        args.extend([
            "--keep".into(),
            "--".into(),
            w.path("work").join(name).into_os_string(),
        ]);
        let said = run(&mut wall(w, args))?;
        said.refused(127, &["cannot start"])
            .map_err(|e| format!("{}: {e}", name.display()))?;
    }
    for line in ["sessions", "sessions --json", "ledger show"] {
        say(w, line)?
            .ended(0)?
            .harmless()
            .map_err(|e| format!("{line}: {e}"))?;
    }
    ledger_lines(w)
}

/// Names of agents are words; anything else is wrong usage, and shown harmlessly.
fn agent_name(w: &World) -> Verdict {
    let long = "n".repeat(255);
    for odd in ODD.iter().copied().chain([&b""[..], long.as_bytes()]) {
        let mut args: Vec<OsString> = vec![
            "run".into(),
            "--policy".into(),
            w.path("policy.yaml").into(),
        ];
        let mut name = OsString::from("--name=");
        name.push(bytes(odd));
        args.extend([name, "--".into(), "/bin/echo".into(), "AGENT-RAN".into()]);
        let said = run(&mut wall(w, args))?;
        let shown = bytes(odd).display();
        if odd == b"-rf" {
            said.ended(0).map_err(|e| format!("{shown}: {e}"))?;
            continue;
        }
        let texts: &[&str] = match std::str::from_utf8(odd) {
            Ok(_) => &["--name", "1 to 64 letters", "--help"],
            Err(_) => &["invalid UTF-8", "--help"],
        };
        said.refused(125, texts)
            .map_err(|e| format!("{shown}: {e}"))?;
    }
    let max = "n".repeat(64);
    let args = [
        "run",
        "--policy",
        &w.fill("{policy}"),
        "--name",
        &max,
        "--",
        "/bin/true",
    ];
    run(&mut wall(w, args))?.ended(0)?;
    say(w, &format!("diff {max}"))?.ended(0).map(drop)
}

fn policy_file(w: &World) -> Verdict {
    for (n, odd) in ODD.iter().enumerate() {
        let mut name = format!("{n}-").into_bytes();
        name.extend(*odd);
        let file = w.path("run").join(OsString::from_vec(name));
        let session = |file: &Path| {
            let mut args: Vec<OsString> = vec!["run".into(), "--policy".into(), file.into()];
            args.extend(["--keep", "--", "/bin/echo", "AGENT-RAN"].map(OsString::from));
            run(&mut wall(w, args))
        };
        let fail = |e: String| format!("{}: {e}", file.display());
        session(&file)?
            .refused(125, &["cannot read the policy", "agentwall init"])
            .map_err(fail)?;
        let put = |text: &str| fs::write(&file, text).map_err(|e| e.to_string());
        put("ruels: []\n")?;
        if std::str::from_utf8(odd).is_err() {
            // Its name cannot be kept exactly, so it could not be kept from the agent.
            let texts = ["cannot use the policy", "not UTF-8", "rename it"];
            session(&file)?.refused(125, &texts).map_err(fail)?;
            continue;
        }
        session(&file)?
            .refused(125, &["unknown key 'ruels'", ":1:1"])
            .map_err(fail)?;
        // Under any policy the agent cannot write the policy of the next session.
        put("agentwall: 1\ndefault: allow\n")?;
        w.own(&file);
        let mut args: Vec<OsString> = vec!["run".into(), "--policy".into(), (&file).into()];
        let script = "echo AGENT-RAN; echo '# changed' >> \"$1\"; rm -f \"$1\"";
        args.extend(["--keep", "--", "/bin/sh", "-c", script, "sh"].map(OsString::from));
        args.push((&file).into());
        run(&mut wall(w, args))?
            .says(&["AGENT-RAN"])
            .map_err(fail)?;
        let text = fs::read(&file).unwrap_or_default();
        need(
            text == b"agentwall: 1\ndefault: allow\n",
            "the agent changed the policy",
        )
        .map_err(fail)?;
        put(&w.read("policy.yaml"))?;
        session(&file)?.ended(0).map_err(fail)?;
    }
    for line in ["sessions", "ledger show", "sessions --json"] {
        say(w, line)?
            .ended(0)?
            .harmless()
            .map_err(|e| format!("{line}: {e}"))?;
    }
    ledger_lines(w)
}
