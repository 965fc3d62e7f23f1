//! Why bytes are not a table.

/// What is wrong with a table, and where. Offsets are in words from the beginning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The bytes are not whole words, or too few for the head.
    #[error(
        "a table is at least {least} bytes in words of 4 bytes, found {found} bytes; was the file cut?"
    )]
    Size {
        /// The bytes of the head.
        least: usize,
        /// The bytes found.
        found: usize,
    },
    /// It does not begin as a table does.
    #[error(
        "a table begins with the bytes 'AWPT', found {found:02x?}; this is another kind of file"
    )]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Another version, or the other byte order.
    #[error(
        "version {expected} in the byte order of this host expected, found {found}; compile the policy again on this host"
    )]
    Version {
        /// The version that is understood.
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// The length that the head states is not the length there is.
    #[error("the head states {stated} words, found {found}; was the file cut?")]
    Length {
        /// The words stated.
        stated: u32,
        /// The words found.
        found: usize,
    },
    /// Something does not lie inside the table, or in its head.
    #[error(
        "{what} at word {at} needs {words} words, which are not all behind the head and inside the table"
    )]
    Outside {
        /// What it is.
        what: &'static str,
        /// Where it is said to be.
        at: u64,
        /// How long it is.
        words: u64,
    },
    /// A number is greater than it can be, or not the one that it must be.
    #[error("{what} at word {at} can be at most {most}, found {found}")]
    Number {
        /// What it is.
        what: &'static str,
        /// Where it is.
        at: u64,
        /// The greatest number possible.
        most: u64,
        /// The number found.
        found: u32,
    },
    /// A list has a length that it cannot have.
    #[error(
        "{what} at word {at} cannot have {found} words: the length is a multiple of {unit}, or fixed"
    )]
    Shape {
        /// What it is.
        what: &'static str,
        /// Where it is.
        at: u64,
        /// What its length is a multiple of.
        unit: usize,
        /// Its length.
        found: usize,
    },
    /// What has to be sorted is not.
    #[error("{what} at word {at} is not in ascending order")]
    Order {
        /// What it is.
        what: &'static str,
        /// Where the list is.
        at: u64,
    },
    /// Lists overlap.
    #[error("the lists of one use ({what}) are together longer than the table: they overlap")]
    Overlap {
        /// What they are.
        what: &'static str,
    },
    /// A cell of an automaton contradicts the others.
    #[error("cell {cell} of the automaton at word {at}: {what}")]
    Cell {
        /// What is wrong.
        what: &'static str,
        /// Where the automaton is.
        at: u32,
        /// The cell.
        cell: u32,
    },
}
