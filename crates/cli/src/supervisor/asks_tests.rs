//! Questions beside a change of policy, without a wall.

use std::{os::unix::net::UnixStream, sync::mpsc};

use agentwall_action::{Action, Facts, Resource, Subject, Verb};
use agentwall_engine::Engine;
use agentwall_policy::{Layer, Policy, Source, Variables, load};
use agentwall_wall::wire::{Actor, Binding};

use super::*;
use crate::state::State;

struct Asked {
    supervisor: Arc<Supervisor>,
    tmp: tempfile::TempDir,
    _broker: UnixStream,
}

fn policy(effect: &str) -> Arc<Policy> {
    let text = format!(
        "agentwall: 1\nrules:\n  - {{ id: {effect}, action: file.write, resource: /a, effect: {effect} }}\n"
    );
    let source = Source::new("p.yaml", text, Layer::User);
    Arc::new(load(&[source], &Variables::default()).unwrap())
}

fn under(effect: &str) -> Asked {
    let tmp = tempfile::tempdir().unwrap();
    let state = State::open_at(tmp.path()).unwrap();
    let (socket, broker) = UnixStream::pair().unwrap();
    let engine = Engine::new(policy(effect), Subject::agent("a"), Facts::default());
    let supervisor = Supervisor::new(
        Arc::new(engine),
        "20261121-0259-k3f9".into(),
        Arc::new(state.open_log().unwrap()),
        1,
        socket,
        Duration::from_secs(3600),
    );
    Asked {
        supervisor,
        tmp,
        _broker: broker,
    }
}

impl Asked {
    /// Puts a question as a broker under this policy does.
    fn ask(&self, by: &Policy) -> mpsc::Receiver<Decision> {
        let action = Action::new(Subject::agent("a"), Verb::FileWrite, Resource::path("/a"));
        let event = Event {
            decision: by.decide(&action),
            action,
            actor: Actor::default(),
            binding: Binding::default(),
            enforced_by: "broker".into(),
        };
        assert_eq!(event.decision.effect, Effect::Ask);
        let (sender, receiver) = mpsc::channel();
        self.supervisor.asks.ask(&self.supervisor, event, move |d| {
            sender.send(d).unwrap();
        });
        receiver
    }

    fn pending(&self) -> Vec<PendingAsk> {
        self.supervisor.asks.pending(&self.supervisor)
    }

    fn approve(&self, scope: Scope) -> Response {
        let id = self.pending()[0].id.clone();
        self.supervisor
            .asks
            .approve(&self.supervisor, &id, scope, None)
    }
}

/// The broker has decided the rest of the operation by its policy, so another's answer about this part
/// alone would be a mixture of the two.
#[test]
fn a_question_by_another_policy_is_put_whatever_this_one_says() {
    for effect in ["allow", "deny"] {
        let asked = under(effect);
        let answer = asked.ask(&policy("ask"));
        assert!(answer.try_recv().is_err(), "{effect}: nobody was asked");
        assert_eq!(asked.pending().len(), 1);
        let response = asked.approve(Scope::Once);
        let decision = answer.recv().unwrap();
        assert_eq!(decision.effect.proceeds(), effect == "allow");
        assert_eq!(decision.policy, policy(effect).digest());
        assert_eq!(matches!(response, Response::Done { .. }), effect == "allow");
    }
}

#[test]
fn a_standing_answer_ends_with_its_policy() {
    let asked = under("ask");
    let first = asked.ask(&policy("ask"));
    asked.approve(Scope::Session);
    assert!(first.recv().unwrap().effect.proceeds());
    let again = asked.ask(&policy("ask"));
    assert!(again.recv().unwrap().effect.proceeds(), "it stands");
    // The same rule in another policy.
    let text = "agentwall: 1\ndefault: allow\nrules:\n  - { id: other, action: file.write, \
                resource: /a, effect: ask }\n";
    let source = Source::new("p.yaml", text, Layer::User);
    let other = Arc::new(load(&[source], &Variables::default()).unwrap());
    asked.supervisor.engine.replace(Arc::clone(&other));
    let answer = asked.ask(&other);
    assert!(answer.try_recv().is_err(), "nobody was asked again");
    assert_eq!(asked.pending()[0].decision.policy, other.digest());
    // Not even if its policy comes back.
    asked.supervisor.engine.replace(policy("ask"));
    let back = asked.ask(&policy("ask"));
    assert!(back.try_recv().is_err(), "an answer of before counts");
}

#[test]
fn an_approval_that_cannot_be_recorded_grants_nothing() {
    for scope in [Scope::Once, Scope::Session, Scope::Pattern("/a".into())] {
        let asked = under("ask");
        let answer = asked.ask(&policy("ask"));
        // From now on no checkpoint can be written.
        let ledger = State::open_at(asked.tmp.path()).unwrap().ledger_dir();
        std::fs::create_dir(ledger.join("checkpoint.tmp")).unwrap();
        let response = asked.approve(scope.clone());
        let Response::Error { text } = response else {
            panic!("{scope}: {response:?}");
        };
        assert!(text.contains("could not be recorded"), "{scope}: {text}");
        assert!(!answer.recv().unwrap().effect.proceeds(), "{scope}");
        let action = Action::new(Subject::agent("a"), Verb::FileWrite, Resource::path("/a"));
        assert_eq!(
            asked.supervisor.engine.decide(&action).effect,
            Effect::Ask,
            "{scope}: an answer stands that nobody can read about"
        );
    }
}
