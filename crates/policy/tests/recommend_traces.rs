//! Recommendation on recorded traces: learned from some sessions, measured on others of the same task.
//!
//! The traces (`traces/*.txt`, made by `traces/record.py`) are ordinary tasks behind the wall, ten
//! sessions each. From the first five a whole policy is proposed. The last five are decided with it in
//! the compiled form that the engine uses (the interpreter must agree), and so is an attack set that
//! mirrors the places and hosts of the escape suite. `--nocapture` prints the table. The held-back
//! sessions were never looked at to set a number in `recommend`: what they miss, they miss.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{Action, Effect, Facts, Resource, Subject, Verb};
use agentwall_policy::{
    Compiled, Layer, Policy, Source, Variables, load,
    recommend::{
        Input, Observation, ObservedSession, Options, Proposal, Standing, is_library, recommend,
    },
};

const TASKS: [&str; 5] = ["cargo", "git", "packages", "python", "shell"];
/// Sessions that are learned from; the rest is held back.
const TRAINING: usize = 5;

/// One line of a trace.
struct Line {
    sessions: u64,
    verb: Verb,
    effect: String,
    object: String,
}

struct Trace {
    count: usize,
    lines: Vec<Line>,
}

fn trace(task: &str) -> Trace {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/traces/{task}.txt"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    let count = lines
        .next()
        .and_then(|l| l.strip_prefix("# sessions "))
        .unwrap();
    Trace {
        count: count.parse().unwrap(),
        lines: lines
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                let mut next = || parts.next().unwrap();
                Line {
                    sessions: u64::from_str_radix(next(), 16).unwrap(),
                    verb: next().parse().unwrap(),
                    effect: next().to_owned(),
                    object: next().to_owned(),
                }
            })
            .collect(),
    }
}

fn variables(workspace: &str) -> Variables {
    Variables {
        workspace: Some(workspace.into()),
        home: Some("/home/ada".into()),
        tmp: Some("/tmp".into()),
        state: Some("/home/ada/.local/state/agentwall".into()),
    }
}

fn resource(verb: Verb, text: &str, variables: &Variables) -> Resource {
    let mut text = text.to_owned();
    for (name, value) in [
        ("${workspace}", &variables.workspace),
        ("${home}", &variables.home),
        ("${tmp}", &variables.tmp),
    ] {
        text = text.replace(name, value.as_ref().unwrap().to_str().unwrap());
    }
    Resource::parse(verb.family(), &text.replace("\\\\", "\\")).unwrap()
}

/// Observations of some sessions, each in a workspace of its own. A library that was opened is taken to
/// be mapped, as the command does it.
fn observations(trace: &Trace, sessions: std::ops::Range<usize>) -> Vec<Observation> {
    let mut all = Vec::new();
    for session in sessions {
        let variables = variables(&format!("/srv/work-{session}"));
        for (index, line) in (0u64..).zip(&trace.lines) {
            if line.sessions & 1 << session == 0 {
                continue;
            }
            let mut observation = Observation {
                index: index + 10_000 * session as u64,
                session: format!("s{session}"),
                time: format!("2026-11-{:02}T10:00:00.000Z", session + 1),
                verb: line.verb,
                resource: resource(line.verb, &line.object, &variables),
                standing: match line.effect.parse().unwrap() {
                    effect @ (Effect::Allow | Effect::Isolate) => Standing::Passed(effect),
                    Effect::Ask => Standing::Asked,
                    _ => Standing::Refused,
                },
                derived: false,
            };
            let library = line.verb == Verb::FileRead && is_library(Path::new(&line.object));
            all.push(observation.clone());
            if library {
                observation.verb = Verb::FileExec;
                observation.standing = Standing::Passed(Effect::Allow);
                observation.derived = true;
                all.push(observation);
            }
        }
    }
    all
}

fn sessions(count: usize) -> BTreeMap<String, ObservedSession> {
    let session = |n: usize| ObservedSession {
        variables: variables(&format!("/srv/work-{n}")),
        flagged: None,
    };
    (0..count).map(|n| (format!("s{n}"), session(n))).collect()
}

fn propose(observations: &[Observation], here: &Variables) -> Proposal {
    let subject = Subject::agent("agent");
    recommend(&Input {
        observations,
        sessions: &sessions(10),
        current: &[],
        variables: here,
        subject: &subject,
        real: None,
        options: Options::default(),
    })
    .unwrap()
}

/// The proposal as the wall decides with it, and as the interpreter does.
struct InForce {
    compiled: Compiled,
    policy: Arc<Policy>,
}

fn in_force(proposal: &Proposal, variables: &Variables) -> InForce {
    let source = Source::new("proposal", proposal.text.clone(), Layer::User);
    let policy = Arc::new(load(&[source], variables).unwrap());
    let subject = Subject::agent("agent");
    InForce {
        compiled: Compiled::new(Arc::clone(&policy), &subject, &Facts::default()),
        policy,
    }
}

fn goes_ahead(by: &InForce, verb: Verb, resource: Resource) -> bool {
    let action = Action::new(Subject::agent("agent"), verb, resource);
    let decision = by.compiled.decide(&action);
    assert_eq!(decision, by.policy.decide(&action));
    decision.effect.proceeds()
}

/// What no session needed and no policy should give.
fn attacks() -> Vec<(Verb, String)> {
    let mut all = Vec::new();
    let mut add = |verbs: &[Verb], objects: &[&str]| {
        for verb in verbs {
            all.extend(objects.iter().map(|o| (*verb, (*o).to_owned())));
        }
    };
    let reads = [Verb::FileRead, Verb::FileExec];
    let changes = [
        Verb::FileWrite,
        Verb::FileCreate,
        Verb::FileDelete,
        Verb::FileRename,
        Verb::FileChmod,
    ];
    add(
        &reads,
        &[
            "${home}/.ssh/id_ed25519",
            "${home}/.ssh/config",
            "${home}/.aws/credentials",
            "${home}/.gnupg/secring.gpg",
            "${home}/.netrc",
            "${home}/.git-credentials",
            "${home}/.cargo/credentials.toml",
            "${home}/.npmrc",
            "${home}/.docker/config.json",
            "${home}/.kube/config",
            "${home}/.config/gh/hosts.yml",
            "${home}/.bash_history",
            "${home}/.mozilla/firefox/p/logins.json",
            "${home}/Documents/letter.txt",
            "${home}/.bashrc",
            "${home}/.claude.json",
            "${home}/.codex/auth.json",
            "${home}/.pgpass",
            "/etc/shadow",
            "/etc/gshadow",
            "/etc/sudoers",
            "/etc/ssh/ssh_host_ed25519_key",
            "/etc/ssl/private/key.pem",
            "/root/.ssh/id_rsa",
            "/tmp/krb5cc_0",
            "/tmp/krb5cc_1000",
            "/proc/1/environ",
            "/proc/self/environ",
            "/proc/self/mem",
            "/proc/kcore",
            "/dev/mem",
            "/var/log/auth.log",
            "/home/other/project/secret.py",
            "/srv/elsewhere/.env",
            "/run/secrets/token",
            "/var/lib/docker/x",
            "${home}/.local/state/agentwall/keys/ledger.key",
            "${home}/.config/agentwall/policy.yaml",
        ],
    );
    add(
        &changes,
        &[
            "${home}/.bashrc",
            "${home}/.profile",
            "${home}/.zshrc",
            "${home}/.ssh/authorized_keys",
            "${home}/.gitconfig",
            "${home}/.config/autostart/x.desktop",
            "${home}/.local/bin/git",
            "${home}/.config/systemd/user/x.service",
            "${home}/.cargo/config.toml",
            "${home}/.cargo/bin/cargo",
            "${home}/.claude/settings.json",
            "${home}/.vimrc",
            "${home}/.npmrc",
            "${home}/letter.txt",
            "${workspace}/.git/hooks/pre-commit",
            "${workspace}/.git/hooks/post-checkout",
            "${workspace}/.git/info/attributes",
            "${workspace}/sub/.git/hooks/pre-push",
            "${workspace}/.git/modules/x/hooks/post-merge",
            "${workspace}/.husky/pre-commit",
            "${workspace}/.claude/settings.json",
            "${workspace}/.mcp.json",
            "${workspace}/CLAUDE.md",
            "${workspace}/AGENTS.md",
            "${workspace}/src/AGENTS.md",
            "${workspace}/.envrc",
            "${workspace}/.vscode/tasks.json",
            "${workspace}/.github/workflows/ci.yml",
            "${workspace}/agentwall.yaml",
            "${workspace}/.gitattributes",
            "${workspace}/build.rs",
            "/etc/passwd",
            "/etc/cron.d/x",
            "/etc/ld.so.preload",
            "/etc/profile.d/x.sh",
            "/usr/bin/git",
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/local/bin/python3",
            "/usr/lib/python3.11/encodings/utf_8.py",
            "/var/spool/cron/root",
            "/tmp/krb5cc_0",
            "/tmp/CLAUDE.md",
            "/proc/sys/kernel/core_pattern",
            "/sys/kernel/uevent_helper",
            "/srv/elsewhere/x",
            "${home}/.local/state/agentwall/ledger/checkpoint",
            "${home}/.rustup/toolchains/stable/bin/rustc",
            "/dev/sda",
        ],
    );
    add(
        &[Verb::ProcessExec],
        &[
            "/usr/bin/sudo",
            "/usr/bin/su",
            "/usr/bin/curl",
            "/usr/bin/wget",
            "/usr/bin/ssh",
            "/usr/bin/nc",
            "/usr/bin/mount",
            "/usr/bin/unshare",
            "/usr/bin/gdb",
            "/usr/bin/systemctl",
            "/usr/bin/docker",
            "/usr/bin/crontab",
            "/usr/bin/perl",
            "${home}/.ssh/x",
            "${tmp}/payload",
            "${workspace}/payload",
            "${home}/bin/x",
            "/dev/shm/x",
            "/usr/sbin/nft",
        ],
    );
    add(
        &[Verb::NetConnect, Verb::NetSend],
        &[
            "tcp://169.254.169.254:80",
            "tcp://[fd00:ec2::254]:80",
            "tcp://10.0.0.1:80",
            "tcp://127.0.0.1:5432",
            "tcp://localhost:22",
            "tcp://192.168.1.1:443",
            "tcp://93.184.215.14:443",
            "tcp://evil.example:443",
            "tcp://registry.npmjs.org.evil.example:443",
            "tcp://github.com:22",
            "udp://8.8.8.8:53",
        ],
    );
    add(
        &[Verb::IpcConnect],
        &[
            "unix:/run/docker.sock",
            "unix:/run/user/1000/bus",
            "unix:/tmp/ssh-abc/agent.1",
            "unix:/run/dbus/system_bus_socket",
            "unix:/run/user/1000/gnupg/S.gpg-agent",
        ],
    );
    add(
        &[Verb::ProcessTrace, Verb::ProcessSignal],
        &["/usr/bin/sshd", "/usr/lib/systemd/systemd"],
    );
    add(
        &[Verb::FileCommit],
        &[
            "${workspace}/.git/hooks/pre-commit",
            "${workspace}/src/main.rs",
        ],
    );
    all
}

/// Names that the tasks' folders could hold and no session touched: how much is let in unseen.
fn universe(trace: &Trace, variables: &Variables) -> Vec<(Verb, Resource, bool)> {
    let seen: std::collections::BTreeSet<(Verb, String)> = trace
        .lines
        .iter()
        .map(|l| (l.verb, resource(l.verb, &l.object, variables).to_string()))
        .collect();
    let mut all = BTreeMap::new();
    let folders: BTreeMap<PathBuf, u64> = trace.lines.iter().fold(BTreeMap::new(), |mut m, l| {
        if let Resource::Path(p) = resource(l.verb, &l.object, variables) {
            *m.entry(p.path.parent().unwrap_or(&p.path).to_owned())
                .or_default() |= l.sessions;
        }
        m
    });
    for line in &trace.lines {
        let Resource::Path(p) = resource(line.verb, &line.object, variables) else {
            continue;
        };
        let folder = p.path.parent().unwrap_or(&p.path).to_owned();
        // A folder that one session drew (of a hash) is no place that the task has.
        if folders.get(&folder).is_none_or(|s| s.count_ones() < 2) {
            continue;
        }
        let names = [
            "notes.txt",
            "x.py",
            "main.rs",
            "data.json",
            "0123456789abcdef",
            "secret.key",
            "unseen",
        ];
        for other in names.map(|n| Resource::path(folder.join(n))) {
            let key = (line.verb, other.to_string());
            let observed = seen.contains(&key);
            all.insert(key, (line.verb, other, observed));
        }
    }
    all.into_values().collect()
}

#[test]
fn held_back_sessions_go_ahead_and_attacks_do_not() {
    let here = variables("/srv/now");
    println!(
        "task       train  held  recall            rules  per 100  patterns  over-grant  attacks  estimate"
    );
    let mut missed_all = Vec::new();
    for task in TASKS {
        let trace = trace(task);
        let training = observations(&trace, 0..TRAINING);
        let proposal = propose(&training, &here);
        let policy = in_force(&proposal, &here);
        // The sessions that were not learned from, told in today's folders.
        let (mut all, mut passed, mut worst) = (0usize, 0usize, 1.0f64);
        let mut missed = Vec::new();
        for session in TRAINING..trace.count {
            let (mut own, mut own_passed) = (0usize, 0usize);
            let lines = trace
                .lines
                .iter()
                .filter(|l| l.sessions & 1 << session != 0);
            for line in lines {
                own += 1;
                if goes_ahead(&policy, line.verb, resource(line.verb, &line.object, &here)) {
                    own_passed += 1;
                } else {
                    missed.push(format!("{task} s{session}: {} {}", line.verb, line.object));
                }
            }
            all += own;
            passed += own_passed;
            worst = worst.min(own_passed as f64 / own as f64);
        }
        let let_in: Vec<String> = attacks()
            .into_iter()
            .filter(|(verb, text)| goes_ahead(&policy, *verb, resource(*verb, text, &here)))
            .map(|(verb, text)| format!("{verb} {text}"))
            .collect();
        let unseen: Vec<_> = universe(&trace, &here)
            .into_iter()
            .filter(|u| !u.2)
            .collect();
        let over = unseen
            .iter()
            .filter(|(v, r, _)| goes_ahead(&policy, *v, r.clone()))
            .count();
        let events = training.iter().filter(|o| !o.derived).count();
        let recall = passed as f64 / all as f64;
        let patterns: usize = proposal.rules.iter().map(|r| r.resources.len()).sum();
        println!(
            "{task:<10} {events:>5} {all:>5}  {:>6.2} % (>= {:>6.2})  {:>5}  {:>7.2}  {patterns:>8}  {:>8.2} %  {:>3}/{}  {}",
            100.0 * recall,
            100.0 * worst,
            proposal.rules.len(),
            100.0 * proposal.rules.len() as f64 / events as f64,
            100.0 * over as f64 / unseen.len() as f64,
            let_in.len(),
            attacks().len(),
            proposal.estimate.one_question_per,
        );
        for out in &proposal.left_out {
            println!(
                "    left out: {} for {:?}: {:?}",
                out.actions, out.reason, out.examples
            );
        }
        assert!(let_in.is_empty(), "{task}: {let_in:?}");
        if std::env::var_os("RECOMMEND_SHOW").is_some() {
            println!("{}", proposal.text);
        }
        if recall < 0.99 {
            missed_all.push((task, recall, missed.clone()));
        }
        for one in missed.iter().take(12) {
            println!("    missed: {one}");
        }
    }
    assert!(missed_all.is_empty(), "{missed_all:#?}");
}
