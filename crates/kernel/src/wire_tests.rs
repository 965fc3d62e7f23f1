use super::*;

#[test]
fn a_cut_record_is_an_error() {
    for len in [0, 10, Event::HEAD - 1] {
        assert_eq!(
            Event::parse(&vec![0; len]),
            Err(WireError::Length {
                expected: Event::HEAD,
                found: len
            })
        );
    }
    let mut bytes = vec![0; Event::HEAD + 7];
    bytes[160] = 8;
    assert!(matches!(
        Event::parse(&bytes),
        Err(WireError::Length { expected, .. }) if expected == Event::HEAD + 8
    ));
    assert!(Governed::parse_all(&[0; Governed::SIZE + 1]).is_err());
}

#[test]
fn a_number_without_a_meaning_is_an_error() {
    let whole = vec![0; Event::HEAD];
    assert!(Event::parse(&whole).is_ok());
    for (at, field) in [
        (96, "verb"),
        (100, "kind"),
        (108, "effect"),
        (120, "why"),
        (136, "address_len"),
    ] {
        let mut bytes = whole.clone();
        bytes[at] = 99;
        assert_eq!(
            Event::parse(&bytes),
            Err(WireError::Unknown { field, value: 99 })
        );
    }
}

#[test]
fn starts_are_read_as_they_are_written() {
    let of = |of| Start {
        generation: u64::MAX - 1,
        rank: 7,
        of,
    };
    for start in [of(None), of(Some((990, b"/srv/ci".to_vec())))] {
        assert_eq!(Start::parse(&start.key().unwrap()), Ok(start));
    }
    let long = of(Some((0, vec![b'a'; MAX_FOLDER + 1])));
    assert_eq!(long.key(), None);
    assert!(Start::parse(&[0; Start::SIZE - 1]).is_err());
}

#[test]
fn verbs_have_the_numbers_of_the_table() {
    for (number, verb) in Verb::ALL.iter().enumerate() {
        assert_eq!(number_of(*verb) as usize, number);
    }
}

#[test]
fn what_a_call_named_is_joined_as_text() {
    for (folder, name, joint) in [
        ("/w", "a", "/w/a"),
        ("/w/", "./a//b/", "/w/a/b"),
        ("/w/d", "../a", "/w/a"),
        ("/w", "../../../a", "/a"),
        ("/w", "", "/w"),
        ("/", "", "/"),
        ("/", "..", "/"),
        ("/", "/etc/./x/../y", "/etc/y"),
        // The root folder of a process is not left.
        ("/jail", "/../../etc", "/jail/etc"),
        ("/w", "a/../..", "/"),
        ("/w", "...", "/w/..."),
        // Found by the fuzz target `kernel_wire`: no kernel names a folder so.
        ("/w/../x/.", "a", "/x/a"),
        ("..", "/..", "/"),
    ] {
        let said = joined(folder.as_bytes(), name.as_bytes());
        assert_eq!(String::from_utf8_lossy(&said), joint, "{folder} {name}");
    }
}

#[test]
fn what_a_call_named_is_not_decided() {
    let call = |base: u32| {
        let mut bytes = vec![0; Event::HEAD];
        bytes[108..112].copy_from_slice(&u32::MAX.to_ne_bytes());
        bytes[116..120].copy_from_slice(&u32::MAX.to_ne_bytes());
        bytes[120] = WHY_CALL as u8;
        bytes[140..144].copy_from_slice(&base.to_ne_bytes());
        bytes[160] = 6;
        bytes.extend_from_slice(b"/w../a and more");
        Event::parse(&bytes)
    };
    let read = call(2).unwrap();
    assert_eq!((read.effect, read.rule, read.why), (None, None, Why::Rule));
    assert_eq!(read.text.as_deref(), Some(&b"/a"[..]));
    assert!(matches!(call(7), Err(WireError::Length { .. })));
    // An answer names no folder.
    let mut answer = vec![0; Event::HEAD];
    answer[140] = 200;
    assert!(Event::parse(&answer).is_ok());
}

#[test]
fn a_way_that_is_not_seen_has_a_name() {
    let mut bytes = vec![0; Event::HEAD];
    bytes[120] = 18;
    for (number, way) in [(1, Unseen::Uring), (2, Unseen::Calls), (3, Unseen::Many)] {
        bytes[124] = number;
        assert_eq!(Event::parse(&bytes).unwrap().why, Why::Unseen(way));
    }
    bytes[124] = 99;
    assert!(Event::parse(&bytes).is_err());
}
