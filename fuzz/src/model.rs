//! What model APIs answer.

use agentwall_observe::{MAX_WHY, Observer};

/// The first byte says where the bytes are cut, and whether they are a stream. What is found does not depend on the
/// cuts, and no reason is longer than it may be.
pub fn answer(data: &[u8]) {
    let Some((&how, text)) = data.split_first() else {
        return;
    };
    let kind = match how & 1 {
        0 => "text/event-stream",
        _ => "application/json",
    };
    let read = |pieces: usize| {
        let mut observer = Observer::new(kind);
        let mut found = Vec::new();
        for piece in text.chunks(pieces) {
            found.extend(observer.push(piece).ok()?);
        }
        found.extend(observer.end().ok()?);
        Some(found)
    };
    let whole = read(text.len().max(1));
    assert_eq!(whole, read(usize::from(how / 2) + 1));
    for call in whole.unwrap_or_default() {
        assert!(call.why.len() <= MAX_WHY);
    }
}
