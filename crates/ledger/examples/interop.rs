//! Writes a log and its proofs for another implementation to check; see `interop/run.sh`.
//!
//! Into FOLDER: `ledger/` (the log, 70,000 entries by default), `vkey`, `proof-N` (an offline proof
//! of entry N) and `entry-N` for some N, and `consistency-N` (base64 hashes, one per line) for
//! some older sizes N with `former-N`, the checkpoint of that size; `ledger/checkpoint.cosigned`, the key of the
//! witness in `witness-vkey`, and `cosigned-proof`, an offline proof under it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agentwall_ledger::{
    Checkpoint, Cosigner, Log, Reader, Signer, Witness,
    cosigned::keep,
    entry::{Entry, Gap, Record},
    key,
    witness::{AddCheckpoint, Answer},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let root = PathBuf::from(args.next().ok_or("usage: interop FOLDER [SIZE]")?);
    let size: u64 = match args.next() {
        Some(size) => size.to_str().ok_or("SIZE is a number")?.parse()?,
        None => 70_000,
    };
    let signer = key::load_or_create(&root.join("key"), "agentwall.example/interop")?;
    fs::write(root.join("vkey"), signer.verifier().to_string())?;
    let dir = root.join("ledger");
    let log = Log::open(&dir, signer.clone())?;
    let mut seq = 0;
    // Uneven batches, so that tiles are made in every way.
    for count in [1, 3, 252, 300, 9_444].into_iter().chain([9_999].repeat(8)) {
        let end = size.min(seq + count);
        let batch: Vec<_> = (seq..end)
            .map(|i| Entry::now("interop", i, Record::Gap(Gap::default())).to_bytes())
            .collect();
        let batch: Vec<_> = batch.iter().map(Vec::as_slice).collect();
        if !batch.is_empty() {
            log.append_batch(&batch)?;
        }
        seq = end;
    }
    log.close()?;
    let reader = Reader::open(&dir)?;
    for index in [0, 1, size / 3, size / 2, size - 2, size - 1] {
        fs::write(root.join(format!("entry-{index}")), reader.entry(index)?)?;
        let proof = reader.tlog_proof(index, None)?;
        fs::write(root.join(format!("proof-{index}")), proof.to_string())?;
    }
    for old in [1, 255, 256, 257, size / 2, size - 1] {
        let lines: String = reader
            .consistency_proof(old)?
            .iter()
            .map(|h| h.to_base64() + "\n")
            .collect();
        fs::write(root.join(format!("consistency-{old}")), lines)?;
        let former = Checkpoint::new(signer.name(), old, reader.root_at(old)?);
        fs::write(root.join(format!("former-{old}")), former.sign(&signer)?)?;
    }
    cosigned(&root, &reader)
}

/// By a witness in `FOLDER/witness`.
fn cosigned(root: &Path, reader: &Reader) -> Result<(), Box<dyn std::error::Error>> {
    let log: Signer = key::load(&root.join("key"))?;
    let cosigner = key::load_or_create(&root.join("witness-key"), "witness.example/interop")?;
    let witness = Witness::open(
        &root.join("witness"),
        Cosigner::new(cosigner),
        [log.verifier()],
    )?;
    fs::write(root.join("witness-vkey"), witness.key().to_string())?;
    let request = AddCheckpoint {
        old: 0,
        proof: Vec::new(),
        checkpoint: reader.checkpoint().clone(),
        note: reader.note().clone(),
    };
    let Answer::Cosigned(line) = witness.add(request.to_string().as_bytes()) else {
        return Err("the witness did not cosign".into());
    };
    let lines = [reader.note().signatures(), &[line]].concat();
    let note = reader.note().with_signatures(lines)?;
    keep(&root.join("ledger"), &note)?;
    let index = reader.size() / 3;
    let entry = reader.entry(index)?;
    let proof = reader.tlog_proof_under(index, &note, Some(&entry))?;
    fs::write(root.join("cosigned-proof"), proof.to_string())?;
    Ok(())
}
