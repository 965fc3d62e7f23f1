//! Logs whose key was replaced, and what somebody with one of the keys, or with none, makes of them.

use std::{fs, path::Path};

use agentwall_ledger::{Checkpoint, Reader, TlogProof};

use crate::{
    case::{Corpus, Layer, Verdict, Verdict::*, copy},
    genuine::{self, append, checkpoint, entries, proof, replace, rotate, rotation, signer},
};

/// The number of the first rotation.
const FIRST: u64 = 300;

pub fn cases(corpus: &mut Corpus, logs: &Path) {
    let folder = |name: &str| logs.join("rotated").join(name).join("ledger");
    let (just, twice, grown) = (folder("just"), folder("twice"), folder("grown"));
    let all = entries(600);
    append(&just, signer(1), &all[..300]);
    rotate(&just, 1, 2);
    copy(&just, &grown);
    append(&grown, signer(2), &all[300..]);
    copy(&grown, &twice);
    rotate(&twice, 2, 3);
    append(&twice, signer(3), &genuine::entries(20));

    for (name, dir, keys) in
        [("just", &just, &[1, 2][..]), ("grown", &grown, &[1, 2]), ("twice", &twice, &[1, 2, 3])]
    {
        for key in keys {
            let name = format!("genuine-rotated-{name}@{key}");
            let what = "nothing; the key was replaced";
            let newest = keys.last() == Some(key);
            // Whoever has the newest key needs to know nothing of others.
            let layer = if newest { Layer::Entries } else { Layer::Rotation };
            corpus.log(name, what, layer, Verified, dir, |_| {}).key(*key);
        }
    }
    let what = "nothing; the key was replaced since the former checkpoint";
    let case = corpus.log("genuine-rotated-since", what, Layer::Rotation, Verified, &twice, |_| {});
    case.former(&genuine::former(&twice, 200));
    let what = "nothing; the key was replaced twice since the former checkpoint";
    let case = corpus.log("genuine-rotated-at", what, Layer::Rotation, Verified, &twice, |_| {});
    case.former(&checkpoint(&just));

    let mut forge = |name: &str, what, key, verdict, from: &Path, forge: &dyn Fn(&Path)| {
        let name = format!("rotation-{name}@{key}");
        corpus.log(name, what, Layer::Rotation, verdict, from, forge).key(key);
    };
    let zero = Refused("rotation/0");
    let note = Refused("checkpoint");

    let what =
        "the log was gone on with by somebody who names a key of his own, and has not the log's";
    forge("by-stranger", what, 1, zero.clone(), &grown, &|dir| {
        let mut all = entries(FIRST);
        all.push(rotation(1, 9));
        replace(dir, signer(9), &all);
        let proof = proof_of_last(dir);
        append(dir, signer(9), &entries(600)[300..]);
        give(dir, &proof);
    });
    let what = "the entry in the proof of a rotation names another key";
    forge("renamed", what, 1, zero.clone(), &grown, &|dir| {
        edit(dir, |proof| proof.extra = Some(rotation(1, 9)));
    });
    let what = "the old key goes on after it was replaced";
    for key in [1, 2] {
        forge("old-key-beyond", what, key, note.clone(), &grown, &|dir| resign(dir, &[1]));
    }
    let what = "the old key goes on after it was replaced, and the proof of that was removed";
    forge("old-key-beyond-unproved", what, 1, zero.clone(), &grown, &|dir| {
        resign(dir, &[1]);
        fs::remove_dir_all(dir.join("rotation")).expect("removed");
    });
    let what = "the proof of a rotation was removed";
    for (key, verdict) in [(1, note.clone()), (2, zero.clone())] {
        forge("removed", what, key, verdict, &grown, &|dir| {
            fs::remove_dir_all(dir.join("rotation")).expect("removed");
        });
    }
    let what = "the proof of the last rotation was removed";
    for (key, verdict) in [(1, note.clone()), (2, note.clone()), (3, zero.clone())] {
        forge("last-removed", what, key, verdict, &twice, &|dir| {
            fs::remove_file(dir.join("rotation/1")).expect("removed");
        });
    }
    let what = "the proof of the first of two rotations was removed";
    for key in [1, 2, 3] {
        let verdict = if key == 3 { Refused("rotation/1") } else { note.clone() };
        forge("first-removed", what, key, verdict, &twice, &|dir| {
            fs::remove_file(dir.join("rotation/0")).expect("removed");
        });
    }
    let what = "the proofs of two rotations have changed places";
    forge("swapped", what, 2, Refused("rotation/1"), &twice, &|dir| {
        let aside = dir.join("aside");
        fs::rename(dir.join("rotation/0"), &aside).expect("moved");
        fs::rename(dir.join("rotation/1"), dir.join("rotation/0")).expect("moved");
        fs::rename(aside, dir.join("rotation/1")).expect("moved");
    });
    let what = "the last checkpoint of the old key has the signature of one key alone";
    for one in [1, 2] {
        forge(&format!("half-{one}"), what, one, note.clone(), &just, &|dir| resign(dir, &[one]));
    }
    let what = "the proof of a rotation has the signature of one key alone";
    for one in [1, 2] {
        forge(&format!("half-proof-{one}"), what, one, zero.clone(), &grown, &|dir| {
            edit(dir, |proof| proof.checkpoint = signed(&proof.checkpoint, &[one]));
        });
    }
    let what = "the new key has signed what was before it";
    forge("too-early", what, 2, note.clone(), &just, &|dir| {
        replace(dir, signer(2), &entries(200));
        fs::create_dir(dir.join("rotation")).expect("a folder");
        fs::copy(just.join("rotation/0"), dir.join("rotation/0")).expect("copied");
    });
    let what = "the proof of a rotation is of another history, by the same keys";
    forge("of-other-history", what, 1, note.clone(), &grown, &|dir| {
        let other = dir.parent().expect("a parent").join("other");
        append(&other, signer(1), &(0..FIRST).map(genuine::flipped).collect::<Vec<_>>());
        rotate(&other, 1, 2);
        fs::copy(other.join("rotation/0"), dir.join("rotation/0")).expect("copied");
    });
    let what = "the entry of a rotation is not the last one of the checkpoint of both keys";
    forge("late", what, 1, zero.clone(), &grown, &|dir| {
        resign(dir, &[1, 2]);
        let late = Reader::open(dir).expect("readable");
        let leaf = late.entry(FIRST).expect("an entry");
        give(dir, &late.tlog_proof(FIRST, Some(&leaf)).expect("a proof"));
        resign(dir, &[2]);
    });
    let what = "the proof of a rotation is one of another entry";
    forge("of-other-entry", what, 1, zero.clone(), &grown, &|dir| {
        edit(dir, |proof| proof.extra = Some(genuine::entry(FIRST)));
    });
    let what = "there is a proof too many";
    forge("repeated", what, 1, Refused("rotation/1"), &grown, &|dir| {
        fs::copy(dir.join("rotation/0"), dir.join("rotation/1")).expect("copied");
    });
    forge("foreign-file", what, 1, Refused("rotation/x"), &grown, &|dir| {
        fs::copy(dir.join("rotation/0"), dir.join("rotation/x")).expect("copied");
    });
    let what = "the proof of a rotation is empty";
    forge("emptied", what, 2, zero, &grown, &|dir| {
        fs::write(dir.join("rotation/0"), "").expect("written");
    });
    let what = "a thief of the old key has written another history, in which it was never replaced";
    let other = |dir: &Path| replace(dir, signer(1), &entries(700));
    forge("never", what, 2, note, &grown, &other);
    let nobody = "whoever knows the old key alone, and no later checkpoint, cannot tell; witnesses that were told can";
    forge("never", what, 1, Unseen(nobody), &grown, &other);

    proof_cases(corpus, &twice);
}

fn proof_cases(corpus: &mut Corpus, twice: &Path) {
    let text = proof(twice, 5);
    for (name, key, rotations, verdict) in [
        ("genuine-rotated", 3, false, Verified),
        ("genuine-rotated-told", 1, true, Verified),
        ("genuine-rotated-told", 2, true, Verified),
        ("genuine-rotated-told", 3, true, Verified),
        ("rotated-untold", 1, false, Refused("entry.tlog-proof")),
        ("rotated-stranger", 9, true, Refused("rotation/0")),
    ] {
        add(corpus, twice, &format!("proof-{name}@{key}"), &text, key, rotations, verdict);
    }
    // The old key under a size that is another's.
    let mut forged = TlogProof::parse(&text).expect("a proof");
    forged.checkpoint = signed(&forged.checkpoint, &[1]);
    let (text, verdict) = (forged.to_string(), Refused("entry.tlog-proof"));
    add(corpus, twice, "proof-rotation-old-key-beyond@1", &text, 1, true, verdict);
}

fn add(corpus: &mut Corpus, twice: &Path, name: &str, text: &str, key: u8, told: bool, v: Verdict) {
    let what = match v {
        Verified => "nothing; the key was replaced",
        _ => "its checkpoint is of a key that the known one does not lead to",
    };
    let layer = Layer::Rotation;
    let case = corpus.proof(name, what, layer, v, text.as_bytes(), &genuine::entry(5)).key(key);
    case.rotations = told.then(|| twice.to_owned());
}

/// The checkpoint with the signatures of these keys alone.
fn signed(note: &str, keys: &[u8]) -> String {
    let (checkpoint, _) = Checkpoint::parse_note(note.as_bytes()).expect("a checkpoint");
    match keys {
        [one] => checkpoint.sign(&signer(*one)),
        [old, new] => checkpoint.sign_both(&signer(*old), &signer(*new)),
        _ => unreachable!("one key or two"),
    }
    .expect("signed")
}

fn resign(dir: &Path, keys: &[u8]) {
    fs::write(dir.join("checkpoint"), signed(&checkpoint(dir), keys)).expect("written");
}

/// The proof of the last entry, with it.
fn proof_of_last(dir: &Path) -> TlogProof {
    let log = Reader::open(dir).expect("readable");
    let entry = log.entry(log.size() - 1).expect("an entry");
    log.tlog_proof(log.size() - 1, Some(&entry)).expect("a proof")
}

fn give(dir: &Path, proof: &TlogProof) {
    fs::create_dir_all(dir.join("rotation")).expect("a folder");
    fs::write(dir.join("rotation/0"), proof.to_string()).expect("written");
}

fn edit(dir: &Path, edit: impl FnOnce(&mut TlogProof)) {
    let text = fs::read_to_string(dir.join("rotation/0")).expect("a proof");
    let mut proof = TlogProof::parse(&text).expect("a proof");
    edit(&mut proof);
    give(dir, &proof);
}
