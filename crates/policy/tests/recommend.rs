//! What holds of every proposal, whatever was observed: generated evidence, and the cases that matter.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use agentwall_action::{Action, Effect, Endpoint, Protocol, Resource, Subject, Verb};
use agentwall_policy::{
    Layer, Policy, Source, Variables, load,
    recommend::{
        Input, Observation, ObservedSession, Options, Proposal, Reason, RecommendError, Standing,
        recommend,
    },
};
use proptest::prelude::*;

fn variables(workspace: &str) -> Variables {
    Variables {
        workspace: Some(workspace.into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some("/home/u/.local/state/agentwall".into()),
    }
}

fn sessions(count: usize) -> BTreeMap<String, ObservedSession> {
    (0..count)
        .map(|n| {
            let session = ObservedSession {
                variables: variables(&format!("/w/{n}")),
                flagged: None,
            };
            (format!("s{n}"), session)
        })
        .collect()
}

/// `${w}` is the session's own workspace.
fn seen(session: usize, verb: Verb, object: &str, standing: Standing) -> Observation {
    let object = object.replace("${w}", &format!("/w/{session}"));
    Observation {
        index: 7 * session as u64,
        session: format!("s{session}"),
        time: format!("2026-11-21T10:00:0{session}.000Z"),
        verb,
        resource: Resource::parse(verb.family(), &object).unwrap(),
        standing,
        derived: false,
    }
}

const ALLOWED: Standing = Standing::Passed(Effect::Allow);

fn propose(
    observations: &[Observation],
    sessions: &BTreeMap<String, ObservedSession>,
    current: &[Source],
) -> Result<Proposal, RecommendError> {
    recommend(&Input {
        observations,
        sessions,
        current,
        variables: &variables("/w/now"),
        subject: &Subject::agent("agent"),
        real: None,
        options: Options::default(),
    })
}

fn loaded(proposal: &Proposal) -> Policy {
    let source = Source::new("proposal", proposal.text.clone(), Layer::User);
    load(&[source], &variables("/w/now")).unwrap_or_else(|e| panic!("{e}\n{}", proposal.text))
}

fn effect(policy: &Policy, verb: Verb, object: &str) -> Effect {
    let object = object.replace("${w}", "/w/now");
    let resource = Resource::parse(verb.family(), &object).unwrap();
    policy
        .decide(&Action::new(Subject::agent("agent"), verb, resource))
        .effect
}

fn patterns(proposal: &Proposal) -> Vec<String> {
    proposal
        .rules
        .iter()
        .flat_map(|r| r.resources.clone())
        .collect()
}

/// Files of changing names in several sessions.
fn reads(names: &[&str]) -> Vec<Observation> {
    let each = names.iter().enumerate();
    each.map(|(n, name)| seen(n, Verb::FileRead, &format!("${{w}}/data/{name}"), ALLOWED))
        .collect()
}

#[test]
fn one_session_yields_literals_and_several_a_pattern() {
    let names = [
        "2026-01-02.csv",
        "2026-02-03.csv",
        "2026-03-04.csv",
        "2026-04-05.csv",
    ];
    let several = propose(&reads(&names), &sessions(4), &[]).unwrap();
    assert_eq!(
        patterns(&several),
        ["${workspace}/data/2026-[0-9][0-9]-[0-9][0-9].csv"]
    );
    let policy = loaded(&several);
    assert_eq!(
        effect(&policy, Verb::FileRead, "${w}/data/2026-12-31.csv"),
        Effect::Allow
    );
    assert_eq!(
        effect(&policy, Verb::FileRead, "${w}/data/2026-12-31.csv.key"),
        Effect::Deny
    );
    assert_eq!(
        effect(&policy, Verb::FileWrite, "${w}/data/2026-12-31.csv"),
        Effect::Deny
    );
    let rule = &several.rules[0];
    assert_eq!(
        (rule.entries.as_slice(), rule.objects, rule.sessions.len()),
        (&[0, 7, 14, 21][..], 4, 4)
    );
    assert_eq!(rule.first_seen, "2026-11-21T10:00:00.000Z");
    assert_eq!(rule.last_seen, "2026-11-21T10:00:03.000Z");

    let mut one = reads(&names);
    one.iter_mut().for_each(|o| o.session = "s0".into());
    one.iter_mut()
        .zip(names)
        .for_each(|(o, n)| o.resource = Resource::path(format!("/w/0/data/{n}")));
    let one = propose(&one, &sessions(4), &[]).unwrap();
    assert!(
        !patterns(&one).iter().any(|p| p.contains(['*', '?', '['])),
        "{:?}",
        patterns(&one)
    );
    assert!(one.estimate.sentence().contains("at least one more"));
}

#[test]
fn names_that_recur_stay_literals() {
    let mut all = Vec::new();
    for session in 0..4 {
        for name in ["a.rs", "b.rs", "c.rs", "d.rs", "e.rs", "f.rs"] {
            all.push(seen(
                session,
                Verb::FileRead,
                &format!("${{w}}/src/{name}"),
                ALLOWED,
            ));
        }
    }
    let proposal = propose(&all, &sessions(4), &[]).unwrap();
    assert_eq!(
        patterns(&proposal),
        ["${workspace}/src/{a.rs,b.rs,c.rs,d.rs,e.rs,f.rs}"]
    );
}

#[test]
fn what_was_refused_or_asked_about_stays_out_and_bounds_every_merge() {
    let names = ["aa.md", "bb.md", "cc.md", "dd.md"];
    for standing in [Standing::Refused, Standing::Asked] {
        let mut all = reads(&names);
        all.push(seen(0, Verb::FileRead, "${w}/data/private.md", standing));
        // The same object went ahead in another session, as after an approval.
        all.push(seen(1, Verb::FileRead, "${w}/data/private.md", ALLOWED));
        let proposal = propose(&all, &sessions(4), &[]).unwrap();
        let policy = loaded(&proposal);
        assert_eq!(
            effect(&policy, Verb::FileRead, "${w}/data/private.md"),
            Effect::Deny
        );
        assert_eq!(
            effect(&policy, Verb::FileRead, "${w}/data/aa.md"),
            Effect::Allow
        );
        let reason = if standing == Standing::Asked {
            Reason::Asked
        } else {
            Reason::Refused
        };
        assert!(
            proposal.left_out.iter().any(|l| l.reason == reason),
            "{:?}",
            proposal.left_out
        );
        // Without it, the merge is made.
        let free = propose(&reads(&names), &sessions(4), &[]).unwrap();
        assert_eq!(patterns(&free), ["${workspace}/data/*.md"]);
    }
}

#[test]
fn a_session_that_tried_a_secret_or_was_rejected_teaches_nothing() {
    let mut all = reads(&["aa.md", "bb.md", "cc.md", "dd.md"]);
    all.push(seen(
        3,
        Verb::FileRead,
        "/home/u/.ssh/id_ed25519",
        Standing::Refused,
    ));
    let mut known = sessions(4);
    known.get_mut("s2").unwrap().flagged = Some("a person rejected a question".into());
    let proposal = propose(&all, &known, &[]).unwrap();
    assert_eq!(patterns(&proposal), ["${workspace}/data/{aa.md,bb.md}"]);
    let flagged =
        |l: &&agentwall_policy::recommend::LeftOut| matches!(l.reason, Reason::FlaggedSession(_));
    assert_eq!(proposal.left_out.iter().filter(flagged).count(), 2);
}

#[test]
fn the_never_cover_set_is_not_proposed_even_when_it_was_allowed() {
    let objects = [
        (Verb::FileRead, "/home/u/.aws/credentials"),
        (Verb::FileRead, "/proc/7/environ"),
        (Verb::FileWrite, "/home/u/.bashrc"),
        (Verb::FileCreate, "${w}/.git/hooks/pre-commit"),
        (Verb::FileCreate, "${w}/sub/CLAUDE.md"),
        (Verb::FileRead, "/home/u/.claude/settings.json"),
        (
            Verb::FileRead,
            "/home/u/.local/state/agentwall/keys/ledger.key",
        ),
        (Verb::IpcConnect, "unix:/run/docker.sock"),
        (Verb::NetConnect, "tcp://169.254.169.254:80"),
    ];
    let all: Vec<Observation> = (0..3)
        .flat_map(|s| objects.map(|(verb, object)| seen(s, verb, object, ALLOWED)))
        .collect();
    let proposal = propose(&all, &sessions(3), &[]).unwrap();
    assert!(proposal.rules.is_empty(), "{}", proposal.text);
    assert_eq!(
        proposal.left_out.iter().map(|l| l.actions).sum::<usize>(),
        objects.len()
    );
}

#[test]
fn what_may_only_be_named_is_taken_out_of_patterns() {
    let mut all = Vec::new();
    for (session, name) in ["amber", "basin", "cedar", "delta", "ember"]
        .iter()
        .enumerate()
    {
        all.push(seen(
            session,
            Verb::FileCreate,
            &format!("${{w}}/{name}"),
            ALLOWED,
        ));
        all.push(seen(session, Verb::FileWrite, "${w}/.git/config", ALLOWED));
    }
    let proposal = propose(&all, &sessions(5), &[]).unwrap();
    let policy = loaded(&proposal);
    for (object, expected) in [
        ("${w}/unseen", Effect::Allow),
        ("${w}/.envrc", Effect::Deny),
        ("${w}/AGENTS.md", Effect::Deny),
        ("${w}/.claude", Effect::Deny),
    ] {
        assert_eq!(
            effect(&policy, Verb::FileCreate, object),
            expected,
            "{object}\n{}",
            proposal.text
        );
    }
    assert_eq!(
        effect(&policy, Verb::FileWrite, "${w}/.git/config"),
        Effect::Allow
    );
    assert_eq!(
        effect(&policy, Verb::FileCreate, "${w}/.git/config.worktree"),
        Effect::Deny
    );
}

#[test]
fn only_what_the_policy_in_force_lacks_and_never_before_its_rules() {
    let current = Source::new(
        "current",
        "agentwall: 1\nrules:\n  - {id: src, action: file.read, resource: \"${workspace}/src/**\", effect: allow}\n  \
         - {id: no-docs, priority: 20000, action: file.read, resource: \"${workspace}/docs/**\", effect: deny}\n  \
         - {id: learned-file-read-workspace, action: file.read, resource: /x, effect: allow}\n",
        Layer::User,
    );
    let all = [
        seen(0, Verb::FileRead, "${w}/src/a.rs", ALLOWED),
        seen(0, Verb::FileRead, "${w}/docs/a.md", ALLOWED),
        seen(0, Verb::FileRead, "${w}/notes", ALLOWED),
    ];
    let proposal = propose(&all, &sessions(1), std::slice::from_ref(&current)).unwrap();
    assert_eq!(patterns(&proposal), ["${workspace}/notes"]);
    assert_eq!(proposal.rules[0].id, "learned-file-read-workspace-2");
    assert_eq!(proposal.given, 1);
    assert_eq!(
        proposal.left_out[0].reason,
        Reason::DecidedBy("no-docs".into())
    );
    let own = Source::new("proposal", proposal.text.clone(), Layer::User);
    let both = load(&[current, own], &variables("/w/now")).unwrap();
    assert_eq!(
        effect(&both, Verb::FileRead, "${w}/docs/a.md"),
        Effect::Deny
    );
    assert_eq!(effect(&both, Verb::FileRead, "${w}/notes"), Effect::Allow);
}

#[test]
fn hosts_open_nothing_inside() {
    let all: Vec<Observation> = (0..5)
        .map(|s| {
            seen(
                s,
                Verb::NetConnect,
                &format!(
                    "tcp://{}.pkg.example.com:443",
                    ["alpha", "bravo", "charlie", "delta", "echo"][s]
                ),
                ALLOWED,
            )
        })
        .collect();
    let proposal = propose(&all, &sessions(5), &[]).unwrap();
    assert_eq!(patterns(&proposal), ["tcp://*.pkg.example.com:443"]);
    let policy = loaded(&proposal);
    let to = |host: &str, ip: &str| {
        let endpoint = Endpoint {
            protocol: Protocol::Tcp,
            host: Some(host.into()),
            ip: Some(ip.parse().unwrap()),
            port: 443,
        };
        let resource = Resource::Endpoint(endpoint);
        policy
            .decide(&Action::new(
                Subject::agent("agent"),
                Verb::NetConnect,
                resource,
            ))
            .effect
    };
    assert_eq!(to("zz.pkg.example.com", "93.184.215.14"), Effect::Allow);
    assert_eq!(to("zz.pkg.example.com", "169.254.169.254"), Effect::Deny);
    assert_eq!(to("zz.pkg.example.com", "10.0.0.1"), Effect::Deny);
    assert_eq!(to("zz.example.com", "93.184.215.14"), Effect::Deny);
}

#[test]
fn holes_in_the_never_cover_set_are_an_error() {
    let bare = Variables {
        home: None,
        ..variables("/w/now")
    };
    let result = recommend(&Input {
        observations: &[],
        sessions: &sessions(1),
        current: &[],
        variables: &bare,
        subject: &Subject::agent("agent"),
        real: None,
        options: Options::default(),
    });
    assert!(matches!(result, Err(RecommendError::NeverCover(_))));
}

fn name() -> impl Strategy<Value = String> {
    let fixed = [
        "src",
        "a",
        "b.rs",
        ".git",
        "hooks",
        "config",
        "objects",
        ".ssh",
        ".bashrc",
        "CLAUDE.md",
        "environ",
        "x*y",
        "sp ace",
        "{b}",
        "q?",
        "[c]",
        "~",
        "$d",
        "\\e",
        "ä",
        "!n",
        "-",
        "tmp_x",
        "#c",
        "'q'",
        "\"",
    ];
    prop_oneof![
        3 => proptest::sample::select(fixed.to_vec()).prop_map(str::to_owned),
        2 => "[a-z]{2,5}\\.(md|log|rs)",
        2 => "[0-9a-f]{8}",
        1 => "tmp[0-9a-zA-Z]{6}",
        1 => "[0-9]{1,3}",
    ]
}

fn object() -> impl Strategy<Value = String> {
    let root = proptest::sample::select(vec![
        "${w}", "/tmp", "/home/u", "/usr/lib", "/proc", "/etc", "/opt/x",
    ]);
    (root, proptest::collection::vec(name(), 0..4))
        .prop_map(|(root, names)| [vec![root.to_owned()], names].concat().join("/"))
}

fn observation() -> impl Strategy<Value = Observation> {
    let verb = proptest::sample::select(vec![
        Verb::FileRead,
        Verb::FileWrite,
        Verb::FileCreate,
        Verb::FileDelete,
        Verb::ProcessExec,
        Verb::FileExec,
    ]);
    let standing = prop_oneof![
        12 => Just(ALLOWED),
        6 => Just(Standing::Passed(Effect::Isolate)),
        1 => Just(Standing::Asked),
        1 => Just(Standing::Refused),
    ];
    (0usize..4, verb, object(), standing).prop_filter_map(
        "isolate is about files",
        |(s, v, o, standing)| {
            let isolated = standing == Standing::Passed(Effect::Isolate);
            let able = agentwall_policy::ISOLATABLE.contains(&v);
            (!isolated || able).then(|| seen(s, v, &o, standing))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A proposal always comes (its own checks hold: it loads, its tests pass, it lets through what
    /// counts, nothing that was refused, nothing of the never-cover set), and the same is seen from
    /// outside with the interpreter.
    #[test]
    fn every_proposal_keeps_its_promises(all in proptest::collection::vec(observation(), 0..60)) {
        let known = sessions(4);
        let proposal = propose(&all, &known, &[]).unwrap_or_else(|e| panic!("{e}"));
        let policy = loaded(&proposal);
        prop_assert!(policy.run_tests().passed());
        let decide = |o: &Observation| {
            let from = format!("/w/{}", &o.session[1..]);
            let text = o.resource.to_string();
            let Resource::Path(p) = &o.resource else { panic!("{text}") };
            let moved = match p.path.strip_prefix(&from) {
                Ok(rest) => std::path::Path::new("/w/now").join(rest),
                Err(_) => p.path.clone(),
            };
            policy.decide(&Action::new(Subject::agent("agent"), o.verb, Resource::path(moved))).effect
        };
        let mut left_out = 0;
        for o in &all {
            match o.standing {
                Standing::Passed(_) => left_out += usize::from(!decide(o).proceeds()),
                _ => prop_assert!(!decide(o).proceeds(), "{} {}", o.verb, o.resource),
            }
        }
        // What went ahead and is not let through was left out for a reason.
        prop_assert!(left_out == 0 || !proposal.left_out.is_empty());
        for (verb, place) in [
            (Verb::FileRead, "/home/u/.ssh"), (Verb::FileRead, "/home/u/.ssh/src"), (Verb::FileRead, "/proc/1/environ"),
            (Verb::FileRead, "/etc/shadow"), (Verb::FileWrite, "/home/u/.bashrc"), (Verb::FileCreate, "/w/now/.git/hooks/a"),
            (Verb::FileCreate, "/w/now/src/.git/hooks/a"), (Verb::FileWrite, "/w/now/CLAUDE.md"),
            (Verb::FileWrite, "/usr/lib/a"), (Verb::FileDelete, "/etc/a"),
        ] {
            prop_assert!(!effect(&policy, verb, place).proceeds(), "{verb} {place}\n{}", proposal.text);
        }
    }

    /// More evidence of one session alone never makes a wildcard.
    #[test]
    fn one_session_never_generalises(all in proptest::collection::vec(observation(), 0..40)) {
        let all: Vec<Observation> = all.into_iter().filter(|o| o.session == "s0").collect();
        let proposal = propose(&all, &sessions(1), &[]).unwrap();
        let policy = loaded(&proposal);
        for rule in policy.rules() {
            for pattern in &rule.resource.positive {
                let agentwall_policy::ResourcePattern::Path(glob) = pattern else {
                    return Err(TestCaseError::fail(format!("{pattern:?}")));
                };
                let seen = all.iter().any(|o| {
                    let text = o.resource.to_string().replace("/w/0", "/w/now").replace("\\\\", "\\");
                    glob.matches(text.as_bytes(), false)
                });
                prop_assert!(seen, "{}", glob.as_str());
                // A literal path changes with every byte.
                let other = |o: &Observation| {
                    let text = o.resource.to_string().replace("/w/0", "/w/now").replace("\\\\", "\\");
                    glob.matches(format!("{text}x").as_bytes(), false) && !all.iter().any(|p| p.resource.to_string() == format!("{}x", o.resource))
                };
                prop_assert!(!all.iter().any(other), "{}", glob.as_str());
            }
        }
    }
}
