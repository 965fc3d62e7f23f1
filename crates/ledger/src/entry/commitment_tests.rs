use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    entry::{ChangedFile, Changes, Commit, DecisionRecord, Exec, Gap, tests::samples},
    tile::MAX_ENTRY,
};

const SEED: Seed = Seed([7; 32]);

fn entry(record: Record) -> Entry {
    Entry {
        time: "2026-01-02T03:04:05.678Z".into(),
        session: "s1".into(),
        seq: 3,
        record,
    }
}

fn all_openings(record: &[u8], seed: &Seed) -> Vec<Opening> {
    Opening::of(record, seed, |_| true)
}

/// All strings of a JSON text, by place.
fn strings(json: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let value = serde_json::from_slice(json).expect("JSON");
    collect(&mut String::new(), &value, &mut |field, text| {
        found.push((field.to_owned(), text.to_owned()));
    });
    found
}

#[test]
fn a_leaf_has_commitments_in_place_of_text_and_is_made_again_from_it() {
    for record in samples() {
        let entry = entry(record);
        let bytes = entry.to_bytes();
        let leaf = leaf(&bytes, &SEED).expect("a record");
        assert_eq!(super::leaf(&bytes, &SEED), Some(leaf.clone()));
        assert!(super::leaf(&leaf, &SEED).is_none(), "a leaf has no leaf");
        let openings = all_openings(&bytes, &SEED);
        let plain: BTreeSet<_> = strings(&leaf).into_iter().collect();
        for (field, text) in strings(&bytes) {
            let opened = openings.iter().filter(|o| o.field == field).count();
            let stays = plain.contains(&(field.clone(), text.clone()));
            assert_eq!(opened, usize::from(!stays), "{field} of {text}");
        }
        for opening in &openings {
            opening.check(&leaf).expect("genuine");
        }
        // Numbers, truth values and the order of the keys are those of the record.
        let mut value: Value = serde_json::from_slice(&leaf).expect("JSON");
        for opening in &openings {
            *value.pointer_mut(&opening.field).expect("there") = opening.value.clone().into();
        }
        let fields = value.as_object_mut().expect("an object");
        let of = fields.shift_remove("of").expect("of");
        fields["v"] = of;
        assert_eq!(serde_json::to_vec(&value).expect("JSON"), bytes);

        let read = Entry::from_bytes(&leaf).expect("an entry");
        assert_eq!(
            (&*read.session, read.seq, &read.time),
            ("s1", 3, &entry.time)
        );
        assert_eq!(read.record.type_name(), entry.record.type_name());
        assert_eq!(
            read == entry,
            openings.is_empty(),
            "{}",
            read.record.type_name()
        );
        if !openings.is_empty() {
            assert!(
                matches!(&read.record, Record::Committed(c) if c.withheld == Withheld::Unopened)
            );
            assert_eq!(read.to_bytes(), leaf);
        }
    }
}

/// What an outsider sees of each type: a change of the list is a change of the format.
#[test]
fn what_is_plain() {
    let mut plain = BTreeSet::new();
    for record in samples() {
        let bytes = entry(record).to_bytes();
        let leaf = leaf(&bytes, &SEED).expect("a record");
        let kind = strings(&leaf)[0].1.clone();
        for (field, _) in strings(&leaf) {
            if !field.ends_with("/c") && !HEAD.contains(&&*field) {
                plain.insert(format!("{kind} {field}"));
            }
        }
    }
    let decision = [
        "/action/verb",
        "/effect",
        "/enforced_by",
        "/policy",
        "/rule",
    ];
    let changes = ["/files/0/change", "/files/0/entry", "/files/0/mode"];
    let mut expected: BTreeSet<String> = [
        "access /command",
        "action_end /action_id",
        "action_end /outcome",
        "action_start /action_id",
        "approval /ask",
        "approval /scope",
        "approval /verdict",
        "call /agent",
        "call /ask",
        "call /call",
        "call /host",
        "call_end /call",
        "baseline_change /baseline",
        "baseline_change /key",
        "baseline_change /outcome",
        "baseline_change /replaces",
        "checkpoint /outcome",
        "clock /expected",
        "console /act",
        "console /proof",
        "export /archive",
        "export /changes",
        "finding /action_id",
        "finding /kind",
        "finding /verb",
        "gateway /outcome",
        "gateway /policy",
        "heartbeat /root",
        "import /archive",
        "import /changes",
        "import /checkpoint/origin",
        "import /checkpoint/root",
        "import /from",
        "import /key",
        "import /policy",
        "intent /action_id",
        "intent /claims/0/verb",
        "intent /source",
        "kernel_summary /action_id",
        "kernel_summary /root",
        "kernel_wall /outcome",
        "kernel_wall /programs",
        "key_rotation /new",
        "key_rotation /old",
        "policy /digest",
        "policy /replaces",
        "policy /sources/0/sha256",
        "principal /agent",
        "principal /event",
        "principal /host",
        "prune /before",
        "prune /policy",
        "redaction /sessions/0",
        "rollback /outcome",
        "selftest /canaries/0/name",
        "session_start /bundles/0/digest",
        "session_start /bundles/0/key",
        "session_start /enforcement/landlock",
        "session_start /from",
        "session_start /policy",
        "tally /policy",
    ]
    .map(str::to_owned)
    .into();
    for kind in ["decision", "exec", "connect", "call"] {
        expected.extend(decision.map(|field| format!("{kind} {field}")));
    }
    for kind in ["commit", "undo", "discard"] {
        expected.extend(changes.map(|field| format!("{kind} {field}")));
    }
    assert_eq!(plain, expected);
}

#[test]
fn what_the_list_does_not_know_is_committed() {
    for (record, field) in [
        (
            r#"{"v":1,"type":"gap","time":"t","session":"s","seq":0,"lost":1,"new":"secret"}"#,
            "/new",
        ),
        (
            r#"{"v":2,"type":"new","time":"t","session":"s","seq":0,"rule":"secret"}"#,
            "/rule",
        ),
        (
            r#"{"v":2,"type":"mask","time":"t","session":"s","seq":0,"rule":["secret"]}"#,
            "/rule/0",
        ),
        (
            r#"{"v":2,"type":"x","time":"t","session":"s","seq":0,"a":{"b/~":[{"c":"secret"}]}}"#,
            "/a/b~1~0/0/c",
        ),
        // A key with a slash is no way around the list.
        (
            r#"{"v":2,"type":"decision","time":"t","session":"s","seq":0,"action/verb":"secret"}"#,
            "/action~1verb",
        ),
    ] {
        let leaf = leaf(record.as_bytes(), &SEED).expect("a record");
        let text = String::from_utf8(leaf.clone()).expect("UTF-8");
        assert!(!text.contains("secret"), "{text}");
        let openings = all_openings(record.as_bytes(), &SEED);
        assert_eq!(openings.len(), 1);
        assert_eq!(openings[0].field, field);
        openings[0].check(&leaf).expect("genuine");
    }
}

#[test]
fn only_records_in_their_canonical_form_have_a_leaf() {
    let genuine = r#"{"v":1,"type":"gap","time":"t","session":"s","seq":0,"lost":1}"#;
    assert!(leaf(genuine.as_bytes(), &SEED).is_some());
    for wrong in [
        genuine.replace("\"v\":1", "\"v\":3"),
        genuine.replace("\"v\":1", "\"v\":0"),
        genuine.replace("\"v\":1", "\"v\": 1"),
        genuine.replace("\"v\":1,", ""),
        genuine.replace("\"lost\"", "\"of\""),
        genuine.replace("\"type\":\"gap\",", ""),
        genuine.replace("\"gap\"", "7"),
        "[]".into(),
        "\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{1}".into(),
    ] {
        assert!(leaf(wrong.as_bytes(), &SEED).is_none(), "{wrong}");
    }
}

#[test]
fn a_leaf_in_another_spelling_is_not_one() {
    let record = entry(Record::Gap(Gap {
        reason: "r".into(),
        ..Gap::default()
    }))
    .to_bytes();
    let genuine = String::from_utf8(leaf(&record, &SEED).expect("a record")).expect("UTF-8");
    let is_leaf = |text: &str| {
        let read = Entry::from_bytes(text.as_bytes());
        matches!(read, Ok(e) if matches!(e.record, Record::Committed(_)))
    };
    assert!(is_leaf(&genuine));
    for (from, to) in [
        ("\"v\":3,\"of\":1", "\"of\":1,\"v\":3"),
        ("\"v\":3", "\"v\":4"),
        ("\"of\":1", "\"of\":3"),
        ("\"of\":1", "\"of\":0"),
        ("\"of\":1,", ""),
        ("\"seq\":3", "\"seq\":-3"),
        ("\"time\":\"2026-01-02T03:04:05.678Z\",", ""),
        ("\"seq\":3", "\"seq\": 3"),
    ] {
        let wrong = genuine.replacen(from, to, 1);
        assert_ne!(wrong, genuine);
        assert!(!is_leaf(&wrong), "{wrong}");
    }
}

/// Commitments are longer than short texts.
#[test]
fn a_record_is_cut_until_its_leaf_fits() {
    let many = Exec::new(DecisionRecord::default(), &vec![b"a"; 100_000]);
    let many = Exec {
        decision: DecisionRecord {
            errors: vec!["e".into(); 100_000],
            ..DecisionRecord::default()
        },
        ..many
    };
    let bytes = entry(Record::Exec(many)).to_bytes();
    let length = leaf(&bytes, &SEED).expect("a record").len();
    assert!((20_000..=MAX_ENTRY).contains(&length), "{length}");
    let read = Entry::from_bytes(&bytes).expect("an entry");
    assert!(matches!(read.record, Record::Exec(e) if e.argv.len() as u64 + e.argv_cut == 100_000));

    // No part of a set is cut.
    let files = (0..3000).map(|i| {
        let link = ChangedFile {
            path: format!("/{i}"),
            change: "add".into(),
            entry: Some("symlink".into()),
            mode: Some("0777".into()),
            target: Some("t".into()),
            xattrs_sha256: Some("0".repeat(64)),
            ..ChangedFile::default()
        };
        (link.path.clone().into_bytes(), link)
    });
    let parts = Changes::in_parts(files.collect());
    assert!(parts.len() > 8);
    let mut files = 0;
    for changes in parts {
        files += changes.files.len();
        let commit = entry(Record::Commit(Commit {
            changes,
            ..Commit::default()
        }));
        let bytes = commit.to_bytes();
        assert_eq!(Entry::from_bytes(&bytes), Ok(commit));
        assert!(leaf(&bytes, &SEED).expect("a record").len() <= MAX_ENTRY);
    }
    assert_eq!(files, 3000);
}

proptest! {
    #[test]
    fn equal_texts_have_different_commitments(text in ".{0,40}", seeds: ([u8; 32], [u8; 32])) {
        let (one, other) = (Seed(seeds.0), Seed(seeds.1));
        prop_assume!(one != other);
        let hash = |seed: &Seed, field: &str| commit(field, &seed.salt(field), &text);
        prop_assert_ne!(hash(&one, "/a"), hash(&other, "/a"));
        prop_assert_ne!(hash(&one, "/a"), hash(&one, "/b"));
        prop_assert_ne!(one.salt("/a"), one.salt("/b"));
        // Where field and value meet is told by the field's length.
        prop_assert_ne!(commit("/a", &[0; 32], &text), commit("/ab", &[0; 32], &text));
    }

    #[test]
    fn a_changed_value_salt_or_place_never_verifies(
        reason in ".{0,40}",
        other in ".{0,40}",
        seed: [u8; 32],
        byte in 0usize..32,
        bit in 0u8..8,
    ) {
        let record = entry(Record::Gap(Gap { reason: format!("r{reason}"), ..Gap::default() }));
        let bytes = record.to_bytes();
        let seed = Seed(seed);
        let leaf = leaf(&bytes, &seed).expect("a record");
        let genuine = all_openings(&bytes, &seed).remove(0);
        prop_assert_eq!(genuine.check(&leaf), Ok(()));
        prop_assert_eq!(&genuine.value, &format!("r{reason}"));
        let mut salt = seed.salt("/reason");
        salt[byte] ^= 1 << bit;
        for forged in [
            Opening { value: format!("x{other}"), ..genuine.clone() },
            Opening { salt: STANDARD.encode(salt), ..genuine.clone() },
            Opening { salt: STANDARD.encode(&salt[1..]), ..genuine.clone() },
            Opening { field: "/lost".into(), ..genuine.clone() },
            Opening { field: "/reason/c".into(), ..genuine.clone() },
            Opening { field: other.clone(), ..genuine.clone() },
        ] {
            prop_assert!(forged.check(&leaf).is_err(), "{:?}", forged);
        }
        // In another entry it opens nothing, and an entry with its text in it has nothing to open.
        let stranger = super::leaf(&bytes, &Seed([0; 32])).expect("a record");
        prop_assert!(seed.0 == [0; 32] || genuine.check(&stranger).is_err());
        prop_assert!(genuine.check(&bytes).is_err());
    }

    #[test]
    fn any_json_has_a_leaf_of_its_own_or_none(
        key in "[a-z/~]{1,6}",
        texts in proptest::collection::vec(".{0,20}", 0..6),
    ) {
        prop_assume!(!["v", "of", "type", "time", "session", "seq"].contains(&&*key));
        let mut fields = Map::new();
        for (name, value) in [("v", 1.into()), ("type", "x".into()), ("time", "t".into()), ("session", "s".into())] {
            fields.insert(name.into(), value);
        }
        fields.insert("seq".into(), 1.into());
        fields.insert(key, texts.clone().into());
        let record = serde_json::to_vec(&fields).expect("JSON");
        let leaf = leaf(&record, &SEED).expect("a record");
        prop_assert_eq!(leaf.len(), leaf_length(&record));
        let openings = all_openings(&record, &SEED);
        prop_assert_eq!(openings.len(), texts.len());
        for opening in openings {
            prop_assert_eq!(opening.check(&leaf), Ok(()));
        }
    }
}

/// What the specification says of each type is what the list says.
#[test]
fn the_specification_has_the_list() {
    let text = include_str!("../../../../docs/ledger-entry.md");
    for (kind, fields) in PLAIN {
        let fields: Vec<String> = fields.iter().map(|f| format!("`{}`", &f[1..])).collect();
        let row = format!("| `{kind}` | {} |", fields.join(", "));
        assert!(text.contains(&row), "missing: {row}");
    }
    for kind in Record::TYPES
        .iter()
        .filter(|kind| !PLAIN.iter().any(|(k, _)| k == *kind))
    {
        assert!(text.contains(&format!("| `{kind}` | |")), "{kind}");
    }
}

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/leaf.json");

/// Each type with its leaf and all its openings, for other implementations (`interop/disclosure.py`).
#[test]
fn the_vectors() {
    let mut vectors = Vec::new();
    for (n, record) in (1u8..).zip(samples()) {
        let record = entry(record).to_bytes();
        let seed = Seed([n; 32]);
        let leaf = leaf(&record, &seed).expect("a record");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        vectors.push(serde_json::json!({
            "seed": STANDARD.encode(seed.0),
            "record": text(&record),
            "leaf": text(&leaf),
            "leaf_hash": crate::hash::leaf_hash(&leaf).to_base64(),
            "openings": all_openings(&record, &seed),
        }));
    }
    let text = serde_json::to_string_pretty(&vectors).expect("JSON") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(VECTORS, &text).expect("written");
    }
    let kept = std::fs::read_to_string(VECTORS).expect("the vectors");
    assert_eq!(kept, text, "UPDATE=1 writes them");
}
