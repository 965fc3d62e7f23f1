//! Archives of plain files, for what is no layer: the same heads in their one spelling, names that lead nowhere else,
//! and nothing but contents. What they are called and what is in them is up to who writes and reads them.

use std::io::{Read, Write};

use super::ArchiveError;
use super::input::Input;
use super::output::Output;
use super::write::ExportError;

/// An archive that is being written. It is one only after [`PlainArchive::end`].
pub struct PlainArchive<'a>(Output<'a>);

impl std::fmt::Debug for PlainArchive<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlainArchive")
    }
}

impl<'a> PlainArchive<'a> {
    /// Begins one.
    pub fn new(to: &'a mut dyn Write) -> Self {
        PlainArchive(Output::new(to, u64::MAX))
    }

    /// The next file.
    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<(), ExportError> {
        self.0.own(name, content)
    }

    /// Ends it; answers the length of the whole.
    pub fn end(self) -> Result<u64, ExportError> {
        self.0.end()
    }
}

/// Reads an archive of plain files, each of at most `most` bytes, and hands on one after the other. A name is relative, of
/// whole parts, none of them `.` or `..`.
///
/// # Errors
/// It is no such archive, in its one spelling, to its last byte; or `each` has one.
pub fn read_plain<E: From<ArchiveError>>(
    from: &mut dyn Read,
    most: u64,
    mut each: impl FnMut(&str, Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut input = Input::new(from, u64::MAX);
    loop {
        let at = input.at();
        let Some(head) = input.head()? else {
            // The first block of zeros was read.
            return Ok(input.rest_of_end()?);
        };
        let named = std::str::from_utf8(&head.name).ok();
        let name = named
            .filter(|name| name.split('/').all(|part| !matches!(part, "" | "." | "..")))
            .ok_or(ArchiveError::Header {
                at,
                what: "a name is not one of a plain file",
            })?
            .to_owned();
        let content = input.plain(&head, at, &name, most)?;
        each(&name, content)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut archive = PlainArchive::new(&mut out);
        for (name, content) in files {
            archive.file(name, content).expect("written");
        }
        let length = archive.end().expect("written");
        assert_eq!(length, out.len() as u64);
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
        let mut found = Vec::new();
        read_plain(&mut &*bytes, 1 << 16, |name, content| {
            found.push((name.to_owned(), content));
            Ok::<_, ArchiveError>(())
        })?;
        Ok(found)
    }

    #[test]
    fn what_was_written_comes_back_and_every_byte_counts() {
        let long = format!("a/{}", "n".repeat(300));
        let files: [(&str, &[u8]); 4] = [
            ("one", b"1"),
            (&long, &[7; 600]),
            ("a/b/c", b""),
            ("last", &[0; 512]),
        ];
        let bytes = archive(&files);
        let back = read(&bytes).expect("an archive");
        let names: Vec<&str> = back.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["one", &long, "a/b/c", "last"]);
        assert!(back.iter().zip(&files).all(|(b, f)| b.1 == f.1));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(read(&changed).ok().as_ref(), Some(&back), "byte {at}");
            if at % 100 == 0 {
                assert!(read(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
        assert!(read(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["/etc/passwd", "../x", "a/../x", "a//x", "./x", "a/."] {
            assert!(read(&archive(&[(name, b"x")])).is_err(), "{name}");
        }
        assert!(read(&archive(&[("long", &[0; 1 << 17])])).is_err());
    }
}
