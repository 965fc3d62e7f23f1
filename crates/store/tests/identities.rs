//! The directory on a file: what it keeps, and what it refuses.

use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use agentwall_identity::{
    By, Catalogue, ChangeError, Constraints, Directory, Expect, HostClaims, HostId, Jws, KeySource,
    Mode, Registration, SecretKey, Settings, Store as _, StoreError, Wanted,
};
use agentwall_store::SqliteStore;

const NOW: i64 = 1_710_000_000;
const ISSUER: &str = "https://aw.example";

struct Any;

impl Catalogue for Any {
    fn imposed(&self, _: &str) -> Option<Constraints> {
        Some(Constraints::default())
    }
}

fn open(path: &Path) -> Directory {
    let store = SqliteStore::open(path).expect("a store");
    Directory::open(Box::new(store), Settings::default()).expect("a directory")
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).expect("a key")
}

fn host(directory: &Directory) -> HostId {
    directory
        .enrol_host(key(1).public(), None, "root", NOW)
        .expect("enrolled")
}

/// An autonomous agent of the host with key 1.
fn agent(directory: &Directory, n: u8) -> Result<agentwall_identity::AgentId, ChangeError> {
    let audiences = [ISSUER.to_owned()];
    let expect = Expect::strict(NOW, &audiences);
    let claims = HostClaims {
        iss: key(1).public().thumbprint(),
        aud: ISSUER.to_owned(),
        iat: NOW,
        exp: NOW + 60,
        jti: n.to_string(),
        host_key: KeySource::Inline(key(1).public().clone()),
        agent_key: Some(KeySource::Inline(key(n).public().clone())),
        host_name: None,
    };
    let token = Jws::parse(&key(1).sign_host(&claims)).expect("a token");
    let auth = directory
        .authenticate_host(&token, &expect)
        .expect("a host");
    let registration = Registration {
        name: format!("agent {n}"),
        mode: Mode::Autonomous,
        ..Registration::default()
    };
    Ok(directory
        .register(&auth, &registration, &Any, &expect)?
        .agent)
}

#[test]
fn what_was_done_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("identity.db");
    let (id, ended) = {
        let directory = open(&path);
        let host = host(&directory);
        let wanted = Wanted {
            capability: "pay".to_owned(),
            constraints: Constraints::read(&serde_json::json!({ "amount": { "max": 5 } }))
                .expect("it"),
        };
        directory
            .set_defaults(&host, &[wanted], "root", &Any, NOW)
            .expect("defaults");
        let id = agent(&directory, 2).expect("an agent");
        let ended = agent(&directory, 3).expect("an agent");
        directory
            .revoke_agent(By::Operator("root"), &ended, NOW)
            .expect("revoked");
        (id, ended)
    };
    assert_eq!(
        path.metadata().expect("the file").permissions().mode() & 0o777,
        0o600
    );
    let before = open(&path);
    let again = open(&path);
    for id in [&id, &ended] {
        let of = |d: &Directory| d.status(By::Operator("r"), id, NOW).expect("an agent");
        assert_eq!(of(&before), of(&again));
    }
    let status = |id| {
        again
            .status(By::Operator("r"), id, NOW)
            .expect("an agent")
            .standing
    };
    assert_eq!(status(&id), agentwall_identity::AgentStatus::Active);
    assert_eq!(status(&ended), agentwall_identity::AgentStatus::Revoked);
    assert!(matches!(agent(&again, 3), Err(ChangeError::AgentExists)));
    let store = SqliteStore::open(&path).expect("a store");
    let events = store.events(1, 1000).expect("events");
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    let last = store.load().expect("contents").last_event;
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    assert_eq!(
        store.events(last, 1000).expect("events"),
        events[events.len() - 1..]
    );
}

#[test]
fn a_change_is_all_or_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("identity.db");
    let directory = open(&path);
    host(&directory);
    let store = SqliteStore::open(&path).expect("a store");
    let before = store.load().expect("contents");
    let mut change = agentwall_identity::Change {
        hosts: before.hosts.clone(),
        ..Default::default()
    };
    change.hosts[0].name = Some("changed".to_owned());
    let mut event = store.events(1, 1).expect("events").remove(0);
    event.number = before.last_event + 1;
    // The second event has the number of the first: the host must not be changed either.
    change.events = vec![event.clone(), event];
    assert!(matches!(store.commit(&change), Err(StoreError::Failed(_))));
    assert_eq!(store.load().expect("contents"), before);
    change.events.truncate(1);
    store.commit(&change).expect("committed");
    assert_eq!(
        store.load().expect("contents").hosts[0].name.as_deref(),
        Some("changed")
    );
}

/// Two that write to one file: the second takes in what the first did, and goes on from there.
#[test]
fn a_second_writer_does_no_harm() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("identity.db");
    let first = open(&path);
    host(&first);
    let second = open(&path);
    agent(&first, 2).expect("an agent");
    agent(&second, 3).expect("an agent");
    agent(&first, 4).expect("an agent");
    assert!(agent(&first, 3).is_err(), "the second has registered it");
    let all = SqliteStore::open(&path).expect("a store").load();
    assert_eq!(all.expect("contents").agents.len(), 3);
}

#[test]
fn what_is_no_store_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    assert!(SqliteStore::open(&file("missing/identity.db")).is_err());
    std::fs::write(
        file("text"),
        "not a database, but long enough to have a header ".repeat(40),
    )
    .expect("written");
    assert!(SqliteStore::open(&file("text")).is_err());
    open(&file("good"));
    symlink(file("good"), file("link")).expect("a link");
    assert!(SqliteStore::open(&file("link")).is_err());
    let connection = rusqlite::Connection::open(file("good")).expect("SQLite");
    connection
        .execute_batch("PRAGMA user_version = 2")
        .expect("set");
    drop(connection);
    let refused = SqliteStore::open(&file("good")).expect_err("a later version");
    assert!(refused.to_string().contains("version 2"), "{refused}");
}
