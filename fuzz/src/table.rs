//! Compiled policies that come from outside.

use agentwall_action::Action;
use agentwall_policy::CompiledTable;

use crate::input::{action, usual_actions};

/// Tables with everything that one can have.
const VECTORS: [&[u8]; 5] = [
    include_bytes!("../../crates/policy/vectors/paths.awpt"),
    include_bytes!("../../crates/policy/vectors/network.awpt"),
    include_bytes!("../../crates/policy/vectors/names.awpt"),
    include_bytes!("../../crates/policy/vectors/layers.awpt"),
    include_bytes!("../../crates/policy/vectors/conditions.awpt"),
];

/// A byte, then: for 1 to 5 changes to one of the vectors, each a place of two bytes and a word of four;
/// for others a table. It is refused with words that can be shown, or every lookup in it ends and it is
/// written back to the byte.
pub fn table(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let vector = usize::from(*first).checked_sub(1);
    let Some(bytes) = vector.and_then(|v| VECTORS.get(v)) else {
        return check(rest);
    };
    let mut bytes = bytes.to_vec();
    let words = bytes.len() / 4;
    for change in rest.as_chunks::<6>().0 {
        let [low, high, word @ ..] = *change;
        let at = usize::from(u16::from_le_bytes([low, high])) % words;
        bytes[4 * at..][..4].copy_from_slice(&word);
    }
    check(&bytes);
}

fn check(bytes: &[u8]) {
    let table = match CompiledTable::read(bytes) {
        Ok(table) => table,
        Err(error) => {
            assert!(error.to_string().len() < 300, "{error}");
            return;
        }
    };
    assert_eq!(table.bytes(), bytes);
    for action in usual_actions().iter().chain(&deep_actions()) {
        if let Some(answer) = table.answer(action) {
            assert_eq!(Some(answer), table.answer(action));
        }
    }
}

/// What the vectors' policies speak about.
fn deep_actions() -> Vec<Action> {
    [
        "file.write /work/generated/a/node_modules/ab/x.tmp",
        "file.read /keys/public",
        "file.write /shared/x.rs",
        "net.connect tcp://a.localhost:80",
        "net.connect tcp://[64:ff9b::a01:203]:443\t{\"labels\":[\"pii\"]}",
        "net.listen udp://10.1.2.3:65535",
        "ipc.connect unix:@tool/a",
        "tool.call a:b",
        "api.call f:x",
    ]
    .iter()
    .filter_map(|line| action(line))
    .collect()
}
