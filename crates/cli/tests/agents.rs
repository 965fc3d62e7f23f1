//! `agentwall agents`: real processes are found, told apart, and connected with the session that
//! governs them; signatures are updated by signed bundles alone.
//!
//! The processes are a shell under the name of an interpreter: what counts is the path of the program
//! and of the script.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use serde_json::Value;
use support::{
    Host, harmless,
    wall::{Wall, wait_for},
};

const CLAUDE: &str = "lib/node_modules/@anthropic-ai/claude-code/cli.js";

/// A shell that is called `name`.
fn interpreter(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join("bin").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy("/bin/sh", &path).unwrap();
    path
}

/// A process that ends when this is dropped: its standard input does.
struct Started {
    child: Child,
    input: Option<ChildStdin>,
}

impl Started {
    fn new(command: &mut Command) -> Started {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Started { child, input }
    }

    fn pid(&self) -> u64 {
        u64::from(self.child.id())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

fn listed(host: &Host) -> Value {
    host.call(&["agents", "--json"]).code(0).json()
}

/// The entry of a list with this process id.
fn entry(host: &Host, list: &str, pid: u64) -> Option<Value> {
    let all = listed(host);
    let entries = all[list].as_array().unwrap();
    entries.iter().find(|e| e["pid"] == pid).cloned()
}

#[test]
fn a_real_process_is_found_by_its_package_with_its_tree() {
    let host = Host::new();
    let node = interpreter(&host.home, "node");
    host.put(CLAUDE, "cat; :\n");
    let link = host.work.join("claude");
    std::os::unix::fs::symlink(host.work.join(CLAUDE), &link).unwrap();
    let started = Started::new(
        Command::new(&node)
            .arg(&link)
            .current_dir(&host.work)
            .env("SECRET_OF_THE_TEST", "never-to-be-shown"),
    );
    wait_for(|| entry(&host, "agents", started.pid()).is_some_and(|e| e["children"] == 1));
    let found = entry(&host, "agents", started.pid()).unwrap();
    assert_eq!(found["agent"], "claude-code");
    assert_eq!(found["kind"], "agent");
    assert_eq!(found["policy"]["by"], "none");
    assert_eq!(found["folder"], host.work.to_str().unwrap());
    let evidence = &found["reasons"][0]["evidence"][0];
    assert_eq!(evidence["value"], "npm:@anthropic-ai/claude-code");
    let pid = started.pid().to_string();
    let shown = host.call(&["agents", "show", &pid]).code(0).out;
    for part in [
        "Claude Code (agent)",
        "package 'npm:@anthropic-ai/claude-code'",
        "built-in:",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let child = found["members"][1].to_string();
    let inner = host.call(&["agents", "show", &child]).code(0).out;
    assert!(
        inner.contains(&format!("started by process {pid}")),
        "{inner}"
    );
    let table = host.call(&["agents"]).code(0);
    assert!(
        table
            .out
            .lines()
            .any(|l| l.contains("claude-code") && l.contains(&pid)),
        "{}",
        table.out
    );
    assert!(table.err.contains("agentwall run -- CMD"), "{}", table.err);
    let everything = host.call(&["agents", "--json", "--all"]).code(0).out;
    assert!(!format!("{everything}{shown}").contains("never-to-be-shown"));
    drop(started);
    wait_for(|| entry(&host, "agents", pid.parse().unwrap()).is_none());
    let gone = host.call(&["agents", "show", &pid]);
    // Its number may be another's by now.
    assert!(
        gone.code == 1 || !gone.out.contains("Claude"),
        "{}",
        gone.out
    );
    host.call(&["agents", "show", "0"]).code(2);
}

#[test]
fn a_script_beside_the_package_is_not_taken_for_it() {
    let host = Host::new();
    let node = interpreter(&host.home, "node");
    host.put("lib/node_modules/left-pad/cli.js", "cat; :\n");
    host.put(CLAUDE, "cat; :\n");
    let script = |name: &str| {
        Started::new(
            Command::new(&node)
                .arg(host.work.join(name))
                .current_dir(&host.work),
        )
    };
    let (other, claude) = (script("lib/node_modules/left-pad/cli.js"), script(CLAUDE));
    wait_for(|| entry(&host, "agents", claude.pid()).is_some());
    assert!(entry(&host, "agents", other.pid()).is_none());
    let shown = host
        .call(&["agents", "show", &other.pid().to_string()])
        .code(0)
        .out;
    assert!(
        shown.contains("no signature") && shown.contains("npm:left-pad"),
        "{shown}"
    );
}

#[test]
fn an_unknown_process_that_behaves_like_an_agent_is_reported() {
    let host = Host::new();
    let python = interpreter(&host.home, "python3");
    let tool = "sh -c 'read a <&3; :' | cat &\n";
    host.put("agent.py", &format!("exec 3<&0\n{tool}{tool}read b <&3\n"));
    let start = |key: Option<&str>| {
        let mut command = Command::new(&python);
        command
            .arg(host.work.join("agent.py"))
            .current_dir(&host.work);
        if let Some(key) = key {
            command.env(key, "sk-never-to-be-shown");
        }
        Started::new(&mut command)
    };
    let (agent, ordinary) = (start(Some("VOYAGE_API_KEY")), start(None));
    wait_for(|| entry(&host, "suspects", agent.pid()).is_some_and(|e| e["points"] == 60));
    let said = host.call(&["agents"]).code(0);
    for part in ["behave like an agent", "VOYAGE_API_KEY", "policy: none"] {
        assert!(said.out.contains(part), "{}", said.out);
    }
    assert!(!said.out.contains("never-to-be-shown"));
    harmless(&said.out);
    // The same without the key is an ordinary script.
    let shown = || {
        let pid = ordinary.pid().to_string();
        host.call(&["agents", "show", &pid, "--json"])
            .code(0)
            .json()
    };
    wait_for(|| shown()["behaviour"]["points"] == 35);
    assert!(entry(&host, "suspects", ordinary.pid()).is_none());
}

#[test]
fn an_agent_behind_the_wall_is_shown_with_its_session_and_one_beside_it_without() {
    let wall = Wall::new();
    let node = interpreter(&wall.host.home, "node");
    wall.policy(
        "own.yaml",
        "  - { id: own, priority: 120, action: [process.exec, file.exec, file.read], resource: \
         '${home}/bin/**', effect: allow }\n",
    );
    wall.host.put(CLAUDE, "echo READY; sleep 120\n");
    let script = format!(
        "{} {}/{CLAUDE}; :",
        node.display(),
        wall.host.work.display()
    );
    let policy = wall.host.home.join("own.yaml");
    let running = wall.start(
        &["--policy", policy.to_str().unwrap(), "--name", "tested"],
        &script,
    );
    wall.host.put(
        "outside/node_modules/@anthropic-ai/claude-code/cli.js",
        "cat; :\n",
    );
    let outside = wall
        .host
        .work
        .join("outside/node_modules/@anthropic-ai/claude-code/cli.js");
    let beside = Started::new(
        Command::new(&node)
            .arg(outside)
            .current_dir(&wall.host.work),
    );
    wait_for(|| entry(&wall.host, "agents", beside.pid()).is_some());
    assert_eq!(
        entry(&wall.host, "agents", beside.pid()).unwrap()["policy"]["by"],
        "none"
    );
    let folder = wall.host.work.to_str().unwrap();
    let inside = || {
        let all = listed(&wall.host);
        let agents = all["agents"].as_array().unwrap().clone();
        agents
            .into_iter()
            .find(|e| e["folder"] == folder && e["pid"] != beside.pid())
    };
    wait_for(|| inside().is_some());
    let inside = inside().unwrap();
    assert_eq!(inside["agent"], "claude-code");
    let session = &wall.sessions()[0];
    assert_eq!(inside["policy"]["by"], "session", "{inside}");
    assert_eq!(inside["policy"]["id"], session["id"]);
    assert_eq!(inside["policy"]["name"], "tested");
    assert_eq!(inside["policy"]["digest"], session["policy_digest"]);
    drop(running);
}

const DATA: &str = "agentwall-agents: 1\nversion: 9\nsignatures:\n  - id: own-agent\n    name: Own agent\n    \
     vendor: V\n    homepage: https://own.example\n    kind: agent\n    any:\n      - script: \"**/own.js\"\n    \
     match:\n      - { exe: /usr/bin/node, args: [node, /x/own.js] }\n    not_match:\n      - exe: /bin/b\n";

#[test]
fn signatures_are_updated_by_signed_bundles_alone() {
    let host = Host::new();
    host.put("agents.yaml", DATA);
    let key = host
        .call(&[
            "policy",
            "bundle",
            "keygen",
            "team.key",
            "--name",
            "example.com/agents",
        ])
        .code(0);
    let key = key.out.trim().to_owned();
    let sign = |kind: &str, counter: &str, out: &str, file: &str| {
        host.call(&[
            "policy",
            "bundle",
            "sign",
            "--kind",
            kind,
            "--key",
            "team.key",
            "--counter",
            counter,
            "--out",
            out,
            file,
        ])
    };
    sign("agents", "2", "agents.bundle", "agents.yaml").code(0);
    let update = |file: &str| host.call(&["agents", "update", file, "--trust", &key]);
    // Nobody is trusted yet; what is no bundle, and what is one for something else, is refused.
    assert!(
        host.call(&["agents", "update", "agents.bundle"])
            .code(1)
            .err
            .contains("not a trusted key")
    );
    update("agents.yaml").code(1);
    host.put("team.yaml", support::POLICY);
    sign("policy", "1", "team.bundle", "team.yaml").code(0);
    assert!(
        update("team.bundle")
            .code(1)
            .err
            .contains("--policy takes it")
    );
    sign("agents", "1", "x.bundle", "team.yaml").code(1);
    let said = host.call(&["policy", "check", "agents.bundle"]);
    assert_ne!(said.code, 0);
    let in_use = || {
        host.call(&["agents", "signatures", "--json"])
            .code(0)
            .json()
    };
    assert_eq!(in_use()["from"], "built-in");
    update("agents.bundle").code(0);
    assert_eq!(
        (&in_use()["from"], &in_use()["version"]),
        (&"bundle".into(), &9.into())
    );
    assert_eq!(in_use()["bundle"]["counter"], 2);
    // It finds what it knows, and nothing else any more.
    let node = interpreter(&host.home, "node");
    host.put("own.js", "cat; :\n");
    let own = Started::new(Command::new(&node).arg(host.work.join("own.js")));
    wait_for(|| entry(&host, "agents", own.pid()).is_some_and(|e| e["agent"] == "own-agent"));
    // Older ones are refused, newer ones taken.
    sign("agents", "1", "old.bundle", "agents.yaml").code(0);
    assert!(update("old.bundle").code(1).err.contains("has used 2"));
    sign("agents", "3", "new.bundle", "agents.yaml").code(0);
    update("new.bundle").code(0);
    assert_eq!(in_use()["bundle"]["counter"], 3);
    let verified = host.call(&[
        "policy",
        "bundle",
        "verify",
        "new.bundle",
        "--trust",
        &key,
        "--json",
    ]);
    assert_eq!(verified.code(0).json()["kind"], "agents");
    // A broken file is told, by every command that needs it, and never ignored.
    let file = host.state.join("agents.installed");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("own.js", "all.js")).unwrap();
    for args in [
        &["agents"][..],
        &["agents", "signatures"],
        &["agents", "test"],
    ] {
        let said = host.call(args).code(1);
        assert!(said.err.contains("update --built-in"), "{}", said.err);
    }
    host.call(&["agents", "update", "--built-in"]).code(0);
    assert_eq!(in_use()["from"], "built-in");
    assert!(entry(&host, "agents", own.pid()).is_none());
}

#[test]
fn the_tests_of_a_file_are_run_and_told() {
    let host = Host::new();
    host.call(&["agents", "test"]).code(0);
    host.put("agents.yaml", DATA);
    assert!(
        host.call(&["agents", "test", "agents.yaml"])
            .code(0)
            .out
            .contains("2 tests")
    );
    host.put("wrong.yaml", &DATA.replace("/x/own.js", "/x/other.js"));
    let failed = host.call(&["agents", "test", "wrong.yaml"]).code(1);
    assert!(
        failed
            .out
            .contains("wrong.yaml:12: the process should be own-agent"),
        "{}",
        failed.out
    );
    let json = host
        .call(&["agents", "test", "--json", "wrong.yaml"])
        .code(1)
        .json();
    assert_eq!((&json["passed"], &json["run"]), (&false.into(), &2.into()));
    host.put("bad.yaml", &DATA.replace("vendor: V", "vendr: V"));
    let bad = host.call(&["agents", "test", "bad.yaml"]).code(1);
    assert!(
        bad.err.contains("bad.yaml:6:5") && bad.err.contains("did you mean"),
        "{}",
        bad.err
    );
}

#[test]
fn watching_tells_what_appears_and_what_ends() {
    let host = Host::new();
    let node = interpreter(&host.home, "node");
    host.put(CLAUDE, "cat; :\n");
    let out = host.home.join("out");
    let mut watch = host
        .command(&["agents", "--watch", "--json"])
        .stdout(fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(&out).unwrap_or_default();
    let start = || Started::new(Command::new(&node).arg(host.work.join(CLAUDE)));
    let events = |pid: u64| -> Vec<String> {
        let lines = said();
        let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let all = whole
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        let ours = all.filter(|v| v["pid"] == pid);
        ours.map(|v| v["event"].as_str().unwrap().to_owned())
            .collect()
    };
    let agent = start();
    let pid = agent.pid();
    wait_for(|| !events(pid).is_empty());
    drop(agent);
    wait_for(|| events(pid).last().is_some_and(|e| e == "ended"));
    let begin = &events(pid)[0];
    assert!(begin == "runs" || begin == "appeared", "{begin}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}
