use agentwall_action::{Action, Resource, Subject, Verb};
use agentwall_policy::{Layer, Source, Variables, load};
use proptest::prelude::*;

use super::*;

/// A Monday noon.
const NOON: i64 = 1_767_614_400;

fn codes(score: &Score) -> Vec<&'static str> {
    score.reasons.iter().map(|r| r.code).collect()
}

/// An agent known for ten days that called once a minute between noon and one o'clock each day.
fn regular() -> (History, i64) {
    let start = NOON;
    let mut history = History::since(start);
    for day in 0..10 {
        for minute in 0..60 {
            history.called(start + day * 24 * HOUR + minute * MINUTE);
        }
    }
    (history, start + 10 * 24 * HOUR)
}

#[test]
fn a_known_agent_at_its_usual_work_is_no_risk() {
    let (history, now) = regular();
    let score = history.score(now, Sensitivity::Low);
    assert_eq!((score.total(), codes(&score)), (0, vec![]));
}

#[test]
fn a_new_agent_has_points_until_it_is_known_for_a_day() {
    let history = History::since(NOON);
    for (after, points) in [(0, 15), (599, 15), (600, 5), (86_399, 5), (86_400, 0)] {
        let score = history.score(NOON + after, Sensitivity::Low);
        assert_eq!(score.total(), points, "{after}");
    }
    // A clock that was set back makes nobody older.
    assert_eq!(history.score(NOON - 5, Sensitivity::Low).total(), 15);
}

#[test]
fn a_burst_is_one_against_the_agents_own_history() {
    let (mut history, now) = regular();
    let mut busy = history.clone();
    for minute in 0..60 {
        for _ in 0..200 {
            busy.called(now - 2 * HOUR + minute * MINUTE);
        }
    }
    for _ in 0..200 {
        history.called(now);
        busy.called(now);
    }
    assert_eq!(codes(&history.score(now, Sensitivity::Low)), ["burst"]);
    assert_eq!(history.score(now, Sensitivity::Low).total(), 35);
    assert_eq!(busy.score(now, Sensitivity::Low).total(), 0);
    // The next minute begins anew.
    assert_eq!(history.score(now + MINUTE, Sensitivity::Low).total(), 0);
}

#[test]
fn refused_attempts_count_for_ten_minutes() {
    let (mut history, now) = regular();
    for at in 0..3 {
        history.refused(now + at);
    }
    assert_eq!(
        codes(&history.score(now + 3, Sensitivity::Low)),
        ["failed-attempts"]
    );
    assert_eq!(history.score(now + 599, Sensitivity::Low).total(), 10);
    assert_eq!(history.score(now + 602, Sensitivity::Low).total(), 0);
    for _ in 0..100 {
        history.refused(now);
    }
    assert_eq!(history.score(now, Sensitivity::Low).total(), 25);
    assert!(history.failures.len() <= MAX_FAILURES);
}

#[test]
fn an_unusual_hour_needs_a_history() {
    let (history, now) = regular();
    let night = now + 10 * HOUR;
    assert_eq!(
        codes(&history.score(night, Sensitivity::Low)),
        ["unusual-hour"]
    );
    let mut young = History::since(NOON);
    young.called(NOON);
    assert!(!codes(&young.score(NOON + 10 * HOUR, Sensitivity::Low)).contains(&"unusual-hour"));
}

#[test]
fn every_point_has_its_reason_in_the_text() {
    let mut history = History::since(NOON);
    for _ in 0..10 {
        history.refused(NOON);
    }
    let score = history.score(NOON, Sensitivity::High);
    assert_eq!(score.total(), 65);
    assert_eq!(
        score.to_string(),
        "risk 65: known for 0 s (+15), 10 or more refused attempts in ten minutes (+25), a sensitive capability (+25)"
    );
}

fn decided(effect: &str, thresholds: &str, history: &History) -> Decision {
    let text = format!(
        "agentwall: 1\nrisk: {thresholds}\nrules:\n  - {{ id: r, action: api.call, resource: 'capability:a', effect: {effect} }}\n"
    );
    let source = Source::new("p.yaml", text, Layer::User);
    let policy = load(&[source], &Variables::default()).unwrap();
    let action = Action::new(
        Subject::agent("a"),
        Verb::ApiCall,
        Resource::Named("capability:a".into()),
    );
    let score = history.score(NOON, Sensitivity::High);
    weigh(policy.decide(&action), policy.risk(), &score)
}

#[test]
fn thresholds_ask_and_refuse_and_never_permit() {
    // 40 points: new, and sensitive.
    let history = History::since(NOON);
    for (effect, thresholds, wanted) in [
        ("allow", "{}", Effect::Allow),
        ("allow", "{ ask_at: 41 }", Effect::Allow),
        ("allow", "{ ask_at: 40 }", Effect::Ask),
        ("allow", "{ ask_at: 40, deny_at: 40 }", Effect::Deny),
        ("ask", "{ ask_at: 40 }", Effect::Ask),
        ("ask", "{ deny_at: 40 }", Effect::Deny),
        ("deny", "{ ask_at: 1, deny_at: 100 }", Effect::Deny),
    ] {
        let decision = decided(effect, thresholds, &history);
        assert_eq!(decision.effect, wanted, "{effect} {thresholds}");
    }
    let refused = decided("allow", "{ deny_at: 40 }", &history);
    assert_eq!(refused.rule, None);
    assert!(
        refused.reason.contains("known for 0 s (+15)"),
        "{}",
        refused.reason
    );
    assert!(
        refused.reason.ends_with("deny_at is 40"),
        "{}",
        refused.reason
    );
}

proptest! {
    /// Memory and score are bounded whatever happens, and a clock may jump.
    #[test]
    fn a_history_is_bounded(steps in prop::collection::vec((any::<bool>(), -10_000_000i64..10_000_000), 0..400)) {
        let mut history = History::default();
        for (refused, by) in steps {
            let now = NOON + by;
            if refused { history.refused(now) } else { history.called(now) }
            prop_assert!(history.minutes.len() as i64 <= MINUTES + 1);
            prop_assert!(history.failures.len() <= MAX_FAILURES);
            prop_assert!(history.score(now, Sensitivity::High).total() <= 100);
        }
    }
}
