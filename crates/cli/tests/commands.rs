//! Starter policies, policy checks, the manual, wrong usage and a state folder that cannot be used.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use support::{Host, harmless, said};

#[test]
fn init_writes_once_and_tells_the_next_step() {
    let host = Host::new();
    for agent in ["claude-code", "codex", "generic"] {
        let text = host.call(&["init", "--agent", agent]).code(0).out;
        let path = host.home.join(format!(".config/agentwall/{agent}.yaml"));
        assert!(
            text.contains("next:") && text.contains(path.to_str().unwrap()),
            "{text}"
        );
        let starter = host
            .call(&["init", "--agent", agent, "--stdout"])
            .code(0)
            .out;
        assert_eq!(fs::read_to_string(&path).unwrap(), starter);
        fs::write(&path, "agentwall: 1 # mine\n").unwrap();
        let again = host.call(&["init", "--agent", agent]).code(1).err;
        assert!(again.contains("--force"), "{again}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "agentwall: 1 # mine\n");
        host.call(&["init", "--agent", agent, "--force"]).code(0);
        assert_eq!(fs::read_to_string(&path).unwrap(), starter);
        host.call(&["policy", "check", path.to_str().unwrap()])
            .code(0);
        // The rules of a home folder below /tmp differ from those of a usual one.
        let mut test = host.command(&["policy", "test", path.to_str().unwrap()]);
        said(test.env("HOME", "/home/person")).code(0);
    }
    assert!(
        host.call(&["policy", "templates"])
            .code(0)
            .out
            .contains("claude-code")
    );
}

#[test]
fn init_finds_the_agent() {
    let host = Host::new();
    let wrote = |host: &Host, path: &str| {
        let dir = host.tmp.path().join("out");
        let _ = fs::remove_dir_all(&dir);
        let mut command = host.command(&["init", "--dir", dir.to_str().unwrap()]);
        said(command.env("PATH", path)).code(0);
        let mut names = fs::read_dir(&dir).unwrap();
        names
            .next()
            .unwrap()
            .unwrap()
            .file_name()
            .into_string()
            .unwrap()
    };
    assert_eq!(wrote(&host, "/nonexistent"), "generic.yaml");
    fs::create_dir(host.home.join(".codex")).unwrap();
    assert_eq!(wrote(&host, "/nonexistent"), "codex.yaml");
    let bin = host.tmp.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("claude"), "").unwrap();
    assert_eq!(wrote(&host, bin.to_str().unwrap()), "claude-code.yaml");
}

#[test]
fn a_wrong_policy_is_told_with_its_place() {
    let host = Host::new();
    host.put("bad.yaml", "agentwall: 1\nrules:\n  - id: a\n    action: file.raed\n    resource: /x\n    effct: deny\n");
    host.put("good.yaml", support::POLICY);
    let text = host
        .call(&["policy", "check", "good.yaml", "bad.yaml"])
        .code(1);
    assert!(text.out.contains("good.yaml: ok, 3 rules"), "{}", text.out);
    for wanted in ["bad.yaml:4:", "file.read", "bad.yaml:6:", "effect"] {
        assert!(text.err.contains(wanted), "{wanted}: {}", text.err);
    }
    let json = host
        .call(&["policy", "check", "--json", "bad.yaml", "absent.yaml"])
        .code(1)
        .json();
    let found = json[0]["diagnostics"].as_array().unwrap();
    assert!(
        found.iter().any(|d| d["line"] == 4 && d["column"].is_u64()),
        "{json}"
    );
    assert!(
        json[1]["error"]
            .as_str()
            .unwrap()
            .contains("agentwall init"),
        "{json}"
    );
    host.put("odd.yaml", "agentwall: 1\nrules: [\x1b[2J]\n");
    harmless(&host.call(&["policy", "check", "odd.yaml"]).code(1).err);
    host.put("tests.yaml", "agentwall: 1\nrules:\n  - id: a\n    action: file.read\n    resource: /x/**\n    effect: allow\n    tests:\n      match: [file.read /y]\n");
    let text = host.call(&["policy", "test", "tests.yaml"]).code(1).err;
    assert!(text.contains("file.read /y"), "{text}");
    serde_json::from_str::<serde_json::Value>(&host.call(&["policy", "schema"]).code(0).out)
        .unwrap();
}

#[test]
fn explain_tells_the_rule_and_follows_links() {
    let host = Host::new();
    host.put("good.yaml", support::POLICY);
    host.put("hooks/real", "x");
    std::os::unix::fs::symlink("hooks/real", host.work.join("link")).unwrap();
    let text = host
        .call(&[
            "policy",
            "explain",
            "--policy",
            "good.yaml",
            "file.commit",
            "link",
        ])
        .code(0)
        .out;
    assert!(
        text.starts_with("deny: file.commit") && text.contains("hooks-never"),
        "{text}"
    );
    let json = host
        .call(&[
            "policy",
            "explain",
            "--policy",
            "good.yaml",
            "--json",
            "net.connect",
            "tcp://h:1",
        ])
        .code(0)
        .json();
    assert_eq!(json["decision"]["effect"], "deny");
    assert_eq!(json["resource"], "tcp://h:1");
    for wrong in [
        &["file.raed", "/x"][..],
        &["net.connect", "h"],
        &["process.exec", "/bin/ls", "--args", "{"],
    ] {
        let mut args = vec!["policy", "explain", "--policy", "good.yaml"];
        args.extend(wrong);
        host.call(&args).code(2);
    }
    let none = host
        .call(&["policy", "explain", "file.read", "/x"])
        .code(1)
        .err;
    assert!(none.contains("agentwall init"), "{none}");
}

#[test]
fn the_manual_names_every_command_and_exit_status() {
    let host = Host::new();
    let help = host.call(&["--help"]).code(0).out;
    for wanted in [
        "125",
        "126",
        "127",
        "conflicts",
        "selftest",
        "ledger",
        "approve",
    ] {
        assert!(help.contains(wanted), "{wanted}: {help}");
    }
    let man = host.call(&["man"]).code(0).out;
    assert!(man.contains(".TH") && man.contains("125"), "{man}");
    let dir = host.tmp.path().join("man");
    host.call(&["man", dir.to_str().unwrap()]).code(0);
    for page in [
        "agentwall.1",
        "agentwall-run.1",
        "agentwall-ledger-verify.1",
    ] {
        assert!(dir.join(page).is_file(), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            host.call(&["completions", shell])
                .code(0)
                .out
                .contains("approve"),
            "{shell}"
        );
    }
    // The word forms pass --help on to the agent; the help of the word itself is reachable.
    assert!(
        host.call(&["help", "claude"])
            .code(0)
            .out
            .contains("starter policy")
    );
}

#[test]
fn wrong_usage_is_2_and_125_where_2_could_be_the_agents() {
    let host = Host::new();
    host.call(&["frobnicate"]).code(2);
    host.call(&["diff", "--frobnicate"]).code(2);
    host.call(&["run"]).code(125);
    host.call(&["run", "--keep", "--discard", "--", "true"])
        .code(125);
    host.call(&["run", "--ask-timeout", "soon", "--", "true"])
        .code(125);
    host.call(&["run", "--policy", "absent.yaml", "--", "true"])
        .code(125);
    let said = host.call(&["run", "--", "true"]).code(125);
    assert!(said.err.contains("agentwall init"), "{}", said.err);
}

#[test]
fn a_state_folder_that_cannot_be_used_is_told() {
    let host = Host::new();
    let with_state = |state: &str| said(host.command(&["sessions"]).env("AGENTWALL_STATE", state));
    fs::write(host.tmp.path().join("file"), "").unwrap();
    for state in [
        "/proc/agentwall",
        "/dev/null",
        host.tmp.path().join("file/x").to_str().unwrap(),
    ] {
        let said = with_state(state).code(1);
        assert!(
            said.err.starts_with("agentwall: ") && said.err.contains("AGENTWALL_STATE"),
            "{}",
            said.err
        );
    }
    let shared = host.tmp.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let said = with_state(shared.to_str().unwrap()).code(1);
    assert!(said.err.contains("chmod 700"), "{}", said.err);
    assert_eq!(
        fs::read_dir(&shared).unwrap().count(),
        0,
        "nothing is made in a shared folder"
    );
    let mut nowhere = host.command(&["sessions"]);
    let lost = support::said(nowhere.env_remove("AGENTWALL_STATE").env_remove("HOME")).code(1);
    assert!(lost.err.contains("set AGENTWALL_STATE"), "{}", lost.err);
}
