//! Reading a log: entries, proofs, offline proof files. Needs no key and no lock.
//!
//! A reader sees the log as one checkpoint describes it. Writers may go on meanwhile: tiles are
//! only added, and a partial tile that was replaced is read from the wider one. Every entry handed
//! out was checked against its leaf hash in the tree; [`crate::verify()`] checks the tree itself.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    cosigned::{self, Cosigned, CosignedError},
    defect::Defect,
    hash::{Hash, leaf_hash},
    note::{Note, Verifier},
    proof::{NodeSource, prove_consistency, prove_inclusion, root_at},
    rotation::{self, KeyHistory, RotationError},
    store::{CHECKPOINT, read_bundle, read_file, read_hashes},
    text::Texts,
    tile::{Level, Tile, encode_hashes, split_bundle},
    tlog_proof::TlogProof,
    trust::TrustPolicy,
};

/// The hash tiles of a log of a given size; one tile per level is remembered.
#[derive(Debug)]
pub(crate) struct TileFiles {
    dir: PathBuf,
    size: u64,
    last: Mutex<HashMap<u8, (u64, Vec<Hash>)>>,
}

impl TileFiles {
    pub(crate) fn new(dir: &Path, size: u64) -> Self {
        TileFiles {
            dir: dir.to_owned(),
            size,
            last: Mutex::default(),
        }
    }

    /// The hashes of one tile.
    pub(crate) fn tile<T>(
        &self,
        level: u8,
        index: u64,
        with: impl FnOnce(&[Hash]) -> T,
    ) -> Result<T, Defect> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((i, hashes)) = last.get(&level)
            && *i == index
        {
            return Ok(with(hashes));
        }
        let width = Level::Hashes(level).width(index, self.size);
        let hashes = read_hashes(&self.dir, level, index, width)?;
        let result = with(&hashes);
        last.insert(level, (index, hashes));
        Ok(result)
    }
}

impl NodeSource for TileFiles {
    type Error = Defect;

    fn nodes(&self, level: u8, start: u64, end: u64) -> Result<Vec<Hash>, Defect> {
        let index = start / 256;
        // Both within one tile, so the differences are at most 256.
        let range = (start % 256) as usize..(end - index * 256) as usize;
        self.tile(level, index, |hashes| {
            hashes.get(range).map(<[Hash]>::to_vec)
        })?
        .ok_or_else(|| Defect::Missing {
            file: format!("hash {start} of level {level}"),
        })
    }
}

/// A log as one checkpoint describes it.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    checkpoint: Checkpoint,
    note: Note,
    tiles: TileFiles,
    bundle: Mutex<Option<(u64, Vec<u8>)>>,
    pub(crate) texts: Option<Texts>,
}

impl Reader {
    /// Reads the checkpoint without looking at its signature: for showing a log, not for trusting
    /// it.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        let bytes = read_file(&dir.join(CHECKPOINT), CHECKPOINT)?;
        let (checkpoint, note) = Checkpoint::parse_note(&bytes)?;
        Ok(Reader {
            dir: dir.to_owned(),
            tiles: TileFiles::new(dir, checkpoint.size),
            checkpoint,
            note,
            bundle: Mutex::new(None),
            texts: None,
        })
    }

    /// Like [`Reader::open`], and the checkpoint must be signed by `key`, or the one that has followed it.
    pub fn open_signed(dir: &Path, key: &Verifier) -> Result<Self, ReadError> {
        let reader = Reader::open(dir)?;
        reader.keys(key)?.open(reader.note.to_text().as_bytes())?;
        Ok(reader)
    }

    /// The keys of the log, of which `known` has to be one.
    pub fn keys(&self, known: &Verifier) -> Result<KeyHistory, RotationError> {
        KeyHistory::read(&self.dir, known, self.size())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.checkpoint.size
    }

    /// What the log signs.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The signed checkpoint, verbatim.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The proof that the log's key was replaced for the time of this number, from 0, as it is stored; `None` if it was
    /// not, in what this reader sees.
    pub fn rotation(&self, number: usize) -> Result<Option<String>, ReadError> {
        let name = rotation::file(number);
        let bytes = match read_file(&self.dir.join(&name), &name) {
            Err(Defect::Missing { .. }) => return Ok(None),
            other => other?,
        };
        let text = String::from_utf8(bytes).unwrap_or_default();
        let proof = TlogProof::parse(&text).map_err(|source| RotationError::Proof {
            file: name,
            source: Box::new(source),
        })?;
        Ok((proof.index < self.size()).then_some(text))
    }

    /// Entry `index`, from 0.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, ReadError> {
        let size = self.size();
        if index >= size {
            return Err(ReadError::Index { index, size });
        }
        let number = index / 256;
        let mut bundle = self.bundle.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match &*bundle {
            Some((n, bytes)) if *n == number => bytes,
            _ => {
                let width = Level::Entries.width(number, size);
                let (bytes, file) = read_bundle(&self.dir, number, width)?;
                self.check_bundle(&bytes, number, &file)?;
                &bundle.insert((number, bytes)).1
            }
        };
        // `read_bundle` has checked that all entries up to the width are there.
        Ok(split_bundle(bytes)
            .flatten()
            .nth((index % 256) as usize)
            .unwrap_or_default()
            .to_vec())
    }

    /// Entries of a range, in order; the end is cut to the log's size.
    pub fn entries(
        &self,
        range: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = Result<(u64, Vec<u8>), ReadError>> + '_ {
        (range.start..range.end.min(self.size())).map(|i| Ok((i, self.entry(i)?)))
    }

    /// The content of a tile or bundle that the log has at this size, or had at a smaller one: a narrower
    /// one is the beginning of what is there. `None` for what is beyond, which nobody has signed.
    pub fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, Defect> {
        if tile.width > tile.level.width(tile.index, self.size()) {
            return Ok(None);
        }
        let Tile { index, width, .. } = tile;
        match tile.level {
            Level::Hashes(level) => {
                read_hashes(&self.dir, level, index, width).map(|h| Some(encode_hashes(&h)))
            }
            Level::Entries => read_bundle(&self.dir, index, width).map(|(bytes, _)| Some(bytes)),
        }
    }

    /// The root of the first `size` entries.
    pub fn root_at(&self, size: u64) -> Result<Hash, ReadError> {
        if size > self.size() {
            return Err(ReadError::Index {
                index: size,
                size: self.size(),
            });
        }
        Ok(root_at(&self.tiles, size)?)
    }

    /// The proof that entry `index` is in the log.
    pub fn inclusion_proof(&self, index: u64) -> Result<Vec<Hash>, ReadError> {
        let size = self.size();
        prove_inclusion(&self.tiles, index, size)?.ok_or(ReadError::Index { index, size })
    }

    /// The proof that the log of `old` entries is a prefix of this one.
    pub fn consistency_proof(&self, old: u64) -> Result<Vec<Hash>, ReadError> {
        let size = self.size();
        prove_consistency(&self.tiles, old, size)?.ok_or(ReadError::Index { index: old, size })
    }

    /// The newest checkpoint with cosignatures, if there is one, checked against this log.
    pub fn cosigned(
        &self,
        key: &Verifier,
        trust: Option<&TrustPolicy>,
    ) -> Result<Option<Cosigned>, CosignedError> {
        let Some(bytes) = cosigned::read(&self.dir)? else {
            return Ok(None);
        };
        let check = |log: &Reader| {
            let keys = log.keys(key)?;
            cosigned::check(&bytes, &keys, trust, &log.checkpoint, |size| {
                root_at(&log.tiles, size)
            })
        };
        match check(self) {
            // The log may have grown, and been cosigned, since this reader was opened.
            Err(CosignedError::RolledBack { .. }) => match Reader::open(&self.dir) {
                Ok(now) => check(&now).map(Some),
                Err(ReadError::Defect(defect)) => Err(defect.into()),
                Err(ReadError::Checkpoint(error)) => Err(error.into()),
                Err(ReadError::Rotation(error)) => Err(error.into()),
                Err(ReadError::Index { .. }) => Ok(None),
            },
            other => other.map(Some),
        }
    }

    /// The newest checkpoint with cosignatures as it is stored, for handing it on: nothing is checked but
    /// that it is a checkpoint.
    pub fn cosigned_unchecked(&self) -> Result<Option<Note>, CosignedError> {
        let bytes = cosigned::read(&self.dir)?;
        let note = bytes.map(|bytes| Checkpoint::parse_note(&bytes).map(|(_, note)| note));
        Ok(note.transpose()?)
    }

    /// The offline proof of entry `index` under an older checkpoint of this log, such as a cosigned one.
    pub fn tlog_proof_under(
        &self,
        index: u64,
        note: &Note,
        extra: Option<&[u8]>,
    ) -> Result<TlogProof, ReadError> {
        let older = Checkpoint::parse(note.text())?;
        let size = older.size;
        let found = self.root_at(size)?;
        if found != older.root {
            return Err(Defect::Root {
                size,
                expected: older.root,
                found,
            }
            .into());
        }
        let hashes = prove_inclusion(&self.tiles, index, size)?;
        Ok(TlogProof {
            extra: extra.map(<[u8]>::to_vec),
            index,
            hashes: hashes.ok_or(ReadError::Index { index, size })?,
            checkpoint: note.to_text(),
        })
    }

    /// The offline proof of entry `index` (c2sp.org/tlog-proof@v1): together with the entry's bytes
    /// and the log's public key it is all that an outsider needs. `extra` is carried along,
    /// unauthenticated.
    pub fn tlog_proof(&self, index: u64, extra: Option<&[u8]>) -> Result<TlogProof, ReadError> {
        self.tlog_proof_under(index, &self.note, extra)
    }

    fn check_bundle(&self, bytes: &[u8], number: u64, file: &str) -> Result<(), Defect> {
        self.tiles.tile(0, number, |hashes| {
            first_changed(bytes, hashes, number, file)
        })?
    }
}

/// Compares the entries of a bundle with their leaf hashes.
pub(crate) fn first_changed(
    bundle: &[u8],
    hashes: &[Hash],
    number: u64,
    file: &str,
) -> Result<(), Defect> {
    for ((entry, expected), i) in split_bundle(bundle).flatten().zip(hashes).zip(0u64..) {
        let found = leaf_hash(entry);
        if found != *expected {
            return Err(Defect::EntryChanged {
                file: file.to_owned(),
                index: number * 256 + i,
                expected: *expected,
                found,
            });
        }
    }
    Ok(())
}

/// Why something cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The checkpoint.
    #[error("the file 'checkpoint': {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A bundle or tile.
    #[error(transparent)]
    Defect(#[from] Defect),
    /// The log's keys.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Beyond the end.
    #[error("there is no entry {index}: the log has {size}, numbered from 0")]
    Index {
        /// What was asked for.
        index: u64,
        /// Size of the log.
        size: u64,
    },
}
