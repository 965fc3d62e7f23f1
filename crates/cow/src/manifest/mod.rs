//! The base manifest: what the original tree was when the session began.
//!
//! One binary file next to the upper directory (`UPPER.manifest`, format in `docs/manifest.md`) holds
//! per object device, inode, size, modification and change time, mode, owner and links. With it an
//! original counts as unchanged exactly if all of these are what they were, so a clock that was set
//! back, a file system that stores whole seconds and a directory moved by somebody else show.
//!
//! | module | does |
//! |---|---|
//! | `format` | the bytes |
//! | `take` | what may become of taking one |
//! | `walk` | walks a tree on two threads |
//! | `write` | writes the file |
//! | `taker` | does so beside a session, and knows when nobody needs it any more |
//!
//! # Invariants
//! * It is taken after [`Layer::base`], while others work: an object whose change time is not before
//!   the base when it is recorded is marked late, and a late object counts as changed.
//! * A file that is there and cannot be believed is an error, not an old session: the weaker rule
//!   would overwrite what the manifest was there to protect, and only a person may choose it.

mod format;
mod take;
mod taker;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::OnceLock;

use format::{BlockHead, Cursor, DOUBTFUL, HEAD, Head, SUM, UNREAD};

use crate::dir::{EntryKind, Snapshot};
use crate::layer::{FileId, Layer, Timestamp};

pub use take::{Limits, Refusal, TakeError, take};
pub use taker::{Taken, Taker};

/// Why a manifest cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The first bytes are of something else.
    #[error("it does not begin as a manifest does")]
    NotOne,
    /// Shorter than the shortest manifest.
    #[error("it is cut off after {found} bytes")]
    Cut {
        /// Its length.
        found: usize,
    },
    /// Written by another version.
    #[error(
        "it has version {found}, and this program reads version {}",
        format::VERSION
    )]
    Version {
        /// The version it names.
        found: u16,
    },
    /// Not the bytes that were written.
    #[error("its checksum does not match: it is cut off or damaged")]
    Checksum,
    /// The checksum matches and the content makes no sense: no version of this crate wrote it.
    #[error("at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It belongs to another session or tree.
    #[error(
        "it is of the tree {root:?} at {base:?}, and this session began on {expected_root:?} at \
         {expected_base:?}"
    )]
    Foreign {
        /// The root it was taken of.
        root: FileId,
        /// The moment it names.
        base: Timestamp,
        /// The layer's root.
        expected_root: Option<FileId>,
        /// The layer's base.
        expected_base: Timestamp,
    },
}

/// What a manifest says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtBase {
    /// Something was there.
    There(Recorded),
    /// Nothing was there when the directory was recorded.
    Absent {
        /// The directory was not changed between the base and that moment, so nothing was there at
        /// the base either.
        exact: bool,
    },
    /// The directory could not be read when the session began.
    Unread,
}

/// An object as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What was seen.
    pub seen: Snapshot,
    /// It is exactly what it was at the base.
    pub known: bool,
    /// At the base, this very object (device and inode) had this path.
    pub in_place: bool,
    /// Its change time was not before the base.
    pub late: bool,
}

/// A manifest, read and checked.
#[derive(Debug)]
pub struct Manifest {
    bytes: Vec<u8>,
    head: Head,
    blocks: Vec<Block>,
    /// Blocks of the subdirectories of all blocks, one run per block in the order of their names.
    children: Vec<u32>,
    whole: bool,
}

#[derive(Debug)]
struct Block {
    start: usize,
    first_child: usize,
    /// Decoded when it is first asked for.
    entries: OnceLock<Vec<Item>>,
}

#[derive(Debug)]
struct Item {
    name: Range<usize>,
    seen: Snapshot,
    late: bool,
    /// Its place in [`Manifest::children`], for a directory.
    child: usize,
}

impl Manifest {
    /// Reads the bytes of a manifest file; the error says why they cannot be believed. `Ok(Err(_))`
    /// is a file that says that, and why, no manifest was taken.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: Vec<u8>) -> Result<Result<Manifest, Refusal>, ManifestError> {
        let head = Head::of(&bytes)?;
        Manifest::blocks(bytes, head)
    }

    /// Walks the blocks of a file whose head was read.
    fn blocks(bytes: Vec<u8>, head: Head) -> Result<Result<Manifest, Refusal>, ManifestError> {
        let end = bytes.len() - SUM;
        let mut at = Cursor {
            bytes: &bytes[..end],
            at: HEAD,
        };
        let damaged = |at: usize, what| Err(ManifestError::Damaged { at, what });
        if head.state != 0 {
            return match Refusal::of(head.state) {
                Some(refusal) if at.at == end && head.objects == 0 => Ok(Err(refusal)),
                Some(_) => damaged(HEAD, "there is content where none was taken"),
                None => damaged(18, "an unknown reason for taking none"),
            };
        }
        let (mut blocks, mut children) = (Vec::new(), Vec::new());
        let (mut objects, mut whole) = (1u64, true);
        // Slots of `children` whose blocks are still to come, the next one last.
        let mut expected: Vec<Option<usize>> = vec![None];
        while let Some(slot) = expected.pop() {
            let start = at.at;
            let BlockHead {
                directory,
                marks,
                count,
            } = at.block_head()?;
            whole &= marks & UNREAD == 0;
            if let Some(slot) = slot {
                children[slot] = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            }
            let first_child = children.len();
            let mut last: &[u8] = &[];
            for _ in 0..count {
                let (name, object) = at.entry(&directory.seen, last)?;
                last = &bytes[name];
                if object.seen.kind == EntryKind::Directory {
                    children.push(u32::MAX);
                }
                objects += 1;
            }
            expected.extend((first_child..children.len()).rev().map(Some));
            blocks.push(Block {
                start,
                first_child,
                entries: OnceLock::new(),
            });
        }
        if at.at != end {
            return damaged(at.at, "there is more after the last directory");
        }
        if objects != head.objects {
            return damaged(HEAD, "the number of objects is not what the head says");
        }
        Ok(Ok(Manifest {
            bytes,
            head,
            blocks,
            children,
            whole,
        }))
    }

    /// The manifest of a layer: `Ok(Err(_))` when none was taken.
    ///
    /// # Errors
    /// The file is there and cannot be read or believed, or is of another session.
    pub fn of(layer: &Layer) -> Result<Result<Manifest, Refusal>, ReadError> {
        let path = layer.manifest_path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(Refusal::None)),
            Err(source) => return Err(ReadError::Io { path, source }),
        };
        let read = Head::of(&bytes).and_then(|head| {
            let other_root = layer.root_id.is_some_and(|id| id != head.root);
            if other_root || layer.base != head.base {
                return Err(ManifestError::Foreign {
                    root: head.root,
                    base: head.base,
                    expected_root: layer.root_id,
                    expected_base: layer.base,
                });
            }
            Manifest::blocks(bytes, head)
        });
        read.map_err(|source| ReadError::Manifest { path, source })
    }

    /// Number of objects, the root included.
    pub fn len(&self) -> u64 {
        self.head.objects
    }

    /// A tree has at least its root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether every directory of the tree could be read.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What was at `rel` (names separated by `/`; empty: the root itself).
    pub fn at(&self, rel: &[u8]) -> AtBase {
        let (mut block, mut rest) = (0usize, rel);
        loop {
            let Ok(head) = self.block_head(block) else {
                return AtBase::Unread;
            };
            if rest.is_empty() {
                let doubtful = head.marks & DOUBTFUL != 0;
                let late = head.directory.late;
                return AtBase::There(Recorded {
                    seen: head.directory.seen,
                    known: !late && !doubtful,
                    in_place: !doubtful,
                    late,
                });
            }
            if head.marks & UNREAD != 0 {
                return AtBase::Unread;
            }
            let cut = rest.iter().position(|b| *b == b'/');
            let (name, below) = match cut {
                Some(i) => (&rest[..i], &rest[i + 1..]),
                None => (rest, &rest[..0]),
            };
            let doubtful = head.marks & DOUBTFUL != 0;
            let items = self.items(block);
            let found = items.binary_search_by(|i| self.bytes[i.name.clone()].cmp(name));
            let Some(item) = found.ok().and_then(|i| items.get(i)) else {
                let exact = !doubtful && !head.directory.late;
                return AtBase::Absent { exact };
            };
            if item.seen.kind == EntryKind::Directory {
                block = self
                    .children
                    .get(item.child)
                    .map_or(usize::MAX, |b| *b as usize);
                rest = below;
                continue;
            }
            if cut.is_some() {
                // A name below something that is no directory.
                let exact = !doubtful && !head.directory.late;
                return AtBase::Absent { exact };
            }
            return AtBase::There(Recorded {
                seen: item.seen.clone(),
                known: !item.late && !doubtful,
                in_place: !(doubtful || item.late && head.directory.late),
                late: item.late,
            });
        }
    }

    /// Shows every path that was recorded, directories before what is in them.
    pub fn each(&self, mut show: impl FnMut(&[u8], AtBase)) {
        let mut stack = vec![(0usize, Vec::new())];
        while let Some((block, rel)) = stack.pop() {
            show(&rel, self.at(&rel));
            for item in self.items(block).iter().rev() {
                let name = &self.bytes[item.name.clone()];
                let path = crate::dir::join(&rel, name);
                if item.seen.kind == EntryKind::Directory {
                    let child = self.children.get(item.child);
                    stack.push((child.map_or(usize::MAX, |b| *b as usize), path));
                } else {
                    show(&path, self.at(&path));
                }
            }
        }
    }

    /// Shows the regular files that are exactly what they were at the base, those that lie least deep
    /// first, but for what is named `without` or lies below that.
    pub(crate) fn known_files(
        &self,
        without: &[u8],
        mut show: impl FnMut(&[u8], &Snapshot) -> ControlFlow<()>,
    ) {
        let mut queue = VecDeque::from([(0usize, Vec::new())]);
        while let Some((block, rel)) = queue.pop_front() {
            let doubtful = self
                .block_head(block)
                .is_ok_and(|head| head.marks & DOUBTFUL != 0);
            for item in self.items(block) {
                let name = &self.bytes[item.name.clone()];
                if name == without {
                    continue;
                }
                let path = crate::dir::join(&rel, name);
                if item.seen.kind == EntryKind::Directory {
                    let child = self.children.get(item.child);
                    queue.push_back((child.map_or(usize::MAX, |b| *b as usize), path));
                    continue;
                }
                let known = item.seen.kind == EntryKind::File && !item.late && !doubtful;
                if known && show(&path, &item.seen).is_break() {
                    return;
                }
            }
        }
    }

    fn cursor(&self, block: usize) -> Option<(&Block, Cursor<'_>)> {
        let block = self.blocks.get(block)?;
        let bytes = &self.bytes[..self.bytes.len() - SUM];
        let at = block.start;
        Some((block, Cursor { bytes, at }))
    }

    fn block_head(&self, block: usize) -> Result<BlockHead, ManifestError> {
        let (_, mut at) = self.cursor(block).ok_or(ManifestError::NotOne)?;
        at.block_head()
    }

    fn items(&self, block: usize) -> &[Item] {
        let Some((block, mut at)) = self.cursor(block) else {
            return &[];
        };
        block.entries.get_or_init(|| {
            let mut out = Vec::new();
            let Ok(head) = at.block_head() else {
                return out;
            };
            let mut child = block.first_child;
            for _ in 0..head.count {
                // `parse` walked the same bytes to their end.
                let Ok((name, object)) = at.entry(&head.directory.seen, &[]) else {
                    break;
                };
                let is_dir = object.seen.kind == EntryKind::Directory;
                out.push(Item {
                    name,
                    seen: object.seen,
                    late: object.late,
                    child,
                });
                child += usize::from(is_dir);
            }
            out
        })
    }
}

/// Why the manifest of a layer could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the base manifest {path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be believed.
    #[error(
        "the base manifest {path:?} cannot be believed: {source}; to go by change times alone, which \
         can miss what others did to the originals meanwhile, move it away"
    )]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
}
