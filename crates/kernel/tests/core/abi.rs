//! The Rust side of the shared structures is that of the objects, by their BTF.

use agentwall_kernel::{abi, object};
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
