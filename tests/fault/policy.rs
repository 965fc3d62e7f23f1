//! A policy that is missing, wrong, or no file at all.

use std::{fs, os::unix::fs::symlink};

use agentwall_tests::{Who, World};

use crate::{
    kit::{Fault, Verdict, ids, need, next_run_works, run, run_with, say, wall},
    tools::host,
};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("policy/missing", missing),
        Fault::new("policy/none-at-all", none_at_all),
        Fault::new("policy/dangling-link", dangling),
        Fault::new("policy/syntax", syntax),
        Fault::new("policy/unknown-key", unknown_key),
        Fault::new("policy/unknown-verb", unknown_verb),
        Fault::new("policy/unknown-effect", unknown_effect),
        Fault::new("policy/another-version", another_version),
        Fault::new("policy/many-mistakes", many),
        Fault::new("policy/escape-codes", escape_codes),
        Fault::new("policy/empty", empty),
        Fault::new("policy/not-utf-8", not_utf8),
        Fault::new("policy/ten-megabytes", too_large),
        Fault::new("policy/endless", endless),
        Fault::new("policy/folder", folder),
        Fault::new("policy/fifo", fifo),
        Fault::new("policy/fifo-with-a-writer", fifo_with_writer),
        Fault::new("policy/unreadable", unreadable)
            .only(Who::User, "the superuser reads everything"),
        Fault::new("policy/of-the-repository", of_the_repository),
        Fault::new("policy/not-enforceable", not_enforceable),
        Fault::new("policy/bundle", bundle),
        Fault::new("policy/workspace-missing", no_workspace),
        Fault::new("policy/workspace-a-file", file_workspace),
    ]
}

/// A run under `{home}/p.yaml` is refused with these texts, and leaves no session behind.
fn refused(w: &World, texts: &[&str]) -> Verdict {
    run(&mut run_with(w, &["--policy", "{home}/p.yaml"]))?.refused(125, texts)?;
    clean(w)
}

/// Nothing is left of the attempt; the same command line with a good policy works.
fn clean(w: &World) -> Verdict {
    let left = ids(w)?;
    need(left.is_empty(), format!("sessions are left: {left:?}"))?;
    for path in ["home/p.yaml", "work/agentwall.yaml"] {
        let _ = fs::remove_file(w.path(path));
        let _ = fs::remove_dir_all(w.path(path));
    }
    next_run_works(w)
}

/// A run under a policy of this text is refused with these texts.
fn text(w: &World, policy: &str, texts: &[&str]) -> Verdict {
    w.put("home/p.yaml", policy);
    refused(w, texts)
}

fn missing(w: &World) -> Verdict {
    refused(w, &["cannot read the policy", "p.yaml", "agentwall init"])
}

fn none_at_all(w: &World) -> Verdict {
    run(&mut run_with(w, &[]))?.refused(
        125,
        &["there is no policy in", "agentwall init", "--policy"],
    )?;
    clean(w)
}

fn dangling(w: &World) -> Verdict {
    symlink(w.path("home/nowhere"), w.path("home/p.yaml")).map_err(|e| e.to_string())?;
    refused(w, &["cannot read the policy", "p.yaml", "agentwall init"])
}

fn syntax(w: &World) -> Verdict {
    text(
        w,
        "agentwall: 1\ndefault: deny\nrules:\n  - { id: a, action: file.read\n",
        &[
            "not YAML",
            "p.yaml:5:1",
            "help:",
            "the policy was not loaded",
        ],
    )
}

fn unknown_key(w: &World) -> Verdict {
    text(
        w,
        "agentwall: 1\ndefault: deny\nruels: []\n",
        &["unknown key 'ruels'", "p.yaml:3:1", "did you mean 'rules'"],
    )
}

fn unknown_verb(w: &World) -> Verdict {
    text(
        w,
        "agentwall: 1\ndefault: deny\nrules:\n  - { id: a, action: file.raed, resource: /x, effect: allow }\n",
        &[
            "'file.raed' is no action",
            "p.yaml:4:22",
            "did you mean 'file.read'",
        ],
    )
}

fn unknown_effect(w: &World) -> Verdict {
    text(
        w,
        "agentwall: 1\ndefault: deny\nrules:\n  - { id: a, action: file.read, resource: /x, effect: alow }\n",
        &["'alow'", "p.yaml:4:55", "allow"],
    )
}

fn another_version(w: &World) -> Verdict {
    text(w, "agentwall: 2\n", &["must be 1", "p.yaml:1:12", "help:"])
}

fn many(w: &World) -> Verdict {
    text(
        w,
        "agentwall: 1\ndefault: dny\nruels: []\nrules:\n  - { id: a, action: file.raed, resource: /x, effect: allow }\n",
        &["p.yaml:2:10", "p.yaml:3:1", "p.yaml:5:22", "3 errors"],
    )
}

/// What a wrong policy says is shown, and cannot act on the terminal.
fn escape_codes(w: &World) -> Verdict {
    let policy = |verb: &str| {
        format!(
            "agentwall: 1\ndefault: deny\nrules:\n  - {{ id: a, action: \"{verb}\", resource: /x, effect: allow }}\n"
        )
    };
    // As a byte of the file, and as YAML's name for it.
    w.put("home/p.yaml", &policy("file.\u{1b}[2J"));
    let said = run(&mut run_with(w, &["--policy", "{home}/p.yaml"]))?;
    said.refused(125, &["p.yaml:4:", "not loaded"])?;
    text(
        w,
        &policy("\\afile\\u202ered"),
        &["p.yaml:4:22", "is no action"],
    )
}

fn empty(w: &World) -> Verdict {
    text(w, "", &["the file is empty", "begin with 'agentwall: 1'"])
}

fn not_utf8(w: &World) -> Verdict {
    fs::write(
        w.path("home/p.yaml"),
        b"agentwall: 1\n# \xff\xfe\ndefault: deny\n",
    )
    .map_err(|e| e.to_string())?;
    refused(w, &["not UTF-8", "p.yaml:2:3", "help:"])
}

fn too_large(w: &World) -> Verdict {
    let line = "# ten megabytes of comment in lines of sixty-four characters....\n";
    let policy = format!("agentwall: 1\n{}", line.repeat(10_000_000 / line.len()));
    text(
        w,
        &policy,
        &["more than 4194304", "split it into several files"],
    )
}

fn endless(w: &World) -> Verdict {
    run(&mut run_with(w, &["--policy", "/dev/zero"]))?.refused(125, &["more than 4194304"])?;
    clean(w)
}

fn folder(w: &World) -> Verdict {
    fs::create_dir(w.path("home/p.yaml")).map_err(|e| e.to_string())?;
    refused(w, &["p.yaml", "is a directory", "name the file"])
}

/// Nobody writes into it: `run` must not wait for ever.
fn fifo(w: &World) -> Verdict {
    host(
        "mkfifo",
        &["-m", "666", &w.path("home/p.yaml").to_string_lossy()],
    )?;
    refused(w, &["p.yaml", "the file is empty"])
}

/// What a shell's process substitution makes is a policy like any other.
fn fifo_with_writer(w: &World) -> Verdict {
    let command = w.fill(
        "{wall} run --policy <(sleep 0.3; cat {policy}) --workspace {work} --keep -- /bin/echo AGENT-RAN; \
         {wall} run --policy <(sleep 0.3; echo ruels:) --workspace {work} --keep -- /bin/echo NOT-SO",
    );
    let said = run(w.as_user("/bin/bash").args(["-c", &command]))?;
    said.ended(125)?
        .says(&["AGENT-RAN", "unknown key 'ruels'"])?;
    need(!said.out().contains("NOT-SO"), said.brief())
}

fn unreadable(w: &World) -> Verdict {
    w.put("home/p.yaml", "agentwall: 1\ndefault: deny\n");
    w.mode("home/p.yaml", 0o000);
    refused(
        w,
        &[
            "cannot read the policy",
            "p.yaml",
            "Permission denied",
            "readable",
        ],
    )
}

/// A workspace's own policy can only tighten; one that cannot be read does not vanish.
fn of_the_repository(w: &World) -> Verdict {
    w.put("home/.config/agentwall/policy.yaml", &w.read("policy.yaml"));
    w.put("work/agentwall.yaml", "agentwall: 1\ndefualt: deny\n");
    let said = run(&mut run_with(w, &["--workspace", "{work}"]))?;
    said.refused(
        125,
        &[
            "unknown key 'defualt'",
            "agentwall.yaml:2:1",
            "did you mean 'default'",
        ],
    )?;
    fs::remove_dir_all(w.path("home/.config")).map_err(|e| e.to_string())?;
    clean(w)
}

fn not_enforceable(w: &World) -> Verdict {
    text(
        w,
        "agentwall: 1\ndefault: deny\nrequire: { enforcement: enforced }\nbudgets:\n  - { action: file.write, minute: 5 }\n",
        &["cannot enforce", "budgets", "audit"],
    )
}

fn no_workspace(w: &World) -> Verdict {
    let options = ["--policy", "{policy}", "--workspace", "{home}/nowhere"];
    run(&mut run_with(w, &options))?
        .refused(125, &["cannot use the workspace", "nowhere", "--workspace"])?;
    clean(w)
}

fn file_workspace(w: &World) -> Verdict {
    let options = ["--policy", "{policy}", "--workspace", "{home}/notes.txt"];
    run(&mut run_with(w, &options))?
        .refused(125, &["notes.txt", "is not a folder", "--workspace"])?;
    clean(w)
}

/// A signed bundle is used, named in the ledger and kept from the agent; an older one is refused.
fn bundle(w: &World) -> Verdict {
    w.put("run/open.yaml", "agentwall: 1\ndefault: allow\n");
    let said = |args: &[&str]| {
        let args = args.iter().map(|a| w.fill(a));
        run(&mut wall(w, args))
    };
    let key = w.fill("{run}/team.key");
    let keygen = said(&[
        "policy",
        "bundle",
        "keygen",
        &key,
        "--name",
        "example.com/p",
    ])?;
    let public = keygen.ended(0)?.out().trim().to_owned();
    for counter in ["1", "2"] {
        let out = w.fill(&format!("{{run}}/{counter}.bundle"));
        let source = w.path("run/open.yaml").to_string_lossy().into_owned();
        said(&[
            "policy",
            "bundle",
            "sign",
            "--key",
            &key,
            "--counter",
            counter,
            "--out",
            &out,
            &source,
        ])?
        .ended(0)?;
    }
    w.put("run/keys", &format!("{public}\n"));
    w.own(&w.path("run/keys"));
    let keys = w.path("run/keys").to_string_lossy().into_owned();
    let run_under = |counter: &str, trust: &str| {
        let file = w.fill(&format!("{{run}}/{counter}.bundle"));
        let script = "echo AGENT-RAN; for f; do echo x >> \"$f\"; rm -f \"$f\"; done";
        let mut args = vec!["run", "--policy", &file, "--keep"];
        if !trust.is_empty() {
            args.extend(["--trust", trust]);
        }
        args.extend(["--", "/bin/sh", "-c", script, "sh", &file, &keys]);
        said(&args)
    };
    run_under("2", "")?.refused(125, &["not a trusted key", "--trust"])?;
    let before = w.read("run/2.bundle");
    run_under("2", &keys)?.says(&["AGENT-RAN"])?;
    need(
        w.read("run/keys") == format!("{public}\n"),
        "the agent changed the trusted keys",
    )?;
    run_under("2", &public)?.says(&["AGENT-RAN"])?;
    need(
        w.read("run/2.bundle") == before,
        "the agent changed the bundle",
    )?;
    say(w, "ledger show --type session_start")?
        .ended(0)?
        .says(&["bundle 2 signed by example.com/p+"])?;
    run_under("1", &public)?.refused(125, &["counter is 1", "has used 2", "at least 3"])?;
    next_run_works(w)
}
