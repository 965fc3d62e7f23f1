//! Trust policies (c2sp.org/tlog-policy): which logs and witnesses are known, and how many of the
//! witnesses must have cosigned a checkpoint before it counts as seen by the world.
//!
//! ```text
//! log <vkey> [<url>]
//! witness <name> <vkey> [<url>]
//! group <name> <k>|any|all <member>…
//! quorum <name>|none
//! ```
//!
//! Items are separated by spaces and tabs; lines that begin with `#` are comments. Names are octets, good
//! inside the file alone. A file is taken whole or refused with the line that is wrong: half a policy
//! would trust more, or less, than somebody wrote down.

use std::fmt;

use agentwall_action::escape_bytes;

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    cosignature::CosignerKey,
    note::{Note, NoteError, Verifier, VkeyError},
    rotation::KeyHistory,
};

/// The longest file, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// The most logs, witnesses and groups together.
const MAX_NAMES: usize = 256;

/// A trust policy.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    logs: Vec<TrustedLog>,
    witnesses: Vec<TrustedWitness>,
    groups: Vec<Group>,
    quorum: Option<Member>,
}

/// A log that a policy knows.
#[derive(Debug, Clone)]
pub struct TrustedLog {
    /// Its key; the key's name is the log's origin.
    pub key: Verifier,
    /// Where it is, if the policy says so and it is text.
    pub url: Option<String>,
}

/// A witness that a policy knows.
#[derive(Debug, Clone)]
pub struct TrustedWitness {
    /// What the policy calls it, escaped.
    pub name: String,
    /// Its key.
    pub key: CosignerKey,
    /// Its submission prefix (c2sp.org/tlog-witness), if the policy says so and it is text.
    pub url: Option<String>,
}

#[derive(Debug, Clone)]
struct Group {
    threshold: usize,
    members: Vec<Member>,
}

/// An index into the witnesses or into the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Witness(usize),
    Group(usize),
}

/// Who has cosigned a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witnessed {
    /// The witnesses that have, by the policy's names, with the times of their cosignatures in seconds since
    /// the Unix epoch.
    pub by: Vec<(String, u64)>,
    /// How many witnesses the policy knows.
    pub known: usize,
    /// Whether that is the policy's quorum. True of `quorum none` without any cosignature.
    pub quorum: bool,
}

impl Witnessed {
    /// When the newest of these cosignatures was made, in seconds since the Unix epoch.
    pub fn time(&self) -> Option<u64> {
        self.by.iter().map(|(_, time)| *time).max()
    }

    /// Whether the quorum is there and anybody has cosigned at all.
    pub fn holds(&self) -> bool {
        self.quorum && !self.by.is_empty()
    }
}

impl TrustPolicy {
    /// Reads a policy file.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        if bytes.len() > MAX_BYTES {
            return Err(TrustError::at(1, Mistake::TooLong));
        }
        let mut reading = Reading::default();
        let mut rest = bytes;
        for number in 1.. {
            if rest.is_empty() {
                break;
            }
            let wrong = |mistake| TrustError::at(number, mistake);
            let end = rest.iter().position(|b| *b == b'\n');
            let line = &rest[..end.ok_or(wrong(Mistake::NoNewline))?];
            rest = &rest[line.len() + 1..];
            reading.line(line).map_err(wrong)?;
        }
        let quorum = reading.quorum.ok_or(TrustError::NoQuorum)?;
        Ok(TrustPolicy {
            logs: reading.logs,
            witnesses: reading.witnesses,
            groups: reading.groups,
            quorum,
        })
    }

    /// The logs, in the order of the file.
    pub fn logs(&self) -> &[TrustedLog] {
        &self.logs
    }

    /// The witnesses, in the order of the file.
    pub fn witnesses(&self) -> &[TrustedWitness] {
        &self.witnesses
    }

    /// Whether a checkpoint needs any cosignature.
    pub fn needs_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    /// Who has cosigned the checkpoint that `note` carries. Says nothing about the log's signature.
    pub fn witnessed(&self, checkpoint: &Checkpoint, note: &Note) -> Result<Witnessed, NoteError> {
        let times = self
            .witnesses
            .iter()
            .map(|w| w.key.cosigned(checkpoint, note))
            .collect::<Result<Vec<_>, _>>()?;
        let cosigned: Vec<bool> = times.iter().map(Option::is_some).collect();
        let named = self.witnesses.iter().zip(&times);
        Ok(Witnessed {
            by: named
                .filter_map(|(w, time)| Some((w.name.clone(), (*time)?)))
                .collect(),
            known: self.witnesses.len(),
            quorum: self.is_quorum(&cosigned),
        })
    }

    /// Reads a checkpoint that must be signed by a log of this policy, or by the log of `keys` if they are given, and
    /// cosigned by the quorum.
    pub fn open(
        &self,
        bytes: &[u8],
        keys: Option<&KeyHistory>,
    ) -> Result<(Checkpoint, Witnessed), UntrustedError> {
        let (checkpoint, note) = Checkpoint::parse_note(bytes)?;
        if let Some(keys) = keys {
            keys.open(bytes)?;
        } else {
            let known = self.logs.iter().map(|l| &l.key);
            let known: Vec<&Verifier> = known.filter(|k| k.name() == checkpoint.origin).collect();
            if known.is_empty() {
                return Err(UntrustedError::UnknownLog(checkpoint.origin));
            }
            note.verify_any(known).map_err(CheckpointError::from)?;
        }
        let witnessed = self
            .witnessed(&checkpoint, &note)
            .map_err(CheckpointError::from)?;
        if !witnessed.quorum {
            return Err(UntrustedError::NoQuorum {
                by: witnessed.by.into_iter().map(|(name, _)| name).collect(),
                known: witnessed.known,
            });
        }
        Ok((checkpoint, witnessed))
    }

    /// Whether witnesses, by their index, are a quorum. A group names only what stands before it, so
    /// that one pass is enough.
    fn is_quorum(&self, cosigned: &[bool]) -> bool {
        let mut groups: Vec<bool> = Vec::with_capacity(self.groups.len());
        let holds = |member: &Member, groups: &[bool]| match *member {
            Member::Witness(w) => cosigned.get(w).copied().unwrap_or(false),
            Member::Group(g) => groups.get(g).copied().unwrap_or(false),
        };
        for group in &self.groups {
            let count = group.members.iter().filter(|m| holds(m, &groups)).count();
            groups.push(count >= group.threshold);
        }
        self.quorum.as_ref().is_none_or(|q| holds(q, &groups))
    }
}

/// A policy as far as it was read.
#[derive(Default)]
struct Reading {
    logs: Vec<TrustedLog>,
    witnesses: Vec<TrustedWitness>,
    groups: Vec<Group>,
    quorum: Option<Option<Member>>,
    /// Witnesses and groups share their names.
    names: Vec<(Vec<u8>, Member)>,
    /// Members of some group.
    used: Vec<Member>,
}

impl Reading {
    fn line(&mut self, line: &[u8]) -> Result<(), Mistake> {
        let odd = |b: &u8| !(*b == b'\t' || (0x20..0x7f).contains(b) || *b >= 0x80);
        if let Some(byte) = line.iter().copied().find(odd) {
            return Err(Mistake::Control(byte));
        }
        let items = line.split(|b| *b == b' ' || *b == b'\t');
        let items: Vec<&[u8]> = items.filter(|i| !i.is_empty()).collect();
        let Some((keyword, items)) = items.split_first() else {
            return Ok(());
        };
        if keyword.starts_with(b"#") {
            return Ok(());
        }
        if self.logs.len() + self.names.len() >= MAX_NAMES && *keyword != b"quorum" {
            return Err(Mistake::TooMany);
        }
        match (*keyword, items) {
            (b"log", [key]) => self.log(key, None),
            (b"log", [key, url]) => self.log(key, Some(url)),
            (b"witness", [name, key]) => self.witness(name, key, None),
            (b"witness", [name, key, url]) => self.witness(name, key, Some(url)),
            (b"group", [name, threshold, members @ ..]) if !members.is_empty() => {
                self.group(name, threshold, members)
            }
            (b"quorum", [name]) => {
                if self.quorum.is_some() {
                    return Err(Mistake::SecondQuorum);
                }
                self.quorum = Some(match *name {
                    b"none" => None,
                    name => Some(self.member(name)?),
                });
                Ok(())
            }
            (b"log" | b"witness" | b"group" | b"quorum", _) => Err(Mistake::Items),
            (other, _) => Err(Mistake::Keyword(escape_bytes(other))),
        }
    }

    fn log(&mut self, key: &[u8], url: Option<&[u8]>) -> Result<(), Mistake> {
        let key = Verifier::parse(text(key)?)?;
        if self.logs.iter().any(|l| l.key.bytes() == key.bytes()) {
            return Err(Mistake::SameKey);
        }
        let url = url.and_then(utf8);
        self.logs.push(TrustedLog { key, url });
        Ok(())
    }

    fn witness(&mut self, name: &[u8], key: &[u8], url: Option<&[u8]>) -> Result<(), Mistake> {
        let key = CosignerKey::parse(text(key)?)?;
        if self.witnesses.iter().any(|w| w.key.bytes() == key.bytes()) {
            return Err(Mistake::SameKey);
        }
        self.define(name, Member::Witness(self.witnesses.len()))?;
        self.witnesses.push(TrustedWitness {
            name: escape_bytes(name),
            key,
            url: url.and_then(utf8),
        });
        Ok(())
    }

    fn group(&mut self, name: &[u8], threshold: &[u8], members: &[&[u8]]) -> Result<(), Mistake> {
        let threshold = match threshold {
            b"all" => members.len(),
            b"any" => 1,
            k => std::str::from_utf8(k)
                .ok()
                .and_then(|k| k.parse::<usize>().ok().filter(|n| n.to_string() == k))
                .filter(|k| (1..=members.len()).contains(k))
                .ok_or(Mistake::Threshold(members.len()))?,
        };
        let mut found = Vec::with_capacity(members.len());
        for name in members {
            let member = self.member(name)?;
            if self.used.contains(&member) {
                return Err(Mistake::UsedTwice(escape_bytes(name)));
            }
            self.used.push(member);
            found.push(member);
        }
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group {
            threshold,
            members: found,
        });
        Ok(())
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<(), Mistake> {
        if name == b"none" || self.names.iter().any(|(n, _)| n == name) {
            return Err(Mistake::SameName(escape_bytes(name)));
        }
        self.names.push((name.to_vec(), member));
        Ok(())
    }

    fn member(&self, name: &[u8]) -> Result<Member, Mistake> {
        let known = self.names.iter().find(|(n, _)| n == name);
        known
            .map(|(_, member)| *member)
            .ok_or_else(|| Mistake::UnknownName(escape_bytes(name)))
    }
}

fn text(key: &[u8]) -> Result<&str, Mistake> {
    std::str::from_utf8(key).map_err(|_| Mistake::Key(VkeyError::Shape))
}

fn utf8(url: &[u8]) -> Option<String> {
    String::from_utf8(url.to_vec()).ok()
}

/// Why a policy file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A line of it.
    #[error("line {line}: {mistake}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        mistake: Mistake,
    },
    /// No line says what the quorum is.
    #[error("expected one line 'quorum NAME' or 'quorum none'")]
    NoQuorum,
}

impl TrustError {
    fn at(line: usize, mistake: Mistake) -> Self {
        TrustError::Line { line, mistake }
    }
}

/// What is wrong with a line of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mistake {
    /// A file that is no policy.
    #[error("a policy file has at most {MAX_BYTES} bytes")]
    TooLong,
    /// More than is meant.
    #[error("a policy names at most {MAX_NAMES} logs, witnesses and groups")]
    TooMany,
    /// The last line does not end.
    #[error("expected a newline at the end of the line")]
    NoNewline,
    /// A control character.
    #[error("a policy has no control characters but tab and newline, found byte {0:#04x}")]
    Control(u8),
    /// An unknown first word.
    #[error("expected log, witness, group or quorum, found {0:?}")]
    Keyword(String),
    /// Too few or too many items.
    #[error(
        "expected 'log VKEY [URL]', 'witness NAME VKEY [URL]', 'group NAME K|any|all MEMBER...' or 'quorum NAME'"
    )]
    Items,
    /// A key.
    #[error("the key: {0}")]
    Key(#[from] VkeyError),
    /// The same key under two names would count twice.
    #[error("this key stands on a line above")]
    SameKey,
    /// A name that is defined already, or `none`.
    #[error("the name {0:?} is taken")]
    SameName(String),
    /// A name that no line above defines.
    #[error("no line above defines {0:?}")]
    UnknownName(String),
    /// A member of two groups would count twice.
    #[error("{0:?} is a member of a group already")]
    UsedTwice(String),
    /// The number of a group.
    #[error("expected 'any', 'all', or a number from 1 to the number of members, {0}")]
    Threshold(usize),
    /// A second line `quorum`.
    #[error("a second quorum")]
    SecondQuorum,
}

/// Why a checkpoint is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UntrustedError {
    /// Not canonical, or a signature that is wrong or missing.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Of a log that the policy does not know, and no key was given.
    #[error("the policy has no log {0:?}, and no key was given for it")]
    UnknownLog(String),
    /// Too few witnesses.
    #[error("not witnessed as the policy wants: cosigned by {}", shown(.by, *.known))]
    NoQuorum {
        /// The witnesses that have cosigned.
        by: Vec<String>,
        /// How many witnesses the policy knows.
        known: usize,
    },
}

fn shown(by: &[String], known: usize) -> impl fmt::Display {
    match by {
        [] => format!("none of {known} witnesses"),
        by => format!("{} of {known} witnesses ({})", by.len(), by.join(", ")),
    }
}

#[cfg(test)]
mod tests;
