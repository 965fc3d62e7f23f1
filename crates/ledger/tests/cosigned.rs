//! A log with witnesses: its cosigned checkpoint as foreign implementations read it, whole logs and single proofs
//! under it, and what must be refused.

mod common;

use std::path::Path;

use agentwall_ledger::{
    Checkpoint, CosignedError, Cosigner, Note, NoteError, Reader, TlogProof, TrustPolicy,
    UntrustedError, VerifyError, VerifyOptions, Witness,
    cosigned::keep,
    note::NoteSignature,
    verify,
    witness::{AddCheckpoint, Answer},
};
use common::{append, log, record, signer};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};

fn cosigner(byte: u8) -> Cosigner {
    let key = SigningKey::from_bytes(&[byte; 32]);
    let name = format!("witness.example/{byte}");
    Cosigner::new(agentwall_ledger::Signer::new(&name, key).expect("a name"))
}

/// Cosigned by the witnesses 11 and 12, whose folders are below `root`.
fn cosigned(root: &Path) -> Note {
    let reader = Reader::open(&root.join("ledger")).expect("readable");
    let mut lines = reader.note().signatures().to_vec();
    for byte in [11, 12] {
        let dir = root.join(format!("w{byte}"));
        let witness = Witness::open(&dir, cosigner(byte), [signer(1).verifier()]).expect("opened");
        let last = witness.latest(reader.checkpoint().origin.as_str());
        let old = last.expect("readable").map_or(0, |l| l.checkpoint.size);
        let request = AddCheckpoint {
            old,
            proof: reader.consistency_proof(old).expect("not greater"),
            checkpoint: reader.checkpoint().clone(),
            note: reader.note().clone(),
        };
        match witness.add(request.to_string().as_bytes()) {
            Answer::Cosigned(line) => lines.push(line),
            other => panic!("{other:?}"),
        }
    }
    reader.note().with_signatures(lines).expect("lines")
}

/// Two of the witnesses 11 to 13.
fn policy() -> TrustPolicy {
    let mut text = format!("log {}\n", signer(1).verifier());
    for byte in [11, 12, 13] {
        text += &format!("witness w{byte} {}\n", cosigner(byte).key());
    }
    text += "group g 2 w11 w12 w13\nquorum g\n";
    TrustPolicy::parse(text.as_bytes()).expect("a policy")
}

/// A cosignature as the document has it, written without a line of ours.
struct Foreign {
    name: String,
    id: u32,
    key: VerifyingKey,
}

impl signed_note::Verifier for Foreign {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
        let Some((time, sig)) = sig.split_first_chunk::<8>() else {
            return false;
        };
        let head = format!("cosignature/v1\ntime {}\n", u64::from_be_bytes(*time));
        let message = [head.as_bytes(), msg].concat();
        let signature = Signature::from_slice(sig);
        signature.is_ok_and(|s| self.key.verify_strict(&message, &s).is_ok())
    }
}

#[test]
fn a_cosigned_note_as_others_read_it() {
    use sha2::{Digest as _, Sha256};
    let root = tempfile::tempdir().expect("a folder");
    log(root.path(), 300).close().expect("closed");
    let text = cosigned(root.path()).to_text();
    let log_key = signer(1).verifier().to_string();
    let key = SigningKey::from_bytes(&[11; 32]).verifying_key();
    let name = "witness.example/11".to_owned();
    let mut hashed = name.clone().into_bytes();
    hashed.extend([b'\n', 4]);
    hashed.extend(key.as_bytes());
    let digest = Sha256::digest(&hashed);
    let id = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let open = |text: &str| {
        let note = signed_note::Note::from_bytes(text.as_bytes()).expect("a note");
        let log = signed_note::StandardVerifier::new(&log_key).expect("a key");
        let (name, key) = (name.clone(), key);
        let witness = Foreign { name, id, key };
        let keys = signed_note::VerifierList::new(vec![Box::new(log), Box::new(witness)]);
        note.verify(&keys)
            .map(|(good, unknown)| (good.len(), unknown.len()))
    };
    assert_eq!(open(&text).expect("verified"), (2, 1));
    // Theirs fails where ours does.
    let (body, _) = text.split_once("\n\n").expect("signatures");
    let changed = text.replace(body, &body.replace("\n300\n", "\n299\n"));
    assert!(open(&changed).is_err());
    let theirs = tlog_tiles::Checkpoint::from_bytes(format!("{body}\n").as_bytes());
    assert_eq!(theirs.expect("a checkpoint").size(), 300);
}

#[test]
fn a_whole_log_and_its_witnesses() {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().join("ledger");
    let log = log(root.path(), 300);
    let mut options = VerifyOptions::new(signer(1).verifier());
    let report = verify(&dir, &options).expect("genuine");
    assert_eq!(report.cosigned, None);
    let note = cosigned(root.path());
    keep(&dir, &note).expect("kept");
    append(&log, 300..310);

    // Without a policy nobody says whose cosignatures count.
    let report = verify(&dir, &options).expect("genuine");
    let found = report.cosigned.expect("there");
    assert_eq!((found.checkpoint.size, found.size()), (300, 0));
    options.trust = Some(policy());
    let report = verify(&dir, &options).expect("genuine");
    let found = report.cosigned.expect("there");
    assert_eq!((report.size, found.size()), (310, 300));
    let names: Vec<String> = found
        .witnessed
        .expect("judged")
        .by
        .into_iter()
        .map(|b| b.0)
        .collect();
    assert_eq!(names, ["w11", "w12"]);

    // Opening the log for writing, and appending, leave it alone.
    drop(log);
    let log = common::log(root.path(), 0);
    append(&log, 310..700);
    let now = std::fs::read(dir.join("checkpoint.cosigned")).expect("there");
    assert_eq!(now, note.to_text().into_bytes());
    verify(&dir, &options).expect("genuine");

    let wrong = |note: &str| {
        std::fs::write(dir.join("checkpoint.cosigned"), note).expect("written");
        let read = Reader::open(&dir).expect("readable");
        let (key, trust) = (signer(1).verifier(), policy());
        let error = read.cosigned(&key, Some(&trust)).expect_err("refused");
        let whole = verify(&dir, &options).expect_err("refused");
        assert!(matches!(&whole, VerifyError::Cosigned(e) if e.to_string() == error.to_string()));
        error
    };
    let text = note.to_text();
    assert!(matches!(wrong(""), CosignedError::Checkpoint(_)));
    let mut forged = note.signatures().to_vec();
    forged[2].signature[70] ^= 1;
    let forged = note.with_signatures(forged).expect("lines").to_text();
    assert!(matches!(wrong(&forged), CosignedError::Checkpoint(_)));
    let lines = note.signatures()[1..].to_vec();
    let unsigned = note.with_signatures(lines).expect("lines").to_text();
    assert!(matches!(wrong(&unsigned), CosignedError::Checkpoint(_)));
    let other = Checkpoint::new(common::ORIGIN, 300, agentwall_ledger::Hash([7; 32]));
    let other = other.sign(&signer(1)).expect("signed");
    assert!(matches!(
        wrong(&other),
        CosignedError::Forked { size: 300, .. }
    ));
    let more = Checkpoint::new(common::ORIGIN, 701, agentwall_ledger::Hash([7; 32]));
    let more = more.sign(&signer(1)).expect("signed");
    assert!(matches!(
        wrong(&more),
        CosignedError::RolledBack {
            size: 700,
            cosigned: 701
        }
    ));
    std::fs::write(dir.join("checkpoint.cosigned"), text).expect("written");
    verify(&dir, &options).expect("genuine");
}

#[test]
fn proofs_with_cosignatures() {
    let root = tempfile::tempdir().expect("a folder");
    let log = log(root.path(), 300);
    let note = cosigned(root.path());
    append(&log, 300..310);
    let reader = Reader::open(&root.path().join("ledger")).expect("readable");
    let (key, policy) = (signer(1).verifier(), policy());
    let verified = |text: &str, i: u64| -> Result<u64, String> {
        let proof = TlogProof::parse(text).map_err(|e| e.to_string())?;
        proof.verify(&record(i), &key).map_err(|e| e.to_string())?;
        let opened = policy.open(proof.checkpoint.as_bytes(), None);
        opened.map(|(c, _)| c.size).map_err(|e| e.to_string())
    };
    for i in [0, 7, 255, 256, 299] {
        let proof = reader
            .tlog_proof_under(i, &note, None)
            .expect("a proof")
            .to_string();
        assert_eq!(verified(&proof, i), Ok(300));
        assert!(verified(&proof, i + 1).is_err());
        // Its own checkpoint under the newer one's hashes, and the other way round.
        let newest = reader.tlog_proof(i, None).expect("a proof").to_string();
        assert!(
            verified(&newest, i)
                .expect_err("refused")
                .contains("none of 3 witnesses")
        );
        let (head, _) = newest.split_once("\n\n").expect("a checkpoint");
        assert!(verified(&format!("{head}\n\n{}", note.to_text()), i).is_err());
        // One cosignature alone, twice the same, the same under another name.
        let lines = note.signatures();
        let again = NoteSignature {
            name: "witness.example/13".into(),
            ..lines[1].clone()
        };
        for few in [
            vec![lines[0].clone(), lines[1].clone()],
            vec![lines[0].clone(), lines[1].clone(), lines[1].clone()],
            vec![lines[0].clone(), lines[1].clone(), again],
        ] {
            let few = note.with_signatures(few).expect("lines");
            let proof = reader
                .tlog_proof_under(i, &few, None)
                .expect("a proof")
                .to_string();
            assert!(
                verified(&proof, i)
                    .expect_err("refused")
                    .contains("1 of 3 witnesses (w11)")
            );
        }
    }
    assert!(reader.tlog_proof_under(300, &note, None).is_err());
    let other = Checkpoint::new(common::ORIGIN, 300, agentwall_ledger::Hash([7; 32]));
    let other = Note::parse(other.sign(&signer(1)).expect("signed").as_bytes()).expect("a note");
    assert!(reader.tlog_proof_under(3, &other, None).is_err());
    // A stranger's log under the right witnesses.
    let stranger = signer(2).verifier();
    assert!(matches!(
        policy.open(note.to_text().as_bytes(), Some(&stranger.into())),
        Err(UntrustedError::Checkpoint(
            agentwall_ledger::CheckpointError::Note(NoteError::ForeignKey { .. })
        ))
    ));
}
