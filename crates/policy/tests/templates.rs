//! The templates: their own tests and tables, what they share, and what none of them ever allows.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use agentwall_action::{Effect, Facts, Subject, Verb};
use agentwall_policy::{LoopbackPorts, Policy, ResourcePattern, load, templates};
use support::{expect, source, variables};

fn all() -> Vec<(&'static str, Policy)> {
    templates()
        .iter()
        .map(|t| match load(&[source(t.name, t.text)], &variables()) {
            Ok(policy) => (t.name, policy),
            Err(error) => panic!("{error}"),
        })
        .collect()
}

#[test]
fn the_templates_load_and_their_own_tests_pass() {
    let names: Vec<&str> = templates().iter().map(|t| t.name).collect();
    assert_eq!(names, ["generic", "claude-code", "codex"]);
    for (name, policy) in all() {
        let report = policy.run_tests();
        assert!(report.passed(), "{name}: {report}");
        assert!(report.run >= 60, "{name} has only {} tests", report.run);
        for rule in policy.rules() {
            assert!(rule.reason.is_some(), "{name}: {} has no reason", rule.id);
            assert!(!rule.tests.is_empty(), "{name}: {} has no test", rule.id);
        }
    }
}

#[test]
fn every_template_holds_the_rules_of_the_generic_one() {
    let all = all();
    let ids = |p: &Policy| p.rules().map(|r| r.id.clone()).collect::<BTreeSet<_>>();
    for (name, policy) in &all {
        assert!(ids(&all[0].1).is_subset(&ids(policy)), "{name}");
    }
}

#[test]
fn what_the_templates_decide_as_a_whole() {
    for (_, p) in all() {
        for line in [
            "file.read /home/u/.ssh/id_ed25519",
            "file.write /home/u/.bashrc",
            "file.read /home/u/.local/share/keyrings/login.keyring",
            "file.read /home/u/.cargo/credentials.toml",
            "file.read /home/u/.config/git/credentials",
            "file.read /home/u/.local/state/agentwall/ledger/key",
            "file.write /usr/bin/env",
            "file.write /etc/passwd",
            "file.read /var/log/auth.log",
            "net.connect tcp://10.0.0.1:443",
            "net.connect tcp://169.254.169.254:80",
            "net.connect tcp://example.org:443",
            "ipc.connect unix:/run/docker.sock",
            "ipc.connect unix:/tmp/ssh-x/agent.1",
            "process.exec /home/u/Downloads/x",
            "process.trace /usr/bin/bash",
            "device.open /dev/sda",
            "file.commit /tmp/x",
            "tool.call Bash",
        ] {
            expect(&p, line, Effect::Deny);
        }
        for line in [
            "file.read /usr/bin/git",
            "file.read /etc/hosts",
            "file.read /home/u/.gitconfig",
            "file.read /home/u/.rustup/settings.toml",
            "file.exec /home/u/work/target/debug/libx.so",
            "process.exec /usr/bin/bash",
            "process.exec /home/u/work/run.sh",
            "process.exec /tmp/rustdoctest/rust_out",
            "net.connect tcp://static.crates.io:443",
            "net.listen tcp://127.0.0.1:3000",
            "file.write /dev/null",
            "file.commit /home/u/work/src/lib.rs",
        ] {
            expect(&p, line, Effect::Allow);
        }
        for line in [
            "file.write /home/u/work/src/lib.rs",
            "file.read /home/u/work/",
            "file.read /tmp/",
            "file.create /tmp/x",
            "file.write /home/u/.cargo/registry/x",
        ] {
            expect(&p, line, Effect::Isolate);
        }
        expect(
            &p,
            "file.commit /home/u/work/.git/hooks/pre-commit",
            Effect::Ask,
        );
        expect(&p, "file.commit /srv/x", Effect::Ask);
    }
}

/// Reading and writing must become mounts: away from the other anchors every tree has one answer.
#[test]
fn file_rules_are_expressible_as_mounts() {
    let verbs = [
        Verb::FileRead,
        Verb::FileWrite,
        Verb::FileCreate,
        Verb::FileDelete,
        Verb::FileExec,
    ];
    for (name, p) in all() {
        let anchors = p.anchors();
        for dir in &anchors {
            let below = |a: &&std::path::PathBuf| a.starts_with(dir) && *a != dir;
            let except: Vec<_> = anchors.iter().filter(below).cloned().collect();
            for verb in verbs {
                let region = p.region(&Subject::agent("x"), verb, dir, &except, &Facts::default());
                // A literal rule decides the file itself and says nothing about what is below it.
                let literal = p.rules().any(|r| {
                    r.resource.positive.iter().any(|m| match m {
                        ResourcePattern::Path(g) => {
                            g.matches(dir.as_os_str().as_encoded_bytes(), false)
                                && !g.matches(
                                    &[dir.as_os_str().as_encoded_bytes(), b"/x"].concat(),
                                    false,
                                )
                        }
                        _ => false,
                    })
                });
                assert!(
                    region.uniform || literal,
                    "{name} {verb} {dir:?}: {region:?}"
                );
            }
        }
    }
}

#[test]
fn names_and_loopback_follow_from_the_rules() {
    for (name, p) in all() {
        assert_eq!(p.host_loopback(), LoopbackPorts::Ports(vec![]), "{name}");
        let resolve = |host| {
            let decision = p.resolve_name(&Subject::agent("x"), host, &Facts::default());
            decision.effect
        };
        assert_eq!(resolve("index.crates.io"), Effect::Allow);
        assert_eq!(resolve("example.org"), Effect::Deny);
        assert_eq!(resolve("github.com.example"), Effect::Deny);
    }
}
