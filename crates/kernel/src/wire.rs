//! What the programs tell user space, and what they are told: events, identities, grants, adoptions.
//!
//! The layouts are those of `bpf/wire.h` and `bpf/adopt.h`, in the byte order of the host; `wire_tests.rs`
//! compares every size and offset with the types in the object's BTF. Everything that comes out of the kernel is
//! read with bounds: a record that is not whole is an error and never half a record.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentwall_action::{Effect, Verb};

/// The number of views: tables that can be in use at a time. View 0 is "no policy".
pub const VIEWS: u32 = 256;

/// The view whose table names the entries of a configuration; it is no policy ([`Start`]).
pub const SELECTOR: u32 = VIEWS - 2;

/// Sessions from this number on began in the kernel; those below it are numbered by user space.
pub const STARTED_HERE: u64 = 1 << 62;

/// Verbs that are counted for each view; the table has fewer.
pub(crate) const VERBS: u32 = 32;

/// The longest other name of an object, in bytes (`ALIAS_ROOM`).
pub const ALIAS_ROOM: usize = 1024;

/// Why an operation got its answer, beside the rule (`enum why`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The rule or the default that the event names.
    Rule,
    /// The name has more than 4095 bytes.
    TooLong,
    /// More components or mounts than are followed.
    TooDeep,
    /// The table's answer did not fit the memory of a decision.
    Full,
    /// There is no table for the task's view.
    NoTable,
    /// Names changed all the time while they were read.
    Race,
    /// Code that has no name anywhere, such as a `memfd`.
    Nameless,
    /// No policy permits it.
    Never(Never),
    /// The wall's own file or process.
    Wall,
    /// A person said yes.
    Grant,
    /// The session's own process, socket or memory.
    Own,
    /// A folder above something refused, which therefore stays where it is.
    Pinned,
    /// A process of another session, or of none.
    Foreign,
    /// The configuration means this start: a session begins. The user is in `identity.inode`.
    Meant,
    /// The configuration means it and no policy stands ready. The text is the folder where the process works, the
    /// user is in `identity.inode`, the rule is that of the selector.
    Unprepared,
    /// A host name that cannot be decided here: another network namespace, another protocol.
    Names,
    /// What a call named cannot be read any more (the monitor).
    Unread,
    /// Nothing was refused or permitted: what comes by this way is not seen from now on (the monitor).
    Unseen(Unseen),
}

/// Ways to act that the monitor does not see (`enum unseen`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Unseen {
    /// What is done by io_uring, but for TCP.
    Uring,
    /// System calls of another kind than the kernel's own: 32-bit, x32.
    Calls,
    /// More messages or descriptors in one call than are looked at.
    Many,
}

/// What no policy permits to a governed task (`enum never`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Never {
    /// Mounting, unmounting, moving mounts.
    Mount,
    /// Another root folder, another user namespace.
    Namespace,
    /// The `bpf` system call.
    Bpf,
    /// Performance events.
    Perf,
    /// Code for the kernel.
    Module,
    /// What kernel lockdown is about: the kernel's memory.
    Lockdown,
    /// Other credentials, or commands to drivers, by io_uring.
    Uring,
    /// Keys of the kernel's key rings.
    Key,
    /// Typing into a terminal.
    Terminal,
    /// Becoming another user, or a set-id program.
    SetId,
    /// A socket that is none of Unix, netlink, TCP, UDP.
    Family,
    /// A connection by the first packet of data.
    FastOpen,
    /// Clocks, the kernel's log, quotas.
    System,
    /// A capability over the whole host.
    Capability,
}

impl Never {
    /// A sentence for the agent: what is not permitted.
    pub const fn sentence(self) -> &'static str {
        match self {
            Never::Mount => "mounts cannot be changed",
            Never::Namespace => "no other root folder and no user namespace",
            Never::Bpf => "no bpf system call",
            Never::Perf => "no performance events",
            Never::Module => "no code for the kernel",
            Never::Lockdown => "the kernel's memory and registers are out of reach",
            Never::Uring => "io_uring cannot change credentials or pass commands to drivers",
            Never::Key => "the kernel's key rings are out of reach",
            Never::Terminal => "no typing into terminals",
            Never::SetId => "no becoming another user, and no set-id programs",
            Never::Family => "sockets are Unix, netlink, TCP or UDP",
            Never::FastOpen => "no connection by the first packet of data",
            Never::System => "clocks, the kernel's log and quotas are out of reach",
            Never::Capability => "no capability over the whole host, also for root",
        }
    }

    fn from_number(number: u32) -> Option<Never> {
        Some(match number {
            1 => Never::Mount,
            2 => Never::Namespace,
            3 => Never::Bpf,
            4 => Never::Perf,
            5 => Never::Module,
            6 => Never::Lockdown,
            7 => Never::Uring,
            8 => Never::Key,
            9 => Never::Terminal,
            10 => Never::SetId,
            11 => Never::Family,
            12 => Never::FastOpen,
            13 => Never::System,
            14 => Never::Capability,
            _ => return None,
        })
    }
}

/// What an answer is about: an object by device and inode, or an endpoint. A grant is bound to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The inode; of an object that is not there yet its folder's.
    pub inode: u64,
    /// Of an object that is not there yet: the kernel's hash and length of its name. Else 0.
    pub name: u64,
    /// The device as the kernel holds it: `major << 20 | minor`.
    pub device: u32,
    /// 6 for TCP, 17 for UDP, else 0.
    pub protocol: u32,
    /// The port of an endpoint.
    pub port: u32,
    /// The address of an endpoint, IPv4 in the first four bytes; or the beginning of an abstract name.
    pub address: [u8; 16],
}

impl Identity {
    pub(crate) const SIZE: usize = 48;

    fn read(bytes: &Reader<'_>, at: usize) -> Identity {
        Identity {
            inode: bytes.u64(at),
            name: bytes.u64(at + 8),
            device: bytes.u32(at + 16),
            protocol: bytes.u32(at + 20),
            port: bytes.u32(at + 24),
            address: bytes.array(at + 32),
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.inode.to_ne_bytes());
        to.extend_from_slice(&self.name.to_ne_bytes());
        for word in [self.device, self.protocol, self.port, 0] {
            to.extend_from_slice(&word.to_ne_bytes());
        }
        to.extend_from_slice(&self.address);
    }
}

/// The kind of an object, as the table numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A path.
    Path,
    /// An address and a port.
    Endpoint,
    /// A Unix socket with a path.
    Socket,
    /// A Unix socket without one.
    Abstract,
}

/// One answer that is told: a refusal, a mark, a grant that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Ascending without gaps over all processors: what is missing was lost.
    pub number: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
    /// The session that the task was put under.
    pub session: u64,
    /// The generation of the table that answered.
    pub generation: u64,
    /// What it was about.
    pub identity: Identity,
    /// The view.
    pub view: u32,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The real user.
    pub uid: u32,
    /// What it would have done; `None` for what no policy is asked about.
    pub verb: Option<Verb>,
    /// The kind of object.
    pub kind: Kind,
    /// The object is a folder.
    pub directory: bool,
    /// What the policy says; `None`: it was not asked, and is to be asked about `text`, which is what a system call
    /// named (the monitor).
    pub effect: Option<Effect>,
    /// The layer and the rank of the rule in it that decided; `None`: a default, or no table.
    pub rule: Option<(u32, u32)>,
    /// Why.
    pub why: Why,
    /// Nothing was refused: the table is an audit table.
    pub audit: bool,
    /// How many `monitor` rules matched.
    pub marks: u32,
    /// The address of an endpoint.
    pub address: Option<IpAddr>,
    /// The task's name; any task sets its own, so it identifies nobody.
    pub comm: Vec<u8>,
    /// The object's name as it was asked for: a path, or `@` and an abstract name. Of what a call named: that, below
    /// the folder it is relative to, with `.` and `..` resolved as text.
    pub text: Option<Vec<u8>>,
}

/// Why a record of the kernel cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It ends early, or has more than it says.
    #[error("a record of {found} bytes where {expected} were expected")]
    Length {
        /// By its own head.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// A number that has no meaning here.
    #[error("{field} has the unknown value {value}: programs and loader are not of one version")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
}

impl Event {
    /// Bytes before the text.
    pub(crate) const HEAD: usize = 168;

    /// Reads one record of the ring buffer.
    ///
    /// # Errors
    /// It is not whole, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Event, WireError> {
        let wrong = |expected| WireError::Length {
            expected,
            found: bytes.len(),
        };
        if bytes.len() < Event::HEAD {
            return Err(wrong(Event::HEAD));
        }
        let r = Reader(bytes);
        let len = r.u32(160) as usize;
        let whole = Event::HEAD + len;
        // A record has room for more than its text needs: the programs know two sizes.
        if bytes.len() < whole {
            return Err(wrong(whole));
        }
        let text = &bytes[Event::HEAD..whole];
        let (why, base) = (r.u32(120), r.u32(140) as usize);
        let (why, effect, text) = match why {
            WHY_CALL => match (text.get(..base), text.get(base..)) {
                (Some(folder), Some(name)) => (Why::Rule, None, joined(folder, name)),
                _ => return Err(wrong(Event::HEAD + base)),
            },
            _ => {
                let effect = effect_of(r.u32(108))?;
                (why_of(why, r.u32(124))?, Some(effect), text.to_vec())
            }
        };
        let verb = r.u32(96);
        let identity = Identity::read(&r, 32);
        let rank = r.u32(116);
        let comm: [u8; 16] = r.array(144);
        Ok(Event {
            number: r.u64(0),
            time: r.u64(8),
            session: r.u64(16),
            generation: r.u64(24),
            identity,
            view: r.u32(80),
            pid: r.u32(84),
            tid: r.u32(88),
            uid: r.u32(92),
            verb: (verb != u32::MAX).then(|| verb_of(verb)).transpose()?,
            kind: kind_of(r.u32(100))?,
            directory: r.u32(104) != 0,
            effect,
            rule: (rank != u32::MAX).then(|| (r.u32(112), rank)),
            why,
            audit: r.u32(128) != 0,
            marks: r.u32(132),
            address: address_of(r.u32(136), &identity.address)?,
            comm: comm.iter().copied().take_while(|b| *b != 0).collect(),
            text: (!text.is_empty()).then_some(text),
        })
    }
}

/// What a call named: not decided in the kernel.
const WHY_CALL: u32 = 16;

/// A name as a system call has it, below the folder that it is relative to. An absolute one is relative to the
/// process's root folder, which `..` does not leave. Links are not followed: nobody knows where they led.
fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    // The kernel's name of a folder has no steps; a record that is not the kernel's may.
    walk(&mut all, folder, 0);
    let floor = match name.first() {
        Some(b'/') => all.len(),
        _ => 0,
    };
    walk(&mut all, name, floor);
    if all.is_empty() {
        return b"/".to_vec();
    }
    all.iter().flat_map(|part| [b"/", *part].concat()).collect()
}

/// Goes `text`'s steps from `all`; those up end at the part `floor`.
fn walk<'a>(all: &mut Vec<&'a [u8]>, text: &'a [u8], floor: usize) {
    for part in text.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => all.truncate(all.len().saturating_sub(1).max(floor)),
            _ => all.push(part),
        }
    }
}

fn verb_of(number: u32) -> Result<Verb, WireError> {
    Verb::ALL
        .get(number as usize)
        .copied()
        .ok_or(WireError::Unknown {
            field: "verb",
            value: number,
        })
}

fn kind_of(number: u32) -> Result<Kind, WireError> {
    Ok(match number {
        0 => Kind::Path,
        1 => Kind::Endpoint,
        3 => Kind::Socket,
        4 => Kind::Abstract,
        value => {
            return Err(WireError::Unknown {
                field: "kind",
                value,
            });
        }
    })
}

fn effect_of(number: u32) -> Result<Effect, WireError> {
    Ok(match number {
        0 => Effect::Allow,
        1 => Effect::Isolate,
        2 => Effect::Ask,
        3 => Effect::RateLimit,
        4 => Effect::Deny,
        value => {
            return Err(WireError::Unknown {
                field: "effect",
                value,
            });
        }
    })
}

fn why_of(number: u32, never: u32) -> Result<Why, WireError> {
    Ok(match number {
        0 => Why::Rule,
        1 => Why::TooLong,
        2 => Why::TooDeep,
        3 => Why::Full,
        4 => Why::NoTable,
        5 => Why::Race,
        6 => Why::Nameless,
        7 => Why::Never(Never::from_number(never).ok_or(WireError::Unknown {
            field: "never",
            value: never,
        })?),
        8 => Why::Wall,
        9 => Why::Grant,
        10 => Why::Own,
        11 => Why::Pinned,
        12 => Why::Foreign,
        13 => Why::Meant,
        14 => Why::Unprepared,
        15 => Why::Names,
        17 => Why::Unread,
        18 => Why::Unseen(match never {
            1 => Unseen::Uring,
            2 => Unseen::Calls,
            3 => Unseen::Many,
            value => {
                return Err(WireError::Unknown {
                    field: "unseen",
                    value,
                });
            }
        }),
        value => {
            return Err(WireError::Unknown {
                field: "why",
                value,
            });
        }
    })
}

fn address_of(len: u32, bytes: &[u8; 16]) -> Result<Option<IpAddr>, WireError> {
    Ok(match len {
        0 => None,
        4 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        16 => Some(Ipv6Addr::from(*bytes).into()),
        value => {
            return Err(WireError::Unknown {
                field: "address_len",
                value,
            });
        }
    })
}

/// The key of a grant: this verb, by this session, on this object or endpoint.
pub(crate) fn grant_key(session: u64, identity: &Identity, verb: Verb) -> Vec<u8> {
    let mut key = Vec::with_capacity(16 + Identity::SIZE);
    key.extend_from_slice(&session.to_ne_bytes());
    identity.write(&mut key);
    key.extend_from_slice(&number_of(verb).to_ne_bytes());
    key.extend_from_slice(&[0; 4]);
    key
}

/// Until when and how often a grant holds.
pub(crate) fn grant_of(bytes: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some((word(0)?, word(8)?))
}

/// The number of a verb in tables and events.
pub(crate) fn number_of(verb: Verb) -> u32 {
    verb as u32
}

/// A governed process, as the list iterator writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Governed {
    /// The session it was put under.
    pub session: u64,
    /// When it began, in nanoseconds of `CLOCK_BOOTTIME`.
    pub born: u64,
    /// The process.
    pub pid: u32,
    /// Its view; 0: none, a process of the wall itself or one that was released.
    pub view: u32,
    /// Whether it is one of the wall's own.
    pub of_the_wall: bool,
    /// Whether a person took its policy away.
    pub released: bool,
}

impl Governed {
    pub(crate) const SIZE: usize = 32;

    /// Reads all that an iterator wrote.
    ///
    /// # Errors
    /// The last record is not whole.
    pub fn parse_all(bytes: &[u8]) -> Result<Vec<Governed>, WireError> {
        if !bytes.len().is_multiple_of(Governed::SIZE) {
            return Err(WireError::Length {
                expected: bytes.len().next_multiple_of(Governed::SIZE),
                found: bytes.len(),
            });
        }
        Ok(bytes
            .chunks_exact(Governed::SIZE)
            .map(|chunk| {
                let r = Reader(chunk);
                Governed {
                    session: r.u64(0),
                    born: r.u64(8),
                    pid: r.u32(16),
                    view: r.u32(20),
                    of_the_wall: r.u32(24) & TASK_WALL != 0,
                    released: r.u32(24) & TASK_RELEASED != 0,
                }
            })
            .collect())
    }
}

pub(crate) const TASK_WALL: u32 = 1;
pub(crate) const TASK_RELEASED: u32 = 2;

/// The longest name of a working folder for which a policy can stand ready, in bytes.
pub const MAX_FOLDER: usize = FOLDER_ROOM - 1;
const FOLDER_ROOM: usize = 256;

/// For which starts a policy stands ready (`struct start`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// The generation of the selector.
    pub generation: u64,
    /// The rank of the entry in it.
    pub rank: u32,
    /// The real user and the folder where the process works; `None`: whoever and wherever it is.
    pub of: Option<(u32, Vec<u8>)>,
}

impl Start {
    pub(crate) const SIZE: usize = 16 + FOLDER_ROOM;

    /// The key of the map; `None`: the folder's name is too long.
    pub fn key(&self) -> Option<Vec<u8>> {
        let (user, folder) = match &self.of {
            Some((user, folder)) => (*user, folder.as_slice()),
            None => (u32::MAX, [].as_slice()),
        };
        let mut key = Vec::with_capacity(Start::SIZE);
        key.extend_from_slice(&self.generation.to_ne_bytes());
        key.extend_from_slice(&self.rank.to_ne_bytes());
        key.extend_from_slice(&user.to_ne_bytes());
        key.extend_from_slice(folder);
        key.resize(Start::SIZE, 0);
        (folder.len() <= MAX_FOLDER).then_some(key)
    }

    /// From a key.
    ///
    /// # Errors
    /// It is of another length.
    pub fn parse(bytes: &[u8]) -> Result<Start, WireError> {
        if bytes.len() != Start::SIZE {
            return Err(WireError::Length {
                expected: Start::SIZE,
                found: bytes.len(),
            });
        }
        let r = Reader(bytes);
        let user = r.u32(12);
        let folder = bytes[16..].iter().copied().take_while(|b| *b != 0);
        Ok(Start {
            generation: r.u64(0),
            rank: r.u32(8),
            of: (user != u32::MAX).then(|| (user, folder.collect())),
        })
    }
}

/// Fields at known offsets of a record whose length was checked before.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.array(at))
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
