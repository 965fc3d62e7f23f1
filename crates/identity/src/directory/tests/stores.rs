//! What is durable, what is seen when, and who is told.

use super::*;
use crate::{CAPACITY, Contents, NoEvent};
use std::sync::{
    Barrier,
    atomic::{AtomicBool, AtomicUsize},
};

/// A store that fails while it is told to.
pub(super) struct Failing<S = MemoryStore> {
    pub(super) store: S,
    pub(super) fails: Arc<AtomicBool>,
}

impl<S: Store> Store for Failing<S> {
    fn load(&self) -> Result<Contents, StoreError> {
        self.store.load()
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(StoreError::Failed("the disk is full".to_owned())),
            false => self.store.commit(change),
        }
    }

    fn since(&self, after: u64) -> Result<Change, StoreError> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(StoreError::Failed("nobody is there".to_owned())),
            false => self.store.since(after),
        }
    }

    fn wait(&self, patience: Duration) -> Result<(), StoreError> {
        self.store.wait(patience)
    }

    fn note_use(&self, used: &[(AgentId, i64)]) -> Result<(), StoreError> {
        self.store.note_use(used)
    }
}

#[test]
fn a_directory_is_read_back_as_it_was() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    world.approve(
        &id,
        "pay",
        json!({ "amount": { "max": 5, "not_in": [3] } }),
        NOW,
    );
    let host = world.host(NOW);
    world
        .directory
        .rotate_agent_key(By::Host(&host), &id, key(2).public(), NOW)
        .expect("exchanged");
    let principal = world.principal(&key(2), &id, NOW + 3000);
    world.directory.touch(&principal, NOW + 3000);
    let again = |store: &Arc<MemoryStore>| {
        Directory::open(Box::new(Arc::clone(store)), Settings::default()).expect("a directory")
    };
    // Use that was not stored is lost: the session ends earlier, not later.
    let view = again(&world.store)
        .status(By::Operator("r"), &id, NOW + 4000)
        .expect("it");
    assert_eq!(view.standing, crate::AgentStatus::Expired);
    world.directory.store_use().expect("stored");
    let second = again(&world.store);
    let view = second
        .status(By::Operator("r"), &id, NOW + 4000)
        .expect("it");
    assert_eq!(view.standing, crate::AgentStatus::Active);
    let first = world
        .directory
        .status(By::Operator("r"), &id, NOW + 4000)
        .expect("it");
    assert_eq!(view, first);
    // Retired keys are known there, too.
    let host = second.host(&world.host).expect("the host");
    assert_eq!(*host, *world.directory.host(&world.host).expect("the host"));
    let world = World {
        directory: second,
        ..world
    };
    assert!(world.try_agent(&key(2), &id, NOW + 4000).is_ok());
    let refused = world
        .register(&world.host_key, &mine, Mode::Delegated, &[], NOW)
        .unwrap_err();
    assert_eq!(refused.code(), "agent_exists");
}

#[test]
fn records_are_json_that_reads_back() {
    let world = World::new();
    let id = world.agent(&key(1), NOW);
    world.approve(
        &id,
        "pay",
        json!({ "amount": { "in": [1, 2.5], "min": 1 } }),
        NOW,
    );
    let contents = world.store.load().expect("contents");
    assert_eq!((contents.hosts.len(), contents.agents.len()), (1, 1));
    let text = serde_json::to_string(&contents.hosts[0]).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Host>(&text).expect("a host"),
        contents.hosts[0]
    );
    let text = serde_json::to_string(&contents.agents[0]).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Agent>(&text).expect("an agent"),
        contents.agents[0]
    );
}

#[test]
fn what_cannot_be_stored_is_not_seen_unless_it_takes_away() {
    let mut world = World::new();
    let fails = Arc::new(AtomicBool::new(false));
    let store = MemoryStore::new();
    let kept = world.store.load().expect("contents");
    let events: Vec<Event> = (1..=kept.last_event)
        .map(|number| Event {
            number,
            at: NOW,
            kind: EventKind::HostUpdated,
            host: world.host.clone(),
            agent: None,
            capability: None,
            by: "root".to_owned(),
        })
        .collect();
    let all = Change {
        hosts: kept.hosts,
        agents: kept.agents,
        events,
    };
    store.commit(&all).expect("a copy");
    let store = Arc::new(Failing {
        store,
        fails: Arc::clone(&fails),
    });
    world.directory =
        Directory::open(Box::new(Arc::clone(&store)), Settings::default()).expect("a directory");
    let (mine, other) = (key(1), key(2));
    let id = world.agent(&mine, NOW);
    let stored = |id: &AgentId| {
        let contents = store.load().expect("contents");
        contents
            .agents
            .into_iter()
            .find(|agent| agent.id == *id)
            .map(|agent| agent.status)
    };

    fails.store(true, Ordering::SeqCst);
    let refused = world.register(&world.host_key, &other, Mode::Delegated, &["read"], NOW);
    assert!(matches!(refused, Err(ChangeError::Store(_))), "{refused:?}");
    let approval = Approval {
        constraints: &Constraints::default(),
        expires_at: None,
        by: "alice",
    };
    let refused = world.directory.grant(&id, "delete", &approval, &Known, NOW);
    assert!(matches!(refused, Err(ChangeError::Store(_))));
    let principal = world.principal(&mine, &id, NOW);
    assert!(
        world
            .directory
            .capable(&principal, "delete", &json!({}), NOW)
            .is_err()
    );

    let told = world.directory.subscribe().expect("events");
    let refused = world.directory.revoke_agent(By::Operator("root"), &id, NOW);
    assert!(
        matches!(refused, Err(ChangeError::NotDurable(_))),
        "{refused:?}"
    );
    assert_eq!(
        world.try_agent(&mine, &id, NOW).unwrap_err(),
        AuthError::AgentRevoked
    );
    assert_eq!(kinds(&told), [EventKind::AgentRevoked]);
    assert_eq!(
        stored(&id),
        Some(crate::AgentStatus::Active),
        "the disk is full"
    );
    let again = world.directory.revoke_agent(By::Operator("root"), &id, NOW);
    assert!(
        matches!(again, Err(ChangeError::NotDurable(_))),
        "still not stored, and said so"
    );

    // The next one that can be stored takes it along.
    fails.store(false, Ordering::SeqCst);
    let third = world.agent(&key(3), NOW);
    assert_eq!(stored(&id), Some(crate::AgentStatus::Revoked));
    assert_eq!(stored(&third), Some(crate::AgentStatus::Active));
}

#[test]
fn events_have_numbers_without_gaps_and_who_is_slow_is_told() {
    let world = World::new();
    let quick = world.directory.subscribe().expect("events");
    let slow = world.directory.subscribe().expect("events");
    assert_eq!(quick.try_next(), Err(NoEvent::Quiet));
    let mut last = world.store.load().expect("contents").last_event;
    let mut seen = 0;
    let mut flip = false;
    while seen <= CAPACITY {
        flip = !flip;
        let defaults = [Wanted::new(if flip { "pay" } else { "read" })];
        world
            .directory
            .set_defaults(&world.host, &defaults, "root", &Known, NOW)
            .expect("changed");
        while let Ok(event) = quick.try_next() {
            assert_eq!(event.number, last + 1);
            last = event.number;
            seen += 1;
        }
    }
    let mut got = 0;
    let end = loop {
        match slow.try_next() {
            Ok(_) => got += 1,
            Err(e) => break e,
        }
    };
    assert_eq!((got, end), (CAPACITY, NoEvent::Lost));
}

/// A revocation against many who read: nobody is let in after the call has returned, and who asked before was never held up.
#[test]
fn nobody_is_let_in_after_a_revocation_returned() {
    let world = World::new();
    let keys: Vec<SecretKey> = (1..=20).map(key).collect();
    let ids: Vec<AgentId> = keys.iter().map(|key| world.agent(key, NOW)).collect();
    let principals: Vec<Principal> = keys
        .iter()
        .zip(&ids)
        .map(|(key, id)| world.principal(key, id, NOW))
        .collect();
    let (directory, host) = (&world.directory, &world.host);
    let ended = AtomicBool::new(false);
    let (before, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(3);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let round = |count: &AtomicUsize| {
                    for principal in &principals {
                        let found = directory.capable(principal, "read", &json!({}), NOW);
                        count.fetch_add(usize::from(found.is_ok()), Ordering::Relaxed);
                    }
                };
                round(&before);
                barrier.wait();
                loop {
                    // Read first: what is let in although this is set is let in too late.
                    let late = ended.load(Ordering::SeqCst);
                    round(if late { &after } else { &before });
                    if late {
                        break;
                    }
                }
            });
        }
        barrier.wait();
        let revoked = directory.revoke_host(By::Operator("root"), host, NOW);
        // Before anything is asserted: the readers end by it.
        ended.store(true, Ordering::SeqCst);
        assert_eq!(revoked, Ok(20));
    });
    assert_ne!(before.into_inner(), 0);
    assert_eq!(after.into_inner(), 0);
}

#[test]
fn one_key_registered_many_times_at_once_is_one_agent() {
    let world = World::new();
    let (stranger, agent) = (key(60), key(61));
    let auths: Vec<HostAuth> = (0..8)
        .map(|_| world.host_auth(&stranger, Some(&agent), NOW))
        .collect();
    let directory = &world.directory;
    let barrier = Barrier::new(auths.len());
    let ids: BTreeMap<AgentId, HostId> = std::thread::scope(|s| {
        let threads: Vec<_> = auths
            .iter()
            .map(|auth| {
                let barrier = &barrier;
                s.spawn(move || {
                    let audiences = audiences();
                    let expect = Expect::strict(NOW, &audiences);
                    let registration = Registration {
                        name: "a".to_owned(),
                        ..Registration::default()
                    };
                    barrier.wait();
                    let made = directory.register(auth, &registration, &Known, &expect);
                    let made = made.expect("registered");
                    (made.agent, made.host)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    });
    assert_eq!(ids.len(), 1);
    assert_eq!(directory.hosts().len(), 2);
}
