//! The example of the document, every kind of mistake, and quorums counted by hand.

use super::*;
use crate::{Cosigner, Signer, hash::leaf_hash};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

fn cosigner(byte: u8) -> Cosigner {
    let key = SigningKey::from_bytes(&[byte; 32]);
    Cosigner::new(Signer::new(&format!("w.example/{byte}"), key).expect("a name"))
}

fn signer() -> Signer {
    Signer::new("log.example", SigningKey::from_bytes(&[200; 32])).expect("a name")
}

/// The example of the document, X1 to X3 and Y1 to Y3 with the keys 1 to 6.
fn example() -> String {
    let mut text = format!("# who\n \t# where\n\nlog {}\n", signer().verifier());
    for (i, name) in ["X1", "X2", "X3", "Y1", "Y2", "Y3"].iter().enumerate() {
        let key = cosigner(i as u8 + 1).key();
        text += &format!("\twitness  {name} {key} http://127.0.0.1/{name} \n");
    }
    text + "group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\n\
            group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
}

fn note(who: &[u8]) -> Vec<u8> {
    let checkpoint = Checkpoint::new("log.example", 3, leaf_hash(b"x"));
    let text = checkpoint.sign(&signer()).expect("signed");
    let mut bytes = text.into_bytes();
    for byte in who {
        let line = cosigner(*byte).cosign(&checkpoint.to_text(), 100 + u64::from(*byte));
        bytes.extend(format!("{line}\n").bytes());
    }
    bytes
}

#[test]
fn the_policy_of_the_document() {
    let policy = TrustPolicy::parse(example().as_bytes()).expect("a policy");
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (1, 6));
    assert_eq!(
        policy.witnesses()[3].url.as_deref(),
        Some("http://127.0.0.1/Y1")
    );
    for who in 0u8..64 {
        let who: Vec<u8> = (1..=6).filter(|i| who & (1 << (i - 1)) != 0).collect();
        let x = who.iter().filter(|i| **i <= 3).count();
        let y = who.len() - x;
        let opened = policy.open(&note(&who), None);
        assert_eq!(opened.is_ok(), x >= 2 && y >= 1, "{who:?}");
        if let Ok((checkpoint, witnessed)) = opened {
            assert_eq!((checkpoint.size, witnessed.by.len()), (3, who.len()));
            assert_eq!(witnessed.time(), who.last().map(|i| 100 + u64::from(*i)));
            assert!(witnessed.holds());
        }
    }
    let other = Signer::new("log.example", SigningKey::from_bytes(&[9; 32])).expect("a name");
    assert!(
        policy
            .open(&note(&[1, 2, 4]), Some(&other.verifier().into()))
            .is_err()
    );
    let none = TrustPolicy::parse(b"quorum none\n").expect("a policy");
    assert_eq!(
        none.open(&note(&[]), None),
        Err(UntrustedError::UnknownLog("log.example".into()))
    );
    let (_, witnessed) = none
        .open(&note(&[]), Some(&signer().verifier().into()))
        .expect("signed");
    assert!(witnessed.quorum && !witnessed.holds());
}

#[test]
fn one_wrong_line_refuses_the_file() {
    let good = example();
    let x1 = cosigner(1).key().to_string();
    let same_key = {
        let signer = Signer::new("another.name", SigningKey::from_bytes(&[1; 32]));
        Cosigner::new(signer.expect("a name")).key().to_string()
    };
    let line = |mistake| move |e: &TrustError| matches!(e, TrustError::Line { mistake: m, .. } if *m == mistake);
    let add = |more: &str| good.replace("quorum", &format!("{more}\nquorum"));
    type Check = Box<dyn Fn(&TrustError) -> bool>;
    let cases: Vec<(String, Check)> = vec![
        (
            good.replace("quorum X-and-Y\n", ""),
            Box::new(|e| *e == TrustError::NoQuorum),
        ),
        (good.trim_end().into(), Box::new(line(Mistake::NoNewline))),
        (
            format!("{good}quorum none\n"),
            Box::new(line(Mistake::SecondQuorum)),
        ),
        (
            good.replace("who\n", "who\r\n"),
            Box::new(line(Mistake::Control(b'\r'))),
        ),
        (
            add(&format!("witness Z {x1}")),
            Box::new(line(Mistake::SameKey)),
        ),
        (
            add(&format!("witness Z {same_key}")),
            Box::new(line(Mistake::SameKey)),
        ),
        (
            add(&format!("log {}", signer().verifier())),
            Box::new(line(Mistake::SameKey)),
        ),
        (
            add(&format!("log {x1}")),
            Box::new(line(Mistake::Key(VkeyError::Algorithm(4)))),
        ),
        (
            add(&format!("witness Z {}", signer().verifier())),
            Box::new(line(Mistake::Key(VkeyError::Algorithm(1)))),
        ),
        (
            add(&format!("witness X1 {}", cosigner(7).key())),
            Box::new(line(Mistake::SameName("X1".into()))),
        ),
        (
            add(&format!("witness none {}", cosigner(7).key())),
            Box::new(line(Mistake::SameName("none".into()))),
        ),
        (
            add("group X1 any Y1"),
            Box::new(line(Mistake::UsedTwice("Y1".into()))),
        ),
        (
            add("group Z any none"),
            Box::new(line(Mistake::UnknownName("none".into()))),
        ),
        (add("group Z any"), Box::new(line(Mistake::Items))),
        (add("quorum"), Box::new(line(Mistake::Items))),
        (
            add("watcher Z"),
            Box::new(line(Mistake::Keyword("watcher".into()))),
        ),
        (
            good.replace("X-witnesses 2", "X-witnesses 4"),
            Box::new(line(Mistake::Threshold(3))),
        ),
        (
            good.replace("X-witnesses 2", "X-witnesses 0"),
            Box::new(line(Mistake::Threshold(3))),
        ),
        (
            good.replace("X-witnesses 2", "X-witnesses 02"),
            Box::new(line(Mistake::Threshold(3))),
        ),
        (
            good.replace("2 X1 X2 X3", "2 X1 X2 X2"),
            Box::new(line(Mistake::UsedTwice("X2".into()))),
        ),
        (
            good.replace("2 X1 X2 X3", "2 X1 X2 \u{212a}"),
            Box::new(line(Mistake::UnknownName("\u{212a}".into()))),
        ),
    ];
    for (text, expected) in cases {
        let error = TrustPolicy::parse(text.as_bytes()).expect_err(&text);
        assert!(expected(&error), "{error} in\n{text}");
    }
}

proptest! {
    /// Groups of groups against counting by hand: a random tree of thresholds over eight witnesses.
    #[test]
    fn quorums_are_counted(
        shape in proptest::collection::vec((1usize..4, any::<u16>()), 1..6),
        who in any::<u8>(),
    ) {
        let mut text = String::new();
        let mut free: Vec<(String, bool)> = Vec::new();
        for i in 0..8u8 {
            text += &format!("witness w{i} {}\n", cosigner(i + 1).key());
            free.push((format!("w{i}"), who & (1 << i) != 0));
        }
        for (g, (count, pick)) in shape.iter().enumerate() {
            let count = (*count).min(free.len());
            let at = usize::from(*pick) % (free.len() - count + 1);
            let members: Vec<_> = free.drain(at..at + count).collect();
            let k = usize::from(*pick) % count + 1;
            let names: Vec<&str> = members.iter().map(|(n, _)| n.as_str()).collect();
            text += &format!("group g{g} {k} {}\n", names.join(" "));
            let holds = members.iter().filter(|(_, yes)| *yes).count() >= k;
            free.push((format!("g{g}"), holds));
        }
        let (last, expected) = free.pop().expect("a group");
        text += &format!("quorum {last}\n");
        let policy = TrustPolicy::parse(text.as_bytes()).expect("a policy");
        let cosigned: Vec<bool> = (0..8).map(|i| who & (1 << i) != 0).collect();
        prop_assert_eq!(policy.is_quorum(&cosigned), expected);
    }
}
