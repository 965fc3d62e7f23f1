use proptest::prelude::*;

use super::*;
use crate::store::RealDisk;

fn key(byte: u8) -> SubjectKey {
    SubjectKey([byte; 32])
}

fn text() -> Text {
    let record =
        br#"{"v":1,"type":"gap","time":"t","session":"s","seq":7,"lost":1,"reason":"secret"}"#;
    Text::new(record).expect("random numbers")
}

#[test]
fn a_text_opens_with_its_key_for_its_own_leaf_alone() {
    let text = text();
    let leaf = text.leaf().expect("a record").bytes;
    let sealed = text.seal(&key(1), 7, &leaf).expect("random numbers");
    assert!(!sealed.windows(6).any(|w| w == b"secret"));
    assert_eq!(Text::open(&key(1), 7, &leaf, &sealed), Some(text.clone()));
    // Twice the same is not seen to be the same.
    assert_ne!(
        text.seal(&key(1), 7, &leaf).expect("random numbers"),
        sealed
    );
    let other = Text::new(&text.record).expect("random numbers");
    let others = other.leaf().expect("a record").bytes;
    assert_ne!(others, leaf);

    assert!(Text::open(&key(2), 7, &leaf, &sealed).is_none());
    assert!(Text::open(&key(1), 8, &leaf, &sealed).is_none());
    assert!(Text::open(&key(1), 7, &others, &sealed).is_none());
    for i in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[i] ^= 1;
        assert!(
            Text::open(&key(1), 7, &leaf, &damaged).is_none(),
            "byte {i}"
        );
        assert!(
            Text::open(&key(1), 7, &leaf, &sealed[..i]).is_none(),
            "cut at {i}"
        );
    }
}

fn boxed(n: u64) -> Vec<u8> {
    vec![n as u8; 72 + n as usize % 50]
}

fn put(dir: &Path, first: u64, count: u64) {
    let sealed: Vec<_> = (first..first + count).map(boxed).collect();
    let written = write(&RealDisk, dir, first, &sealed).expect("written");
    assert!(!written.files.is_empty());
}

#[test]
fn texts_stand_under_the_numbers_of_their_entries() {
    let tmp = tempfile::tempdir().expect("a folder");
    let dir = tmp.path();
    assert_eq!(read(dir, 0).expect("nothing there"), None);
    put(dir, 0, 3);
    put(dir, 3, 600);
    put(dir, 603, 1);
    for n in 0..604 {
        assert_eq!(read(dir, n).expect("readable"), Some(boxed(n)), "{n}");
    }
    assert_eq!(read(dir, 604).expect("readable"), None);
    assert!(dir.join("002").is_file() && !dir.join("003").exists());
    // What a commit that was cut off has left is written over.
    let long = vec![vec![9; 500]; 4];
    write(&RealDisk, dir, 600, &long).expect("written");
    put(dir, 600, 2);
    for n in 512..602 {
        assert_eq!(read(dir, n).expect("readable"), Some(boxed(n)), "{n}");
    }
    assert_eq!(read(dir, 602).expect("readable"), None);
    put(dir, 1_234_067 * 256, 1);
    assert!(dir.join("x001/x234/067").is_file());
    // An entry without text, between others.
    let some = [boxed(1), Vec::new(), boxed(2)];
    write(&RealDisk, dir, 768, &some).expect("written");
    assert_eq!(read(dir, 768).expect("readable"), Some(boxed(1)));
    assert_eq!(read(dir, 769).expect("readable"), None);
    assert_eq!(read(dir, 770).expect("readable"), Some(boxed(2)));
}

#[test]
fn damage_stays_where_it_is() {
    let tmp = tempfile::tempdir().expect("a folder");
    let dir = tmp.path();
    put(dir, 0, 10);
    let path = dir.join("000");
    let genuine = fs::read(&path).expect("a file");
    // The slot of entry 4: another offset, another length, both far beyond.
    for (at, bytes) in [(32, [0xff; 4]), (36, [0xff; 4]), (32, [0; 4]), (36, [0; 4])] {
        let mut damaged = genuine.clone();
        damaged[at..at + 4].copy_from_slice(&bytes);
        fs::write(&path, &damaged).expect("written");
        assert_eq!(read(dir, 4).expect("readable"), None);
        put(dir, 10, 2);
        for n in (0..12).filter(|n| *n != 4) {
            assert_eq!(read(dir, n).expect("readable"), Some(boxed(n)), "{n}");
        }
    }
    // Cut: what is left is read, and new texts find their place.
    fs::write(&path, &genuine[..SLOTS + 3 * 73]).expect("written");
    assert_eq!(read(dir, 0).expect("readable"), Some(boxed(0)));
    assert_eq!(read(dir, 9).expect("readable"), None);
    put(dir, 10, 2);
    assert_eq!(read(dir, 11).expect("readable"), Some(boxed(11)));
    // A link is not followed.
    fs::rename(&path, dir.join("aside")).expect("moved");
    std::os::unix::fs::symlink(dir.join("aside"), &path).expect("a link");
    assert!(read(dir, 0).is_err());
    assert!(write(&RealDisk, dir, 10, &[boxed(1)]).is_err());
}

#[test]
fn a_destroyed_text_is_gone_and_its_neighbours_stay() {
    let tmp = tempfile::tempdir().expect("a folder");
    let dir = tmp.path();
    put(dir, 250, 10);
    for index in [3, 252, 256, 9_999_999] {
        destroy(&RealDisk, dir, index).expect("destroyed");
        destroy(&RealDisk, dir, index).expect("and again");
    }
    let zeros = |n| Some(vec![0; boxed(n).len()]);
    for n in 250..260 {
        let expected = if n == 252 || n == 256 {
            zeros(n)
        } else {
            Some(boxed(n))
        };
        assert_eq!(read(dir, n).expect("readable"), expected, "{n}");
    }
    let bytes = fs::read(dir.join("000")).expect("a file");
    assert!(!bytes.windows(20).any(|w| w == [252; 20]));
    assert!(!dir.join("003").exists());
}

proptest! {
    #[test]
    fn any_bytes_are_slots(bytes in proptest::collection::vec(any::<u8>(), 0..2200), index in 0u64..256) {
        let tmp = tempfile::tempdir().expect("a folder");
        fs::write(tmp.path().join("000"), &bytes).expect("written");
        let text = read(tmp.path(), index).expect("readable");
        prop_assert!(text.is_none_or(|t| (NONCE + TAG + SEED..=MAX_TEXT as usize).contains(&t.len())));
        // Whatever is there, the log goes on.
        put(tmp.path(), index, 1);
        prop_assert_eq!(read(tmp.path(), index).expect("readable"), Some(boxed(index)));
    }
}
