//! Forgeries of the offline proof of one entry.

use std::path::Path;

use agentwall_ledger::hash::{leaf_hash, tree_hash};

use crate::{
    case::{Corpus, Layer, Verdict, Verdict::*},
    genuine::{
        ORIGIN, Witness, body, checkpoint, entries, entry, flipped, named, proof, replace, signer,
    },
    logs::{SIZES, at},
};

const FILE: Verdict = Refused("entry.tlog-proof");

pub fn genuine_cases(corpus: &mut Corpus, logs: &Path) {
    for size in SIZES {
        for index in [0, 1, 255, 256, size / 3, size.saturating_sub(1)] {
            let name = format!("proof-genuine@{size}-{index}");
            if index < size && !corpus.cases.iter().any(|c| c.name == name) {
                let text = proof(&at(logs, size), index);
                corpus.proof(
                    name,
                    "nothing",
                    Layer::Proof,
                    Verified,
                    text.as_bytes(),
                    &entry(index),
                );
            }
        }
    }
    let extra = proof(&at(logs, 600), 5).replace("\nindex ", "\nextra c2FsdA==\nindex ");
    let what = "nothing; something is carried along";
    corpus.proof(
        "proof-genuine-extra",
        what,
        Layer::ProofText,
        Verified,
        extra.as_bytes(),
        &entry(5),
    );
}

pub fn hash_cases(corpus: &mut Corpus, logs: &Path) {
    for size in [1, 2, 255, 256, 257, 1000, 70_000] {
        let index = size / 3;
        let text = proof(&at(logs, size), index);
        let name = format!("proof-flipped@{size}");
        corpus.proof(
            name,
            "the entry was changed",
            Layer::Proof,
            FILE,
            text.as_bytes(),
            &flipped(index),
        );
        if size > 1 {
            let name = format!("proof-neighbour@{size}");
            let what = "the proof of another entry";
            corpus.proof(name, what, Layer::Proof, FILE, text.as_bytes(), &entry(index ^ 1));
        }
    }
    let dir = at(logs, 600);
    let text = proof(&dir, 300);
    let first = text.lines().nth(2).expect("a hash").to_owned();
    let mut put = |name: &str, what, text: String, bytes: Vec<u8>| {
        let name = format!("proof-{name}");
        corpus.proof(name, what, Layer::Proof, FILE, text.as_bytes(), &bytes);
    };
    let own = || entry(300);
    put("other-index", "a proof for another index", text.replace("index 300", "index 301"), own());
    put(
        "index-at-size",
        "an index as large as the log",
        text.replace("index 300", "index 600"),
        own(),
    );
    put(
        "index-huge",
        "the largest index",
        text.replace("index 300", "index 9223372036854775807"),
        own(),
    );
    put(
        "mirrored-index",
        "the index of the same place in another subtree",
        text.replace("index 300", "index 44"),
        own(),
    );
    put("missing-hash", "a hash too few", text.replacen(&format!("{first}\n"), "", 1), own());
    put(
        "extra-hash",
        "a hash too many",
        text.replacen(&first, &format!("{first}\n{first}"), 1),
        own(),
    );
    put("no-hashes", "no hashes", strip_hashes(&text), own());
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(2, 3);
    put("swapped-hashes", "two hashes have changed places", lines.join("\n") + "\n", own());
    let second = text.lines().nth(3).expect("a hash").to_owned();
    put("repeated-hash", "a hash in place of the next", text.replacen(&second, &first, 1), own());
    let (head, _) = text.split_once("\n\n").expect("a checkpoint");
    put(
        "newer-checkpoint",
        "the checkpoint of a larger log",
        format!("{head}\n\n{}", checkpoint(&at(logs, 1000))),
        own(),
    );
    put(
        "older-checkpoint",
        "the checkpoint of a smaller log",
        format!("{head}\n\n{}", checkpoint(&at(logs, 257))),
        own(),
    );
    put(
        "empty-checkpoint",
        "the checkpoint of the empty log",
        format!("{head}\n\n{}", checkpoint(&at(logs, 0))),
        own(),
    );
    put("trailing-byte", "a byte after the entry", text.clone(), [own(), b" ".to_vec()].concat());
    put("empty-entry", "an empty entry", text.clone(), Vec::new());

    // A proof that ends one node earlier, with the two leaf hashes as the "entry".
    let dir = at(logs, 2);
    let pair = [leaf_hash(&entry(0)).0, leaf_hash(&entry(1)).0].concat();
    put("inner-node", "two leaf hashes as the entry", strip_hashes(&proof(&dir, 0)), pair);
    // The root of an inner node of a large log, as a log of one entry.
    let root = tree_hash(&[leaf_hash(&entry(0)), leaf_hash(&entry(1))]).0.to_vec();
    put("root-as-entry", "the root as the entry", strip_hashes(&proof(&dir, 0)), root);
}

pub fn text_cases(corpus: &mut Corpus, logs: &Path) {
    let dir = at(logs, 600);
    let text = proof(&dir, 300);
    let first = text.lines().nth(2).expect("a hash").to_owned();
    let note = checkpoint(&dir);
    let mut put = |name: &str, what, text: String| {
        let name = format!("proof-text-{name}");
        corpus.proof(name, what, Layer::ProofText, FILE, text.as_bytes(), &entry(300));
    };
    put("version", "another version", text.replace("@v1", "@v2"));
    put("header-only", "the header alone", "c2sp.org/tlog-proof@v1\n\n".to_owned() + &note);
    put("zero", "an index with a leading zero", text.replace("index 300", "index 0300"));
    put("plus", "an index with a sign", text.replace("index 300", "index +300"));
    put("negative", "a negative index", text.replace("index 300", "index -300"));
    put("index-twice", "two indexes", text.replace("index 300", "index 300\nindex 300"));
    put("no-index", "no index", text.replace("index 300\n", ""));
    put("index-space", "an index with a space", text.replace("index 300", "index 300 "));
    put(
        "index-long",
        "an index of more than 64 bits",
        text.replace("index 300", "index 18446744073709551916"),
    );
    put("extra-bad", "extra that is not base64", text.replace("index 300", "extra ?\nindex 300"));
    put(
        "extra-bits",
        "extra with bits that no byte takes",
        text.replace("index 300", "extra c2FsdB==\nindex 300"),
    );
    put(
        "extra-twice",
        "extra twice",
        text.replace("index 300", "extra c2FsdA==\nextra c2FsdA==\nindex 300"),
    );
    put(
        "extra-late",
        "extra after the index",
        text.replace("index 300", "index 300\nextra c2FsdA=="),
    );
    put("hash-short", "a hash of 31 bytes", text.replacen(&first, &short(&first), 1));
    put(
        "hash-unpadded",
        "a hash without padding",
        text.replacen(&first, first.trim_end_matches('='), 1),
    );
    put(
        "hash-space",
        "a hash with a space after it",
        text.replacen(&first, &format!("{first} "), 1),
    );
    put(
        "hash-empty",
        "an empty line among the hashes",
        text.replacen(&first, &format!("\n{first}"), 1),
    );
    put("crlf", "lines that end in CR LF", text.replace('\n', "\r\n"));
    put("blank-first", "an empty line before the header", format!("\n{text}"));
    put(
        "no-checkpoint",
        "no checkpoint",
        text.split_once("\n\n").expect("one").0.to_owned() + "\n",
    );
    put("trailing", "text after the checkpoint", format!("{text}more\n"));
    put("empty", "an empty file", String::new());
    put("bom", "a byte order mark", format!("\u{feff}{text}"));
}

pub fn signature_cases(corpus: &mut Corpus, logs: &Path) {
    let dir = at(logs, 600);
    let text = proof(&dir, 300);
    let (head, note) = text.split_once("\n\n").expect("a checkpoint");
    let body = format!("{}\n", body(note));
    let signed = |by: agentwall_ledger::Signer, body: &str| {
        format!("{head}\n\n{}", by.sign(body).expect("signed"))
    };
    let mut put = |name: &str, what, text: String, entry: &[u8]| {
        let name = format!("proof-note-{name}");
        corpus.proof(name, what, Layer::Note, FILE, text.as_bytes(), entry);
    };
    put(
        "stranger",
        "the checkpoint is signed by a stranger",
        signed(signer(2), &body),
        &entry(300),
    );
    put(
        "other-name",
        "the checkpoint is signed under another name",
        signed(named("other.example", 1), &body),
        &entry(300),
    );
    let other = body.replacen(ORIGIN, "agentwall.example/other", 1);
    put(
        "other-origin",
        "the checkpoint is of another log, signed by the key",
        signed(signer(1), &other),
        &entry(300),
    );
    put(
        "root-changed",
        "the root was changed under the signature",
        text.replacen("\n600\n", "\n601\n", 1),
        &entry(300),
    );
    let zero = body.replacen("\n600\n", "\n0600\n", 1);
    put("size-zero", "size with a leading zero", signed(signer(1), &zero), &entry(300));

    // A forged log of a stranger's, complete and consistent in itself.
    let scratch = corpus.root.join("scratch");
    crate::case::copy(&dir, &scratch);
    let mut all = entries(600);
    all[300] = flipped(300);
    replace(&scratch, signer(2), &all);
    let forged = proof(&scratch, 300);
    let what = "the proof of a changed entry in a stranger's log";
    corpus.proof(
        "proof-note-foreign-log",
        what,
        Layer::Note,
        FILE,
        forged.as_bytes(),
        &flipped(300),
    );
    // The same by the owner of the key: cosigned by the one witness that was shown it.
    replace(&scratch, signer(1), &all);
    let forged = proof(&scratch, 300);
    let [one, two] = [("w1.example", 11), ("w2.example", 12)].map(|(n, b)| Witness::new(n, b));
    let keys = [one.vkey(), two.vkey()];
    let cosigned = |text: &str, by: &Witness| {
        let (head, note) = text.split_once("\n\n").expect("a checkpoint");
        format!("{head}\n\n{}", by.cosign(note))
    };
    let what = "nothing; both witnesses have cosigned";
    let both = cosigned(&cosigned(&text, &one), &two);
    let name = "proof-witness-quorum";
    corpus
        .proof(name, what, Layer::Witness, Verified, both.as_bytes(), &entry(300))
        .witnesses(&keys, 2);
    for (name, text, changed) in [("a", &text, false), ("b", &forged, true)] {
        let witness = if changed { &two } else { &one };
        let what = "one of two histories, cosigned by the witness that was shown it";
        let bytes = if changed { flipped(300) } else { entry(300) };
        let name = format!("proof-split-view-{name}");
        let text = cosigned(text, witness);
        corpus.proof(name, what, Layer::Witness, FILE, text.as_bytes(), &bytes).witnesses(&keys, 2);
    }
    let foreign = both.trim_end().rsplit('\n').next().expect("a line").to_owned();
    let joined = format!("{}{foreign}\n", cosigned(&forged, &one));
    let what = "one of two histories with the cosignature over the other added";
    let name = "proof-split-view-joined";
    corpus
        .proof(name, what, Layer::Witness, FILE, joined.as_bytes(), &flipped(300))
        .witnesses(&keys, 2);
    let what = "the owner of the key has written another history";
    let nobody =
        "the holder of the key can sign another history; only witnesses show it in a proof";
    let name = "proof-resigned-unwitnessed";
    corpus.proof(name, what, Layer::Proof, Unseen(nobody), forged.as_bytes(), &flipped(300));
    std::fs::remove_dir_all(scratch).expect("removed");
}

fn strip_hashes(text: &str) -> String {
    let (head, note) = text.split_once("\n\n").expect("a checkpoint");
    let lines: Vec<&str> = head.lines().take(2).collect();
    format!("{}\n\n{note}", lines.join("\n"))
}

/// 31 of the 32 bytes.
fn short(hash: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(&STANDARD.decode(hash).expect("base64")[..31])
}
