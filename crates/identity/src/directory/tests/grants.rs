//! What may be done.

use super::*;
use crate::{GrantStatus, Refusal};

fn restricted(world: &World, key: &SecretKey, id: &AgentId, names: &[&str]) -> Principal {
    let mut claims = world.claims(id, NOW);
    claims.capabilities = Some(names.iter().map(|n| (*n).to_owned()).collect());
    world.try_token(key, &claims, NOW).expect("an agent")
}

fn status(world: &World, id: &AgentId, capability: &str) -> GrantStatus {
    let view = world
        .directory
        .status(By::Operator("root"), id, NOW)
        .expect("an agent");
    view.agent.grants[capability].status
}

#[test]
fn a_default_is_granted_and_the_rest_waits() {
    let world = World::new();
    let mine = key(1);
    let registered = world
        .register(
            &world.host_key,
            &mine,
            Mode::Delegated,
            &["read", "pay"],
            NOW,
        )
        .expect("registered");
    let id = registered.agent;
    assert_eq!(status(&world, &id, "read"), GrantStatus::Active);
    assert_eq!(status(&world, &id, "pay"), GrantStatus::Pending);
    assert_eq!(world.standing(&id, NOW), crate::AgentStatus::Pending);
    world.approve(&id, "pay", json!({ "to": { "in": ["bob"] } }), NOW);
    let principal = world.principal(&mine, &id, NOW);
    let d = &world.directory;
    assert!(d.capable(&principal, "read", &json!({}), NOW).is_ok());
    assert!(
        d.capable(&principal, "pay", &json!({ "amount": 1, "to": "bob" }), NOW)
            .is_ok()
    );
    let refused = d
        .capable(&principal, "delete", &json!({}), NOW)
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.status()),
        ("capability_not_granted", 403)
    );
    // Both the server's and the approver's constraints, with what an agent needs to correct itself.
    let refused = d
        .capable(
            &principal,
            "pay",
            &json!({ "amount": 1001, "to": "eve" }),
            NOW,
        )
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.status()),
        ("constraint_violated", 403)
    );
    assert_eq!(
        refused.extras()["violations"],
        json!([
            { "field": "amount", "constraint": { "max": 1000 }, "actual": 1001 },
            { "field": "to", "constraint": { "in": ["bob"] }, "actual": "eve" },
        ])
    );
    assert!(d.capable(&principal, "pay", &json!([1]), NOW).is_err());
}

/// The published implementation makes a fresh grant without constraints from the host's defaults when the token leaves one out.
#[test]
fn a_token_for_some_capabilities_is_for_no_others() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let d = &world.directory;
    let all = world.principal(&mine, &id, NOW);
    assert!(d.capable(&all, "read", &json!({}), NOW).is_ok());
    let other = restricted(&world, &mine, &id, &["pay"]);
    let none = restricted(&world, &mine, &id, &[]);
    let before = d.status(By::Operator("root"), &id, NOW).expect("an agent");
    for narrow in [&other, &none] {
        let refused = d.capable(narrow, "read", &json!({}), NOW);
        assert_eq!(refused.unwrap_err(), Refusal::NotInToken);
        // Nor can it ask for more, nor does it see more.
        let asked = d.request_capability(narrow, &[Wanted::new("read")], None, &Known, NOW);
        assert_eq!(asked.unwrap_err().code(), "capability_not_granted");
        assert_eq!(d.grants(narrow, NOW).expect("grants"), []);
    }
    let after = d.status(By::Operator("root"), &id, NOW).expect("an agent");
    assert_eq!(before, after, "no grant was made");
    assert_eq!(d.grants(&all, NOW).expect("grants").len(), 1);
}

#[test]
fn asking_again_widens_nothing() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let d = &world.directory;
    let principal = world.principal(&mine, &id, NOW);
    let ask = |wanted: Wanted| d.request_capability(&principal, &[wanted], None, &Known, NOW);
    let proposed = Wanted {
        capability: "pay".to_owned(),
        constraints: limits(json!({ "amount": { "max": 10 } })),
    };
    assert_eq!(ask(proposed), Ok(vec!["pay".to_owned()]));
    // While it waits it is the same request.
    assert_eq!(ask(Wanted::new("pay")), Ok(vec!["pay".to_owned()]));
    world.approve(&id, "pay", json!({ "amount": { "max": 500 } }), NOW);
    let pay = |amount: i32| {
        d.capable(&principal, "pay", &json!({ "amount": amount }), NOW)
            .is_ok()
    };
    assert!(pay(10) && !pay(11), "the agent's own proposal holds");
    let refused = ask(Wanted::new("pay")).unwrap_err();
    assert_eq!((refused.code(), refused.status()), ("already_granted", 409));
    assert!(pay(10) && !pay(11));
    let unknown = ask(Wanted::new("fly")).unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.status()),
        ("invalid_capabilities", 400)
    );
    assert_eq!(unknown.extras()["invalid_capabilities"], json!(["fly"]));
}

#[test]
fn what_a_person_took_away_no_default_gives_back() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let d = &world.directory;
    let principal = world.principal(&mine, &id, NOW);
    let read = || d.capable(&principal, "read", &json!({}), NOW);
    assert!(read().is_ok());
    d.revoke_grant(&id, "read", Some("no"), "alice", NOW)
        .expect("taken back");
    assert_eq!(
        read().unwrap_err(),
        Refusal::NotGranted(Some(GrantStatus::Revoked))
    );
    let asked = d.request_capability(&principal, &[Wanted::new("read")], None, &Known, NOW);
    assert_eq!(asked, Ok(vec!["read".to_owned()]));
    assert_eq!(status(&world, &id, "read"), GrantStatus::Pending);
    assert!(read().is_err());
    d.deny(&id, "read", Some("still no"), "alice", NOW)
        .expect("denied");
    d.request_capability(&principal, &[Wanted::new("read")], None, &Known, NOW)
        .expect("asked");
    assert!(read().is_err());
    world.approve(&id, "read", json!({}), NOW);
    assert!(read().is_ok());
}

#[test]
fn what_the_server_imposes_holds_for_what_nobody_asked_for() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    world.approve(&id, "pay", json!({}), NOW);
    let principal = world.principal(&mine, &id, NOW);
    let pay = |amount: i32| {
        let arguments = json!({ "amount": amount });
        world
            .directory
            .capable(&principal, "pay", &arguments, NOW)
            .is_ok()
    };
    assert!(pay(1000) && !pay(1001));
}

#[test]
fn a_grant_ends() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let d = &world.directory;
    let principal = world.principal(&mine, &id, NOW);
    let approval = Approval {
        constraints: &Constraints::default(),
        expires_at: Some(NOW + 10),
        by: "alice",
    };
    d.grant(&id, "delete", &approval, &Known, NOW)
        .expect("granted");
    assert!(d.capable(&principal, "delete", &json!({}), NOW + 9).is_ok());
    assert!(
        d.capable(&principal, "delete", &json!({}), NOW + 10)
            .is_err()
    );
    assert!(
        d.grant(&id, "delete", &approval, &Known, NOW + 10).is_err(),
        "over already"
    );
    assert!(d.grant(&id, "fly", &approval, &Known, NOW).is_err());
}

#[test]
fn all_denied_is_an_agent_that_may_nothing() {
    let world = World::new();
    let mine = key(1);
    let id = world
        .register(
            &world.host_key,
            &mine,
            Mode::Delegated,
            &["pay", "delete"],
            NOW,
        )
        .expect("registered")
        .agent;
    let d = &world.directory;
    d.deny(&id, "pay", None, "alice", NOW).expect("denied");
    assert_eq!(
        world.standing(&id, NOW),
        crate::AgentStatus::Pending,
        "more waits"
    );
    d.deny(&id, "delete", None, "alice", NOW).expect("denied");
    let principal = world.principal(&mine, &id, NOW);
    for name in ["pay", "delete", "read"] {
        assert!(d.capable(&principal, name, &json!({}), NOW).is_err());
    }
}

#[test]
fn grants_decay_to_the_defaults_when_an_agent_comes_back() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let d = &world.directory;
    world.approve(&id, "pay", json!({ "amount": { "max": 5 } }), NOW);
    world.approve(&id, "delete", json!({}), NOW);
    let defaults = [
        Wanted {
            capability: "pay".to_owned(),
            constraints: limits(json!({ "amount": { "max": 50 } })),
        },
        Wanted {
            capability: "read".to_owned(),
            constraints: limits(json!({ "path": { "in": ["a"] } })),
        },
    ];
    d.set_defaults(&world.host, &defaults, "root", &Known, NOW)
        .expect("defaults");
    let later = NOW + 10_000;
    d.reactivate(By::Host(&world.host(later)), &id, later)
        .expect("back");
    let principal = world.principal(&mine, &id, later);
    let pay = |amount: i32| {
        d.capable(&principal, "pay", &json!({ "amount": amount }), later)
            .is_ok()
    };
    assert!(pay(5) && !pay(6), "covered, and no wider than it was");
    // The default became narrower meanwhile.
    let read = |path: &str| {
        d.capable(&principal, "read", &json!({ "path": path }), later)
            .is_ok()
    };
    assert!(read("a") && !read("b"));
    assert!(
        d.capable(&principal, "delete", &json!({}), later).is_err(),
        "no default"
    );
}

/// The server's answer to operators that it does not enforce names them as both the specification and its implementation do.
#[test]
fn unknown_operators_are_named_twice() {
    let item = json!({ "name": "pay", "constraints": { "amount": { "max": 1, "regex": "x" } } });
    let refused = Wanted::read(&item).unwrap_err();
    assert_eq!(
        (refused.code(), refused.status()),
        ("unknown_constraint_operator", 400)
    );
    assert_eq!(refused.extras()["unknown_operators"], json!(["regex"]));
    assert_eq!(refused.extras()["operators"], json!(["regex"]));
    let good = Wanted::read(&json!({ "name": "pay", "constraints": { "amount": { "max": 1 } } }));
    assert!(good.is_ok());
    assert_eq!(Wanted::read(&json!("pay")), Ok(Wanted::new("pay")));
    assert!(Wanted::read(&json!(7)).is_err());
}
