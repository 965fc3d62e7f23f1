//! Names, their addresses and what is remembered of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{Connection, Origin};

struct Counting(AtomicUsize);

impl Gate for Counting {
    fn resolve(&self, name: &str) -> Verdict {
        self.0.fetch_add(1, Ordering::SeqCst);
        if name.contains("evil") {
            Verdict::Deny("no".into())
        } else {
            Verdict::Allow
        }
    }
    fn connect(&self, _: &agentwall_action::Endpoint, _: Origin) -> Verdict {
        unreachable!("names do not connect")
    }
    fn finished(&self, _: &Connection) {}
}

fn names() -> (Names, Arc<Counting>) {
    let gate = Arc::new(Counting(AtomicUsize::new(0)));
    let lookup = Lookup::new(|name| match name {
        "missing" => Err(io::ErrorKind::NotFound.into()),
        "broken" => Err(io::ErrorKind::TimedOut.into()),
        "empty" => Ok(Vec::new()),
        "four" => Ok(vec!["127.0.0.5".parse().unwrap()]),
        _ => Ok(vec!["127.0.0.5".parse().unwrap(), "::1".parse().unwrap()]),
    });
    let config = EgressConfig {
        lookup,
        own_names: vec!["my-box".into()],
        ..EgressConfig::default()
    };
    (Names::new(gate.clone(), &config), gate)
}

/// Refuses every name while it is shut.
struct Door(std::sync::atomic::AtomicBool);

impl Gate for Door {
    fn resolve(&self, _: &str) -> Verdict {
        match self.0.load(Ordering::SeqCst) {
            true => Verdict::Deny("shut".into()),
            false => Verdict::Allow,
        }
    }
    fn connect(&self, _: &agentwall_action::Endpoint, _: Origin) -> Verdict {
        unreachable!("names do not connect")
    }
    fn finished(&self, _: &Connection) {}
}

#[test]
fn after_a_change_of_the_rules_every_name_is_asked_about_again() {
    let door = Arc::new(Door(false.into()));
    let lookup = Lookup::new(|_| Ok(vec!["127.0.0.5".parse().unwrap()]));
    let config = EgressConfig {
        lookup,
        ..EgressConfig::default()
    };
    let names = Names::new(door.clone(), &config);
    let open = names.resolve("a.test");
    door.0.store(true, Ordering::SeqCst);
    assert_eq!(names.resolve("a.test"), open, "not before it is said");
    names.ask_again();
    for name in ["a.test", "b.test"] {
        assert_eq!(names.resolve(name), Answer::Blocked("shut".into()));
    }
    door.0.store(false, Ordering::SeqCst);
    names.ask_again();
    // At once, and with the address it always had.
    assert_eq!(names.resolve("a.test"), open);
    assert!(matches!(names.resolve("b.test"), Answer::Addresses { .. }));
}

#[test]
fn each_name_has_its_own_stable_address() {
    let (names, gate) = names();
    let a = names.resolve("a.test");
    let b = names.resolve("b.test");
    assert_ne!(a, b);
    assert_eq!(names.resolve("a.test"), a);
    assert_eq!(gate.0.load(Ordering::SeqCst), 2);
    let Answer::Addresses {
        v4: Some(v4),
        v6: Some(_),
    } = b
    else {
        panic!("{b:?}")
    };
    assert_eq!(
        crate::addresses::kind(v4.into()),
        crate::addresses::Kind::Synthetic(1)
    );
    let target = names.target(1, true).unwrap();
    assert_eq!(target.0.as_deref(), Some("b.test"));
    assert_eq!(target.1, ["127.0.0.5".parse::<IpAddr>().unwrap()]);
    assert!(names.target(2, true).is_none());
    assert_eq!(
        names.resolve("four"),
        Answer::Addresses {
            v4: Some(synthetic_v4(2)),
            v6: None
        }
    );
    assert!(names.target(2, false).is_none());
}

#[test]
fn refusals_and_failures() {
    let (names, gate) = names();
    for _ in 0..3 {
        assert_eq!(names.resolve("evil.test"), Answer::Blocked("no".into()));
    }
    assert_eq!(
        gate.0.load(Ordering::SeqCst),
        1,
        "a refusal is repeated for a moment"
    );
    assert_eq!(names.resolve("missing"), Answer::NotFound);
    assert_eq!(names.resolve("broken"), Answer::Unavailable);
    assert_eq!(
        names.resolve("empty"),
        Answer::Addresses { v4: None, v6: None }
    );
    assert_eq!(
        names.lock().entries.len(),
        0,
        "only answers take an address"
    );
    let localhost = names.resolve("localhost");
    assert_eq!(localhost, names.resolve("my-box"));
    assert!(matches!(
        localhost,
        Answer::Addresses {
            v4: Some(Ipv4Addr::LOCALHOST),
            ..
        }
    ));
}

#[test]
fn new_names_are_rate_limited() {
    let (names, gate) = names();
    for i in 0..1200 {
        names.resolve(&format!("evil{i}"));
    }
    let asked = gate.0.load(Ordering::SeqCst);
    assert!((1000..1190).contains(&asked), "{asked}");
    assert!(names.lock().negative.len() <= MAX_NEGATIVE);
}

#[test]
fn waiting_threads_share_one_question() {
    let (names, gate) = names();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| names.resolve("shared.test"));
        }
    });
    assert_eq!(gate.0.load(Ordering::SeqCst), 1);
}

#[test]
fn what_is_a_name() {
    let long = format!("{}.{}", "a".repeat(63), "b".repeat(63));
    for good in [
        "a",
        "a.b-c.d9",
        "_srv._tcp.x",
        "1.2.3.4x",
        "xn--bcher-kva.example",
        &long,
    ] {
        assert!(valid(good), "{good}");
    }
    let long = "a.".repeat(127) + "a";
    for bad in [
        "",
        ".",
        "a..b",
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "1",
        "::1",
        "a b",
        "ä",
        "0ǚ",
        "a.0x",
        &long,
    ] {
        assert!(!valid(bad), "{bad}");
    }
    assert!(!valid(&"a".repeat(64)));
}

#[test]
fn what_an_earlier_one_gave_out_means_nothing_and_no_other_name() {
    let gate = Arc::new(Counting(AtomicUsize::new(0)));
    let config = EgressConfig {
        lookup: Lookup::new(|_| Ok(vec!["127.0.0.5".parse().unwrap()])),
        first_name: CAPACITY - 1,
        ..EgressConfig::default()
    };
    let names = Names::new(gate, &config);
    let Answer::Addresses { v4: Some(v4), .. } = names.resolve("last") else {
        panic!("no address");
    };
    assert_eq!(v4, synthetic_v4(CAPACITY - 1));
    assert_eq!(names.next(), CAPACITY);
    assert_eq!(names.resolve("one-more"), Answer::Unavailable);
    assert_eq!(names.target(0, true), None);
    let target = names.target(CAPACITY - 1, true).unwrap();
    assert_eq!(target.0.as_deref(), Some("last"));
    assert_eq!(
        names.resolve("last"),
        Answer::Addresses {
            v4: Some(v4),
            v6: None
        }
    );
}
