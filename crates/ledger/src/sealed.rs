//! Proof in the type that something is in the log, durably: what must not happen before its record asks
//! for a reference to one of these.

use crate::{AppendError, Entry, Hash, Log, Record};

/// A record that is in the log and survives a power loss. Only [`Log::seal`] makes one.
///
/// ```compile_fail,E0451
/// use agentwall_ledger::{Hash, Sealed};
/// let forged = Sealed { value: (), index: 0, leaf: Hash([0; 32]) };
/// ```
#[derive(Debug)]
pub struct Sealed<T> {
    value: T,
    index: u64,
    leaf: Hash,
}

impl<T> Sealed<T> {
    /// What was recorded.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The entry's number in the log.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The leaf hash of what stands in the tree for it: SHA-256(0x00 ‖ leaf), RFC 6962.
    pub fn leaf(&self) -> Hash {
        self.leaf
    }
}

impl Log {
    /// Appends `value` as entry `seq` of a session, after the entries of `earlier` and in one commit with
    /// them, and returns when all of them are durable.
    ///
    /// # Errors
    /// Whatever [`Log::append_batch`] fails with, also when the entry is in the log and only may not
    /// survive: then nothing is sealed.
    pub fn seal<T: Clone + Into<Record>>(
        &self,
        earlier: &[Entry],
        session: &str,
        seq: u64,
        value: T,
    ) -> Result<Sealed<T>, AppendError> {
        let entry = Entry::now(session, seq, value.clone().into()).to_bytes();
        let mut all: Vec<Vec<u8>> = earlier.iter().map(Entry::to_bytes).collect();
        all.push(entry);
        let slices: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let (first, leaf) = self.append_hashed(&slices)?;
        Ok(Sealed {
            value,
            index: first + earlier.len() as u64,
            leaf,
        })
    }
}
