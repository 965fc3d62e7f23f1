//! Heads of members: written, read back, and refused in any other spelling.

use super::*;

fn read(raw: &[u8]) -> Result<Head, ArchiveError> {
    let first: &[u8; BLOCK] = raw[..BLOCK].try_into().unwrap();
    match Head::pax_length(0, first)? {
        None => Head::of(0, first, None, raw),
        Some(length) => {
            let last = raw[raw.len() - BLOCK..].try_into().unwrap();
            // As many blocks as are announced: the reader comes to the same ones.
            let pax = raw.get(BLOCK..BLOCK + length as usize);
            Head::of(0, last, Some(pax.ok_or(ArchiveError::Cut { at: 0 })?), raw)
        }
    }
}

#[test]
fn every_head_is_read_back_and_no_other_spelling_of_it() {
    let mut heads = vec![Head::own("plain", 0)];
    for (sec, nsec) in [
        (0, 1),
        (-1, 0),
        (-2, 750_000_000),
        (1 << 40, 5),
        (9, 999_999_999),
        (i64::MIN + 1, 1),
        (i64::MAX, 0),
    ] {
        let mut head = Head::own("t", 7);
        head.mtime = Timestamp { sec, nsec };
        heads.push(head);
    }
    let mut long = Head::own(&"x/".repeat(90), 0);
    long.kind = Type::Directory;
    heads.push(long);
    let mut link = Head::own("l", 0);
    (link.kind, link.link) = (Type::Symlink, vec![b'\n'; 300]);
    link.xattrs.insert(b"user.a".to_vec(), b"\n1=\0".to_vec());
    (link.uid, link.gid) = (u32::MAX, 0o1000_0000);
    heads.push(link);
    let mut sparse = Head::own(&"d/".repeat(60), 1 << 34);
    sparse.sparse = Some(1 << 50);
    heads.push(sparse);
    for head in heads {
        let raw = head.to_bytes();
        assert_eq!(read(&raw).unwrap(), head);
        for at in 0..raw.len() {
            for bit in 0..8 {
                let mut other = raw.clone();
                other[at] ^= 1 << bit;
                // A pax record has no checksum: another value in it is another head, for the digest to find.
                let is_record = (BLOCK..raw.len() - BLOCK).contains(&at);
                match read(&other) {
                    Err(_) => {}
                    Ok(found) => assert!(
                        is_record && found != head && found.to_bytes() == other,
                        "byte {at} bit {bit} of {head:?}"
                    ),
                }
            }
        }
    }
}

#[test]
fn times_are_decimal_fractions() {
    let time = |sec, nsec| time_text(Timestamp { sec, nsec });
    assert_eq!(time(1, 500_000_000), "1.5");
    assert_eq!(time(-2, 750_000_000), "-1.25");
    assert_eq!(time(-1, 999_999_999), "-0.000000001");
    assert_eq!(
        time_of(b"-0.000000001"),
        Some(Timestamp {
            sec: -1,
            nsec: 999_999_999
        })
    );
    assert_eq!(time_of(b"1.0000000001"), None);
}
