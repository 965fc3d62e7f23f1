//! Reading an archive that anybody may have made.
//!
//! Names come in order and each below a directory that came before it, so there are no duplicates, no
//! entries below a link or a file, and nothing outside. What is announced reserves no memory; what is
//! read is bounded by [`ArchiveLimits`]. The reader itself writes nothing: entries go to a sink.

use std::io::Read;
use std::path::{Component, Path};

use sha2::Digest as _;

use super::contents::{Manifest, Original, Place, originals_of};
use super::input::{Data, Input};
use super::order::Order;
use super::output::MAX_OWN;
use super::{ArchiveError, ArchiveLimits, Entry, MANIFEST, ORIGINALS, PROOF};
use crate::content::hex;

/// Longest list of originals.
const MAX_ORIGINALS: u64 = 512 << 20;
/// Most layers of a session.
const MAX_LAYERS: usize = 1000;

/// An archive that was read to its end. Whether to believe its proof is up to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub(super) manifest: Manifest,
    pub(super) originals: Vec<Original>,
    pub(super) entries: Vec<Entry>,
    pub(super) digest: String,
    pub(super) proof: Vec<u8>,
    pub(super) limits: ArchiveLimits,
}

impl Archive {
    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of all bytes before the head of the proof, lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The proof, as whoever made the archive wrote it.
    pub fn proof(&self) -> &[u8] {
        &self.proof
    }

    /// Where files with set-id bits or capabilities would come: index of the layer, path below its root.
    pub fn privileged(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let privileged = self.entries.iter().filter(|e| e.is_privileged());
        privileged.map(|e| (e.part, e.rel.as_slice()))
    }
}

/// Reads an archive to its end and writes nothing.
///
/// # Errors
/// It is none, or not one to be taken: see [`ArchiveError`].
pub fn inspect(input: &mut dyn Read, limits: ArchiveLimits) -> Result<Archive, ArchiveError> {
    read(input, limits, &mut Nowhere)
}

/// Where entries go.
pub(super) trait Sink<E> {
    /// The next entry. What of its content is not read here is skipped.
    fn entry(&mut self, entry: &Entry, data: &mut Data<'_, '_>) -> Result<(), E>;
    /// All of a directory has come.
    fn leave(&mut self, directory: &Entry) -> Result<(), E>;
}

struct Nowhere;

impl Sink<ArchiveError> for Nowhere {
    fn entry(&mut self, _: &Entry, _: &mut Data<'_, '_>) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn leave(&mut self, _: &Entry) -> Result<(), ArchiveError> {
        Ok(())
    }
}

/// Reads an archive, giving its entries to a sink.
pub(super) fn read<E: From<ArchiveError>>(
    input: &mut dyn Read,
    limits: ArchiveLimits,
    sink: &mut dyn Sink<E>,
) -> Result<Archive, E> {
    let mut input = Input::new(input, limits.bytes);
    let first = input.own(MANIFEST, MAX_OWN).map_err(|e| match e {
        ArchiveError::Header { at: 0, .. } | ArchiveError::Cut { .. } if input.at() <= 512 => {
            ArchiveError::NotOne { expected: MANIFEST }
        }
        other => other,
    })?;
    let manifest = Manifest::of(&first)?;
    check_manifest(&manifest)?;
    let originals = originals_of(&input.own(ORIGINALS, MAX_ORIGINALS)?)?;
    check_originals(&manifest, &originals, limits)?;
    let mut order = Order::new(manifest.layers.len(), limits);
    let (digest, proof) = loop {
        let before = input.sum();
        let head = input.head()?;
        let head = head.ok_or(ArchiveError::Cut { at: input.at() })?;
        if head.name == PROOF.as_bytes() {
            let proof = input.rest_of_own(PROOF, MAX_OWN, &head)?;
            break (hex(&before.finalize()), proof);
        }
        order.next(head, &mut input, sink)?;
    };
    order.leave_until(None, sink)?;
    input.end()?;
    let mut counts = vec![0u64; manifest.layers.len()];
    order.entries.iter().for_each(|e| counts[e.part] += 1);
    if manifest
        .layers
        .iter()
        .zip(&counts)
        .any(|(l, n)| l.entries != *n)
    {
        return Err(own(MANIFEST, "the number of entries is not what it says").into());
    }
    Ok(Archive {
        manifest,
        originals,
        entries: order.entries,
        digest,
        proof,
        limits,
    })
}

pub(super) fn own(member: &'static str, what: &str) -> ArchiveError {
    ArchiveError::Own {
        member,
        what: what.to_owned(),
    }
}

fn check_manifest(manifest: &Manifest) -> Result<(), ArchiveError> {
    if manifest.layers.len() > MAX_LAYERS {
        return Err(ArchiveError::Limit {
            what: "layers",
            limit: MAX_LAYERS as u64,
            found: manifest.layers.len() as u64,
        });
    }
    for part in &manifest.layers {
        let plain = |path: &Path| {
            path.components()
                .all(|c| matches!(c, Component::Normal(_) | Component::RootDir))
        };
        let right = plain(&part.path) && part.path.is_absolute() == (part.place == Place::Absolute);
        if !right || !plain(&part.root) || !part.root.is_absolute() {
            return Err(own(MANIFEST, "the place of a layer is none"));
        }
    }
    Ok(())
}

fn check_originals(
    manifest: &Manifest,
    originals: &[Original],
    limits: ArchiveLimits,
) -> Result<(), ArchiveError> {
    if originals.len() as u64 > limits.originals {
        return Err(ArchiveError::Limit {
            what: "originals",
            limit: limits.originals,
            found: originals.len() as u64,
        });
    }
    let mut counts = vec![0u64; manifest.layers.len()];
    for original in originals {
        let count = counts.get_mut(original.layer);
        *count.ok_or_else(|| own(ORIGINALS, "it names a layer that is not there"))? += 1;
    }
    match manifest
        .layers
        .iter()
        .zip(&counts)
        .all(|(l, n)| l.originals == *n)
    {
        true => Ok(()),
        false => Err(own(
            ORIGINALS,
            "the number of lines is not what the manifest says",
        )),
    }
}
