//! Forgeries of the checkpoint: its spelling, its signature, its cosignatures.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    case::{Corpus, Layer, Verdict, Verdict::*, Who},
    genuine::{
        self, ORIGIN, Witness, body, checkpoint, entries, flipped, former, named, replace, signer,
    },
    logs::at,
};

const SIZE: u64 = 600;

/// Other spellings of what the log's key has genuinely signed, and changed text under its signature.
pub fn spelling_cases(corpus: &mut Corpus, logs: &Path) {
    let dir = at(logs, SIZE);
    let note = checkpoint(&dir);
    let text = format!("{}\n", body(&note));
    let line = note.split_once("\n\n").expect("a note").1.to_owned();
    let root = text.lines().nth(2).expect("a root").to_owned();
    // Bits in the last character that no byte takes.
    let odd_root = format!("{}{}=", &root[..42], next(&root[42..43]));
    assert_ne!(odd_root, root);

    let mut put = |name: &str, what: &'static str, bytes: Vec<u8>| {
        let name = format!("spelling-{name}");
        let forge = |dir: &Path| fs::write(dir.join("checkpoint"), bytes).expect("written");
        corpus.log(name, what, Layer::Note, Refused("checkpoint"), &dir, forge);
    };
    // Signed by the right key in that spelling: the text itself is what is wrong.
    let signed = |text: String| signer(1).sign(&text).expect("signed").into_bytes();
    put("zero", "size with a leading zero", signed(text.replace("\n600\n", "\n0600\n")));
    put("plus", "size with a sign", signed(text.replace("\n600\n", "\n+600\n")));
    put("space", "size with a space", signed(text.replace("\n600\n", "\n600 \n")));
    put("hex", "size in hex", signed(text.replace("\n600\n", "\n0x258\n")));
    put(
        "huge",
        "size of more than 64 bits",
        signed(text.replace("\n600\n", "\n18446744073709552216\n")),
    );
    put("negative", "negative size", signed(text.replace("\n600\n", "\n-600\n")));
    put("root-bits", "root with bits that no byte takes", signed(text.replace(&root, &odd_root)));
    put(
        "root-unpadded",
        "root without padding",
        signed(text.replace(&root, root.trim_end_matches('='))),
    );
    put("root-short", "root of 31 bytes", signed(text.replace(&root, &STANDARD.encode([7; 31]))));
    put("root-hex", "root in hex", signed(text.replace(&root, &"07".repeat(32))));
    put("no-root", "no root", signed(format!("{ORIGIN}\n600\n")));
    put("empty-line", "an empty line in the text", signed(text.replace("\n600\n", "\n\n600\n")));
    put("empty-extension", "an empty extension line", signed(format!("{text}more\n\nlines\n")));
    put("no-origin", "no origin", signed(text.replacen(ORIGIN, "", 1)));
    put(
        "other-origin",
        "another origin, signed with the log's key",
        signed(text.replacen(ORIGIN, "agentwall.example/other", 1)),
    );
    // The signature is genuine, around it something is not.
    put("crlf", "lines that end in CR LF", note.replace('\n', "\r\n").into_bytes());
    put("no-final-newline", "no newline at the end", note.trim_end().as_bytes().to_vec());
    put("trailing-newline", "an empty line at the end", format!("{note}\n").into_bytes());
    put("trailing-text", "text after the signatures", format!("{note}more\n").into_bytes());
    put("hyphen", "a hyphen in place of the dash", note.replace('\u{2014}', "-").into_bytes());
    put(
        "two-spaces",
        "two spaces before the signature",
        note.replace(&format!(" {ORIGIN} "), &format!(" {ORIGIN}  ")).into_bytes(),
    );
    put("not-utf8", "bytes that are not UTF-8", [b"\xff", note.as_bytes()].concat());
    put("bom", "a byte order mark", format!("\u{feff}{note}").into_bytes());
    put("empty", "an empty file", Vec::new());
    put("no-signature", "no signature", format!("{text}\n").into_bytes());
    put(
        "many",
        "more than a hundred signatures",
        format!("{text}\n{}", line.repeat(101)).into_bytes(),
    );
    let sign = line.trim_end().rsplit(' ').next().expect("a signature").to_owned();
    let blob = STANDARD.decode(&sign).expect("base64");
    assert_eq!(blob.len() % 3, 2, "one padding character, so there are spare bits");
    let odd =
        format!("{}{}=", &sign[..sign.len() - 2], next(&sign[sign.len() - 2..sign.len() - 1]));
    put(
        "signature-bits",
        "a signature with bits that no byte takes",
        note.replace(&sign, &odd).into_bytes(),
    );
    put(
        "signature-unpadded",
        "a signature without padding",
        note.replace(&sign, sign.trim_end_matches('=')).into_bytes(),
    );
    let url = sign.replace('+', "-").replace('/', "_");
    assert_ne!(url, sign);
    put(
        "signature-url",
        "a signature in the base64 of URLs",
        note.replace(&sign, &url).into_bytes(),
    );
    let relined =
        |blob: &[u8]| format!("{text}\n\u{2014} {ORIGIN} {}\n", STANDARD.encode(blob)).into_bytes();
    put("signature-flipped", "a bit of the signature was changed", relined(&flip(&blob, 20)));
    put("signature-short", "a signature of 63 bytes", relined(&blob[..blob.len() - 1]));
    put("signature-long", "a signature of 65 bytes", relined(&[&blob[..], b"\0"].concat()));
    put("key-id", "the signature under another key id", relined(&flip(&blob, 0)));
    put(
        "signature-order",
        "a signature plus the order of the group, another spelling of it",
        relined(&plus_order(&blob)),
    );
    put(
        "size-changed",
        "the size was changed under the signature",
        note.replace("\n600\n", "\n599\n").into_bytes(),
    );
    put(
        "root-changed",
        "the root was changed under the signature",
        note.replace(&root, &STANDARD.encode([7; 32])).into_bytes(),
    );
    put(
        "extended",
        "a line was added under the signature",
        note.replacen(&root, &format!("{root}\nmore"), 1).into_bytes(),
    );
    let name = "spelling-second-signature";
    let what = "a second, wrong signature by the same key";
    let forge = |dir: &Path| {
        let wrong = String::from_utf8(relined(&flip(&blob, 20))).expect("text");
        let wrong = wrong.split_once("\n\n").expect("a note").1.to_owned();
        fs::write(dir.join("checkpoint"), format!("{note}{wrong}")).expect("written");
    };
    let case = corpus.log(name, what, Layer::Note, Refused("checkpoint"), &dir, forge);
    case.lenient(
        Who::Tiles,
        "looks at the first signature of a key alone, as Go's `note.Open` does",
    );

    let what = "nothing; a stranger has signed too, and there is an extension line";
    let forge = |dir: &Path| {
        let text = format!("{text}more\n");
        let (own, other) = (signer(1).sign(&text), named("stranger.example", 9).sign(&text));
        let other = other.expect("signed").split_once("\n\n").expect("a note").1.to_owned();
        let note = format!("{}{other}", own.expect("signed"));
        fs::write(dir.join("checkpoint"), note).expect("written");
    };
    corpus.log("genuine-extended", what, Layer::Note, Verified, &dir, forge);
}

/// Cosignatures: a quorum of two from three witnesses.
pub fn witness_cases(corpus: &mut Corpus, logs: &Path) {
    let dir = at(logs, SIZE);
    let note = checkpoint(&dir);
    let text = format!("{}\n", body(&note));
    let [one, two, three] = [("w1.example", 11), ("w2.example", 12), ("w3.example", 13)]
        .map(|(n, b)| Witness::new(n, b));
    let stranger = Witness::new("w9.example", 19);
    let keys = [one.vkey(), two.vkey(), three.vkey()];
    let mut put = |name: &str, what, verdict: Verdict, note: String| {
        let forge = |dir: &Path| fs::write(dir.join("checkpoint"), note).expect("written");
        let case =
            corpus.log(format!("witness-{name}"), what, Layer::Witness, verdict, &dir, forge);
        case.witnesses(&keys, 2);
    };
    let bad = || Refused("checkpoint");
    let both = two.cosign(&one.cosign(&note));
    put("quorum", "nothing; two of three have cosigned", Verified, both.clone());
    put(
        "all",
        "nothing; all have cosigned, and a stranger",
        Verified,
        stranger.cosign(&three.cosign(&both)),
    );
    put("none", "nobody has cosigned", bad(), note.clone());
    put("one", "one has cosigned", bad(), one.cosign(&note));
    put(
        "twice",
        "one has cosigned twice",
        bad(),
        format!("{}{}", one.cosign(&note), one.line(&text, 1)),
    );
    put(
        "stranger",
        "a stranger's cosignature in place of a witness's",
        bad(),
        stranger.cosign(&one.cosign(&note)),
    );
    let mimic = Witness::new("w2.example", 19);
    put(
        "mimic",
        "a stranger's cosignature under a witness's name",
        bad(),
        mimic.cosign(&one.cosign(&note)),
    );
    let other = text.replace("\n600\n", "\n599\n");
    put(
        "other-checkpoint",
        "a cosignature over another checkpoint",
        bad(),
        format!("{}{}", one.cosign(&note), two.line(&other, 7)),
    );
    put("time", "a cosignature with another time than was signed", bad(), {
        let signature = two.line(&text, 7);
        let blob =
            STANDARD.decode(signature.trim_end().rsplit(' ').next().expect("one")).expect("base64");
        format!("{}{}", one.cosign(&note), two.raw_line(8, &blob[12..]))
    });
    put("time-overflow", "a cosignature with a time beyond 2^63", bad(), {
        format!("{}{}", one.cosign(&note), two.line(&text, 1 << 63))
    });
    put("plain", "a witness's bare signature, without time", bad(), {
        format!("{}{}", one.cosign(&note), two.raw_line(7, &two.plain(&text)))
    });
    put("flipped", "a cosignature with a bit changed", bad(), {
        format!("{}{}", one.cosign(&note), two.raw_line(7, &[3; 64]))
    });
    put("short", "a cosignature without time", bad(), {
        let line = two.raw_line(7, &two.plain(&text)[..56]);
        format!("{}{line}", one.cosign(&note))
    });
    put("no-log", "cosigned, but not signed by the log", bad(), {
        let cosigned = both.split_once("\n\n").expect("a note").1;
        format!("{text}\n{}", cosigned.split_once('\n').expect("lines").1)
    });
    put("forged-third", "two have cosigned; a third cosignature is wrong", bad(), {
        format!("{both}{}", three.raw_line(7, &[3; 64]))
    });

    // The cosignatures on an older checkpoint, in a file of its own.
    let (old, longer) = (former(&dir, 257), checkpoint(&at(logs, 1000)));
    let mut other = entries(257);
    other[9] = flipped(9);
    let scratch = corpus.root.join("scratch");
    genuine::append(&scratch, signer(1), &other);
    let forked = checkpoint(&scratch);
    fs::remove_dir_all(scratch).expect("removed");
    let apart = "checkpoint.cosigned";
    for (name, what, verdict, note) in [
        (
            "quorum",
            "nothing; two have cosigned an older checkpoint",
            Verified,
            two.cosign(&one.cosign(&old)),
        ),
        ("one", "one has cosigned an older checkpoint", Refused(apart), one.cosign(&old)),
        ("forked", "two have cosigned another history", bad(), two.cosign(&one.cosign(&forked))),
        ("longer", "two have cosigned a longer log", bad(), two.cosign(&one.cosign(&longer))),
    ] {
        let forge = |dir: &Path| fs::write(dir.join(apart), note).expect("written");
        let name = format!("witness-apart-{name}");
        corpus.log(name, what, Layer::Files, verdict, &dir, forge).witnesses(&keys, 2);
    }

    // Two histories of equal length by the owner of the key, each shown to one witness.
    let mut all = entries(SIZE);
    all[300] = flipped(300);
    for (name, witness, forged) in [("a", &one, false), ("b", &two, true)] {
        let what = "one of two histories, cosigned by the witness that was shown it";
        let forge = |dir: &Path| {
            if forged {
                replace(dir, signer(1), &all);
            }
            fs::write(dir.join("checkpoint"), witness.cosign(&checkpoint(dir))).expect("written");
        };
        let name = format!("split-view-{name}");
        let case = corpus.log(name, what, Layer::Witness, Refused("checkpoint"), &dir, forge);
        case.witnesses(&keys[..2], 2);
    }
    let what = "one of two histories with the cosignature over the other added";
    let forge = |dir: &Path| {
        let genuine = two.cosign(&checkpoint(dir));
        replace(dir, signer(1), &all);
        let own = one.cosign(&checkpoint(dir));
        let foreign = genuine.trim_end().rsplit('\n').next().expect("a line").to_owned();
        fs::write(dir.join("checkpoint"), format!("{own}{foreign}\n")).expect("written");
    };
    let case =
        corpus.log("split-view-joined", what, Layer::Witness, Refused("checkpoint"), &dir, forge);
    case.witnesses(&keys[..2], 2);
    let what = "one of two histories, with the other one kept from before";
    let forge = |dir: &Path| replace(dir, signer(1), &all);
    let case =
        corpus.log("split-view-former", what, Layer::Former, Refused("checkpoint"), &dir, forge);
    case.former(&note);
}

/// The next character of base64: other bits at the end, where no byte takes them.
fn next(character: &str) -> char {
    const ALL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let at = ALL.find(character).expect("base64");
    char::from(ALL.as_bytes()[at | 1])
}

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// Adds the order of the group to the second half of an Ed25519 signature: RFC 8032 section 5.1.7 wants
/// that half below the order.
fn plus_order(blob: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut out = blob.to_vec();
    let start = out.len() - 32;
    let mut carry = 0u16;
    for (byte, order) in out[start..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
    out
}
