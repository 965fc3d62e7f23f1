//! Roots, proofs, tiles and notes against two independent implementations: `tlog_tiles` with
//! `signed_note` (a port of Go's `sumdb`), and `ct-merkle`.

mod common;

use std::sync::OnceLock;

use agentwall_ledger::{
    Hash, Log, Reader, TlogProof,
    hash::{leaf_hash, node_hash},
    proof::{
        MemoryTree, prove_consistency, prove_inclusion, root_at, verify_consistency,
        verify_inclusion,
    },
    tile::{Level, Tile},
};
use common::{ORIGIN, append, record, signer};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use signed_note::Verifier as _;
use tlog_tiles::tlog::{self, HashReader};

struct Stored(Vec<tlog::Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
    }
}

struct Trees {
    ours: MemoryTree,
    stored: Stored,
    other: MemoryBackedTree<sha2::Sha256, Vec<u8>>,
}

fn leaf(i: u64) -> Vec<u8> {
    i.to_string().into_bytes()
}

impl Trees {
    fn new(size: u64) -> Self {
        let mut trees = Trees {
            ours: MemoryTree::default(),
            stored: Stored(Vec::new()),
            other: MemoryBackedTree::new(),
        };
        (0..size).for_each(|i| trees.push(i));
        trees
    }

    fn push(&mut self, i: u64) {
        self.ours.push(leaf_hash(&leaf(i)));
        let new = tlog::stored_hashes(i, &leaf(i), &self.stored).expect("hashes");
        self.stored.0.extend(new);
        self.other.push(leaf(i));
    }

    fn root(&self, size: u64) -> Hash {
        let root = root_at(&self.ours, size).expect("in the tree");
        let theirs = tlog::tree_hash(size, &self.stored).expect("in the tree");
        assert_eq!(root.0, theirs.0, "root at {size}");
        root
    }

    fn inclusion(&self, index: u64, size: u64) {
        let root = self.root(size);
        let ours = prove_inclusion(&self.ours, index, size)
            .expect("in the tree")
            .expect("below the size");
        let theirs = tlog::prove_record(size, index, &self.stored).expect("in the tree");
        assert_eq!(raw(&ours), theirs.iter().map(|h| h.0).collect::<Vec<_>>());
        assert_eq!(
            verify_inclusion(&leaf_hash(&leaf(index)), index, size, &ours, &root),
            Ok(())
        );
        let wrong = node_hash(&root, &root);
        assert!(verify_inclusion(&leaf_hash(&leaf(index)), index, size, &ours, &wrong).is_err());
    }

    fn consistency(&self, old: u64, new: u64) {
        let (old_root, new_root) = (self.root(old), self.root(new));
        let ours = prove_consistency(&self.ours, old, new)
            .expect("in the tree")
            .expect("not greater");
        if old > 0 {
            let theirs = tlog::prove_tree(new, old, &self.stored).expect("in the tree");
            assert_eq!(raw(&ours), theirs.iter().map(|h| h.0).collect::<Vec<_>>());
        }
        assert_eq!(
            verify_consistency(old, &old_root, new, &new_root, &ours),
            Ok(())
        );
    }
}

fn raw(hashes: &[Hash]) -> Vec<[u8; 32]> {
    hashes.iter().map(|h| h.0).collect()
}

#[test]
fn every_size_up_to_600() {
    let mut trees = Trees::new(0);
    trees.root(0);
    for size in 1..=600u64 {
        trees.push(size - 1);
        let root = trees.root(size);
        assert_eq!(root.0[..], trees.other.root().as_bytes()[..]);
        // All indexes of small trees, the edges and a spread of larger ones.
        let step = 1 + size / 4;
        for index in (0..size).step_by(step as usize).chain([size - 1]) {
            trees.inclusion(index, size);
        }
        for old in (0..=size).step_by(step as usize).chain([size]) {
            trees.consistency(old, size);
        }
        let index = (size * 7919) % size.max(1);
        let proof = trees.other.prove_inclusion(index as usize);
        let ours = prove_inclusion(&trees.ours, index, size)
            .expect("in the tree")
            .expect("below the size");
        assert_eq!(proof.as_bytes(), raw(&ours).concat());
        if size > 1 {
            let old = size / 2 + 1;
            let proof = trees.other.prove_consistency((size - old) as usize);
            let ours = prove_consistency(&trees.ours, old, size)
                .expect("in the tree")
                .expect("not greater");
            assert_eq!(proof.as_bytes(), raw(&ours).concat(), "{old} to {size}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_larger_sizes(size in 601u64..66_000, at in 0.0..1.0f64, old in 0.0..1.0f64) {
        static LARGE: OnceLock<Trees> = OnceLock::new();
        let trees = LARGE.get_or_init(|| Trees::new(66_000));
        trees.inclusion((size as f64 * at) as u64, size);
        trees.consistency((size as f64 * old) as u64, size);
    }

    #[test]
    fn tile_names(level in 0u8..64, index in any::<u64>(), width in 1u16..=256) {
        let name = Tile { level: Level::Hashes(level), index, width }.to_string();
        let theirs = tlog_tiles::Tile::new(8, level, index, width.into(), false);
        // Theirs names the tile height too.
        prop_assert_eq!(theirs.path().replacen("tile/8/", "tile/", 1), name);
    }
}

#[test]
fn a_log_on_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::open(dir.path(), signer(1)).expect("opened");
    let mut size = 0;
    for step in [1, 2, 250, 3, 1, 400, 45] {
        append(&log, size..size + step);
        size += step;
        let reader = Reader::open_signed(dir.path(), log.verifier()).expect("readable");
        assert_eq!(reader.size(), size);

        // The checkpoint, as the others read it.
        let text = reader.note().to_text();
        let note = signed_note::Note::from_bytes(text.as_bytes()).expect("a note");
        let key = signed_note::StandardVerifier::new(&log.verifier().to_string()).expect("a key");
        assert_eq!(key.key_id(), log.verifier().id());
        let keys = signed_note::VerifierList::new(vec![Box::new(key)]);
        let (verified, _) = note.verify(&keys).expect("signed");
        assert_eq!(verified.len(), 1);
        let theirs = tlog_tiles::Checkpoint::from_bytes(note.text()).expect("a checkpoint");
        assert_eq!(
            (theirs.origin(), theirs.size(), theirs.hash().0),
            (ORIGIN, size, reader.checkpoint().root.0)
        );

        // Our proofs, as the others check them.
        for index in [0, size / 3, size - 1] {
            assert_eq!(reader.entry(index).expect("an entry"), record(index));
            let proof = reader.inclusion_proof(index).expect("a proof");
            let proof: Vec<_> = proof.iter().map(|h| tlog::Hash(h.0)).collect();
            let leaf = tlog::record_hash(&record(index));
            tlog::check_record(&proof, size, *theirs.hash(), index, leaf).expect("included");

            let file = reader.tlog_proof(index, Some(b"salt")).expect("a proof");
            let file = TlogProof::parse(&file.to_string()).expect("a proof file");
            assert_eq!(file.extra.as_deref(), Some(&b"salt"[..]));
            file.verify(&record(index), log.verifier())
                .expect("included");
            assert!(file.verify(&record(index + 1), log.verifier()).is_err());
            assert!(file.verify(&record(index), &signer(2).verifier()).is_err());
        }
        let old = size - step;
        if old > 0 {
            let proof = reader.consistency_proof(old).expect("a proof");
            let proof: Vec<_> = proof.iter().map(|h| tlog::Hash(h.0)).collect();
            let root = tlog::Hash(reader.root_at(old).expect("in the log").0);
            tlog::check_tree(&proof, size, *theirs.hash(), old, root).expect("consistent");
        }
        let all: Vec<_> = reader
            .entries(0..u64::MAX)
            .map(|e| e.expect("an entry"))
            .collect();
        assert_eq!(all.len() as u64, size);
        assert!(all.iter().all(|(i, bytes)| *bytes == record(*i)));
    }
}

#[test]
fn proof_files_have_one_spelling() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::open(dir.path(), signer(1)).expect("opened");
    append(&log, 0..5);
    let reader = Reader::open(dir.path()).expect("readable");
    let text = reader.tlog_proof(4, None).expect("a proof").to_string();
    let lines: Vec<&str> = text.lines().take(2).collect();
    assert_eq!(lines, ["c2sp.org/tlog-proof@v1", "index 4"]);
    TlogProof::parse(&text).expect("canonical");
    for (from, to) in [
        ("@v1", "@v2"),
        ("index 4", "index 04"),
        ("index 4", "index +4"),
        ("index 4", "extra ?\nindex 4"),
        ("index 4\n", ""),
        ("index 4\n", "index 4\nAAAA\n"),
    ] {
        assert!(TlogProof::parse(&text.replace(from, to)).is_err(), "{to}");
    }
}
