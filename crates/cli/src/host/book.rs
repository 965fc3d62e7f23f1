//! The book: what a daemon that starts again must know of what stands.
//!
//! It lies in memory (`/run`), as pinned programs do, and goes with a reboot as they do. It is replaced as a
//! whole. A book of another version, or one that cannot be read, is none: what stands goes on, under
//! policies whose rules cannot be named.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agentwall_action::Verb;
use agentwall_kernel::wire::Identity;
use agentwall_policy::{Layer, Source, Variables};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{kernel::Grant, policy::Mode};
use crate::{session::write_atomically, state::shown};

/// The version of the form.
const VERSION: u32 = 1;

/// What stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// The version of the form.
    pub v: u32,
    /// SHA-256 of the programs, lower-case hex.
    pub programs: String,
    /// How many hooks they are attached to.
    pub hooks: usize,
    /// Every table only records.
    pub audit: bool,
    /// Host names were proved to lead to the daemon.
    pub names: bool,
    /// When the canaries were refused, milliseconds since the Unix epoch.
    pub proved_ms: Option<u64>,
    /// The number of the next event.
    pub next_event: Option<u64>,
    /// Events that did not reach the ledger.
    pub lost: u64,
    /// Of those, what the programs themselves had counted.
    pub dropped: u64,
    /// New processes that the monitor could not follow, as far as the ledger has them.
    pub unfollowed: u64,
    /// Runs of its programs that the kernel left out, as far as the ledger has them.
    pub missed: u64,
    /// Why it is the monitor that stands, and no wall.
    pub no_wall: Option<String>,
    /// The number of the next session.
    pub next_session: u64,
    /// The number of the next question.
    pub next_question: u64,
    /// The highest generation that was given.
    pub generation: u64,
    /// The policies in use.
    pub views: Vec<ViewNote>,
    /// What is governed.
    pub sessions: Vec<SessionNote>,
    /// What persons permitted.
    pub grants: Vec<GrantNote>,
}

/// A policy in use, to be compiled again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ViewNote {
    /// Its number.
    pub view: u32,
    /// The name of its subject.
    pub name: String,
    /// Where it is from.
    #[serde(with = "agentwall_action::path_bytes")]
    pub policy: PathBuf,
    /// Nothing is refused, only recorded.
    pub audit: bool,
    /// Its generation.
    pub generation: u64,
    /// Its digest.
    pub digest: String,
    /// Its text.
    pub sources: Vec<SourceNote>,
    /// The values it was loaded with.
    pub workspace: Option<String>,
    /// `${home}`.
    pub home: Option<String>,
    /// What the tally had counted, by verb.
    pub told: Vec<(String, u64)>,
    /// What it had not yet of what was decided in user space, by verb (the monitor).
    pub allowed: Vec<(String, u64)>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceNote {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its layer.
    pub layer: Layer,
}

/// A governed tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionNote {
    /// Its number in the kernel.
    pub number: u64,
    /// Its id in the ledger.
    pub id: String,
    /// Its view.
    pub view: u32,
    /// The process it began with.
    pub pid: u32,
    /// Whose that was.
    pub uid: u32,
    /// Its program, escaped.
    pub exe: String,
    /// Decisions by effect.
    pub decisions: std::collections::BTreeMap<String, u64>,
    /// The number of its next host name.
    pub names: u32,
}

/// What a person permitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantNote {
    session: u64,
    verb: String,
    inode: u64,
    name: u64,
    device: u32,
    protocol: u32,
    port: u32,
    address: [u8; 16],
}

impl From<&Grant> for GrantNote {
    fn from(grant: &Grant) -> GrantNote {
        let id = grant.identity;
        GrantNote {
            session: grant.session,
            verb: grant.verb.as_str().to_owned(),
            inode: id.inode,
            name: id.name,
            device: id.device,
            protocol: id.protocol,
            port: id.port,
            address: id.address,
        }
    }
}

impl GrantNote {
    /// The grant, if its verb is known.
    pub fn grant(&self) -> Option<Grant> {
        Some(Grant {
            session: self.session,
            verb: self.verb.parse::<Verb>().ok()?,
            identity: Identity {
                inode: self.inode,
                name: self.name,
                device: self.device,
                protocol: self.protocol,
                port: self.port,
                address: self.address,
            },
        })
    }
}

impl SourceNote {
    /// Notes a source; it was loaded, so it is UTF-8.
    pub fn of(source: &Source) -> SourceNote {
        SourceNote {
            name: source.name.clone(),
            text: String::from_utf8_lossy(&source.text).into_owned(),
            layer: source.layer,
        }
    }

    /// The source.
    pub fn source(&self) -> Source {
        Source::new(self.name.clone(), self.text.clone(), self.layer)
    }
}

impl ViewNote {
    /// The values it was loaded with.
    pub fn variables(&self, state: &Path) -> Variables {
        variables(
            self.workspace.as_deref().map(Path::new),
            self.home.as_deref().map(Path::new),
            state,
        )
    }
}

/// The values of a policy on this host.
pub fn variables(workspace: Option<&Path>, home: Option<&Path>, state: &Path) -> Variables {
    Variables {
        workspace: workspace.map(Path::to_owned),
        home: home.map(Path::to_owned),
        tmp: Some(super::canonical(Path::new("/tmp"))),
        state: Some(state.to_owned()),
    }
}

impl Book {
    /// The book at `path`; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read, or is of another version.
    pub fn read(path: &Path) -> Result<Option<Book>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", shown(path))),
        };
        let book: Book =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", shown(path)))?;
        if book.v != VERSION {
            bail!(
                "{} is of version {}, this program writes {VERSION}",
                shown(path),
                book.v
            );
        }
        Ok(Some(book))
    }

    /// How policies were kept.
    pub fn mode(&self) -> Mode {
        Mode {
            audit: self.audit,
            names: self.names,
        }
    }

    /// Replaces the book at `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        let book = Book {
            v: VERSION,
            ..self.clone()
        };
        let text = serde_json::to_vec(&book)?;
        write_atomically(path, &text).with_context(|| format!("cannot write {}", shown(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("book.json");
        assert_eq!(Book::read(&path).unwrap(), None);
        let grant = Grant {
            session: 7,
            verb: Verb::NetConnect,
            identity: Identity {
                inode: u64::MAX,
                port: 443,
                address: [9; 16],
                ..Identity::default()
            },
        };
        let book = Book {
            v: VERSION,
            next_event: Some(u64::MAX),
            views: vec![ViewNote {
                view: 3,
                policy: std::ffi::OsStr::new("/etc/x").into(),
                sources: vec![SourceNote::of(&Source::new(
                    "p",
                    "agentwall: 1\n",
                    Layer::User,
                ))],
                workspace: Some("/w".into()),
                told: vec![("file.read".into(), 9)],
                ..ViewNote::default()
            }],
            grants: vec![GrantNote::from(&grant)],
            ..Book::default()
        };
        book.write(&path).unwrap();
        let read = Book::read(&path).unwrap().unwrap();
        assert_eq!(read, book);
        assert_eq!(read.grants[0].grant(), Some(grant));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(
            Book::read(&path)
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
        fs::write(&path, text.replace("\"v\":1", "\"v\":2")).unwrap();
        assert!(
            Book::read(&path)
                .unwrap_err()
                .to_string()
                .contains("version 2")
        );
    }
}
