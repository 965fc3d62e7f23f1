//! Who is asked, each in its own way: in the process, or as a program.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use agentwall_ledger::{KeyHistory, TlogProof, Verifier, VerifyOptions, verify};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash, mem_backed_tree::MemoryBackedTree};
use sha2::{Digest as _, Sha256};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, Tile, TileHashReader, TileReader,
    tlog::{self, Hash, HashReader as _},
};

use crate::case::{Case, Thing, Who};

/// `Ok` when accepted, else why not.
pub type Answer = Result<(), String>;

/// Asks one verifier; `None` when it is not here.
pub fn ask(who: Who, case: &Case, go: Option<&Path>) -> Option<Answer> {
    Some(match who {
        Who::Ledger => ledger(case),
        Who::Tiny => program(Path::new(env!("CARGO_BIN_EXE_agentwall-ledger-verify")), case),
        Who::Go => program(go?, case),
        Who::Tiles => tiles(case),
        Who::CtMerkle => ct_merkle(case),
    })
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn program(path: &Path, case: &Case) -> Answer {
    let done = Command::new(path).args(case.arguments()).output().expect("started");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    match done.status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(said.trim_end().to_owned()),
        // Neither: a program that falls over has not refused.
        other => panic!("{}: {path:?} ended with {other:?}: {said}", case.name),
    }
}

fn ledger(case: &Case) -> Answer {
    let key = Verifier::parse(&case.key).map_err(text)?;
    match &case.thing {
        Thing::Log(dir) => {
            let mut options = VerifyOptions::new(key);
            options.records = !case.large;
            options.head = case.former.clone();
            verify(dir, &options).map(drop).map_err(text)
        }
        Thing::Proof { file, entry } => {
            let proof = String::from_utf8(fs::read(file).map_err(text)?).map_err(text)?;
            let proof = TlogProof::parse(&proof).map_err(text)?;
            let keys = match &case.rotations {
                Some(dir) => KeyHistory::read(dir, &key, u64::MAX).map_err(text)?,
                None => key.into(),
            };
            let entry = fs::read(entry).map_err(text)?;
            proof.verify_with(&entry, &keys).map(drop).map_err(text)
        }
    }
}

/// A cosigner for the crate `signed_note`.
struct Cosigner {
    name: String,
    id: u32,
    key: ed25519_dalek::VerifyingKey,
}

impl Cosigner {
    fn new(vkey: &str) -> Self {
        let parts: Vec<&str> = vkey.splitn(3, '+').collect();
        let blob = STANDARD.decode(parts[2]).expect("base64");
        Cosigner {
            name: parts[0].to_owned(),
            id: signed_note::key_id(parts[0], &blob),
            key: ed25519_dalek::VerifyingKey::try_from(&blob[1..]).expect("a key"),
        }
    }
}

impl signed_note::Verifier for Cosigner {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, message: &[u8], blob: &[u8]) -> bool {
        let Some((time, signature)) = blob.split_first_chunk::<8>() else { return false };
        if time[0] > 0x7f {
            return false;
        }
        let time = format!("cosignature/v1\ntime {}\n", u64::from_be_bytes(*time));
        let message = [time.as_bytes(), message].concat();
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|s| self.key.verify_strict(&message, &s).is_ok())
    }
}

/// A checkpoint as `signed_note` and `tlog_tiles` read it: size and root.
fn open(note: &[u8], case: &Case, quorum: usize) -> Result<(u64, Hash), String> {
    let key = StandardVerifier::new(&case.key).map_err(text)?;
    let note = Note::from_bytes(note).map_err(text)?;
    let (signed, _) = note.verify(&VerifierList::new(vec![Box::new(key)])).map_err(text)?;
    let log = signed.first().ok_or("not signed by the log")?;
    let mut cosigned = 0;
    for vkey in &case.witnesses {
        let list = VerifierList::new(vec![Box::new(Cosigner::new(vkey))]);
        match note.verify(&list) {
            Ok((signed, _)) => cosigned += usize::from(!signed.is_empty()),
            Err(signed_note::NoteError::UnverifiedNote) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    if cosigned < quorum {
        return Err(format!("{cosigned} cosignatures"));
    }
    let checkpoint = Checkpoint::from_bytes(note.text()).map_err(text)?;
    if checkpoint.origin() != log.name() {
        return Err("another origin".to_owned());
    }
    Ok((checkpoint.size(), *checkpoint.hash()))
}

/// Tiles on disk for `tlog_tiles`, whose names have the height in them.
struct Files {
    dir: PathBuf,
    missing: Cell<bool>,
}

impl TileReader for Files {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog::Error> {
        let read = |tile: &Tile| {
            let name = tile.path().replacen("tile/8/", "tile/", 1);
            let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
            self.missing.set(self.missing.get() || bytes.is_empty());
            bytes
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

fn tiles(case: &Case) -> Answer {
    let (dir, file, entry) = match &case.thing {
        Thing::Proof { file, entry } => (None, file, fs::read(entry).map_err(text)?),
        Thing::Log(dir) => (Some(dir), dir, Vec::new()),
    };
    let Some(dir) = dir else {
        let (index, hashes, note) = split_proof(&fs::read(file).map_err(text)?)?;
        let (size, root) = open(&note, case, case.quorum)?;
        let hashes: Vec<Hash> = hashes.into_iter().map(Hash).collect();
        let leaf = tlog::record_hash(&entry);
        return tlog::check_record(&hashes, size, root, index, leaf).map_err(text);
    };
    let (size, root) = open(&read(dir, "checkpoint")?, case, case.quorum)?;
    if size == 0 {
        return (root.0[..] == Sha256::digest(b"")[..]).then_some(()).ok_or("root".into());
    }
    let files = Files { dir: dir.clone(), missing: Cell::new(false) };
    let source = TileHashReader::new(size, root, &files);
    let hashes = |indexes: &[u64]| source.read_hashes(indexes).map_err(text);
    for first in (0..size).step_by(256) {
        let width = (size - first).min(256);
        let tile = Tile::new(8, 0, first / 256, width as u32, true);
        let name = tile.path().replacen("tile/8/data/", "tile/entries/", 1);
        let indexes: Vec<u64> =
            (first..first + width).map(|i| tlog::stored_hash_index(0, i)).collect();
        let leaves = hashes(&indexes)?;
        let bundle = read(dir, &name)?;
        let found = split_bundle(&bundle, width as usize)?;
        if !found.iter().zip(&leaves).all(|(e, leaf)| tlog::record_hash(e).0 == leaf.0) {
            return Err(format!("{name}: an entry with another hash"));
        }
    }
    let former = match &case.former {
        Some(path) => open(&fs::read(path).map_err(text)?, case, 0)?,
        None => return Ok(()),
    };
    if former.0 > size {
        return Err("put back".to_owned());
    }
    let proof = tlog::prove_tree(size, former.0, &source).map_err(text)?;
    tlog::check_tree(&proof, size, root, former.0, former.1).map_err(text)
}

/// The entries and hashes alone: the checkpoint's size and root are taken from it unverified.
fn ct_merkle(case: &Case) -> Answer {
    let note = |bytes: &[u8]| {
        let all = String::from_utf8(bytes.to_vec()).map_err(text)?;
        let lines: Vec<&str> = all.split('\n').collect();
        let size: u64 = lines[1].parse().map_err(text)?;
        let root = STANDARD.decode(lines[2]).map_err(text)?;
        let root: [u8; 32] = root.try_into().map_err(|_| "a root".to_owned())?;
        Ok::<_, String>(RootHash::<Sha256>::new(root.into(), size))
    };
    match &case.thing {
        Thing::Proof { file, entry } => {
            let (index, hashes, checkpoint) = split_proof(&fs::read(file).map_err(text)?)?;
            let proof = InclusionProof::try_from_bytes(hashes.concat()).map_err(text)?;
            let entry = fs::read(entry).map_err(text)?;
            note(&checkpoint)?.verify_inclusion(&entry, index, &proof).map_err(text)
        }
        Thing::Log(dir) => {
            let signed = note(&read(dir, "checkpoint")?)?;
            let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
            for first in (0..signed.num_leaves()).step_by(256) {
                let width = (signed.num_leaves() - first).min(256);
                let tile = Tile::new(8, 0, first / 256, width as u32, true);
                let name = tile.path().replacen("tile/8/data/", "tile/entries/", 1);
                for entry in split_bundle(&read(dir, &name)?, width as usize)? {
                    tree.push(entry.to_vec());
                }
            }
            if tree.root() != signed {
                return Err("another root".to_owned());
            }
            let Some(former) = &case.former else { return Ok(()) };
            let former = note(&fs::read(former).map_err(text)?)?;
            let more = signed.num_leaves().checked_sub(former.num_leaves()).ok_or("put back")?;
            if more == 0 {
                return if former == signed { Ok(()) } else { Err("another root".to_owned()) };
            }
            let proof: ConsistencyProof<Sha256> = tree.prove_consistency(more as usize);
            signed.verify_consistency(&former, &proof).map_err(text)
        }
    }
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, String> {
    fs::read(dir.join(name)).map_err(|e| format!("{name}: {e}"))
}

fn split_bundle(mut bytes: &[u8], width: usize) -> Result<Vec<&[u8]>, String> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, rest) = rest.split_at_checked(length).ok_or("a torn bundle")?;
        entries.push(entry);
        bytes = rest;
    }
    match entries.len() == width && bytes.is_empty() {
        true => Ok(entries),
        false => Err(format!("{} entries of {width}", entries.len())),
    }
}

type Parts = (u64, Vec<[u8; 32]>, Vec<u8>);

/// Index, hashes and checkpoint of a proof file, for libraries that know no such files.
fn split_proof(bytes: &[u8]) -> Result<Parts, String> {
    let all = std::str::from_utf8(bytes).map_err(text)?;
    let (head, note) = all.split_once("\n\n").ok_or("no checkpoint")?;
    let mut lines = head.lines().skip(1).skip_while(|line| line.starts_with("extra "));
    let index = lines.next().and_then(|l| l.strip_prefix("index ")?.parse().ok());
    let hashes = lines.map(|l| STANDARD.decode(l).ok()?.try_into().ok()).collect::<Option<_>>();
    Ok((index.ok_or("no index")?, hashes.ok_or("a hash")?, note.as_bytes().to_vec()))
}
