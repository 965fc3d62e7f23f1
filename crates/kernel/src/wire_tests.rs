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
