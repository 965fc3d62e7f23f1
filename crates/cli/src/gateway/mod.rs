//! Gateways: the process that stands in front of an API, and how other commands find and ask it.
//!
//! ```text
//! gateways/<name>/lock           held (flock) by the gateway while it runs
//!                 control.sock   where 'pending', 'approve', 'reject' and 'gateway' ask it
//!                 identity.db    hosts and agents
//!                 tokens.json    digests of API tokens
//!                 tools.db       definitions of tools, of a server of the Model Context Protocol
//! ```

pub mod ask;
pub mod pins;
pub mod recorder;
pub mod requests;
pub mod tokens;

use std::{
    fs::{self, File, OpenOptions},
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
        net::UnixListener,
    },
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::{
    control::{PATIENCE, Request, Response, call_in, listen_in},
    state::{State, shown},
};

/// What is between a gateway's name and the number of a question, in its id.
pub const MARK: char = ':';

/// One gateway's folder.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name.
    pub name: String,
    dir: PathBuf,
}

impl Place {
    /// The folder of a gateway; it may not exist.
    pub fn of(state: &State, name: &str) -> Place {
        Place {
            name: name.to_owned(),
            dir: state.root().join("gateways").join(name),
        }
    }

    /// The gateways that run, by name.
    pub fn running(state: &State) -> Result<Vec<Place>> {
        let mut all = Place::all(state)?;
        all.retain(Place::is_running);
        Ok(all)
    }

    /// All that there ever were, by name.
    pub fn all(state: &State) -> Result<Vec<Place>> {
        let folder = state.root().join("gateways");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", shown(&folder))),
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut all: Vec<Place> = names.map(|name| Place::of(state, &name)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Makes the folder and takes the lock. The lock is dropped with the file.
    pub fn take(&self) -> Result<File> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir);
        made.with_context(|| format!("cannot make {}", shown(&self.dir)))?;
        let lock = self.lock_file()?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "a gateway '{}' runs already; give this one another --name",
                self.name
            );
        }
        Ok(lock)
    }

    /// Where its hosts and agents are kept.
    pub fn identities(&self) -> PathBuf {
        self.dir.join("identity.db")
    }

    /// Where digests of its API tokens are kept.
    pub fn tokens(&self) -> PathBuf {
        self.dir.join("tokens.json")
    }

    /// Where the definitions of its tools are kept.
    pub fn tools(&self) -> PathBuf {
        self.dir.join("tools.db")
    }

    /// Asks it.
    pub fn call(&self, request: &Request) -> Result<Response> {
        let gone = || {
            format!(
                "the gateway '{}' does not answer; it may just have ended",
                self.name
            )
        };
        call_in(&self.dir, request, PATIENCE, gone)
    }

    /// Where it is asked, to be listened on by whoever holds the lock.
    pub fn listen(&self) -> Result<UnixListener> {
        listen_in(&self.dir)
    }

    fn is_running(&self) -> bool {
        let Ok(lock) = self.lock_file() else {
            return false;
        };
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let mut options = OpenOptions::new();
        options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600);
        options
            .open(&path)
            .with_context(|| format!("cannot open {}", shown(&path)))
    }
}

/// The gateway that put the question, and the question's number or code: `bank:3`, `bank:BDGK-RSTZ`.
pub fn of_question<'a>(state: &State, id: &'a str) -> Result<Option<(Place, &'a str)>> {
    let Some((name, rest)) = id.split_once(MARK) else {
        return Ok(None);
    };
    let running = Place::running(state)?;
    match running.into_iter().find(|place| place.name == name) {
        Some(place) => Ok(Some((place, rest))),
        None => bail!(
            "no gateway '{}' runs; 'agentwall pending' lists the questions that wait",
            agentwall_action::escape_text(name)
        ),
    }
}
