//! Several directories that have one store.

use std::sync::atomic::AtomicBool;

use super::{stores::Failing, *};
use crate::AgentStatus;

const PATIENCE: Duration = Duration::from_millis(1);

impl World {
    /// The same world as another instance sees it.
    fn beside(&self) -> World {
        let store = Arc::clone(&self.store);
        World {
            directory: Directory::open(Box::new(Arc::clone(&store)), *self.directory.settings())
                .expect("a directory"),
            store,
            host_key: key(100),
            host: self.host.clone(),
            user: self.user.clone(),
            // Tokens of its own.
            jti: std::cell::Cell::new(1_000_000),
        }
    }
}

fn everything(world: &World) -> (Vec<Host>, Vec<Agent>) {
    let mut hosts: Vec<Host> = (world.directory.hosts().iter())
        .map(|host| Host::clone(host))
        .collect();
    hosts.sort_by(|a, b| a.id.cmp(&b.id));
    let mut agents = Vec::new();
    (world.directory.agents).for_each(|_, cell| agents.push(cell.agent.clone()));
    agents.sort_by(|a: &Agent, b| a.id.cmp(&b.id));
    (hosts, agents)
}

#[test]
fn what_one_instance_changes_the_others_take_in_and_tell() {
    let one = World::new();
    let two = one.beside();
    let told = [&one, &two].map(|world| world.directory.subscribe().expect("events"));
    let agent = one.agent(&key(1), NOW);
    assert!(two.try_agent(&key(1), &agent, NOW).is_err());
    assert!(two.directory.follow(PATIENCE).expect("followed") > 0);
    let principal = two.principal(&key(1), &agent, NOW);
    one.directory
        .revoke_host(By::Operator("root"), &one.host, NOW)
        .expect("revoked");
    assert_eq!(two.directory.follow(PATIENCE), Ok(2));
    assert!(two.directory.check(&principal, NOW).is_err());
    assert!(two.try_agent(&key(1), &agent, NOW).is_err());
    let told = told.map(|events| kinds(&events));
    assert!(told[1].ends_with(&[EventKind::HostRevoked, EventKind::AgentRevoked]));
    assert_eq!(told[0], told[1]);
    assert_eq!(two.directory.follow(PATIENCE), Ok(0));
    assert_eq!(everything(&one), everything(&two));
}

#[test]
fn a_change_that_comes_second_is_made_on_top_of_the_first() {
    let one = World::new();
    let two = one.beside();
    // Neither has looked at what the other did.
    let first = one.agent(&key(1), NOW);
    let second = two.agent(&key(2), NOW);
    assert!(matches!(
        two.register(&two.host_key, &key(1), Mode::Delegated, &[], NOW),
        Err(ChangeError::AgentExists)
    ));
    one.directory
        .revoke_agent(By::Operator("root"), &second, NOW)
        .expect("the other's agent");
    two.directory
        .revoke_agent(By::Operator("root"), &first, NOW)
        .expect("the other's agent");
    one.directory.follow(PATIENCE).expect("followed");
    assert_eq!(everything(&one), everything(&two));
    // What the first took away, the second does not give.
    let third = one.agent(&key(3), NOW);
    two.directory.follow(PATIENCE).expect("followed");
    one.directory
        .revoke_agent(By::Operator("root"), &third, NOW)
        .expect("revoked");
    let approval = Approval {
        constraints: &Constraints::default(),
        expires_at: None,
        by: "alice",
    };
    let granted = two.directory.grant(&third, "pay", &approval, &Known, NOW);
    assert!(granted.is_err(), "{granted:?}");
    assert_eq!(two.standing(&third, NOW), AgentStatus::Revoked);
}

#[test]
fn many_instances_change_at_once_and_see_the_same() {
    let one = World::new();
    std::thread::scope(|scope| {
        for instance in 0..4_u8 {
            let world = one.beside();
            scope.spawn(move || {
                for n in 0..12 {
                    let mine = key(1 + instance * 12 + n);
                    let agent = world.agent(&mine, NOW);
                    if n % 3 == 0 {
                        (world.directory)
                            .revoke_agent(By::Operator("root"), &agent, NOW)
                            .expect("revoked");
                    }
                }
            });
        }
    });
    let two = one.beside();
    one.directory.follow(PATIENCE).expect("followed");
    assert_eq!(everything(&one), everything(&two));
    let agents = everything(&two).1;
    assert_eq!(agents.len(), 48);
    let revoked = agents.iter().filter(|a| a.status == AgentStatus::Revoked);
    assert_eq!(revoked.count(), 16);
}

#[test]
fn what_was_taken_away_while_the_store_failed_does_not_come_back_with_anothers_change() {
    let one = World::new();
    let fails = Arc::new(AtomicBool::new(false));
    let store = Failing {
        store: Arc::clone(&one.store),
        fails: Arc::clone(&fails),
    };
    let cut_off = World {
        directory: Directory::open(Box::new(store), Settings::default()).expect("a directory"),
        ..one.beside()
    };
    let (mine, other) = (one.agent(&key(1), NOW), one.agent(&key(2), NOW));
    cut_off.directory.follow(PATIENCE).expect("followed");
    fails.store(true, Ordering::SeqCst);
    let revoked = (cut_off.directory).revoke_agent(By::Operator("root"), &mine, NOW);
    assert!(matches!(revoked, Err(ChangeError::NotDurable(_))));
    // The other instance goes on, with both.
    for agent in [&mine, &other] {
        one.approve(agent, "pay", json!({}), NOW);
    }
    assert!(cut_off.try_agent(&key(1), &mine, NOW).is_err());
    fails.store(false, Ordering::SeqCst);
    cut_off.directory.store_use().expect("written");
    one.directory.follow(PATIENCE).expect("followed");
    for world in [&one, &cut_off] {
        assert_eq!(world.standing(&mine, NOW), AgentStatus::Revoked);
        assert_eq!(world.standing(&other, NOW), AgentStatus::Active);
        assert!(world.try_agent(&key(1), &mine, NOW).is_err());
        assert!(world.try_agent(&key(2), &other, NOW).is_ok());
    }
    assert_eq!(everything(&one), everything(&cut_off));
}

/// A store that writes, and says that it does not know.
struct Uncertain {
    store: Arc<MemoryStore>,
    lost: Arc<AtomicBool>,
}

impl Store for Uncertain {
    fn load(&self) -> Result<crate::Contents, StoreError> {
        self.store.load()
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.store.commit(change)?;
        match self.lost.load(Ordering::SeqCst) {
            true => Err(StoreError::Failed("no answer".to_owned())),
            false => Ok(()),
        }
    }

    fn since(&self, after: u64) -> Result<Change, StoreError> {
        self.store.since(after)
    }

    fn wait(&self, patience: Duration) -> Result<(), StoreError> {
        self.store.wait(patience)
    }

    fn note_use(&self, used: &[(AgentId, i64)]) -> Result<(), StoreError> {
        self.store.note_use(used)
    }
}

#[test]
fn a_change_whose_answer_was_lost_is_taken_in_as_what_it_is() {
    let one = World::new();
    let lost = Arc::new(AtomicBool::new(false));
    let store = Uncertain {
        store: Arc::clone(&one.store),
        lost: Arc::clone(&lost),
    };
    let two = World {
        directory: Directory::open(Box::new(store), Settings::default()).expect("a directory"),
        ..one.beside()
    };
    let agent = two.agent(&key(1), NOW);
    lost.store(true, Ordering::SeqCst);
    let host = two.host(NOW);
    let rotated = (two.directory).rotate_agent_key(By::Host(&host), &agent, key(2).public(), NOW);
    assert!(matches!(rotated, Err(ChangeError::NotDurable(_))));
    lost.store(false, Ordering::SeqCst);
    two.directory.follow(PATIENCE).expect("followed");
    two.directory.store_use().expect("nothing is left to write");
    one.directory.follow(PATIENCE).expect("followed");
    // The key was exchanged, and nothing else happened to the agent.
    for world in [&one, &two] {
        assert_eq!(world.standing(&agent, NOW), AgentStatus::Active);
        assert!(world.try_agent(&key(2), &agent, NOW).is_ok());
        assert!(world.try_agent(&key(1), &agent, NOW).is_err());
    }
    assert_eq!(everything(&one), everything(&two));
}

#[test]
fn an_agent_that_is_used_at_one_instance_does_not_expire_at_another() {
    let one = World::new();
    let two = one.beside();
    let agent = one.agent(&key(1), NOW);
    two.directory.follow(PATIENCE).expect("followed");
    for minutes in [30, 60, 90] {
        let now = NOW + minutes * 60;
        let principal = one.principal(&key(1), &agent, now);
        one.directory.touch(&principal, now);
        one.directory.store_use().expect("noted");
        two.directory.store_use().expect("read");
    }
    assert_eq!(two.standing(&agent, NOW + 91 * 60), AgentStatus::Active);
    assert_eq!(two.standing(&agent, NOW + 151 * 60), AgentStatus::Expired);
}
