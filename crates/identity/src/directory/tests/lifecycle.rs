//! How agents and hosts come and end.

use super::*;
use crate::AgentStatus::{Active, Claimed, Expired, Pending, Rejected, Revoked};
use crate::HostStatus;

fn short() -> Settings {
    Settings {
        lifetimes: Lifetimes {
            session: 100,
            max: 1000,
            absolute: Some(5000),
        },
        ..Settings::default()
    }
}

fn code(found: Result<Principal, AuthError>) -> &'static str {
    found.map_or_else(|e| e.code(), |_| "in use")
}

#[test]
fn the_session_ends_without_use_and_goes_on_with_it() {
    let world = World::with(short());
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    assert_eq!(code(world.try_agent(&mine, &id, NOW + 99)), "in use");
    // A look is not a use: what fails later (replay, rate) does not prolong.
    assert_eq!(
        code(world.try_agent(&mine, &id, NOW + 100)),
        "agent_expired"
    );
    let principal = world.principal(&mine, &id, NOW + 99);
    world.directory.touch(&principal, NOW + 99);
    assert_eq!(code(world.try_agent(&mine, &id, NOW + 198)), "in use");
    assert_eq!(
        code(world.try_agent(&mine, &id, NOW + 199)),
        "agent_expired"
    );
    // Use that came late does not go back.
    world.directory.touch(&principal, NOW + 50);
    assert_eq!(code(world.try_agent(&mine, &id, NOW + 198)), "in use");
}

#[test]
fn use_does_not_prolong_the_maximum_and_nothing_prolongs_the_absolute_lifetime() {
    let world = World::with(short());
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let mut now = NOW;
    let mut reactivated = 0;
    while world.standing(&id, now) != Revoked {
        match world.standing(&id, now) {
            Active => {
                let principal = world.principal(&mine, &id, now);
                world.directory.touch(&principal, now);
            }
            Expired => {
                assert_eq!(
                    (now - NOW) % 1000,
                    0,
                    "after the maximum since the activation"
                );
                world
                    .directory
                    .reactivate(By::Host(&world.host(now)), &id, now)
                    .expect("back");
                reactivated += 1;
            }
            other => panic!("{other:?}"),
        }
        now += 50;
    }
    assert_eq!(now, NOW + 5000);
    assert_eq!(reactivated, 4);
    assert_eq!(code(world.try_agent(&mine, &id, now)), "agent_revoked");
    let refused = world
        .directory
        .reactivate(By::Host(&world.host(now)), &id, now)
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.status()),
        ("absolute_lifetime_exceeded", 403)
    );
}

/// The published implementation reactivates inside its authentication.
#[test]
fn an_expired_agent_comes_back_by_its_host_alone() {
    let world = World::with(short());
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let later = NOW + 200;
    for _ in 0..3 {
        assert_eq!(code(world.try_agent(&mine, &id, later)), "agent_expired");
        assert_eq!(world.standing(&id, later), Expired);
    }
    world
        .directory
        .reactivate(By::Host(&world.host(later)), &id, later)
        .expect("back");
    assert_eq!(code(world.try_agent(&mine, &id, later)), "in use");
    // Again: nothing happens.
    let events = world.directory.subscribe().expect("events");
    world
        .directory
        .reactivate(By::Host(&world.host(later)), &id, later)
        .expect("as it is");
    assert_eq!(kinds(&events), []);
}

#[test]
fn the_end_of_a_host_is_the_end_of_its_agents() {
    let world = World::new();
    let other_host = key(101);
    let others = world
        .directory
        .enrol_host(other_host.public(), None, "root", NOW);
    let others = others.expect("enrolled");
    world
        .directory
        .link(&others, &"bob".parse().expect("a name"), "root", NOW)
        .expect("linked");
    let neighbour = world
        .register(&other_host, &key(3), Mode::Delegated, &[], NOW)
        .expect("registered")
        .agent;
    let (one, two) = (key(1), key(2));
    let ids = [world.agent(&one, NOW), world.agent(&two, NOW)];
    let principal = world.principal(&one, &ids[0], NOW);
    let events = world.directory.subscribe().expect("events");

    let host = world.host(NOW);
    let ended = world
        .directory
        .revoke_host(By::Host(&host), &world.host, NOW);
    assert_eq!(ended, Ok(2));
    use EventKind::{AgentRevoked, HostRevoked};
    assert_eq!(kinds(&events), [HostRevoked, AgentRevoked, AgentRevoked]);
    for (key, id) in [&one, &two].into_iter().zip(&ids) {
        assert_eq!(code(world.try_agent(key, id, NOW)), "host_revoked");
        assert_eq!(world.standing(id, NOW), Revoked);
    }
    // Who was authenticated before goes no further.
    assert_eq!(
        world.directory.check(&principal, NOW),
        Err(AuthError::HostRevoked)
    );
    let refused = world
        .directory
        .revoke_agent(By::Host(&host), &ids[0], NOW)
        .unwrap_err();
    assert_eq!(refused.code(), "host_revoked");
    assert_eq!(
        world
            .directory
            .revoke_host(By::Operator("root"), &world.host, NOW),
        Ok(0)
    );
    let mut claims = world.claims(&neighbour, NOW);
    claims.iss = Some(other_host.public().thumbprint());
    assert_eq!(
        code(world.try_token(&key(3), &claims, NOW)),
        "in use",
        "the other host's agent"
    );
}

#[test]
fn a_person_who_goes_takes_along_hosts_and_agents() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let gone = world.directory.delete_user(&world.user, "root", NOW);
    assert_eq!(gone, Ok((1, 1)));
    assert_eq!(code(world.try_agent(&mine, &id, NOW)), "host_revoked");
    assert_eq!(
        world.directory.delete_user(&world.user, "root", NOW),
        Ok((0, 0))
    );
}

#[test]
fn a_host_that_changes_hands_keeps_no_agents() {
    let world = World::new();
    let (mine, own) = (key(1), key(2));
    let delegated = world.agent(&mine, NOW);
    let d = &world.directory;
    let stays = world
        .register(&world.host_key, &key(4), Mode::Autonomous, &["read"], NOW)
        .expect("registered")
        .agent;
    assert_eq!(d.unlink(&world.host, "root", NOW), Ok(1));
    assert_eq!(world.standing(&stays, NOW), Active, "it acted for nobody");
    assert_eq!(world.standing(&delegated, NOW), Revoked);
    let autonomous = world
        .register(&world.host_key, &own, Mode::Autonomous, &["read"], NOW)
        .expect("registered")
        .agent;
    assert_eq!(world.standing(&autonomous, NOW), Active);
    assert_eq!(world.principal(&own, &autonomous, NOW).user(), None);
    // A delegated one has nobody to act for.
    let waits = world.register(&world.host_key, &key(3), Mode::Delegated, &[], NOW);
    let waits = waits.expect("registered").agent;
    assert_eq!(world.standing(&waits, NOW), Pending);
    assert!(d.approve_agent(&waits, "alice", NOW).is_err());
    let bob: UserId = "bob".parse().expect("a name");
    d.link(&world.host, &bob, "root", NOW).expect("linked");
    assert_eq!(world.standing(&autonomous, NOW), Claimed);
    assert_eq!(world.standing(&stays, NOW), Claimed);
    assert_eq!(
        code(world.try_agent(&own, &autonomous, NOW)),
        "agent_claimed"
    );
    d.approve_agent(&waits, "bob", NOW).expect("approved");
    assert_eq!(world.standing(&waits, NOW), Active);
    assert!(
        d.link(&world.host, &world.user, "root", NOW).is_err(),
        "it belongs to somebody"
    );
}

#[test]
fn a_stranger_waits_and_may_only_ask() {
    let world = World::new();
    let (stranger, mine, second) = (key(60), key(1), key(2));
    let d = &world.directory;
    let first = world
        .register(&stranger, &mine, Mode::Delegated, &["read"], NOW)
        .expect("waits");
    assert!(!first.existing);
    // Asked again it is the same agent.
    let again = world
        .register(&stranger, &mine, Mode::Delegated, &["read"], NOW)
        .expect("waits");
    assert_eq!(
        (&again.agent, &again.host, again.existing),
        (&first.agent, &first.host, true)
    );
    let auth = world.host_auth(&stranger, None, NOW);
    let host = auth.known().expect("known now");
    assert_eq!(host.status(), HostStatus::Pending);
    let seen = d
        .status(By::Host(host), &first.agent, NOW)
        .expect("its own");
    assert_eq!(seen.standing, Pending);
    let mut claims = world.claims(&first.agent, NOW);
    claims.iss = Some(stranger.public().thumbprint());
    assert_eq!(code(world.try_token(&mine, &claims, NOW)), "host_pending");
    for refused in [
        d.revoke_agent(By::Host(host), &first.agent, NOW)
            .unwrap_err(),
        d.reactivate(By::Host(host), &first.agent, NOW).unwrap_err(),
        d.rotate_agent_key(By::Host(host), &first.agent, second.public(), NOW)
            .unwrap_err(),
        d.rotate_host_key(host, second.public(), NOW).unwrap_err(),
        d.revoke_host(By::Host(host), host.host(), NOW).unwrap_err(),
    ] {
        assert_eq!((refused.code(), refused.status()), ("host_pending", 403));
    }
    d.approve_host(&first.host, Some(&world.user), "alice", NOW)
        .expect("approved");
    assert_eq!(code(world.try_token(&mine, &claims, NOW)), "agent_pending");
    world.approve(&first.agent, "read", json!({}), NOW);
    assert_eq!(code(world.try_token(&mine, &claims, NOW)), "in use");
    // In use its key registers no other agent.
    let refused = world
        .register(&stranger, &mine, Mode::Delegated, &[], NOW)
        .unwrap_err();
    assert_eq!((refused.code(), refused.status()), ("agent_exists", 409));
}

#[test]
fn who_is_rejected_stays_so() {
    let world = World::new();
    let (stranger, mine) = (key(60), key(1));
    let d = &world.directory;
    let first = world
        .register(&stranger, &mine, Mode::Delegated, &["read"], NOW)
        .expect("waits");
    assert_eq!(d.reject_host(&first.host, "alice", NOW), Ok(1));
    assert_eq!(world.standing(&first.agent, NOW), Rejected);
    assert!(d.approve_host(&first.host, None, "alice", NOW).is_err());
    let claims = {
        let mut claims = world.claims(&first.agent, NOW);
        claims.iss = Some(stranger.public().thumbprint());
        claims
    };
    assert_eq!(code(world.try_token(&mine, &claims, NOW)), "host_revoked");
    // One agent of a good host.
    let waits = world.register(&world.host_key, &key(2), Mode::Delegated, &["pay"], NOW);
    let waits = waits.expect("waits").agent;
    d.reject_agent(&waits, "alice", NOW).expect("rejected");
    assert_eq!(
        code(world.try_agent(&key(2), &waits, NOW)),
        "agent_rejected"
    );
    assert!(d.approve_agent(&waits, "alice", NOW).is_err());
    let in_use = world.agent(&key(3), NOW);
    assert!(d.reject_agent(&in_use, "alice", NOW).is_err());
    assert_eq!(code(world.try_agent(&key(3), &in_use, NOW)), "in use");
}

#[test]
fn a_host_reaches_its_own_agents_alone() {
    let world = World::new();
    let other = key(101);
    let other_host = world
        .directory
        .enrol_host(other.public(), None, "root", NOW)
        .expect("host");
    let id = world.agent(&key(1), NOW);
    let d = &world.directory;
    let auth = world.host_auth(&other, None, NOW);
    let by = By::Host(auth.known().expect("known"));
    for refused in [
        d.status(by, &id, NOW).map(|_| ()).unwrap_err(),
        d.revoke_agent(by, &id, NOW).unwrap_err(),
        d.reactivate(by, &id, NOW).unwrap_err(),
        d.rotate_agent_key(by, &id, key(9).public(), NOW)
            .unwrap_err(),
    ] {
        assert_eq!((refused.code(), refused.status()), ("agent_not_found", 404));
    }
    assert!(d.revoke_host(by, &world.host, NOW).is_err());
    assert_eq!(world.standing(&id, NOW), Active);
    assert_eq!(d.revoke_host(by, &other_host, NOW), Ok(0), "its own");
    let host = world.host(NOW);
    assert!(d.status(By::Host(&host), &id, NOW).is_ok());
    d.revoke_agent(By::Host(&host), &id, NOW).expect("revoked");
    d.revoke_agent(By::Host(&host), &id, NOW)
        .expect("again: nothing");
    assert_eq!(code(world.try_agent(&key(1), &id, NOW)), "agent_revoked");
}

#[test]
fn an_exchanged_key_is_dead_at_once_and_for_ever() {
    let world = World::new();
    let (old, new) = (key(1), key(2));
    let id = world.agent(&old, NOW);
    let d = &world.directory;
    let before = world.principal(&old, &id, NOW);
    let host = world.host(NOW);
    d.rotate_agent_key(By::Host(&host), &id, new.public(), NOW)
        .expect("exchanged");
    assert!(world.try_agent(&old, &id, NOW).is_err());
    assert_eq!(d.check(&before, NOW), Err(AuthError::RetiredKey));
    assert!(world.try_agent(&new, &id, NOW).is_ok());
    let back = d.rotate_agent_key(By::Host(&host), &id, old.public(), NOW);
    assert!(back.is_err());
    let refused = world
        .register(&world.host_key, &old, Mode::Delegated, &[], NOW)
        .unwrap_err();
    assert_eq!(refused.code(), "agent_exists");

    // Of one that waits, too: its first key is not asked after again.
    let (first, second) = (key(11), key(12));
    let waits = |key| world.register(&world.host_key, key, Mode::Delegated, &["pay"], NOW);
    let waiting = waits(&first).expect("waits").agent;
    d.rotate_agent_key(By::Host(&host), &waiting, second.public(), NOW)
        .expect("exchanged");
    assert_eq!(waits(&first).unwrap_err().code(), "agent_exists");
    assert_eq!(waits(&second).expect("the same").agent, waiting);

    // The host's.
    let next = key(102);
    d.rotate_host_key(&host, next.public(), NOW)
        .expect("exchanged");
    let audiences = audiences();
    let expect = Expect::strict(NOW, &audiences);
    let claims = world.host_claims(&world.host_key, NOW);
    let token = Jws::parse(&world.host_key.sign_host(&claims)).expect("a token");
    assert_eq!(
        d.authenticate_host(&token, &expect).unwrap_err(),
        AuthError::RetiredKey
    );
    // What was authenticated with the old key goes no further.
    assert!(d.revoke_agent(By::Host(&host), &id, NOW).is_err());
    assert!(d.rotate_host_key(&host, key(103).public(), NOW).is_err());
    // Agents name their host by its new key.
    assert_eq!(
        world.try_agent(&new, &id, NOW).unwrap_err(),
        AuthError::UnknownAgent
    );
    let mut claims = world.claims(&id, NOW);
    claims.iss = Some(next.public().thumbprint());
    assert!(world.try_token(&new, &claims, NOW).is_ok());
    let auth = world.host_auth(&next, None, NOW);
    let host = auth.known().expect("known");
    assert!(
        d.rotate_host_key(host, world.host_key.public(), NOW)
            .is_err(),
        "no way back"
    );
    assert!(
        d.rotate_host_key(host, new.public(), NOW).is_err(),
        "a key of its agent"
    );
    let as_agent = world
        .register(&next, &next, Mode::Delegated, &[], NOW)
        .unwrap_err();
    assert_eq!(as_agent.status(), 400, "a host's key is no agent's");
}

#[test]
fn there_is_room_for_so_many() {
    let limits = Limits {
        agents_per_host: 2,
        pending_hosts: 1,
    };
    let world = World::with(Settings {
        limits,
        ..Settings::default()
    });
    let ids = [world.agent(&key(1), NOW), world.agent(&key(2), NOW)];
    let third = || world.register(&world.host_key, &key(3), Mode::Delegated, &[], NOW);
    let refused = third().unwrap_err();
    assert_eq!((refused.code(), refused.status()), ("limit_exceeded", 403));
    world
        .directory
        .revoke_agent(By::Operator("root"), &ids[0], NOW)
        .expect("revoked");
    assert!(third().is_ok());
    // Expired agents take no room, and come back only if there is some.
    let later = NOW + 4000;
    let fourth = world.agent(&key(4), later);
    let fifth = world.agent(&key(5), later);
    let by = By::Operator("root");
    let refused = world.directory.reactivate(by, &ids[1], later);
    assert_eq!(refused.unwrap_err().code(), "limit_exceeded");
    for id in [fourth, fifth] {
        world
            .directory
            .revoke_agent(by, &id, later)
            .expect("revoked");
    }
    assert_eq!(world.directory.reactivate(by, &ids[1], later), Ok(()));
    assert!(
        world
            .register(&key(60), &key(4), Mode::Delegated, &[], NOW)
            .is_ok()
    );
    let refused = world
        .register(&key(61), &key(5), Mode::Delegated, &[], NOW)
        .unwrap_err();
    assert_eq!(refused.code(), "limit_exceeded");
    let closed = World::with(Settings {
        dynamic_registration: false,
        ..Settings::default()
    });
    let refused = closed
        .register(&key(60), &key(4), Mode::Delegated, &[], NOW)
        .unwrap_err();
    assert_eq!(refused.code(), "dynamic_host_registration_disabled");
}
