//! `agentwall policy analyse`, `diff` and `can`: what they say and how they end.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Host, harmless};

const LOOSE: &str = "agentwall: 1
default: deny
rules:
  - id: secrets
    priority: 10
    action: file.*
    resource: label:secret
    effect: deny
    tests: { match: [file.read /etc/shadow], not_match: [file.read /x] }
  - id: work
    action: file.*
    resource: ${workspace}/**
    effect: isolate
    tests: { match: ['file.read ${workspace}/x'], not_match: [file.read /x] }
  - id: notes
    action: file.write
    resource: '**/notes.txt'
    effect: allow
    tests: { match: [file.write /x/notes.txt], not_match: [file.write /x] }
";

fn without_notes() -> String {
    LOOSE.split("  - id: notes").next().unwrap().to_owned()
}

#[test]
fn analyse_tells_warnings_by_its_exit_status() {
    let host = Host::new();
    host.put("good.yaml", &without_notes());
    let said = host.call(&["policy", "analyse", "good.yaml"]).code(0);
    assert_eq!(said.out, "2 rules, 0 warnings, 0 notes\n");
    let dead = "  - id: dead
    priority: 2000
    action: file.read
    resource: ${workspace}/src/**
    effect: allow
";
    host.put("bad.yaml", &format!("{LOOSE}{dead}"));
    let said = host.call(&["policy", "analyse", "bad.yaml"]).code(1);
    for wanted in [
        "warning: bad.yaml:",
        "rule dead: it never decides",
        "work",
        "note: ",
        "no tests",
    ] {
        assert!(said.out.contains(wanted), "{wanted}: {}", said.out);
    }
    let said = host
        .call(&["policy", "analyse", "--warnings", "bad.yaml"])
        .code(1);
    assert!(!said.out.contains("note"), "{}", said.out);
    let json = host
        .call(&["policy", "analyse", "--json", "bad.yaml"])
        .code(1)
        .json();
    let findings = json["findings"].as_array().unwrap();
    let dead = findings.iter().find(|f| f["kind"] == "shadowed").unwrap();
    assert_eq!(
        (dead["rule"].as_str(), dead["level"].as_str()),
        (Some("dead"), Some("warning"))
    );
    assert!(
        dead["others"].as_array().unwrap().contains(&"work".into()),
        "{dead}"
    );
    let none = host.call(&["policy", "analyse"]).code(1).err;
    assert!(none.contains("agentwall init"), "{none}");
}

#[test]
fn diff_names_the_rules_and_fails_on_what_it_is_asked_to() {
    let host = Host::new();
    host.put("loose.yaml", LOOSE);
    host.put("tight.yaml", &without_notes());
    let said = host
        .call(&["policy", "diff", "tight.yaml", "loose.yaml"])
        .code(1);
    for wanted in [
        "looser: loose.yaml",
        "deny -> allow: file.write /notes.txt (was the default, now rule notes",
    ] {
        assert!(said.out.contains(wanted), "{wanted}: {}", said.out);
    }
    let diff =
        |which: &str, a: &str, b: &str| host.call(&["policy", "diff", "--fail-on", which, a, b]);
    diff("looser", "tight.yaml", "loose.yaml").code(1);
    diff("stricter", "loose.yaml", "loose.yaml").code(0);
    diff("looser", "loose.yaml", "loose.yaml").code(0);
    diff("sometimes", "loose.yaml", "loose.yaml").code(2);
    let same = host
        .call(&["policy", "diff", "loose.yaml", "loose.yaml"])
        .code(0)
        .out;
    assert!(same.starts_with("equal:"), "{same}");
    let back = host
        .call(&["policy", "diff", "--json", "loose.yaml", "tight.yaml"])
        .code(1)
        .json();
    assert_eq!(back["verdict"], "stricter");
    let change = &back["changes"][0];
    assert_eq!(
        (change["before"].as_str(), change["rule_before"].as_str()),
        (Some("allow"), Some("notes"))
    );
    assert_eq!(change["witness"]["resource"], "/notes.txt");
    host.call(&["policy", "diff", "absent.yaml", "loose.yaml"])
        .code(1);
}

#[test]
fn can_shows_a_way_or_proves_that_there_is_none() {
    let host = Host::new();
    host.put("loose.yaml", LOOSE);
    host.put("tight.yaml", &without_notes());
    let can = |policy: &str, more: &[&str]| {
        let mut args = vec!["policy", "can", "--policy", policy];
        args.extend(more);
        host.call(&args)
    };
    let outside = [
        "--action",
        "file.write",
        "--resource-outside",
        "${workspace}/**",
    ];
    let said = can("loose.yaml", &outside).code(1).out;
    assert!(
        said.starts_with("yes: file.write /notes.txt\n") && said.contains("rule notes"),
        "{said}"
    );
    let said = can("tight.yaml", &outside).code(0).out;
    assert!(said.starts_with("no: proved"), "{said}");
    let json = can("tight.yaml", &[&outside[..], &["--json"]].concat())
        .code(0)
        .json();
    assert_eq!(
        (json["answer"].as_str(), json["verbs"][0].as_str()),
        (Some("never"), Some("file.write"))
    );
    let json = can("loose.yaml", &[&outside[..], &["--json"]].concat())
        .code(1)
        .json();
    assert_eq!(json["witness"]["resource"], "/notes.txt");
    // A commit that no rule covers is asked: a way only for who counts that.
    let commit = ["--action", "file.commit", "--resource", "/srv/**"];
    can("tight.yaml", &commit).code(0);
    can("tight.yaml", &[&commit[..], &["--ask"]].concat()).code(1);
    can(
        "tight.yaml",
        &[&commit[..], &["--effect", "ask,deny"]].concat(),
    )
    .code(1);
    for wrong in [
        &["--action", "file.raed"][..],
        &["--action", "file.read", "--resource", "tcp://a:1"],
        &["--action", "file.read", "--effect", "perhaps"],
        &["--resource", "/x"],
    ] {
        can("tight.yaml", wrong).code(2);
    }
    host.put("odd.yaml", "agentwall: 1\nrules:\n  - { id: a, action: tool.call, when: 'session.name == \"\u{202e}\"', effect: allow }\n");
    harmless(&can("odd.yaml", &["--action", "tool.call"]).code(1).out);
}
