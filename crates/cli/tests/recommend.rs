//! `agentwall policy recommend` on ledgers made of records as a session writes them.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use agentwall_action::{Action, Decision, Effect, Resource, Subject, Verb};
use agentwall_ledger::{
    Entry, Log, Record,
    entry::{Approval, DecisionRecord, PolicyAnswer, PolicyVariables, SessionStart},
    key,
};
use support::Host;

struct Written {
    dir: PathBuf,
    key: String,
    log: Log,
    seq: u64,
}

impl Written {
    fn new(host: &Host) -> Written {
        let dir = host.home.join("log");
        let signer = key::generate("agentwall.local/test").unwrap();
        let key = signer.verifier().to_string();
        let log = Log::open(&dir, signer).unwrap();
        let seq = 0;
        Written { dir, key, log, seq }
    }

    fn add(&mut self, session: &str, record: Record) {
        self.seq += 1;
        let entry = Entry::now(session, self.seq, record).to_bytes();
        self.log.append(&entry).unwrap();
    }

    fn start(&mut self, host: &Host, session: &str) {
        let path = |p: PathBuf| Some(PolicyVariables::text(&p));
        let start = SessionStart {
            name: "builder".into(),
            workspace: host.work.to_str().unwrap().into(),
            variables: Some(PolicyVariables {
                workspace: path(host.work.clone()),
                home: path(host.home.clone()),
                tmp: path("/tmp".into()),
                state: path(host.state.clone()),
            }),
            ..SessionStart::default()
        };
        self.add(session, Record::SessionStart(start));
    }

    /// A decision that was carried out as `effect`, while the policy itself said `said`.
    fn decided(&mut self, session: &str, verb: Verb, object: &str, said: Effect, effect: Effect) {
        let resource = Resource::parse(verb.family(), object).unwrap();
        let action = Action::new(Subject::agent("builder"), verb, resource);
        let decision = Decision {
            effect,
            rule: None,
            reason: String::new(),
            hint: Default::default(),
            monitors: vec!["agentwall:learn".into()],
            errors: Vec::new(),
            policy: "00".into(),
        };
        let answer = PolicyAnswer::of(&Decision {
            effect: said,
            ..decision.clone()
        });
        let record = DecisionRecord::new(&action, &decision, "broker").said_by_policy(answer);
        self.add(session, Record::Decision(record));
    }
}

#[test]
fn rules_with_evidence_and_nothing_from_what_a_person_was_asked() {
    let host = Host::new();
    let mut log = Written::new(&host);
    let work = host.work.to_str().unwrap().to_owned();
    let (allow, ask) = (Effect::Allow, Effect::Ask);
    for (n, id) in [
        "20261121-0259-aaaa",
        "20261121-0300-bbbb",
        "20261121-0301-cccc",
    ]
    .into_iter()
    .enumerate()
    {
        log.start(&host, id);
        let day = format!("{work}/log/2026-0{}-1{n}.txt", n + 1);
        log.decided(id, Verb::FileRead, &day, allow, allow);
        log.decided(id, Verb::FileRead, &format!("{work}/main.rs"), allow, allow);
        // Approved once: the policy asked, a person let it happen.
        log.decided(id, Verb::FileRead, &format!("{work}/approved"), ask, allow);
        log.decided(
            id,
            Verb::FileRead,
            &format!("{work}/no"),
            Effect::Deny,
            Effect::Deny,
        );
    }
    log.start(&host, "20261121-0302-dddd");
    log.decided(
        "20261121-0302-dddd",
        Verb::FileRead,
        &format!("{work}/rejected-session"),
        allow,
        allow,
    );
    let reject = Approval {
        verdict: "reject".into(),
        ..Approval::default()
    };
    log.add("20261121-0302-dddd", Record::Approval(reject));
    let dir = log.dir.to_str().unwrap().to_owned();
    let key = log.key.clone();
    drop(log);

    host.put("policy.yaml", "agentwall: 1\ndefault: deny\n");
    let arguments = [
        "policy",
        "recommend",
        "--ledger",
        &dir,
        "--key",
        &key,
        "--policy",
        "policy.yaml",
    ];
    let said = host.call(&arguments).code(0);
    assert!(
        said.out.contains("${workspace}/log/2026-[0-9][0-9]-*.txt"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("\"${workspace}/main.rs\""),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("asked about") && said.out.contains("rejected a question"),
        "{}",
        said.out
    );
    for never in ["approved\"", "/no\"", "rejected-session\""] {
        assert!(!said.out.contains(never), "{never}: {}", said.out);
    }
    // What is printed is a policy, remarks and all, whose own tests pass.
    host.put("proposal.yaml", &said.out);
    host.call(&["policy", "check", "proposal.yaml"]).code(0);
    host.call(&["policy", "test", "proposal.yaml"]).code(0);

    // With it in force, nothing is left to propose.
    let again = host.call(&[
        "policy",
        "recommend",
        "--ledger",
        &dir,
        "--key",
        &key,
        "--policy",
        "proposal.yaml",
        "--json",
    ]);
    let value = again.code(0).json();
    assert_eq!(value["rules"].as_array().unwrap().len(), 0, "{value}");
    assert_eq!(value["given"], 4, "{value}");

    // One session: literals only. By the end of its id.
    let one = host.call(&[
        "policy",
        "recommend",
        "--ledger",
        &dir,
        "--key",
        &key,
        "--whole",
        "--session",
        "bbbb",
        "--json",
    ]);
    let value = one.code(0).json();
    let resources = value["rules"][0]["resources"].to_string();
    assert!(
        resources.contains("2026-02-11.txt") && !resources.contains('*'),
        "{resources}"
    );
    assert_eq!(value["sessions"].as_array().unwrap().len(), 1);
    assert!(!value["rules"][0]["entries"].as_array().unwrap().is_empty());

    // What somebody has written into the log gives no evidence.
    let bundles = std::fs::read_dir(PathBuf::from(&dir).join("tile/entries/000.p")).unwrap();
    let bundle = bundles
        .map(|e| e.unwrap().path())
        .max_by_key(|p| p.metadata().unwrap().len());
    let bundle = bundle.unwrap();
    let found = std::fs::read(&bundle).unwrap();
    let forged = String::from_utf8_lossy(&found).replace("main.rs", "evil.rs");
    assert_ne!(forged.as_bytes(), found);
    std::fs::write(&bundle, forged).unwrap();
    let said = host.call(&arguments).code(1);
    assert!(said.err.contains("does not verify"), "{}", said.err);
    assert!(!said.out.contains("evil.rs"), "{}", said.out);
}

#[test]
fn wrong_usage_says_what_to_do() {
    let host = Host::new();
    host.put("policy.yaml", "agentwall: 1\ndefault: deny\n");
    let said = host
        .call(&["policy", "recommend", "--policy", "policy.yaml"])
        .code(1);
    assert!(said.err.contains("--learn"), "{}", said.err);
    let said = host
        .call(&["policy", "recommend", "--whole", "--min-sessions", "1"])
        .code(2);
    assert!(said.err.contains("at least 2"), "{}", said.err);
    let mut log = Written::new(&host);
    log.start(&host, "20261121-0259-aaaa");
    let dir = log.dir.to_str().unwrap().to_owned();
    let key = log.key.clone();
    drop(log);
    let arguments = [
        "policy",
        "recommend",
        "--whole",
        "--ledger",
        &dir,
        "--key",
        &key,
        "--session",
        "zzzz",
    ];
    let said = host.call(&arguments).code(1);
    assert!(
        said.err.contains("zzzz") && said.err.contains("sessions --all"),
        "{}",
        said.err
    );
}
