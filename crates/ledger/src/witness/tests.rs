//! The statuses of the document, one case each; random histories, of which only one is ever cosigned; and
//! the world stopped at every step.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::{
    Hash, Signer,
    fault_tests::{Fault, Faulty},
    hash::leaf_hash,
    proof::{MemoryTree, prove_consistency, root_at},
};

const ORIGIN: &str = "log.example/a";

fn signer(name: &str, byte: u8) -> Signer {
    Signer::new(name, SigningKey::from_bytes(&[byte; 32])).expect("a name")
}

/// The histories `main` and `fork` have the first `shared` entries in common.
struct History {
    tree: MemoryTree,
    signer: Signer,
}

impl History {
    fn new(size: u64, fork: Option<u64>) -> Self {
        let mut tree = MemoryTree::default();
        for i in 0..size {
            let forked = fork.is_some_and(|shared| i >= shared);
            tree.push(leaf_hash(
                &[&i.to_be_bytes()[..], &[u8::from(forked)]].concat(),
            ));
        }
        History {
            tree,
            signer: signer(ORIGIN, 1),
        }
    }

    fn checkpoint(&self, size: u64) -> Checkpoint {
        let root = root_at(&self.tree, size).expect("in the tree");
        Checkpoint::new(ORIGIN, size, root)
    }

    fn note(&self, checkpoint: &Checkpoint) -> Note {
        let note = checkpoint.sign(&self.signer).expect("signed");
        Note::parse(note.as_bytes()).expect("a note")
    }

    fn request(&self, old: u64, size: u64) -> AddCheckpoint {
        let proof = prove_consistency(&self.tree, old.min(size), size);
        let checkpoint = self.checkpoint(size);
        AddCheckpoint {
            old,
            proof: proof.expect("in the tree").expect("not greater"),
            note: self.note(&checkpoint),
            checkpoint,
        }
    }
}

fn open_on(dir: &Path, disk: Arc<dyn Disk>) -> Result<Witness, WitnessError> {
    let cosigner = Cosigner::new(signer("w.example", 9));
    let keys = [signer(ORIGIN, 1).verifier(), signer(ORIGIN, 2).verifier()];
    Witness::open_on(dir, cosigner, keys, disk)
}

fn open(dir: &Path) -> Witness {
    open_on(dir, Arc::new(RealDisk)).expect("opened")
}

fn add(witness: &Witness, request: &AddCheckpoint, now: u64) -> Answer {
    witness.add_at(request.to_string().as_bytes(), now)
}

fn size_of(witness: &Witness) -> u64 {
    let latest = witness.latest(ORIGIN).expect("readable");
    latest.map_or(0, |l| l.checkpoint.size)
}

/// Each MUST of `add-checkpoint`, and that a refusal changes nothing.
#[test]
fn the_statuses_of_the_document() {
    let dir = tempfile::tempdir().expect("a folder");
    let witness = open(dir.path());
    let log = History::new(300, None);
    let refused = |request: &AddCheckpoint, status: u16| {
        let before = witness.latest(ORIGIN).expect("readable");
        let answer = add(&witness, request, 50);
        assert_eq!(answer.status(), status, "{answer:?}");
        assert!(answer.body().ends_with('\n'));
        assert_eq!(witness.latest(ORIGIN).expect("readable"), before);
        answer
    };

    // 404: an unknown origin, whatever its signature; 400: not a request.
    let mut stranger = log.request(0, 5);
    stranger.checkpoint.origin = "log.example/b".into();
    stranger.note = Note::parse(
        stranger
            .checkpoint
            .sign(&signer("log.example/b", 1))
            .expect("signed")
            .as_bytes(),
    )
    .expect("a note");
    refused(&stranger, 404);
    assert_eq!(witness.add_at(b"old 0\n\nnonsense\n", 50).status(), 400);

    // 403: no known key, or a known one that did not sign this.
    let mut foreign = log.request(0, 5);
    let other = foreign.checkpoint.sign(&signer(ORIGIN, 3)).expect("signed");
    foreign.note = Note::parse(other.as_bytes()).expect("a note");
    refused(&foreign, 403);
    let mut forged = log.request(0, 5);
    let mut lines = forged.note.signatures().to_vec();
    lines[0].signature[0] ^= 1;
    forged.note = forged.note.with_signatures(lines.clone()).expect("a line");
    refused(&forged, 403);
    // Also beside a good one by another known key.
    let second = forged.checkpoint.sign(&signer(ORIGIN, 2)).expect("signed");
    let second = Note::parse(second.as_bytes()).expect("a note");
    lines.extend(second.signatures().to_vec());
    forged.note = forged.note.with_signatures(lines).expect("lines");
    refused(&forged, 403);

    // 409 before anything is known says 0; 400: old greater than new, even if both are.
    assert_eq!(refused(&log.request(3, 5), 409), Answer::Conflict(0));
    refused(&log.request(6, 5), 400);

    // 422: a first proof that is not empty; size zero with another root.
    let mut first = log.request(0, 5);
    first.proof = vec![leaf_hash(b"x")];
    refused(&first, 422);
    let mut zero = log.request(0, 0);
    zero.checkpoint.root = leaf_hash(b"x");
    zero.note = log.note(&zero.checkpoint);
    refused(&zero, 422);

    // 200: one line, by the witness, over what was sent; signatures of others are not kept.
    let mut good = log.request(0, 5);
    let mut lines = good.note.signatures().to_vec();
    lines.push(NoteSignature {
        name: "somebody.else".into(),
        id: 1,
        signature: vec![1; 64],
    });
    good.note = good.note.with_signatures(lines).expect("lines");
    let Answer::Cosigned(line) = add(&witness, &good, 50) else {
        panic!("not cosigned");
    };
    let note = log.note(&good.checkpoint);
    let both = [note.signatures(), &[line]].concat();
    let cosigned = note.with_signatures(both).expect("lines");
    assert_eq!(
        witness.key().cosigned(&good.checkpoint, &cosigned),
        Ok(Some(50))
    );
    let latest = witness.latest(ORIGIN).expect("readable").expect("cosigned");
    assert_eq!((latest.note, latest.time), (cosigned.to_text(), 50));

    // 409 with the size and its content type.
    let conflict = refused(&log.request(0, 20), 409);
    assert_eq!(
        (conflict.body().as_str(), conflict.content_type()),
        ("5\n", "text/x.tlog.size")
    );
    refused(&log.request(6, 20), 409);
    // 422: a proof that is too short, too long, or another; the same size with another root.
    for change in 0..3 {
        let mut wrong = log.request(5, 20);
        match change {
            0 => drop(wrong.proof.pop()),
            1 => wrong.proof.push(leaf_hash(b"x")),
            _ => wrong.proof[0] = leaf_hash(b"x"),
        }
        refused(&wrong, 422);
    }
    let fork = History::new(300, Some(3));
    refused(&fork.request(5, 5), 422);
    refused(&fork.request(5, 20), 422);
    assert!(
        witness
            .evidence(ORIGIN)
            .contains(&fork.note(&fork.checkpoint(5)).to_text())
    );

    // The same again is cosigned again; time does not go back; any known key is good.
    assert_eq!(add(&witness, &log.request(5, 5), 60).status(), 200);
    assert_eq!(add(&witness, &log.request(5, 300), 7).status(), 200);
    assert_eq!(
        witness
            .latest(ORIGIN)
            .expect("readable")
            .expect("cosigned")
            .time,
        60
    );
    let mut by_second = log.request(300, 300);
    let text = by_second
        .checkpoint
        .sign(&signer(ORIGIN, 2))
        .expect("signed");
    by_second.note = Note::parse(text.as_bytes()).expect("a note");
    assert_eq!(add(&witness, &by_second, 61).status(), 200);
}

#[test]
fn the_state_is_kept_and_a_wrong_one_is_not_taken_as_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = History::new(20, None);
    let witness = open(dir.path());
    assert!(matches!(
        open_on(dir.path(), Arc::new(RealDisk)),
        Err(WitnessError::InUse { .. })
    ));
    assert_eq!(add(&witness, &log.request(0, 7), 5).status(), 200);
    let latest = witness.latest(ORIGIN).expect("readable");
    let key = witness.key();
    drop(witness);
    assert_eq!(
        stored(dir.path(), &key).expect("readable"),
        latest.clone().into_iter().collect::<Vec<_>>()
    );
    let witness = open(dir.path());
    assert_eq!(witness.latest(ORIGIN).expect("readable"), latest);
    assert_eq!(add(&witness, &log.request(0, 8), 6), Answer::Conflict(7));
    drop(witness);

    let path = dir.path().join(CHECKPOINTS).join(log_id(ORIGIN));
    let good = fs::read_to_string(&path).expect("readable");
    let unsigned = log.note(&log.checkpoint(7)).to_text();
    for wrong in ["", "nonsense", &unsigned, &good.replace("\n7\n", "\n6\n")] {
        fs::write(&path, wrong).expect("written");
        for error in [
            open_on(dir.path(), Arc::new(RealDisk)).expect_err("refused"),
            stored(dir.path(), &key).expect_err("refused"),
        ] {
            assert!(matches!(error, WitnessError::NotCosigned { .. }), "{error}");
        }
    }
    fs::write(&path, &good).expect("written");
    assert_eq!(size_of(&open(dir.path())), 7);
}

/// What a story of requests was answered with: sizes and roots that were cosigned.
type Seen = BTreeSet<(u64, Hash)>;

/// All that was ever cosigned is one history.
fn one_history(seen: &Seen, histories: &[&History]) -> bool {
    histories.iter().any(|history| {
        seen.iter().all(|(size, root)| {
            *size <= history.tree.size() && history.checkpoint(*size).root == *root
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Two histories of one log, growing at random, proofs from anywhere, the witness ended at random:
    /// whatever was cosigned is one history, and it only grew.
    #[test]
    fn one_history_alone_is_cosigned(
        shared in 0u64..40,
        steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..60, 0u8..6), 1..40),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let (main, fork) = (History::new(60, None), History::new(60, Some(shared)));
        let mut witness = open(dir.path());
        let (mut seen, mut last) = (Seen::new(), 0);
        for (now, (forked, old, size, how)) in (0..).zip(steps) {
            let log = if forked { &fork } else { &main };
            let known = size_of(&witness);
            let old = if how < 4 { known } else { old };
            let size = if how < 3 { size.max(old) } else { size };
            let mut request = log.request(old, size);
            if how == 3 && !request.proof.is_empty() {
                // The proof of the other history.
                request.proof = if forked { &main } else { &fork }.request(old, size).proof;
            }
            if how == 5 {
                drop(witness);
                witness = open(dir.path());
            }
            if let Answer::Cosigned(_) = add(&witness, &request, now) {
                prop_assert!(size >= last);
                last = size;
                seen.insert((size, request.checkpoint.root));
                prop_assert!(one_history(&seen, &[&main, &fork]), "{seen:?}");
            }
            prop_assert_eq!(size_of(&witness), last);
        }
    }
}

/// Whatever a witness has answered before it was killed, or the power failed, stands: afterwards the other
/// history is refused at that size, and the log goes on.
fn stopped_everywhere(kind: Fault) {
    let (main, fork) = (History::new(60, None), History::new(60, Some(2)));
    for left in 0.. {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Faulty::new(kind, left);
        let (mut seen, mut known) = (Seen::new(), 0);
        if let Ok(witness) = open_on(dir.path(), disk.clone()) {
            for size in [5, 5, 9, 31] {
                // After a fault that comes once, the client asks where it stands.
                let request = match add(&witness, &main.request(known, size), size) {
                    Answer::Conflict(at) => main.request(at, size),
                    Answer::Failed(_) => continue,
                    Answer::Cosigned(_) => {
                        seen.insert((size, main.checkpoint(size).root));
                        known = size;
                        continue;
                    }
                    other => panic!("{other:?}"),
                };
                if let Answer::Cosigned(_) = add(&witness, &request, size) {
                    seen.insert((size, request.checkpoint.root));
                    known = size;
                }
            }
            // What it would show to a monitor counts as told.
            if let Ok(Some(latest)) = witness.latest(ORIGIN) {
                seen.insert((latest.checkpoint.size, latest.checkpoint.root));
            }
        }
        if kind == Fault::PowerLost {
            disk.lose_power();
        }
        let what = format!("{kind:?} at operation {left}");
        let witness = open_on(dir.path(), Arc::new(RealDisk)).expect(&what);
        let size = size_of(&witness);
        let told = seen.iter().map(|(size, _)| *size).max().unwrap_or(0);
        assert!(size >= told, "{what}: {size} < {told}");
        if size > 2 {
            assert_eq!(
                add(&witness, &fork.request(size, size), 99).status(),
                422,
                "{what}"
            );
            assert_eq!(
                add(&witness, &fork.request(size, 60), 99).status(),
                422,
                "{what}"
            );
        }
        assert_eq!(
            add(&witness, &main.request(size, 60), 99).status(),
            200,
            "{what}"
        );
        if !disk.was_hit() {
            assert!(left > 15, "the story has {left} operations");
            return;
        }
    }
}

#[test]
fn killed_between_persisting_and_answering() {
    stopped_everywhere(Fault::Killed);
}

#[test]
fn power_lost_between_persisting_and_answering() {
    stopped_everywhere(Fault::PowerLost);
}

#[test]
fn one_failure_is_answered_and_survived() {
    stopped_everywhere(Fault::Once);
}

/// Threads that race with two histories: still one.
#[test]
fn requests_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let witness = open(dir.path());
    let histories = [History::new(60, None), History::new(60, Some(0))];
    let seen: Vec<(u64, Hash)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6usize)
            .map(|t| {
                let (witness, log) = (&witness, &histories[t % 2]);
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    for size in 1..60 {
                        let request = log.request(size_of(witness).min(size), size);
                        if let Answer::Cosigned(_) = add(witness, &request, size) {
                            seen.push((size, request.checkpoint.root));
                        }
                    }
                    seen
                })
            })
            .collect();
        let all = threads.into_iter().map(|t| t.join().expect("no panic"));
        all.flatten().collect()
    });
    assert!(!seen.is_empty());
    let seen = Seen::from_iter(seen);
    assert!(
        one_history(&seen, &[&histories[0], &histories[1]]),
        "{seen:?}"
    );
}
