//! What witnesses read and write: cosignature lines and their keys, trust policies, requests. Read in one spelling;
//! nothing that a key did not sign counts; whatever is asked, a witness cosigns one history that only grows.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use agentwall_ledger::{
    Checkpoint, Cosigner, CosignerKey, Hash, Note, Signer, TrustPolicy, Witness,
    hash::leaf_hash,
    note::NoteSignature,
    proof::{MemoryTree, prove_consistency, root_at},
    witness::{AddCheckpoint, Answer},
};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::{input::Bytes, tree};

const ORIGIN: &str = "agentwall.example/fuzz";

fn signer(name: &str, byte: u8) -> Signer {
    Signer::new(name, SigningKey::from_bytes(&[byte; 32])).expect("a valid name")
}

fn witness_name(byte: u8) -> String {
    format!("w.example/{byte}")
}

fn witness_key(byte: u8) -> CosignerKey {
    Cosigner::new(signer(&witness_name(byte), byte)).key()
}

/// The cosignature that the document has, made without the code that is tried here.
fn cosign(byte: u8, text: &str, time: u64) -> NoteSignature {
    let message = format!("cosignature/v1\ntime {time}\n{text}");
    let signature = SigningKey::from_bytes(&[byte; 32]).sign(message.as_bytes());
    NoteSignature {
        name: witness_name(byte),
        id: witness_key(byte).id(),
        signature: [&time.to_be_bytes(), signature.to_bytes().as_slice()].concat(),
    }
}

/// Signature lines, keys of witnesses, cosigned checkpoints; else 72 bytes as a cosignature.
pub fn cosignature(data: &[u8]) {
    let text = std::str::from_utf8(data).unwrap_or_default();
    if let Some(line) = NoteSignature::parse(text) {
        assert_eq!(line.to_string(), text);
    }
    if let Ok(key) = CosignerKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    let key = witness_key(7);
    let judge = |checkpoint: &Checkpoint, note: &Note| {
        if let Ok(Some(time)) = key.cosigned(checkpoint, note) {
            let line = cosign(7, note.text(), time);
            assert!(note.signatures().contains(&line), "{}", note.to_text());
        }
    };
    if let Ok((checkpoint, note)) = Checkpoint::parse_note(data) {
        judge(&checkpoint, &note);
    }
    let checkpoint = Checkpoint::new(ORIGIN, 3, leaf_hash(b"x"));
    let line = NoteSignature {
        name: witness_name(7),
        id: key.id(),
        signature: data.to_vec(),
    };
    let note = checkpoint.sign(&signer(ORIGIN, 7)).expect("signed");
    let note = Note::parse(note.as_bytes()).expect("a note");
    if let Ok(note) = note.with_signatures(vec![line]) {
        judge(&checkpoint, &note);
    }
}

/// A trust policy. One more cosignature never makes less of a quorum.
pub fn trust(data: &[u8]) {
    let policy = match TrustPolicy::parse(data) {
        Ok(policy) => policy,
        Err(error) => {
            crate::input::assert_shown(&error.to_string());
            return;
        }
    };
    // Read again without what is no part of it, line for line.
    let lines = data.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let bare: Vec<u8> = lines.flat_map(|line| [line, b"\n"].concat()).collect();
    let again = TrustPolicy::parse(&bare).expect("the same policy");
    assert_eq!(again.witnesses().len(), policy.witnesses().len());

    let mut keys: Vec<String> = policy
        .witnesses()
        .iter()
        .map(|w| w.key.to_string())
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), policy.witnesses().len());
    let checkpoint = Checkpoint::new(ORIGIN, 3, leaf_hash(b"x"));
    let own = checkpoint.sign(&signer(ORIGIN, 7)).expect("signed");
    let own = Note::parse(own.as_bytes()).expect("a note");
    let mut lines = own.signatures().to_vec();
    let mut before: Option<bool> = None;
    for byte in 0..8 {
        let note = own.with_signatures(lines.clone()).expect("lines");
        let witnessed = policy.witnessed(&checkpoint, &note).expect("genuine");
        match before {
            None => assert_eq!(witnessed.quorum, !policy.needs_witnesses()),
            Some(before) => assert!(witnessed.quorum || !before),
        }
        before = Some(witnessed.quorum);
        let opened = policy.open(
            note.to_text().as_bytes(),
            Some(&signer(ORIGIN, 7).verifier().into()),
        );
        assert_eq!(opened.is_ok(), witnessed.quorum);
        lines.push(cosign(byte, note.text(), 5));
    }
}

struct Scene {
    witness: Witness,
    /// Size and root of what was cosigned last.
    last: (u64, Option<Hash>),
    histories: [MemoryTree; 2],
}

const SIZE: u64 = 300;

fn scene() -> &'static Mutex<Scene> {
    static SCENE: OnceLock<Mutex<Scene>> = OnceLock::new();
    SCENE.get_or_init(|| {
        let history = |forked: u8| {
            let mut tree = MemoryTree::default();
            for i in 0..SIZE {
                let forked = if i < 9 { 0 } else { forked };
                tree.push(leaf_hash(&[&i.to_be_bytes()[..], &[forked]].concat()));
            }
            tree
        };
        Mutex::new(Scene {
            witness: Scene::witness(),
            last: (0, None),
            histories: [history(0), history(1)],
        })
    })
}

/// The body of `add-checkpoint`; else a request made of the input: two histories, proofs with changes.
pub fn add_checkpoint(data: &[u8]) {
    let mut scene = scene().lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(request) = AddCheckpoint::parse(data) {
        assert_eq!(request.to_string().as_bytes(), data);
    }
    scene.ask(data);

    let mut bytes = Bytes(data);
    let tree = &scene.histories[usize::from(bytes.byte() % 2)];
    let old = match bytes.byte() % 4 {
        0 => u64::from(bytes.short()) % (SIZE + 1),
        _ => scene.last.0,
    };
    let size = u64::from(bytes.short()) % (SIZE + 1);
    let root = root_at(tree, size).expect("in the tree");
    let checkpoint = Checkpoint::new(ORIGIN, size, root);
    let proof = prove_consistency(tree, old.min(size), size).expect("in the tree");
    let mut proof = proof.expect("not greater");
    if bytes.byte() % 4 == 0 && !proof.is_empty() {
        let at = usize::from(bytes.byte()) % proof.len();
        proof[at].0[usize::from(bytes.byte() % 32)] ^= bytes.byte();
    }
    let note = checkpoint.sign(&signer(ORIGIN, 7)).expect("signed");
    let request = AddCheckpoint {
        old,
        proof,
        note: Note::parse(note.as_bytes()).expect("a note"),
        checkpoint,
    };
    scene.ask(request.to_string().as_bytes());
}

impl Scene {
    fn ask(&mut self, body: &[u8]) {
        let answer = self.witness.add_at(body, 5);
        assert!(answer.body().ends_with('\n'));
        let latest = self.witness.latest(ORIGIN).expect("readable");
        let now = latest.map_or((0, None), |l| (l.checkpoint.size, Some(l.checkpoint.root)));
        if let Answer::Cosigned(line) = answer {
            let request = AddCheckpoint::parse(body).expect("a request");
            assert_eq!(line, cosign(7, request.note.text(), 5));
            assert_eq!(
                now,
                (request.checkpoint.size, Some(request.checkpoint.root))
            );
            assert!(now.0 >= self.last.0);
            // A root of one of the histories, and of the one that was cosigned before.
            let root = |tree: &MemoryTree, size| root_at(tree, size).expect("in the tree");
            let (before, histories) = (self.last.0, &self.histories);
            let mut all = histories.iter().filter(|t| Some(root(t, now.0)) == now.1);
            assert!(all.any(|t| self.last.1.is_none_or(|r| r == root(t, before))));
            self.last = now;
        }
        assert_eq!(now, self.last, "a refusal changes nothing");
        // Begin anew when nothing more can come.
        if now.0 == SIZE {
            self.witness = Scene::witness();
            self.last = (0, None);
        }
    }

    /// A witness that has seen nothing.
    fn witness() -> Witness {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tree::folder(&format!("witness-{}", count % 2));
        let cosigner = Cosigner::new(signer(&witness_name(7), 7));
        Witness::open(&folder, cosigner, [signer(ORIGIN, 7).verifier()]).expect("opened")
    }
}
