//! The templates: their own tests and tables, what they share, and what none of them ever allows.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use agentwall_action::{Action, Effect, Facts, Resource, Subject, Verb};
use agentwall_policy::{
    ADDRESS_SETS, LoopbackPorts, Policy, ResourcePattern, load, load_table, secret_globs, templates,
};
use support::{action, expect, source, variables};

fn all() -> Vec<(&'static str, Policy)> {
    templates()
        .iter()
        .map(|t| match load(&[source(t.name, t.text)], &variables()) {
            Ok(policy) => (t.name, policy),
            Err(error) => panic!("{error}"),
        })
        .collect()
}

/// Those for agents that work on a project: they hold every rule of the generic one.
const CODING: &[&str] = &[
    "generic",
    "claude-code",
    "codex",
    "gemini-cli",
    "cloud-operator",
];

fn coding() -> impl Iterator<Item = (&'static str, Policy)> {
    all().into_iter().filter(|(name, _)| CODING.contains(name))
}

#[test]
fn the_templates_load_and_their_tests_reach_every_rule() {
    let names: BTreeSet<&str> = templates().iter().map(|t| t.name).collect();
    assert_eq!(names.len(), templates().len());
    assert_eq!(templates()[0].name, "generic");
    for ((name, policy), template) in all().iter().zip(templates()) {
        let report = policy.run_tests();
        assert!(report.passed(), "{name}: {report}");
        assert!(report.run >= 60, "{name} has only {} tests", report.run);
        let table = load_table(&source(name, template.table), &variables());
        let table = table.unwrap_or_else(|e| panic!("{e}"));
        let report = policy.run_table(&table);
        assert!(report.passed(), "{name}: {report}");
        assert!(report.run >= 20, "{name} has only {} cases", report.run);
        for rule in &policy.coverage(&[table]).rules {
            assert!(rule.is_covered(), "{name}: no test reaches {}", rule.rule);
        }
        for rule in policy.rules() {
            assert!(rule.reason.is_some(), "{name}: {} has no reason", rule.id);
            assert!(!rule.tests.is_empty(), "{name}: {} has no test", rule.id);
        }
        let about = template.about();
        assert!(
            about.starts_with("A policy for ") && about.len() < 90,
            "{about}"
        );
    }
}

/// The folder and the list are one: a file that nobody embeds is tested by nobody.
#[test]
fn every_file_of_the_folder_is_a_template() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies");
    let files = std::fs::read_dir(folder).unwrap();
    let found: BTreeSet<String> = files
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    let wanted = templates()
        .iter()
        .flat_map(|t| [format!("{}.yaml", t.name), format!("{}.tests.yaml", t.name)]);
    assert_eq!(found, wanted.collect());
}

#[test]
fn rules_of_one_name_are_one_rule_in_every_template() {
    let all = all();
    let generic = &all[0].1;
    for (name, policy) in &all {
        let mut shared = 0;
        for rule in policy.rules() {
            let Some(same) = generic.rule(&rule.id) else {
                continue;
            };
            let mut rule = rule.clone();
            rule.location = same.location.clone();
            for (a, b) in rule.tests.iter_mut().zip(&same.tests) {
                a.line = b.line;
            }
            assert_eq!(&rule, same, "{name}");
            shared += 1;
        }
        assert!(shared >= 14, "{name} shares {shared} rules only");
        for id in ["secrets", "own-state", "internal-network", "home"] {
            assert!(policy.rule(id).is_some(), "{name} has no rule {id}");
        }
        if CODING.contains(name) {
            assert!(
                generic.rules().all(|r| policy.rule(&r.id).is_some()),
                "{name}"
            );
        }
    }
}

/// What no template ever lets through, whoever asks and with whatever arguments: each by name, by the
/// address behind a harmless name, and as a call.
#[test]
fn no_template_allows_a_common_attack() {
    let endpoint = |text: &str| format!("net.connect {text}");
    let mut attacks: Vec<Action> = [
        "file.write /home/u/.bashrc",
        "file.create /home/u/.config/autostart/x.desktop",
        "file.write /home/u/.config/systemd/user/x.service",
        "file.create /home/u/.local/bin/sudo",
        "file.read /home/u/Documents/letter.txt",
        "file.write /etc/passwd",
        "file.create /etc/cron.d/x",
        "file.write /usr/bin/env",
        "file.delete /home/u",
        "file.chmod /usr/bin/env",
        "file.write /proc/../etc/shadow",
        "file.write /sys/kernel/uevent_helper",
        "file.commit /home/u/.ssh/authorized_keys",
        "file.commit /home/u/.bashrc",
        "file.commit /etc/profile.d/x.sh",
        "file.commit /home/u/work/.git/hooks/pre-commit",
        "file.commit /home/u/work/.github/workflows/ci.yml",
        "file.commit /home/u/work/.vscode/tasks.json",
        "file.commit /home/u/work/.envrc",
        "file.commit /tmp/x",
        "process.exec /home/u/Downloads/x",
        "process.trace /usr/bin/bash",
        "device.open /dev/sda",
        "device.open /dev/kvm",
        "device.open /dev/mem",
        "ipc.connect unix:/run/docker.sock",
        "ipc.connect unix:/run/dbus/system_bus_socket",
        "ipc.connect unix:/run/user/1000/bus",
        "ipc.connect unix:/tmp/ssh-x/agent.1",
        "ipc.connect unix:/tmp/.X11-unix/X0",
        "net.connect tcp://paste.example.org:443",
        "net.connect tcp://8.8.8.8:53",
        "net.connect tcp://github.com:22",
        "net.connect tcp://registry.npmjs.org.example:443",
        "net.send udp://8.8.8.8:53",
        "net.send udp://10.0.0.1:161",
        "tool.call mcp:unknown/run",
        "tool.call Bash",
        "tool.call bash",
        "tool.call mcp:github/merge_pull_request",
        "tool.call mcp:filesystem/write_file",
        "tool.call mcp:postgres/execute_sql",
        "tool.call mcp:browser/browser_evaluate",
        "tool.call mcp:slack/slack_post_message",
        "api.call capability:transfer:eu",
        "api.call capability:db:schema:drop",
        "api.call capability:records:export",
        "api.call capability:cloud:iam:create-key",
        "agent.message agent:other",
        "credential.use github",
        "http.request POST https://paste.example.org/",
    ]
    .iter()
    .map(|line| action(line))
    .collect();
    for set in ADDRESS_SETS.iter().filter(|s| s.name == "metadata") {
        for network in set.networks {
            let address = network.split('/').next().unwrap();
            let host = match address.contains(':') {
                true => format!("[{address}]"),
                false => address.to_owned(),
            };
            for port in [80, 443, 8080] {
                attacks.push(action(&endpoint(&format!("tcp://{host}:{port}"))));
            }
        }
    }
    for host in [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[64:ff9b::a9fe:a9fe]",
        "[::ffff:169.254.169.254]",
        "localhost",
    ] {
        attacks.push(action(&endpoint(&format!("tcp://{host}:443"))));
    }
    // A name that a rule allows, and where it really leads.
    for name in [
        "github.com",
        "registry.npmjs.org",
        "api.anthropic.com",
        "example.org",
    ] {
        for ip in [
            "169.254.169.254",
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "fd00:ec2::254",
        ] {
            let mut attack = action(&endpoint(&format!("tcp://{name}:443")));
            if let Resource::Endpoint(e) = &mut attack.resource {
                e.ip = Some(ip.parse().unwrap());
            }
            attacks.push(attack);
        }
    }
    let secrets = secret_globs(&variables());
    assert!(secrets.len() > 150);
    for secret in &secrets {
        // `{/path,/path/**}`
        let path = secret.as_str().trim_start_matches('{');
        let path = path.split(',').next().unwrap().replace('\\', "");
        assert!(!path.contains('*'), "{path}");
        for verb in ["read", "write", "create", "delete", "rename", "chmod"] {
            attacks.push(action(&format!("file.{verb} {path}")));
            attacks.push(action(&format!("file.{verb} {path}/x")));
        }
    }
    for (name, policy) in all() {
        for attack in &attacks {
            for args in [
                serde_json::Value::Null,
                serde_json::json!({}),
                serde_json::json!(["x"]),
            ] {
                let mut attack = attack.clone();
                attack.facts.args = args;
                let decision = policy.decide(&attack);
                assert!(
                    !decision.effect.proceeds(),
                    "{name} lets {} {} through: {decision:?}",
                    attack.verb,
                    attack.resource
                );
            }
        }
    }
}

#[test]
fn what_the_templates_decide_as_a_whole() {
    for (_, p) in coding() {
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
    let resolve = |p: &Policy, host| {
        let decision = p.resolve_name(&Subject::agent("x"), host, &Facts::default());
        decision.effect
    };
    for (name, p) in all() {
        assert_eq!(p.host_loopback(), LoopbackPorts::Ports(vec![]), "{name}");
    }
    for (_, p) in coding() {
        assert_eq!(resolve(&p, "index.crates.io"), Effect::Allow);
        assert_eq!(resolve(&p, "example.org"), Effect::Deny);
        assert_eq!(resolve(&p, "github.com.example"), Effect::Deny);
    }
}
