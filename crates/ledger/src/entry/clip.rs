//! Cutting what is too long for an entry, visibly.
//!
//! A text keeps its beginning and says how many bytes are gone; a list keeps its first items and
//! its struct counts the rest. Digests of the whole (of arguments, of file lists) are made before
//! anything is cut, so that a cut record still commits to everything.

use std::collections::BTreeMap;

/// The limit of the first pass, in bytes of a text: more than `PATH_MAX`.
pub const LONGEST: usize = 8192;

/// Implemented by everything with text of unlimited length in it.
pub trait Clip {
    /// Cuts texts to about `limit` bytes, and lists and maps to `limit / 16` items.
    fn clip(&mut self, limit: usize);
}

/// Cuts a text to at most `limit` bytes plus the mark `…[N bytes cut]`.
pub fn text(text: &mut String, limit: usize) {
    // A text that was cut before is a little longer than its limit; leave it.
    if text.len() <= limit + 32 {
        return;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // Cutting again keeps the count true.
    let before = cut_count(text);
    let kept_mark = before.map_or(0, |(_, mark)| mark);
    // Saturating: the mark may be an agent's own text, with any number in it.
    let gone = (text.len() - kept_mark - end.min(text.len() - kept_mark))
        .saturating_add(before.map_or(0, |(count, _)| count));
    text.truncate(end.min(text.len() - kept_mark));
    text.push_str(&format!("\u{2026}[{gone} bytes cut]"));
}

/// [`text`] for an optional one.
pub fn option(value: &mut Option<String>, limit: usize) {
    if let Some(value) = value {
        text(value, limit);
    }
}

/// Cuts a list of texts, each and in number; returns how many items are gone.
pub fn list(items: &mut Vec<String>, limit: usize) -> u64 {
    let gone = items_only(items, limit);
    for item in items {
        text(item, limit);
    }
    gone
}

/// [`list`] for one that has no counter beside it: its last item, `…[N more]`, tells what is gone.
pub fn marked_list(items: &mut Vec<String>, limit: usize) {
    // Cutting again keeps the count true.
    let before = items.last().and_then(|last| {
        let count = last.strip_prefix("\u{2026}[")?.strip_suffix(" more]")?;
        count.parse::<u64>().ok()
    });
    if before.is_some() {
        items.pop();
    }
    let gone = list(items, limit).saturating_add(before.unwrap_or(0));
    if gone > 0 {
        items.push(format!("\u{2026}[{gone} more]"));
    }
}

/// Cuts a list in number; returns how many items are gone.
pub fn items_only<T>(items: &mut Vec<T>, limit: usize) -> u64 {
    let keep = limit / 16;
    let gone = items.len().saturating_sub(keep);
    items.truncate(keep);
    gone as u64
}

/// Cuts a map of counts: the counts of what is gone are summed up under the key `…`.
pub fn counts(map: &mut BTreeMap<String, u64>, limit: usize) {
    let keep = limit / 16;
    let mut rest = map.remove("\u{2026}").unwrap_or(0);
    let had_rest = rest > 0;
    while map.len() > keep
        || map
            .last_key_value()
            .is_some_and(|(k, _)| k.len() > limit + 32)
    {
        match map.pop_last() {
            Some((_, count)) => rest = rest.saturating_add(count),
            None => break,
        }
    }
    let long: Vec<String> = map
        .keys()
        .filter(|k| k.len() > limit + 32)
        .cloned()
        .collect();
    for key in long {
        rest = rest.saturating_add(map.remove(&key).unwrap_or(0));
    }
    if rest > 0 || had_rest {
        map.insert("\u{2026}".into(), rest);
    }
}

/// Cuts a map of texts; what is gone is told under the key `…`.
pub fn texts(map: &mut BTreeMap<String, String>, limit: usize) {
    let keep = limit / 16;
    // Cutting again keeps the count true.
    let told = map.get("\u{2026}").and_then(|text| {
        let count = text.strip_suffix(" more")?;
        count.parse::<usize>().ok()
    });
    if told.is_some() {
        map.remove("\u{2026}");
    }
    let gone = map
        .len()
        .saturating_sub(keep)
        .saturating_add(told.unwrap_or(0));
    while map.len() > keep {
        map.pop_last();
    }
    if gone > 0 {
        map.insert("\u{2026}".into(), format!("{gone} more"));
    }
    let old = std::mem::take(map);
    for (mut key, mut value) in old {
        text(&mut key, limit);
        text(&mut value, limit);
        map.insert(key, value);
    }
}

/// Whether a text ends in the mark of a cut.
pub fn is_cut(text: &str) -> bool {
    cut_count(text).is_some()
}

/// The number in the mark at the end of a text that was cut, and the mark's length.
fn cut_count(text: &str) -> Option<(usize, usize)> {
    let start = text.rfind("\u{2026}[")?;
    let count = text[start..]
        .strip_prefix("\u{2026}[")?
        .strip_suffix(" bytes cut]")?;
    Some((count.parse().ok()?, text.len() - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_counts_across_cuts() {
        let mut t = "ä".repeat(5000);
        text(&mut t, 101);
        assert_eq!(t, format!("{}\u{2026}[9900 bytes cut]", "ä".repeat(50)));
        text(&mut t, 10);
        assert_eq!(t, "äääää\u{2026}[9990 bytes cut]");
        text(&mut t, 0);
        assert_eq!(t, "äääää\u{2026}[9990 bytes cut]", "a short text stays");
    }

    #[test]
    fn a_mark_with_any_number_is_no_overflow() {
        let mut t = format!("{}\u{2026}[{} bytes cut]", "x".repeat(9000), usize::MAX);
        text(&mut t, LONGEST);
        assert!(t.ends_with(&format!("\u{2026}[{} bytes cut]", usize::MAX)));
    }

    #[test]
    fn lists_and_maps_count_across_cuts() {
        let mut items: Vec<String> = (0..100).map(|i| format!("m{i}")).collect();
        let mut map: BTreeMap<String, String> = (0..100)
            .map(|i| (format!("k{i:03}"), "v".to_owned()))
            .collect();
        for (limit, kept) in [(800, 50), (400, 25), (400, 25), (0, 0)] {
            marked_list(&mut items, limit);
            assert_eq!(items.len(), kept + 1);
            assert_eq!(items[kept], format!("\u{2026}[{} more]", 100 - kept));
            texts(&mut map, limit);
            assert_eq!(map.len(), kept + 1);
            assert_eq!(map["\u{2026}"], format!("{} more", 100 - kept));
        }
    }

    #[test]
    fn counts_keep_their_sum() {
        let mut map: BTreeMap<String, u64> = (0..100).map(|i| (format!("k{i:03}"), 2)).collect();
        map.insert("x".repeat(1000), 5);
        counts(&mut map, 160);
        assert_eq!(map.len(), 11);
        assert_eq!(map.values().sum::<u64>(), 205);
        counts(&mut map, 16);
        assert_eq!(map.values().sum::<u64>(), 205);
    }
}
