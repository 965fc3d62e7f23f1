//! `agentwall policy check`, `test`, `fmt`, `schema` and `templates` on real files.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use support::{Host, Said, harmless, said};

const POLICY: &str = "\
agentwall: 1
rules:
  - id: work
    action: file.write
    resource: /srv/**
    effect: allow
    tests: { match: [file.write /srv/x] }
  - id: push
    priority: 10
    action: process.exec
    resource: /usr/bin/git
    when: size(args) > 1 && args[1] == \"push\"
    effect: ask
";

const TABLE: &str = "\
- { action: file.write, resource: /srv/x, expect: allow, rule: work }
- { action: process.exec, resource: /usr/bin/git, args: [git, push], expect: ask, rule: push }
- { action: process.exec, resource: /usr/bin/git, args: [git, log], expect: deny, rule: null }
";

fn feed(mut command: Command, text: &str) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn the_table_beside_a_policy_is_run_and_coverage_told() {
    let host = Host::new();
    host.put("p.yaml", POLICY);
    let alone = host.call(&["policy", "test", "p.yaml"]).code(0).out;
    assert!(alone.contains("1 of 2 rules covered (50 %)"), "{alone}");
    assert!(alone.contains("push") && alone.contains("no test shows it deciding"));
    assert!(alone.contains("no match"), "{alone}");
    host.put("p.tests.yaml", TABLE);
    let both = host.call(&["policy", "test", "p.yaml"]).code(0).out;
    assert!(both.contains("p.tests.yaml: 3 cases, 0 failed"), "{both}");
    assert!(both.contains("2 of 2 rules covered (100 %)"), "{both}");
    let rows = host
        .call(&["policy", "test", "--coverage", "p.yaml", "p.tests.yaml"])
        .code(0)
        .out;
    assert!(rows.contains("decides p.tests.yaml:2"), "{rows}");
    let json = host.call(&["policy", "test", "--json", "p.yaml"]).code(0);
    let json = json.json();
    assert_eq!(json[0]["tables"][0]["run"], 3);
    assert_eq!(json[0]["coverage"]["percent"], 100);
    assert_eq!(json[0]["coverage"]["rules"][0]["rule"], "push");
}

#[test]
fn a_failed_case_and_a_low_coverage_fail() {
    let host = Host::new();
    host.put("p.yaml", POLICY);
    let low = ["policy", "test", "--min-coverage", "60", "p.yaml"];
    let text = host.call(&low).code(1).err;
    assert!(text.contains("the coverage is below 60 %"), "{text}");
    host.call(&["policy", "test", "--min-coverage", "50", "p.yaml"])
        .code(0);
    host.call(&["policy", "test", "--min-coverage", "101", "p.yaml"])
        .code(2);
    host.put("bad.yaml", &TABLE.replace("expect: ask", "expect: allow"));
    let args = ["policy", "test", "--table", "bad.yaml", "p.yaml"];
    let text = host.call(&args).code(1).err;
    assert!(
        text.contains(
            "bad.yaml:2: 'process.exec /usr/bin/git' must be allow by rule push and is ask"
        ),
        "{text}"
    );
    let json = host.call(&["policy", "test", "--json", "--table", "bad.yaml", "p.yaml"]);
    let json = json.code(1).json();
    assert_eq!(json[0]["ok"], false);
    assert_eq!(json[0]["tables"][0]["failures"][0]["found"], "ask");
}

#[test]
fn a_table_that_is_wrong_is_told_with_its_place() {
    let host = Host::new();
    host.put("p.yaml", POLICY);
    host.put(
        "p.tests.yaml",
        "- { action: file.raed, resource: \"/x\x1b[2J\", expect: deny }\n",
    );
    let text = host.call(&["policy", "test", "p.yaml"]).code(1).err;
    assert!(text.contains("p.tests.yaml:1:"), "{text}");
    harmless(&text);
    host.put(
        "p.tests.yaml",
        "- { action: file.raed, resource: /x, expect: deny }\n",
    );
    for command in ["test", "check"] {
        let file = if command == "test" {
            "p.yaml"
        } else {
            "p.tests.yaml"
        };
        let text = host.call(&["policy", command, file]).code(1).err;
        assert!(
            text.contains("p.tests.yaml:1:13") && text.contains("file.read"),
            "{command}: {text}"
        );
    }
    let text = host.call(&["policy", "test", "p.tests.yaml"]).code(1).err;
    assert!(text.contains("--table"), "{text}");
    let args = ["policy", "test", "--table", "absent.yaml", "p.yaml"];
    let text = host.call(&args).code(1).err;
    assert!(text.contains("cannot read the table absent.yaml"), "{text}");
}

#[test]
fn warnings_count_only_when_asked() {
    let host = Host::new();
    host.put(
        "p.yaml",
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: file.read, when: false }\n",
    );
    let text = host.call(&["policy", "check", "p.yaml"]).code(0).out;
    assert!(text.contains("ok, 1 rule, digest") && text.contains("1 warning"));
    assert!(text.contains("warning[never-matches]") && text.contains("p.yaml:3:53"));
    let denied = ["policy", "check", "--deny-warnings", "p.yaml"];
    assert!(host.call(&denied).code(1).err.contains("never-matches"));
    let json = host.call(&["policy", "check", "--json", "p.yaml"]).code(0);
    let json = json.json();
    assert_eq!(json[0]["warnings"][0]["code"], "never-matches");
    assert_eq!(
        (&json[0]["warnings"][0]["line"], &json[0]["ok"]),
        (&3.into(), &true.into())
    );
    host.put("t.yaml", TABLE);
    let text = host.call(&["policy", "check", "t.yaml"]).code(0).out;
    assert!(text.contains("t.yaml: ok, 3 cases"), "{text}");
}

const UNTIDY: &str = "# top\nagentwall:   1   # version\nrules: [ {id: a,effect: deny} ]\n";
const TIDY: &str = "# top\nagentwall: 1 # version\nrules: [{ id: a, effect: deny }]\n";

#[test]
fn fmt_replaces_a_file_as_a_whole_and_keeps_its_mode() {
    let host = Host::new();
    host.put("p.yaml", UNTIDY);
    let path = host.work.join("p.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("p.yaml", host.work.join("link.yaml")).unwrap();
    let text = host.call(&["policy", "fmt", "--check", "p.yaml"]).code(1);
    assert!(text.err.contains("p.yaml: another layout"), "{}", text.err);
    assert_eq!(host.read("p.yaml").unwrap(), UNTIDY);
    let digest = |host: &Host| {
        let json = host.call(&["policy", "check", "--json", "p.yaml"]).code(0);
        json.json()[0]["digest"].as_str().unwrap().to_owned()
    };
    let before = digest(&host);
    host.call(&["policy", "fmt", "link.yaml"]).code(0);
    assert_eq!(host.read("p.yaml").unwrap(), TIDY);
    assert_eq!(digest(&host), before);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert!(
        fs::symlink_metadata(host.work.join("link.yaml"))
            .unwrap()
            .is_symlink()
    );
    host.call(&["policy", "fmt", "--check", "p.yaml", "link.yaml"])
        .code(0);
    assert_eq!(host.call(&["policy", "fmt", "p.yaml"]).code(0).out, "");
    let left: Vec<_> = fs::read_dir(&host.work).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing is left behind: {left:?}");
}

#[test]
fn fmt_leaves_what_it_cannot_do_as_it_is() {
    let host = Host::new();
    let wrong = "agentwall:   1\nrules: [ { id: a, effct: deny } ]\n";
    host.put("wrong.yaml", wrong);
    host.put("good.yaml", UNTIDY);
    let said = host.call(&["policy", "fmt", "wrong.yaml", "absent.yaml", "good.yaml"]);
    let said = said.code(1);
    assert!(said.err.contains("effct") && said.err.contains("absent.yaml"));
    assert_eq!(host.read("wrong.yaml").unwrap(), wrong);
    assert_eq!(
        host.read("good.yaml").unwrap(),
        TIDY,
        "the others are laid out"
    );
    // A folder that cannot be written to.
    host.put("shut/p.yaml", UNTIDY);
    let shut = host.work.join("shut");
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o555)).unwrap();
    let root = fs::write(shut.join("probe"), "").is_ok();
    if root {
        fs::remove_file(shut.join("probe")).unwrap();
    } else {
        let text = host.call(&["policy", "fmt", "shut/p.yaml"]).code(1).err;
        assert!(text.contains("it is as it was"), "{text}");
        assert_eq!(host.read("shut/p.yaml").unwrap(), UNTIDY);
    }
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o755)).unwrap();
    host.call(&["policy", "fmt"]).code(2);
}

#[test]
fn fmt_reads_standard_input() {
    let host = Host::new();
    let out = feed(host.command(&["policy", "fmt", "-"]), UNTIDY)
        .code(0)
        .out;
    assert_eq!(out, TIDY);
    feed(host.command(&["policy", "fmt", "--check", "-"]), TIDY).code(0);
    feed(host.command(&["policy", "fmt", "--check", "-"]), UNTIDY).code(1);
    let out = feed(
        host.command(&["policy", "fmt", "-"]),
        "- {action: file.read,  resource: /x, expect: deny}",
    )
    .code(0)
    .out;
    assert_eq!(out, "- { action: file.read, resource: /x, expect: deny }\n");
    let said = feed(host.command(&["policy", "fmt", "-"]), "agentwall: [").code(1);
    assert_eq!(said.out, "");
    assert!(said.err.contains("standard input"), "{}", said.err);
}

#[test]
fn every_template_is_listed_written_and_passes() {
    let host = Host::new();
    let json = host.call(&["policy", "templates", "--json"]).code(0).json();
    let list = json.as_array().unwrap();
    assert!(list.len() >= 15);
    let shown = host.call(&["policy", "templates"]).code(0).out;
    let help = host.call(&["init", "--help"]).code(0).out;
    for template in list {
        let (name, about) = (
            template["name"].as_str().unwrap(),
            template["about"].as_str().unwrap(),
        );
        assert!(shown.contains(name) && shown.contains(about), "{shown}");
        assert!(help.contains(name), "{name}: {help}");
        let text = host
            .call(&["init", "--agent", name, "--stdout"])
            .code(0)
            .out;
        host.put("t.yaml", &text);
        let check = ["policy", "check", "--deny-warnings", "t.yaml"];
        said(host.command(&check).env("HOME", "/home/person")).code(0);
        said(
            host.command(&["policy", "fmt", "--check", "t.yaml"])
                .env("HOME", "/home/person"),
        )
        .code(0);
        said(
            host.command(&["policy", "test", "t.yaml"])
                .env("HOME", "/home/person"),
        )
        .code(0);
    }
    let wrong = host.call(&["init", "--agent", "gemini"]).code(2).err;
    assert!(wrong.contains("gemini-cli"), "{wrong}");
}

#[test]
fn both_schemas_are_json() {
    let host = Host::new();
    let policy = host.call(&["policy", "schema"]).code(0).json();
    let table = host.call(&["policy", "schema", "--table"]).code(0).json();
    assert_eq!(policy["type"], "object");
    assert_eq!(table["type"], "array");
}
