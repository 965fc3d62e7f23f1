use std::collections::BTreeSet;

use agentwall_action::{Action, ObjectKind, PathResource, Resource};
use proptest::prelude::*;

use super::*;
use crate::{Layer, Source, Variables, load};

fn policy(text: &str) -> Policy {
    let vars = Variables {
        workspace: Some("/w".into()),
        home: Some("/h".into()),
        ..Variables::default()
    };
    load(&[Source::new("p", text, Layer::User)], &vars).unwrap_or_else(|e| panic!("{e}"))
}

fn region(p: &Policy, verb: Verb, dir: &str, except: &[&str]) -> Region {
    let except: Vec<PathBuf> = except.iter().map(PathBuf::from).collect();
    p.region(
        &Subject::agent("a"),
        verb,
        Path::new(dir),
        &except,
        &Facts::default(),
    )
}

const SAMPLE: &str = r#"
agentwall: 1
rules:
  - { id: deny-keys, priority: 10, action: file.*, resource: [/w/keys/**, /w/.env], effect: deny }
  - { id: scratch, priority: 50, action: file.*, resource: /w/tmp/**/*.tmp, effect: allow }
  - { id: work, priority: 100, action: file.*, resource: /w/**, effect: isolate }
  - { id: sys, priority: 100, action: file.read, resource: ["/usr/**", "!/usr/src/**"], effect: allow }
  - { id: maybe, priority: 90, action: file.read, resource: /srv/**, effect: ask, when: risk > 3 }
  - { id: watch, action: file.write, resource: /w/**/*.key, effect: monitor }
"#;

#[test]
fn trees_with_one_answer_are_recognised() {
    let p = policy(SAMPLE);
    let r = region(&p, Verb::FileWrite, "/w/src", &[]);
    assert_eq!(
        (r.effect(), r.rule.as_deref()),
        (Some(Effect::Isolate), Some("work"))
    );
    assert!(r.monitored);
    assert!(!region(&p, Verb::FileRead, "/w/src", &[]).monitored);
    let r = region(&p, Verb::FileWrite, "/w", &["/w/keys", "/w/.env", "/w/tmp"]);
    assert_eq!(r.effect(), Some(Effect::Isolate));
    let r = region(&p, Verb::FileWrite, "/w", &[]);
    assert!(!r.uniform);
    assert_eq!(
        r.effects,
        BTreeSet::from([Effect::Allow, Effect::Isolate, Effect::Deny])
    );
    let r = region(&p, Verb::FileWrite, "/w/tmp", &[]);
    assert_eq!(r.effects, BTreeSet::from([Effect::Allow, Effect::Isolate]));
    let r = region(&p, Verb::FileWrite, "/w/keys/a", &[]);
    assert_eq!(
        (r.effect(), r.rule.as_deref()),
        (Some(Effect::Deny), Some("deny-keys"))
    );
    let r = region(&p, Verb::FileRead, "/usr/lib", &[]);
    assert_eq!(r.effect(), Some(Effect::Allow));
    let r = region(&p, Verb::FileRead, "/usr", &[]);
    assert_eq!(r.effects, BTreeSet::from([Effect::Allow, Effect::Deny]));
    assert_eq!(
        region(&p, Verb::FileRead, "/usr", &["/usr/src"]).effect(),
        Some(Effect::Allow)
    );
    assert_eq!(
        region(&p, Verb::FileRead, "/usr/src", &[]).effect(),
        Some(Effect::Deny)
    );
    let r = region(&p, Verb::FileRead, "/srv", &[]);
    assert_eq!(r.effects, BTreeSet::from([Effect::Ask, Effect::Deny]));
    assert_eq!((r.uniform, r.rule), (false, None));
    let r = region(&p, Verb::FileCommit, "/x", &[]);
    assert_eq!((r.effect(), r.rule), (Some(Effect::Ask), None));
    assert!(
        region(&p, Verb::FileRead, "/w/a", &["/w"])
            .effects
            .is_empty()
    );
}

#[test]
fn anchors_are_where_patterns_hang() {
    let p = policy(
        r#"
agentwall: 1
rules:
  - { id: a, action: file.*, resource: [/a/b/**, /c/*.x, /d/f, "**/x", "/e/**/y", "/g{1,2}/**", "!/z/q*/r", /], effect: deny }
  - { id: n, action: net.connect, resource: tcp://*, effect: deny }
"#,
    );
    let anchors: Vec<String> = p
        .anchors()
        .iter()
        .map(|a| a.display().to_string())
        .collect();
    assert_eq!(
        anchors,
        ["/", "/a/b", "/c", "/d/f", "/e", "/g1", "/g2", "/z"]
    );
}

fn glob() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        4 => "[abc]",
        1 => Just("*".to_owned()),
        1 => Just("**".to_owned()),
        1 => Just("{a,b}".to_owned()),
        1 => Just("[!a]".to_owned()),
        1 => Just("a*".to_owned()),
    ];
    prop_oneof![
        10 => prop::collection::vec(segment.clone(), 1..4).prop_map(|s| format!("/{}", s.join("/"))),
        2 => prop::collection::vec(segment, 1..3).prop_map(|s| format!("**/{}", s.join("/"))),
        1 => Just("**".to_owned()),
        1 => Just("label:secret".to_owned()),
        1 => Just("label:hot".to_owned()),
    ]
}

fn rule() -> impl Strategy<Value = (u8, Vec<String>, &'static str, &'static str)> {
    let member = (glob(), prop::bool::weighted(0.2)).prop_map(|(g, negative)| {
        if negative && g != "**" {
            format!("!{g}")
        } else {
            g
        }
    });
    (
        0..4u8,
        prop::collection::vec(member, 1..4),
        prop::sample::select(vec!["allow", "deny", "ask", "isolate", "monitor"]),
        prop::sample::select(vec![
            "",
            "",
            "",
            "when: risk > 3",
            "unless: risk > 3",
            "when: args[0] == 'x'",
        ]),
    )
}

fn text(rules: &[(u8, Vec<String>, &str, &str)], prefix: &str, default: &str) -> String {
    let mut text = format!("agentwall: 1\n{default}\nrules:\n");
    for (i, (priority, resource, effect, condition)) in rules.iter().enumerate() {
        let resource = serde_json::to_string(resource).unwrap();
        text.push_str(&format!(
            "  - id: {prefix}{i}\n    priority: {priority}\n    action: file.*\n    resource: {resource}\n    effect: {effect}\n    {condition}\n"
        ));
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Every effect that a path of the tree gets is in the answer; a uniform answer names the only one.
    #[test]
    fn a_region_never_promises_too_much(
        upper in prop::collection::vec(rule(), 1..7),
        lower in prop::collection::vec(rule(), 0..3),
        default in prop::sample::select(vec!["", "default: allow", "default: ask"]),
        dir in "(/[abc]{1,2}){0,3}",
        except in prop::collection::vec("(/[abc]){1,3}", 0..3),
        below in prop::collection::vec("(/[abc]{1,2}){0,3}", 20),
        risk in 0..6u8,
        hot in any::<bool>(),
        verb in prop::sample::select(vec![Verb::FileRead, Verb::FileExec, Verb::FileCommit]),
    ) {
        let vars = Variables { home: Some("/h".into()), ..Variables::default() };
        let mut sources = vec![Source::new("u", text(&upper, "u", default), Layer::User)];
        if !lower.is_empty() {
            sources.push(Source::new("l", text(&lower, "l", ""), Layer::Repository));
        }
        // Loosening lower rules and isolate rules for file.exec alone are load errors; not our subject.
        let Ok(p) = load(&sources, &vars) else { return Ok(()) };
        let mut facts = Facts { risk, ..Facts::default() };
        if hot {
            facts.labels.insert("hot".into());
        }
        let dir = if dir.is_empty() { "/".to_owned() } else { dir };
        let except: Vec<PathBuf> = except.iter().map(PathBuf::from).collect();
        let subject = Subject::agent("a");
        let region = p.region(&subject, verb, Path::new(&dir), &except, &facts);
        for tail in below {
            let path = PathBuf::from(format!("{}{tail}", dir.trim_end_matches('/')));
            let path = if path.as_os_str().is_empty() { PathBuf::from("/") } else { path };
            if except.iter().any(|e| path.starts_with(e)) {
                continue;
            }
            let kinds = if tail.is_empty() {
                vec![ObjectKind::Directory]
            } else {
                vec![ObjectKind::Directory, ObjectKind::File]
            };
            for kind in kinds {
                let resource = Resource::Path(PathResource { path: path.clone(), kind });
                let action = Action { subject: subject.clone(), verb, resource, facts: facts.clone() };
                let decision = p.decide(&action);
                prop_assert!(region.effects.contains(&decision.effect), "{path:?} {decision:?} {region:?}");
                if let Some(effect) = region.effect() {
                    prop_assert_eq!(effect, decision.effect);
                }
                if let Some(rule) = &region.rule {
                    prop_assert_eq!(Some(rule), decision.rule.as_ref());
                }
                prop_assert!(region.monitored || decision.monitors.is_empty());
            }
        }
    }
}
