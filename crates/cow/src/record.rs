//! What this crate itself did to an original tree: one JSON line per step, next to the upper
//! directory.
//!
//! Conflict detection compares change times, and a commit changes those itself: of directories it
//! adds to, and of hard-linked inodes one of whose names it replaces. The record tells such traces
//! from the user's. It also names the temporary objects, so that the next run can finish or undo a
//! step that was cut off. A lost tail (power failure) only makes the next scan more cautious.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::base_timestamp;
use crate::dir::{EntryKind, Snapshot};
use crate::layer::{FileId, Layer, Timestamp};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Line {
    /// An object as it was verified before we changed its change time.
    Touched { was: Snapshot },
    /// A commit begins; the moment is on the file system's clock.
    Began { at: Timestamp },
    /// A new object is about to be built under a temporary name.
    Building(Temp),
    /// A temporary name is about to hold our new object and then the original.
    Temp(Temp),
    /// The layer's commit ended; no temporary name is in use.
    Finished,
}

/// A temporary name in an original tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Temp {
    /// Overlay-relative path whose change this serves.
    #[serde(with = "crate::bytes::raw")]
    pub rel: Vec<u8>,
    /// The temporary name, in the same directory.
    pub name: String,
    /// Inode of our new object; `None` for a deletion and while it is being built.
    pub new: Option<FileId>,
    /// That object, complete; `None` in records of earlier versions.
    #[serde(default)]
    pub made: Option<Snapshot>,
    /// The original that is to leave, as it was verified; without it and without `new`, the object
    /// was still being built.
    pub old: Option<Snapshot>,
}

/// The record of one layer.
#[derive(Debug)]
pub(crate) struct Record {
    touched: HashMap<FileId, Snapshot>,
    /// Temporary names of a commit that did not finish.
    pub unfinished: Vec<Temp>,
    /// When that commit began.
    pub began: Option<Timestamp>,
    file: Option<File>,
}

impl Record {
    /// Reads the record; a layer never committed has none.
    pub(crate) fn read(layer: &Layer) -> io::Result<Record> {
        let mut record = Record {
            touched: HashMap::new(),
            unfinished: Vec::new(),
            began: None,
            file: None,
        };
        let text = match std::fs::read(layer.record_path()) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(record),
            Err(e) => return Err(e),
        };
        for line in text.split(|b| *b == b'\n') {
            // A torn line is one whose step did not begin.
            let Ok(line) = serde_json::from_slice::<Line>(line) else {
                continue;
            };
            match line {
                Line::Touched { was } => {
                    record.touched.insert(was.id, was);
                }
                Line::Began { at } => {
                    // The earliest of several commits that were cut off.
                    record.began.get_or_insert(at);
                }
                Line::Building(temp) => record.unfinished.push(temp),
                Line::Temp(temp) => {
                    record.unfinished.retain(|t| t.name != temp.name);
                    record.unfinished.push(temp);
                }
                Line::Finished => {
                    record.unfinished.clear();
                    record.began = None;
                }
            }
        }
        Ok(record)
    }

    /// Opens the record for appending: a commit begins. Returns when, on the file system's clock.
    pub(crate) fn open(&mut self, layer: &Layer) -> io::Result<Timestamp> {
        let folder = layer.upper.parent().unwrap_or(&layer.upper);
        let mut at = base_timestamp(folder, None)?;
        // Clocks of two file systems may differ by a tick; one that was set back stays behind.
        for _ in 0..5 {
            if at >= layer.base {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            at = base_timestamp(folder, Some(at))?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(layer.record_path())?;
        // Ends a line torn by a crash.
        file.write_all(b"\n")?;
        self.file = Some(file);
        self.append(&Line::Began { at })?;
        Ok(at)
    }

    /// Whether a changed ctime of this object is explained by our own steps.
    pub(crate) fn explains(&self, now: &Snapshot) -> bool {
        self.touched
            .get(&now.id)
            .is_some_and(|was| was.same_object(now))
    }

    /// Notes an object, verified as unchanged, before a step that changes its ctime.
    pub(crate) fn touch(&mut self, was: &Snapshot) -> io::Result<()> {
        if self.explains(was) {
            return Ok(());
        }
        self.append(&Line::Touched { was: was.clone() })?;
        self.touched.insert(was.id, was.clone());
        Ok(())
    }

    /// Notes a file before one of its several names goes away.
    pub(crate) fn touch_links(&mut self, was: &Snapshot) -> io::Result<()> {
        if was.nlink > 1 && was.kind != EntryKind::Directory {
            self.touch(was)?;
        }
        Ok(())
    }

    /// Notes a temporary name before something is built under it.
    pub(crate) fn building(&mut self, rel: &[u8], name: &str) -> io::Result<()> {
        self.append(&Line::Building(Temp {
            rel: rel.to_vec(),
            name: name.to_owned(),
            new: None,
            made: None,
            old: None,
        }))
    }

    /// Notes a temporary name before it trades places with an original.
    pub(crate) fn temp(&mut self, temp: Temp) -> io::Result<()> {
        self.append(&Line::Temp(temp))
    }

    /// Notes the end of a commit.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.append(&Line::Finished)?;
        self.unfinished.clear();
        Ok(())
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the commit record is not open"));
        };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        file.write_all(&text)
    }
}
