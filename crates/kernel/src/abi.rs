//! The structures that programs and user space share: the Rust side of `bpf/abi.h`.
//!
//! Invariant: sizes and offsets are those of the types in the objects' BTF; a test compares them field by
//! field, so that neither side changes alone.

use bytemuck::{Pod, Zeroable};

/// Words of a table's map value.
pub const TABLE_WORDS: usize = 1 << 20;
/// Words of the longest table: behind them are generation and flags.
pub const TABLE_ROOM: usize = TABLE_WORDS - 16;
/// Where the generation is, the low word first.
pub const TABLE_GENERATION: usize = TABLE_WORDS - 16;
/// Where the flags are.
pub const TABLE_FLAGS: usize = TABLE_WORDS - 14;
/// Flag of a table: nothing is refused, what would be is reported.
pub const TABLE_AUDIT: u32 = 1;
/// Flag of a table: names are those that the process sees, the host's are not asked as well.
pub const TABLE_INSIDE: u32 = 2;
/// Flag of a table: host names are decided, at the session's door ([`crate::Door`]).
pub const TABLE_NAMES: u32 = 4;

/// Bytes for the text of a question.
pub const TEXT_ROOM: usize = 4096;
/// In place of an effect: not decided. In place of a rank: the layer's default.
pub const NONE: u32 = u32::MAX;
/// Most ranks of marks that a verdict names.
pub const MAX_MARKS: usize = 4;
/// One more than the most nanoseconds that the decision core tells apart.
pub const MOST_NS: usize = 4096;
/// Most questions that the decision core is given for one run.
pub const ASKED: usize = 512;

/// Kinds of objects, as in the table.
pub mod kind {
    /// A path.
    pub const PATH: u32 = 0;
    /// An endpoint.
    pub const ENDPOINT: u32 = 1;
    /// A host name.
    pub const HOST: u32 = 2;
    /// A Unix socket with a path.
    pub const SOCKET: u32 = 3;
    /// An abstract Unix socket.
    pub const ABSTRACT: u32 = 4;
    /// The name of a tool, capability or URL.
    pub const NAME: u32 = 5;
}

/// One question to a table.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Question {
    /// The verb's number in the table.
    pub verb: u32,
    /// One of [`kind`].
    pub kind: u32,
    /// 1: the object is known to be a directory.
    pub directory: u32,
    /// 1: there is a text.
    pub has_text: u32,
    /// Where the text begins.
    pub start: u32,
    /// The bytes of the text; `start + len` is at most [`TEXT_ROOM`].
    pub len: u32,
    /// 6 (TCP) or 17 (UDP).
    pub protocol: u32,
    /// The port, in host order.
    pub port: u32,
    /// The bytes of the address: 0, 4 or 16.
    pub address_len: u32,
    /// The address in network order.
    pub address: [u8; 16],
}

/// The answer to a question.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Verdict {
    /// The effect's number in the table, or [`NONE`].
    pub effect: u32,
    /// The layer that decided.
    pub layer: u32,
    /// The rank of the rule that decided, or [`NONE`]: the layer's default.
    pub rank: u32,
    /// 1: not decided because something did not fit.
    pub full: u32,
    /// How many `monitor` rules match; 0 if not decided.
    pub marks: u32,
    /// The ranks of the first of them.
    pub mark: [u32; MAX_MARKS],
}

/// What the decision core is told to do.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct AskArgs {
    /// Which table.
    pub view: u32,
    /// How many questions there are, at most [`ASKED`].
    pub questions: u32,
    /// How many are asked in all, one after another and from the first again.
    pub times: u32,
}

/// A question to the decision core, and what came of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    /// What was answered.
    pub verdict: Verdict,
    /// The generation of the table that answered.
    pub generation: u64,
    /// How often it was asked.
    pub count: u64,
    /// The room for its text.
    pub text: [u8; TEXT_ROOM],
}

/// How many decisions of the core took so many nanoseconds; the last number counts all that took longer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Times {
    /// By nanoseconds, with one reading of the clock.
    pub decisions: [u32; MOST_NS],
    /// The same of a reading of the clock just before.
    pub clock: [u32; MOST_NS],
}
