use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt as _};

use agentwall_action::{Action, Decision, Effect, Hint, Resource, Subject, Verb};
use proptest::prelude::*;

use super::*;

fn entry(record: Record) -> Entry {
    Entry {
        time: "2026-01-02T03:04:05.678Z".into(),
        session: "s1".into(),
        seq: 3,
        record,
    }
}

fn decision() -> Decision {
    Decision {
        effect: Effect::Deny,
        rule: Some("no-keys".into()),
        reason: "keys stay here".into(),
        hint: Hint::default(),
        monitors: vec![],
        errors: vec![],
        policy: "ab".repeat(32),
    }
}

fn action(path: &[u8]) -> Action {
    Action::new(
        Subject::agent("test"),
        Verb::FileRead,
        Resource::path(OsStr::from_bytes(path)),
    )
}

fn api_call() -> Action {
    Action::new(
        Subject::agent("h1/a"),
        Verb::ApiCall,
        Resource::Named("capability:read".into()),
    )
}

/// A set that fits in one entry.
fn one_part(files: Vec<ChangedFile>) -> Changes {
    let files = files.into_iter().map(|f| (f.path.clone().into_bytes(), f));
    let mut parts = Changes::in_parts(files.collect());
    assert_eq!(parts.len(), 1);
    parts.remove(0)
}

/// One of each type, with every option filled.
pub(crate) fn samples() -> Vec<Record> {
    let denied = DecisionRecord::new(&action(b"/home/u/\xff\n"), &decision(), "seccomp")
        .by_process(7, Some(b"/usr/bin/cat"));
    let endpoint = Resource::parse(Verb::NetConnect.family(), "tcp://10.0.0.1:80").expect("valid");
    let connect = Action::new(Subject::agent("test"), Verb::NetConnect, endpoint);
    let mut changes = one_part(vec![ChangedFile {
        path: "/w/a".into(),
        change: "modify".into(),
        sha256: Some("00".repeat(32)),
        old_sha256: Some("01".repeat(32)),
        blocks_sha256: Some("02".repeat(32)),
        old_blocks_sha256: Some("03".repeat(32)),
        entry: Some("symlink".into()),
        mode: Some("0755".into()),
        target: Some("b".into()),
        xattrs_sha256: Some("04".repeat(32)),
    }]);
    (changes.part, changes.parts) = (2, 3);
    vec![
        Record::SessionStart(SessionStart {
            name: "claude".into(),
            command: vec!["claude".into(), "-p".into()],
            enforcement: [("landlock".to_owned(), "abi 7".to_owned())].into(),
            variables: Some(PolicyVariables {
                workspace: Some("/w".into()),
                ..Default::default()
            }),
            bundles: vec![PolicyBundle {
                key: "example.com/policy+01020304".into(),
                name: "team".into(),
                counter: 7,
                digest: "cd".repeat(32),
            }],
            resumes: true,
            from: Some("20261121-0259-k3f9".into()),
            ephemeral: true,
            ..Default::default()
        }),
        Record::SessionEnd(SessionEnd {
            exit: Some(-1),
            signal: Some(9),
            allowed: [("file.read".to_owned(), u64::MAX)].into(),
            ..Default::default()
        }),
        Record::Decision(denied.clone()),
        Record::Exec(Exec {
            device: Some(1),
            inode: Some(u64::MAX),
            sha256: Some("x".into()),
            ..Exec::new(denied, &["a", "b c"])
        }),
        Record::Connect(Connect::new(&connect, &decision(), "egress")),
        Record::Approval(Approval {
            pattern: Some("file.read /w/**".into()),
            ..Default::default()
        }),
        Record::Policy(PolicyRecord {
            sources: vec![PolicySource::default()],
            replaces: Some("0".repeat(64)),
            by: Some("uid:1000".into()),
            ..Default::default()
        }),
        Record::Commit(Commit {
            changes: changes.clone(),
            outcome: [("committed".to_owned(), 1)].into(),
            reviewed: Some("0".repeat(64)),
        }),
        Record::Discard(Discard {
            changes: changes.clone(),
        }),
        Record::Undo(Undo {
            changes,
            outcome: [("undone".to_owned(), 1)].into(),
        }),
        Record::Checkpoint(Checkpoint {
            name: "1".into(),
            outcome: "made".into(),
            running: true,
            objects: 3,
            bytes: 4096,
        }),
        Record::Rollback(Rollback {
            checkpoint: "1".into(),
            before: "before-1".into(),
            outcome: "planned".into(),
        }),
        Record::Export(Export {
            archive: "ef".repeat(32),
            entries: 3,
            ..Default::default()
        }),
        Record::Import(Import {
            archive: "ef".repeat(32),
            checkpoint: ForeignCheckpoint {
                origin: "example.org/log".into(),
                size: u64::MAX,
                root: "AA==".into(),
            },
            trusted: true,
            ..Default::default()
        }),
        Record::Mask(Mask {
            path: "/home/u/.ssh".into(),
            rule: None,
        }),
        Record::Selftest(Selftest {
            ok: true,
            canaries: vec![Canary::default()],
            canaries_cut: 0,
        }),
        Record::Tally(Tally {
            subject: "agent:builder".into(),
            policy: "ab".repeat(32),
            allowed: BTreeMap::from([("file.read".to_owned(), 7)]),
        }),
        Record::KernelWall(KernelWall {
            outcome: "loaded".into(),
            programs: "cd".repeat(32),
            hooks: 61,
            audit: false,
            monitor: Some("no hooks".into()),
            by: Some("uid:0".into()),
        }),
        Record::Gap(Gap {
            lost: 4,
            reason: "queue".into(),
            ..Gap::default()
        }),
        Record::Intent(Intent {
            action_id: "k3f9".into(),
            agent: "claude".into(),
            source: "claude-code".into(),
            tool: Some("Bash".into()),
            call: Some("toolu_1".into()),
            why: "the tests have to pass".into(),
            parameters: "make test".into(),
            claims: vec![Claim {
                verb: "process.exec".into(),
                resource: "/usr/bin/bash".into(),
                argv_sha256: Some("00".repeat(32)),
            }],
            claims_cut: 0,
            process: Some(ProcessId { pid: 7, start: 8 }),
        }),
        Record::ActionStart(ActionStart {
            action_id: "k3f9".into(),
            previous: 3,
            intent: 9,
        }),
        Record::KernelSummary(KernelSummary {
            action_id: "k3f9".into(),
            previous: 4,
            events: 2,
            counts: BTreeMap::from([("process.exec allow".to_owned(), 2)]),
            attribution: BTreeMap::from([("lineage".to_owned(), 2)]),
            root: "AA==".into(),
            lost: 0,
        }),
        Record::ActionEnd(ActionEnd {
            action_id: "k3f9".into(),
            previous: 5,
            outcome: "done".into(),
            exit: Some(0),
        }),
        Record::Finding(Finding {
            action_id: Some("k3f9".into()),
            previous: Some(4),
            kind: "action-broader-than-intent".into(),
            verb: "net.connect".into(),
            resource: "tcp://example.org:443".into(),
            entry: Some(5),
            risk: 10,
        }),
        Record::Clock(ClockJump {
            jump_ms: -3_600_000,
            expected: "2026-01-02T04:04:05.678Z".into(),
        }),
        Record::Heartbeat(Heartbeat {
            every_s: 300,
            uptime_s: 7,
            size: u64::MAX,
            root: "AA==".into(),
        }),
        Record::Access(Access {
            user: User {
                uid: 1000,
                name: "u".into(),
            },
            command: "show".into(),
            filter: vec!["--last".into(), "5".into()],
            entries: 5,
            follows: true,
        }),
        Record::Prune(Prune {
            minimum: 256,
            before: "2026-01-02T03:04:05.678Z".into(),
            policy: "ab".repeat(32),
            user: User::default(),
        }),
        Record::KeyRotation(KeyRotation {
            old: "log.example+2b2c0f84+AQ==".into(),
            new: "log.example+0dd1ab5d+AQ==".into(),
            reason: "once a year".into(),
            user: User::default(),
        }),
        Record::BaselineChange(BaselineChange {
            agent: "claude".into(),
            outcome: "replaced".into(),
            baseline: "ab".repeat(32),
            replaces: "cd".repeat(32),
            key: "office+2b2c0f84+AQ==".into(),
            first: 256,
            end: 9000,
            actions: 700,
            reason: "a new release".into(),
            user: User::default(),
        }),
        Record::Redaction(Redaction {
            sessions: vec!["20261121-0259-k3f9".into()],
            entries: vec![7],
            basis: "asked for it".into(),
            by: User::default(),
        }),
        Record::Gateway(GatewayState {
            outcome: "started".into(),
            name: "bank".into(),
            public: "http://127.0.0.1:8787".into(),
            upstream: "https://bank.example".into(),
            policy: "ab".into(),
            version: "0.1.0".into(),
        }),
        Record::Principal(PrincipalEvent {
            event: "capability.granted".into(),
            number: 3,
            host: "h1".into(),
            agent: Some("a1".into()),
            capability: Some("read".into()),
            by: "uid:1000".into(),
        }),
        Record::Call(CallRecord {
            decision: DecisionRecord::new(&api_call(), &decision(), "gateway"),
            call: "c1".into(),
            agent: "a1".into(),
            host: "h1".into(),
            jti: "j1".into(),
            target: "GET https://bank.example/a".into(),
            payload: "ab".into(),
            risk: 15,
            risks: vec!["known for 0 s (+15)".into()],
            charged: [("k".to_owned(), 1_000_000)].into(),
            degraded: Some("no answer".into()),
            ask: Some("bank-1".into()),
        }),
        Record::CallEnd(CallEnd {
            call: "c1".into(),
            status: Some(200),
            error: Some("late".into()),
            took_us: 7,
        }),
        Record::Console(ConsoleAct {
            act: "approve".into(),
            object: "bank:1".into(),
            by: "account:ada".into(),
            proof: "passkey".into(),
            binding: Some("ab".into()),
        }),
    ]
}

#[test]
fn every_type_reads_back_and_has_one_spelling() {
    let all = samples();
    let names: Vec<&str> = all.iter().map(Record::type_name).collect();
    assert_eq!(names, Record::TYPES);
    for record in all {
        let entry = entry(record);
        let bytes = entry.to_bytes();
        assert_eq!(Entry::from_bytes(&bytes), Ok(entry.clone()));
        assert_eq!(entry.to_bytes(), bytes);
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        let v = match entry.record {
            Record::SessionStart(_)
            | Record::Decision(_)
            | Record::Exec(_)
            | Record::Connect(_)
            | Record::Policy(_)
            | Record::Commit(_) => 2,
            _ => 1,
        };
        let head = format!(
            r#"{{"v":{v},"type":"{}","time":"2026-01-02T03:04:05.678Z","session":"s1","seq":3,"#,
            entry.record.type_name()
        );
        assert!(text.starts_with(&head), "{text}");
        let spaced = text.replacen("\"v\":", "\"v\": ", 1);
        assert_eq!(
            Entry::from_bytes(spaced.as_bytes()),
            Err(EntryError::NotCanonical)
        );
    }
}

/// The first policy of a session has the bytes it always had; only one that takes another's place says
/// more, in the newer format.
#[test]
fn a_policy_is_written_in_the_oldest_format_that_has_its_fields() {
    let first = PolicyRecord::default();
    let replaced = PolicyRecord {
        replaces: Some("0".repeat(64)),
        ..PolicyRecord::default()
    };
    let by = PolicyRecord {
        by: Some("uid:1000".into()),
        ..PolicyRecord::default()
    };
    let signed = PolicyRecord {
        bundles: vec![PolicyBundle::default()],
        ..PolicyRecord::default()
    };
    for (record, head) in [
        (first, r#"{"v":1,"type":"policy","#),
        (replaced, r#"{"v":2,"type":"policy","#),
        (by, r#"{"v":2,"type":"policy","#),
        (signed, r#"{"v":2,"type":"policy","#),
    ] {
        let entry = entry(Record::Policy(record));
        let text = String::from_utf8(entry.to_bytes()).expect("JSON is UTF-8");
        assert!(text.starts_with(head), "{text}");
        assert_eq!(Entry::from_bytes(text.as_bytes()), Ok(entry));
        // In the older format these fields are unknown, so the entry is not what it says.
        if head.contains("2") {
            let older = text.replacen(r#""v":2"#, r#""v":1"#, 1);
            let read = Entry::from_bytes(older.as_bytes());
            assert!(
                !matches!(&read, Ok(e) if matches!(e.record, Record::Policy(_))),
                "{read:?}"
            );
        }
    }
}

/// A gap of the rootless wall has the bytes it always had; one with its time says so in the newer format.
#[test]
fn the_exact_bytes_of_a_gap_and_a_tally() {
    let text = |record| String::from_utf8(entry(record).to_bytes()).expect("JSON is UTF-8");
    let head = |v, kind| {
        format!(
            r#"{{"v":{v},"type":"{kind}","time":"2026-01-02T03:04:05.678Z","session":"s1","seq":3,"#
        )
    };
    let gap = Gap {
        lost: 4,
        reason: "queue".into(),
        ..Gap::default()
    };
    let timed = Gap {
        from: Some("2026-01-02T03:04:05.000Z".into()),
        to: Some("2026-01-02T03:04:05.678Z".into()),
        ..gap.clone()
    };
    let body = r#""lost":4,"reason":"queue""#;
    assert_eq!(
        text(Record::Gap(gap)),
        format!("{}{body}}}", head(1, "gap"))
    );
    assert_eq!(
        text(Record::Gap(timed)),
        format!(
            r#"{}{body},"from":"2026-01-02T03:04:05.000Z","to":"2026-01-02T03:04:05.678Z"}}"#,
            head(2, "gap")
        )
    );
    let tally = Tally {
        subject: "agent:builder".into(),
        policy: "ab".into(),
        allowed: BTreeMap::from([("file.read".to_owned(), 7)]),
    };
    assert_eq!(
        text(Record::Tally(tally)),
        format!(
            r#"{}"subject":"agent:builder","policy":"ab","allowed":{{"file.read":7}}}}"#,
            head(1, "tally")
        )
    );
    let wall = KernelWall {
        outcome: "removed".into(),
        programs: "cd".into(),
        hooks: 61,
        audit: true,
        monitor: None,
        by: Some("uid:0".into()),
    };
    assert_eq!(
        text(Record::KernelWall(wall)),
        format!(
            r#"{}"outcome":"removed","programs":"cd","hooks":61,"audit":true,"by":"uid:0"}}"#,
            head(1, "kernel_wall")
        )
    );
}

#[test]
fn the_exact_bytes_of_a_decision() {
    let record = DecisionRecord::new(&action(b"/h/\xff\x1b[2J"), &decision(), "seccomp");
    let policy = "ab".repeat(32);
    let expected = format!(
        concat!(
            r#"{{"v":2,"type":"decision","time":"2026-01-02T03:04:05.678Z","session":"s1","seq":3,"#,
            r#""action":{{"verb":"file.read","resource":"/h/\\xff\\u{{1b}}[2J","bytes":"L2gv/xtbMko="}},"#,
            r#""effect":"deny","rule":"no-keys","reason":"keys stay here","policy":"{policy}","#,
            r#""enforced_by":"seccomp","facts":{{"subject":"agent:test"}}}}"#
        ),
        policy = policy
    );
    let bytes = entry(Record::Decision(record)).to_bytes();
    assert_eq!(String::from_utf8(bytes).expect("UTF-8"), expected);
}

#[test]
fn entries_of_format_1_read_back_to_the_same_bytes() {
    let start = concat!(
        r#"{"v":1,"type":"session_start","time":"t","session":"s","seq":1,"name":"a","command":["x"],"#,
        r#""workspace":"/w","policy":"ab","enforcement":{},"user":{"uid":0,"name":""}}"#
    );
    let denied = concat!(
        r#"{"v":1,"type":"decision","time":"t","session":"s","seq":2,"action":{"verb":"file.read","#,
        r#""resource":"/x"},"effect":"deny","reason":"r","policy":"ab","enforced_by":"broker"}"#
    );
    for text in [start, denied] {
        let entry = Entry::from_bytes(text.as_bytes()).expect("an entry");
        assert!(!matches!(entry.record, Record::Other(_)), "{text}");
        assert_eq!(entry.to_bytes(), text.as_bytes());
        // Each entry has one format: the lowest that has all its fields.
        let newer = text.replacen("\"v\":1", "\"v\":2", 1);
        let entry = Entry::from_bytes(newer.as_bytes()).expect("an object");
        assert!(matches!(entry.record, Record::Other(_)), "{newer}");
        assert_eq!(entry.to_bytes(), newer.as_bytes());
    }
    let entry = Entry::from_bytes(denied.as_bytes()).expect("an entry");
    assert_eq!(
        entry.recall(Some(&SessionStart::default())),
        Some(Err(NotRecallable::NoFacts))
    );
}

#[test]
fn what_is_not_known_is_kept() {
    for text in [
        r#"{"v":2,"type":"decision","session":"s","seq":9,"new":[1,{"a":null}]}"#,
        r#"{"v":1,"type":"telepathy","session":"s","seq":9}"#,
        r#"{"v":1,"type":"gap","time":"t","session":"s","seq":9,"lost":1,"more":true}"#,
        r#"{"v":1,"type":"gap","time":5}"#,
        "{}",
    ] {
        let entry = Entry::from_bytes(text.as_bytes()).expect("an object");
        assert!(matches!(entry.record, Record::Other(_)), "{text}");
        assert_eq!(entry.to_bytes(), text.as_bytes());
    }
    for text in ["[]", "", "nonsense", "{\"a\":1} x", "\"text\""] {
        assert!(
            matches!(
                Entry::from_bytes(text.as_bytes()),
                Err(EntryError::NotAnObject(_))
            ),
            "{text}"
        );
    }
    for text in ["{\"a\":1,\"a\":1}", "{\"a\":\"\\u0061\"}", " {}"] {
        assert_eq!(
            Entry::from_bytes(text.as_bytes()),
            Err(EntryError::NotCanonical),
            "{text}"
        );
    }
}

#[test]
fn nothing_is_too_long_to_be_logged() {
    let long = "\u{1}".repeat(100_000);
    let many: Vec<String> = (0..8_000).map(|i| format!("argument {i}")).collect();
    let mut records = samples();
    for record in &mut records {
        match record {
            Record::SessionStart(r) => {
                r.command = many.clone();
                r.name = long.clone();
                r.enforcement = many
                    .iter()
                    .map(|m| (m.clone(), long[..9000].into()))
                    .collect();
            }
            Record::SessionEnd(r) => {
                r.allowed = many.iter().map(|m| (m.clone(), 1)).collect();
            }
            Record::Decision(r) => {
                (r.reason, r.monitors) = (long.clone(), many.clone());
                r.action.resource = long.clone();
                r.action.bytes = Some(long.clone());
            }
            Record::Exec(r) => (r.argv, r.decision.errors) = (many.clone(), many.clone()),
            Record::Connect(r) => r.host = Some(long.clone()),
            Record::Approval(r) => r.by = long.clone(),
            Record::Policy(r) => {
                let source = PolicySource {
                    name: long[..9000].into(),
                    sha256: long[..9000].into(),
                };
                r.sources = vec![source; 600];
            }
            Record::Commit(Commit { changes, .. })
            | Record::Discard(Discard { changes })
            | Record::Undo(Undo { changes, .. }) => {
                let file = ChangedFile {
                    path: long[..9000].into(),
                    ..Default::default()
                };
                changes.files = vec![file; 600];
            }
            Record::Checkpoint(r) => r.name = long.clone(),
            Record::Rollback(r) => r.before = long.clone(),
            Record::Export(r) => r.changes = long.clone(),
            Record::Import(r) => (r.from, r.workspace) = (long.clone(), long.clone()),
            Record::Mask(r) => r.path = long.clone(),
            Record::Selftest(r) => r.canaries = vec![Canary::default(); 100_000],
            Record::Tally(r) => r.subject = long.clone(),
            Record::KernelWall(r) => r.by = Some(long.clone()),
            Record::Gap(r) => r.reason = long.clone(),
            Record::Intent(r) => {
                let claim = Claim {
                    resource: long[..9000].into(),
                    ..Claim::default()
                };
                (r.why, r.parameters) = (long.clone(), long.clone());
                r.claims = vec![claim; 600];
            }
            Record::ActionStart(r) => r.action_id = long.clone(),
            Record::KernelSummary(r) => {
                r.counts = many.iter().map(|m| (m.clone(), 1)).collect();
            }
            Record::ActionEnd(r) => r.outcome = long.clone(),
            Record::Finding(r) => r.resource = long.clone(),
            Record::Clock(r) => r.expected = long.clone(),
            Record::Heartbeat(r) => r.root = long.clone(),
            Record::Gateway(r) => r.upstream = long.clone(),
            Record::Principal(r) => r.by = long.clone(),
            Record::Call(r) => {
                r.target = long.clone();
                r.risks = many.clone();
                r.charged = many.iter().map(|m| (m.clone(), 1)).collect();
            }
            Record::CallEnd(r) => r.error = Some(long.clone()),
            Record::Console(r) => r.object = long.clone(),
            Record::Prune(r) => r.user.name = long.clone(),
            Record::KeyRotation(r) => (r.old, r.reason) = (long.clone(), long.clone()),
            Record::BaselineChange(r) => (r.agent, r.reason) = (long.clone(), long.clone()),
            Record::Access(r) => (r.user.name, r.filter) = (long.clone(), many.clone()),
            Record::Redaction(r) => {
                r.sessions = vec!["s".repeat(256); Redaction::MOST];
                r.basis = long.clone();
            }
            Record::Committed(_) | Record::Other(_) => {}
        }
        let mut entry = entry(record.clone());
        entry.session = long.clone();
        let bytes = entry.to_bytes();
        assert!(
            bytes.len() <= MAX_ENTRY,
            "{}: {}",
            record.type_name(),
            bytes.len()
        );
        let back = Entry::from_bytes(&bytes).expect("readable");
        assert_eq!(back.record.type_name(), record.type_name());
        assert!(!matches!(back.record, Record::Other(_)));
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.contains("bytes cut]"), "{}", record.type_name());
    }
}

/// The digest as an outsider makes it from the entries alone.
fn digest_of_entries(parts: &[Changes]) -> String {
    let mut all = Vec::new();
    for part in parts {
        let record = Record::Commit(Commit {
            changes: part.clone(),
            outcome: BTreeMap::new(),
            reviewed: None,
        });
        let bytes = entry(record).to_bytes();
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(value.get("files_cut"), None, "nothing is left out");
        for file in value["files"].as_array().expect("a list") {
            all.extend(file.to_string().into_bytes());
            all.push(b'\n');
        }
    }
    crate::hash::sha256_hex(&all)
}

#[test]
fn a_set_of_any_size_is_listed_whole_under_one_digest() {
    for count in [0usize, 1, 399, 400, 401, 5000] {
        let file = |n: usize| ChangedFile {
            path: format!("/work/folder/file {n:05}"),
            change: "modify".into(),
            sha256: Some("ab".repeat(32)),
            old_sha256: Some("cd".repeat(32)),
            ..Default::default()
        };
        let files: Vec<_> = (0..count)
            .map(|n| (format!("/work/folder/file {n:05}").into_bytes(), file(n)))
            .collect();
        let parts = Changes::in_parts(files.clone());
        let listed: Vec<ChangedFile> = parts.iter().flat_map(|p| p.files.clone()).collect();
        assert_eq!(listed, (0..count).map(file).collect::<Vec<_>>());
        assert!(parts.iter().all(|p| p.digest == digest_of_entries(&parts)));
        for (n, part) in (1..).zip(&parts) {
            let expected = match parts.len() {
                1 => (0, 0),
                many => (n, many as u64),
            };
            assert_eq!((part.part, part.parts), expected);
            assert_eq!(part.counts.values().sum::<u64>(), count as u64);
        }
        let mut other_order = files;
        other_order.reverse();
        assert_eq!(
            Changes::in_parts(other_order),
            parts,
            "the order is the paths'"
        );
    }
}

#[test]
fn a_set_is_sorted_by_the_bytes_of_paths_not_by_their_escaped_text() {
    let paths: [&[u8]; 3] = [b"/w/\x01", b"/w/a", b"/w/\xff"];
    let files = paths.iter().rev().map(|p| {
        let path = agentwall_action::escape_bytes(p);
        (
            p.to_vec(),
            ChangedFile {
                path,
                ..Default::default()
            },
        )
    });
    let parts = Changes::in_parts(files.collect());
    let listed: Vec<&str> = parts[0].files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(listed, ["/w/\\u{1}", "/w/a", "/w/\\xff"]);
}

#[test]
fn a_commit_of_before_reads_back_to_the_same_bytes() {
    let text = concat!(
        r#"{"v":1,"type":"commit","time":"2026-01-02T03:04:05.678Z","session":"s1","seq":3,"#,
        r#""digest":"00","counts":{"modify":1},"files":[{"path":"/w/a","change":"modify"}],"#,
        r#""outcome":{"committed":1}}"#
    );
    let entry = Entry::from_bytes(text.as_bytes()).expect("an entry");
    assert!(matches!(entry.record, Record::Commit(_)));
    assert_eq!(String::from_utf8(entry.to_bytes()).expect("UTF-8"), text);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(entry) = Entry::from_bytes(&bytes) {
            prop_assert_eq!(entry.to_bytes(), bytes);
        }
    }

    #[test]
    fn any_text_survives(reason in ".{0,300}", rule in proptest::option::of(".*"), pid: Option<u32>) {
        let entry = entry(Record::Decision(DecisionRecord {
            reason, rule, pid, ..Default::default()
        }));
        prop_assert_eq!(Entry::from_bytes(&entry.to_bytes()), Ok(entry));
    }
}
