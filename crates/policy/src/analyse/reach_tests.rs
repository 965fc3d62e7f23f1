//! Questions by example, and against sampled actions.

use agentwall_action::Resource;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::analyse::samples::{action, policies, policy, variables};

fn question(actions: &[&str], resources: &[&str], outside: &[&str]) -> Question {
    let texts = |list: &[&str]| -> Vec<String> { list.iter().map(|t| (*t).to_owned()).collect() };
    let subjects = texts(&["agent:a"]);
    Question::new(
        &subjects,
        &texts(actions),
        &texts(resources),
        &texts(outside),
        &variables(),
    )
    .unwrap()
}

fn ask(policy: &Policy, question: &Question) -> Reach {
    let effects = BTreeSet::from([Effect::Allow, Effect::Isolate]);
    can(policy, question, &effects, Limits::default()).unwrap()
}

fn shown(reach: Reach) -> (String, Option<String>) {
    match reach {
        Reach::Possible { witness, decision } => (witness.to_string(), decision.rule),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_way_out_is_shown_and_its_absence_proved() {
    let rules = [
        "id: work, action: file.*, resource: '${workspace}/**', effect: isolate",
        "id: notes, action: file.write, resource: '**/notes.txt', effect: allow",
        "id: secrets, priority: 1, action: file.*, resource: label:secret, effect: deny",
    ];
    let leaky = policy("deny", &rules);
    let write = question(&["file.write"], &[], &["${workspace}/**"]);
    let (text, rule) = shown(ask(&leaky, &write));
    assert_eq!(
        (text.as_str(), rule.as_deref()),
        ("file.write /notes.txt by agent:a", Some("notes"))
    );
    let tight = policy("deny", &[rules[0], rules[2]]);
    assert!(matches!(ask(&tight, &write), Reach::Never { .. }));
    let secret = question(&["file.*"], &["label:secret"], &[]);
    assert!(matches!(ask(&leaky, &secret), Reach::Never { .. }));
    // The workspace itself is not outside of it.
    let (text, _) = shown(ask(&tight, &question(&["file.read"], &[], &["/w/*/**"])));
    assert_eq!(text, "file.read /w/ by agent:a");
}

#[test]
fn addresses_hide_behind_names_and_in_other_addresses() {
    let open = policy(
        "deny",
        &["id: web, action: net.connect, resource: 'tcp://*:443', effect: allow"],
    );
    let private = question(&["net.connect"], &["cidr:private"], &[]);
    let (text, rule) = shown(ask(&open, &private));
    assert!(
        text.contains(":443") && rule.as_deref() == Some("web"),
        "{text}"
    );
    let closed = policy(
        "deny",
        &[
            "id: inner, priority: 1, action: net.*, resource: cidr:private, effect: deny",
            "id: web, action: net.connect, resource: 'tcp://*:443', effect: allow",
        ],
    );
    assert!(matches!(ask(&closed, &private), Reach::Never { .. }));
    // A network written out misses what wraps its addresses; a set does not.
    let partly = policy(
        "deny",
        &[
            "id: ten, priority: 1, action: net.*, resource: 'cidr:10.0.0.0/8', effect: deny",
            "id: web, action: net.connect, resource: 'tcp://*:443', effect: allow",
        ],
    );
    let ten = question(
        &["net.connect"],
        &["cidr:rfc1918"],
        &["cidr:172.16.0.0/12", "cidr:192.168.0.0/16"],
    );
    let Reach::Possible { witness, .. } = ask(&partly, &ten) else {
        panic!()
    };
    let Resource::Endpoint(e) = &witness.action.resource else {
        panic!()
    };
    assert!(e.ip.unwrap().is_ipv6(), "{witness}");
}

#[test]
fn conditions_and_other_effects_are_said() {
    let conditional = policy(
        "deny",
        &["id: c, action: tool.call, resource: 'mail:*', when: 'args.n > 1', effect: allow"],
    );
    let (text, _) = shown(ask(&conditional, &question(&["tool.call"], &[], &[])));
    assert_eq!(
        text,
        "tool.call mail: by agent:a if 'args.n > 1' (rule c) holds"
    );
    let asked = policy(
        "deny",
        &["id: c, action: tool.call, unless: risk < 5, effect: ask"],
    );
    let tool = question(&["tool.call"], &[], &[]);
    let Reach::Never {
        open_conditions, ..
    } = ask(&asked, &tool)
    else {
        panic!()
    };
    assert_eq!(open_conditions, ["risk < 5"]);
    let all = BTreeSet::from([Effect::Allow, Effect::Isolate, Effect::Ask]);
    let reach = can(&asked, &tool, &all, Limits::default()).unwrap();
    assert!(matches!(reach, Reach::Possible { .. }));
    // A set default lets through what no rule names.
    let (_, rule) = shown(ask(&policy("allow", &[]), &tool));
    assert_eq!(rule, None);
}

#[test]
fn questions_are_checked_like_rules() {
    let wrong = |actions: &[&str], resources: &[&str]| {
        let texts = |l: &[&str]| -> Vec<String> { l.iter().map(|t| (*t).to_owned()).collect() };
        let question = Question::new(&[], &texts(actions), &texts(resources), &[], &variables());
        question.unwrap_err().to_string()
    };
    assert!(wrong(&["file.raed"], &[]).contains("file.read"));
    assert!(wrong(&["file.read"], &["tcp://a:1"]).contains("never fits"));
    assert!(wrong(&["file.read"], &["src/**"]).contains("${workspace}/src/**"));
    let linked = question(&["file.write"], &[], &["/bin/**"])
        .with_real_paths(&|p: &Path| (p == Path::new("/bin")).then(|| "/usr/bin".into()));
    let rules = ["id: r, action: file.write, resource: /usr/bin/**, effect: allow"];
    assert!(matches!(
        ask(&policy("deny", &rules), &linked),
        Reach::Never { .. }
    ));
}

#[test]
fn what_is_too_large_is_not_proved() {
    let rules: Vec<String> = (0..40)
        .map(|i| {
            format!(
                "id: r{i}, priority: {i}, action: file.read, resource: '/**/*a{}/**', effect: deny",
                "?".repeat(i)
            )
        })
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let limits = Limits {
        states: 2000,
        ..Limits::default()
    };
    let effects = BTreeSet::from([Effect::Allow]);
    let reach = can(
        &policy("deny", &rules),
        &question(&["file.read"], &[], &[]),
        &effects,
        limits,
    )
    .unwrap();
    assert!(matches!(reach, Reach::Undecided { .. }), "{reach:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]
    #[test]
    fn no_sampled_action_contradicts_a_proof(
        policy in policies("r", 6),
        actions in vec(action(), 200),
        what in proptest::sample::select(vec![
            (&["file.*"][..], &["/a/**"][..], &["/a/b"][..]),
            (&["file.read"], &[], &["/a/**", "/w/**", "label:x"]),
            (&["net.connect"], &["cidr:private"], &["tcp://*.b"]),
            (&["net.*"], &["tcp://a.b:1-443"], &[]),
            (&["tool.call", "api.call"], &["a:*"], &["a:b"]),
        ]),
    ) {
        let Some(policy) = policy else { return Ok(()) };
        let question = question(what.0, what.1, what.2);
        let effects = BTreeSet::from([Effect::Allow, Effect::Isolate]);
        match can(&policy, &question, &effects, Limits::default()).unwrap() {
            Reach::Never { .. } => {
                for action in &actions {
                    let asked = matches!(question.rule.matches(action), crate::rule::Match::Yes);
                    prop_assert!(!asked || !effects.contains(&policy.decide(action).effect), "{action:?}");
                }
            }
            Reach::Possible { witness, decision } => {
                prop_assert!(effects.contains(&decision.effect));
                prop_assert!(matches!(question.rule.matches(&witness.action), crate::rule::Match::Yes), "{witness}");
            }
            Reach::Undecided { why } => prop_assert!(false, "{why:?}"),
        }
    }
}
