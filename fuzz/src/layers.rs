//! Archives of layers.

use std::{fs, io::Cursor, path::Path};

use agentwall_cow::{
    ArchiveError, ArchiveLimits, ImportOptions, Layer, PlainArchive, Timestamp, inspect,
    read_plain, unpack,
};

use crate::input::{assert_shown, parts};

/// A member in the encoding of `docs/layer-archive.md`.
struct Member<'a> {
    flag: u8,
    mode: u32,
    name: &'a [u8],
    link: &'a [u8],
    content: &'a [u8],
    pax: Vec<&'a [u8]>,
}

impl<'a> Member<'a> {
    fn own(name: &'a [u8], content: &'a [u8]) -> Self {
        Member {
            flag: b'0',
            mode: 0o644,
            name,
            link: b"",
            content,
            pax: Vec::new(),
        }
    }

    /// `FLAG MODE NAME`, and after tabs a link's target, content, and pax records `KEY=VALUE`.
    fn of(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b'\t');
        let mut head = fields.next()?.splitn(3, |b| *b == b' ');
        let flag = *head.next()?.first()?;
        let mode = std::str::from_utf8(head.next()?).ok()?;
        Some(Member {
            flag,
            mode: u32::from_str_radix(mode, 8).ok()?,
            name: head.next()?,
            link: fields.next().unwrap_or_default(),
            content: fields.next().unwrap_or_default(),
            pax: fields.collect(),
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut pax = Vec::new();
        for (key, value) in [(&b"path="[..], self.name), (b"linkpath=", self.link)] {
            if value.len() > 100 {
                record(&mut pax, &[key, value].concat());
            }
        }
        self.pax.iter().for_each(|text| record(&mut pax, text));
        if !pax.is_empty() {
            header(out, b"././@PaxHeader", b'x', 0, pax.len(), b"");
            padded(out, &pax);
        }
        header(
            out,
            self.name,
            self.flag,
            self.mode,
            self.content.len(),
            self.link,
        );
        padded(out, self.content);
    }
}

fn record(out: &mut Vec<u8>, text: &[u8]) {
    let rest = text.len() + 2;
    let length = (rest..).find(|n| n.to_string().len() + rest == *n);
    out.extend(length.unwrap_or_default().to_string().into_bytes());
    out.push(b' ');
    out.extend(text);
    out.push(b'\n');
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn header(out: &mut Vec<u8>, name: &[u8], flag: u8, mode: u32, size: usize, link: &[u8]) {
    let mut block = [0; 512];
    let mut field = |at: usize, bytes: &[u8], most: usize| {
        let bytes = &bytes[..bytes.len().min(most)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    field(0, name, 100);
    field(100, format!("{:07o}", mode & 0o7777777).as_bytes(), 7);
    field(108, b"0000000\x000000000", 15);
    field(124, format!("{size:011o}\x0000000000000").as_bytes(), 23);
    field(148, b"        ", 8);
    field(156, &[flag], 1);
    field(157, link, 100);
    field(257, b"ustar\x0000", 8);
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    out.extend(block);
}

/// Where an import goes, beside what it must not touch.
struct There {
    top: std::path::PathBuf,
    layer: Layer,
}

impl There {
    fn new() -> There {
        let top = crate::tree::folder("layers");
        for dir in ["root", "upper", "work", "out"] {
            fs::create_dir(top.join(dir)).expect("a folder");
        }
        for file in ["root/f", "out/kept"] {
            fs::write(top.join(file), "kept").expect("a file");
        }
        let at = |name| top.join(name);
        let base = Timestamp { sec: 1, nsec: 0 };
        let layer = Layer::begin(at("root"), at("upper"), at("work"), base);
        There {
            layer: layer.expect("a layer"),
            top,
        }
    }

    fn is_untouched_outside(&self) -> bool {
        let names = |dir: &str| {
            let entries = fs::read_dir(self.top.join(dir)).expect("readable");
            let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
            names.sort();
            names
        };
        let kept = |file| fs::read(self.top.join(file)).is_ok_and(|text| text == b"kept");
        let beside = names(".").into_iter().filter(|n| n != "upper.differences");
        beside.eq(["out", "root", "upper", "work"])
            && (names("root"), names("out")) == (vec!["f".into()], vec!["kept".into()])
            && names("work").is_empty()
            && kept("root/f")
            && kept("out/kept")
    }
}

/// Objects below a folder; links are not followed.
fn objects(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| match e.file_type() {
            Ok(kind) if kind.is_dir() => 1 + objects(&e.path()),
            _ => 1,
        })
        .sum()
}

/// An archive of plain files has one spelling: what is read is written back to the byte.
fn plain(archive: &[u8]) {
    let mut again = Vec::new();
    let mut files = PlainArchive::new(&mut again);
    let read = read_plain(&mut Cursor::new(archive), 1 << 20, |name, content| {
        files.file(name, &content).expect("written");
        Ok::<_, ArchiveError>(())
    });
    match read {
        Err(error) => assert_shown(&error.to_string()),
        Ok(()) => {
            files.end().expect("written");
            assert_eq!(again, archive);
        }
    }
}

/// Manifest, originals, members and changes to the bytes of the whole: refused with words that can be
/// shown, or unpacked to as many objects as it has, and never anything outside of the upper directory.
pub fn layer_archive(data: &[u8]) {
    let parts = parts(data);
    let part = |n: usize| parts.get(n).copied().unwrap_or_default();
    let line = |text: &[u8]| match text.is_empty() {
        true => Vec::new(),
        false => [text, b"\n"].concat(),
    };
    let (manifest, originals) = (line(part(0)), line(part(1)));
    let mut archive = Vec::new();
    Member::own(b"agentwall-layer.json", &manifest).put(&mut archive);
    Member::own(b"originals.jsonl", &originals).put(&mut archive);
    let lines = part(2).split(|b| *b == b'\n');
    lines
        .filter_map(Member::of)
        .for_each(|m| m.put(&mut archive));
    Member::own(b"proof.json", b"{}").put(&mut archive);
    archive.extend([0; 1024]);
    for change in part(3).chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        let length = archive.len();
        archive[at % length] ^= change[2];
    }
    plain(&archive);
    let read = match inspect(&mut Cursor::new(&archive), ArchiveLimits::default()) {
        Ok(read) => read,
        Err(error) => return assert_shown(&error.to_string()),
    };
    let there = There::new();
    let root = &there.layer.root;
    for part in 0..read.manifest().layers.len() {
        read.differences(part, root)
            .expect("a folder that can be read");
    }
    let layers = [Some(there.layer.clone())];
    let mut options = ImportOptions::default();
    options.privileges = true;
    let done = unpack(&mut Cursor::new(&archive), &read, &layers, options);
    assert!(there.is_untouched_outside(), "it wrote outside");
    match done {
        // Attributes that the file system does not take, owners that this user cannot give.
        Err(error) => assert_shown(&error.to_string()),
        Ok(done) => {
            assert_eq!(objects(&there.layer.upper) as u64, done.entries);
        }
    }
}
