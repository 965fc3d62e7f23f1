//! The Rust side of the shared structures is that of the objects, by their BTF.

use std::collections::BTreeMap;

use agentwall_action::{Effect, Verb};
use agentwall_kernel::{
    abi, object,
    wire::{Event, Governed, Kind, Never, Start, Why},
};
use libbpf_rs::btf::{
    Btf, HasSize as _,
    types::{MemberAttr, Struct},
};

/// Size, and offsets of the named members in bytes.
fn compare(btf: &Btf<'_>, name: &str, size: usize, fields: &[(&str, usize)]) {
    let found: Struct<'_> = btf
        .type_by_name(name)
        .unwrap_or_else(|| panic!("no struct {name}"));
    assert_eq!(found.size(), size, "struct {name}");
    assert_eq!(found.len(), fields.len(), "members of struct {name}");
    for (member, (field, offset)) in found.iter().zip(fields) {
        let MemberAttr::Normal { offset: bits } = member.attr else {
            panic!("{name}.{field} is a bit field");
        };
        assert_eq!(member.name.and_then(|n| n.to_str()), Some(*field), "{name}");
        assert_eq!(bits as usize, offset * 8, "{name}.{field}");
    }
}

macro_rules! same {
    ($btf:expr, $name:literal, $type:ty, $($field:ident),+) => {
        compare($btf, $name, size_of::<$type>(),
            &[$((stringify!($field), std::mem::offset_of!($type, $field))),+])
    };
}

pub fn abi_is_the_objects() {
    let btf = Btf::from_raw("core", object::CORE)
        .expect("an object")
        .expect("with BTF");
    same!(
        &btf,
        "question",
        abi::Question,
        verb,
        kind,
        directory,
        has_text,
        start,
        len,
        protocol,
        port,
        address_len,
        address
    );
    same!(
        &btf,
        "verdict",
        abi::Verdict,
        effect,
        layer,
        rank,
        full,
        marks,
        mark
    );
    same!(&btf, "ask_args", abi::AskArgs, view, questions, times);
    same!(
        &btf,
        "asked",
        abi::Asked,
        question,
        verdict,
        generation,
        count,
        text
    );
    same!(&btf, "times", abi::Times, decisions, clock);
    compare(&btf, "table", abi::TABLE_WORDS * 4, &[("words", 0)]);
}

/// Where the members of a structure lie, in bytes, and its size.
fn places(btf: &Btf<'_>, name: &str) -> (BTreeMap<String, usize>, usize) {
    let found: Struct<'_> = btf
        .type_by_name(name)
        .unwrap_or_else(|| panic!("no struct {name}"));
    let places = found
        .iter()
        .filter_map(|m| {
            let MemberAttr::Normal { offset } = m.attr else {
                return None;
            };
            Some((m.name?.to_str()?.to_owned(), offset as usize / 8))
        })
        .collect();
    (places, found.size())
}

/// A record that is filled by the object's own types, member by member.
struct Record {
    bytes: Vec<u8>,
    places: BTreeMap<String, usize>,
}

impl Record {
    fn new(btf: &Btf<'_>, name: &str) -> Record {
        let (places, size) = places(btf, name);
        Record {
            bytes: vec![0; size],
            places,
        }
    }

    fn put(&mut self, field: &str, value: &[u8]) {
        let at = self.places[field];
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn u32(&mut self, field: &str, value: u32) {
        self.put(field, &value.to_ne_bytes());
    }

    fn u64(&mut self, field: &str, value: u64) {
        self.put(field, &value.to_ne_bytes());
    }
}

pub fn events_are_read_as_the_object_writes_them() {
    for (name, object) in [("wall", object::WALL), ("monitor", object::MONITOR)] {
        let btf = Btf::from_raw(name, object)
            .expect("an object")
            .expect("with BTF");
        read_as_written(&btf);
        if name == "wall" {
            starts_are_read_as_written(&btf);
        }
    }
}

/// For which starts a policy stands ready: the monitor has none.
fn starts_are_read_as_written(btf: &Btf<'_>) {
    let mut start = Record::new(btf, "start");
    start.u64("generation", 41);
    start.u32("rank", 42);
    start.u32("user", 990);
    start.put("folder", b"/srv/ci");
    let read = Start::parse(&start.bytes).expect("a whole key");
    assert_eq!((read.generation, read.rank), (41, 42));
    assert_eq!(read.of, Some((990, b"/srv/ci".to_vec())));
    assert_eq!(read.key(), Some(start.bytes));
}

fn read_as_written(btf: &Btf<'_>) {
    let mut identity = Record::new(btf, "identity");
    identity.u64("ino", 11);
    identity.u64("name", 12);
    identity.u32("dev", 13);
    identity.u32("protocol", 6);
    identity.u32("port", 443);
    identity.put("address", &[9, 8, 7, 6]);
    let mut event = Record::new(btf, "event");
    for (field, value) in [
        ("number", 1),
        ("time", 2),
        ("session", 3),
        ("generation", u64::MAX),
    ] {
        event.u64(field, value);
    }
    event.put("identity", &identity.bytes);
    for (field, value) in [
        ("view", 21),
        ("pid", 22),
        ("tid", 23),
        ("uid", 24),
        ("verb", 11),
        ("kind", 1),
        ("directory", 1),
        ("effect", 2),
        ("layer", 25),
        ("rank", 26),
        ("why", 7),
        ("never", 9),
        ("audit", 1),
        ("marks", 27),
        ("address_len", 4),
        ("len", 3),
    ] {
        event.u32(field, value);
    }
    event.put("comm", b"sh\0rest");
    let mut bytes = event.bytes.clone();
    bytes.extend_from_slice(b"/ab and what lay there before");
    let read = Event::parse(&bytes).expect("a whole record");
    assert_eq!(
        (read.number, read.time, read.session, read.generation),
        (1, 2, 3, u64::MAX)
    );
    assert_eq!(
        (
            read.identity.inode,
            read.identity.name,
            read.identity.device
        ),
        (11, 12, 13)
    );
    assert_eq!((read.identity.protocol, read.identity.port), (6, 443));
    assert_eq!((read.view, read.pid, read.tid, read.uid), (21, 22, 23, 24));
    assert_eq!(read.verb, Some(Verb::NetConnect));
    assert_eq!((read.kind, read.directory), (Kind::Endpoint, true));
    assert_eq!(
        (read.effect, read.rule),
        (Some(Effect::Ask), Some((25, 26)))
    );
    assert_eq!(read.why, Why::Never(Never::Terminal));
    assert_eq!((read.audit, read.marks), (true, 27));
    assert_eq!(read.address, Some([9, 8, 7, 6].into()));
    assert_eq!(read.comm, b"sh");
    assert_eq!(read.text.as_deref(), Some(&b"/ab"[..]));

    // Of what a call named the folder is told apart.
    event.u32("why", 16);
    event.u32("effect", u32::MAX);
    event.u32("base", 1);
    let mut bytes = event.bytes.clone();
    bytes.extend_from_slice(b"/ab");
    let read = Event::parse(&bytes).expect("a whole record");
    assert_eq!((read.effect, read.why), (None, Why::Rule));
    assert_eq!(read.text.as_deref(), Some(&b"/ab"[..]));

    let mut listed = Record::new(btf, "listed");
    listed.u64("session", 31);
    listed.u64("born", 32);
    listed.u32("pid", 33);
    listed.u32("view", 34);
    listed.u32("flags", 1);
    let twice = [listed.bytes.clone(), listed.bytes].concat();
    let all = Governed::parse_all(&twice).expect("whole records");
    assert_eq!(all.len(), 2);
    assert_eq!((all[1].session, all[1].born), (31, 32));
    assert_eq!(
        (all[1].pid, all[1].view, all[1].of_the_wall),
        (33, 34, true)
    );
}
