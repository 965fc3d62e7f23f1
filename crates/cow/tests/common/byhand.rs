//! Layer archives member by member, made by hand from docs/layer-archive.md: also those that no export
//! writes.

use std::io::Cursor;

use agentwall_cow::{Archive, ArchiveError, ArchiveLimits, inspect};
use tar::Header;

/// A member in the one encoding, made by hand from docs/layer-archive.md.
#[derive(Clone)]
pub struct Member {
    pub name: Vec<u8>,
    pub flag: u8,
    pub mode: u32,
    pub link: Vec<u8>,
    pub content: Vec<u8>,
    /// Further pax records.
    pub pax: Vec<(String, Vec<u8>)>,
}

pub fn member(name: impl AsRef<[u8]>, flag: u8) -> Member {
    Member {
        name: name.as_ref().to_vec(),
        flag,
        mode: match flag {
            b'2' => 0o777,
            b'5' => 0o755,
            _ => 0o644,
        },
        link: Vec::new(),
        content: Vec::new(),
        pax: Vec::new(),
    }
}

pub fn file(name: &str, content: &str) -> Member {
    Member {
        content: content.into(),
        ..member(name, b'0')
    }
}

pub fn gone(name: &str) -> Member {
    Member {
        mode: 0,
        ..member(name, b'0')
    }
}

pub fn link(name: &str, flag: u8, to: impl AsRef<[u8]>) -> Member {
    Member {
        link: to.as_ref().to_vec(),
        ..member(name, flag)
    }
}

pub fn with(mut member: Member, key: &str, value: impl AsRef<[u8]>) -> Member {
    member.pax.push((key.into(), value.as_ref().to_vec()));
    member
}

pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length = (1..)
        .find(|n: &usize| n.to_string().len() + rest.len() == *n)
        .unwrap();
    [length.to_string().as_bytes(), &rest].concat()
}

pub fn header(name: &[u8], flag: u8, mode: u32, size: u64, link: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    let cut = |b: &[u8]| b[..b.len().min(100)].to_vec();
    old.name[..cut(name).len()].copy_from_slice(&cut(name));
    old.linkname[..cut(link).len()].copy_from_slice(&cut(link));
    old.linkflag = [flag];
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

impl Member {
    pub fn bytes(&self) -> Vec<u8> {
        let mut pax = Vec::new();
        if self.name.len() > 100 {
            pax.extend(record("path", &self.name));
        }
        if self.link.len() > 100 {
            pax.extend(record("linkpath", &self.link));
        }
        self.pax.iter().for_each(|(k, v)| pax.extend(record(k, v)));
        let mut out = Vec::new();
        if !pax.is_empty() {
            out.extend(header(b"././@PaxHeader", b'x', 0, pax.len() as u64, b""));
            out.extend(padded(pax));
        }
        let size = self.content.len() as u64;
        out.extend(header(&self.name, self.flag, self.mode, size, &self.link));
        out.extend(padded(self.content.clone()));
        out
    }
}

/// An archive of two layers around these members, which the manifest counts as `entries`.
pub fn archive(entries: usize, members: &[Member], originals: &str) -> Vec<u8> {
    let lines = originals.lines().count();
    let layer = |entries, originals| {
        format!(
            r#"{{"root":"/w","place":"workspace","path":"","owner":[0,0],"entries":{entries},"originals":{originals}}}"#
        )
    };
    let manifest = format!(
        r#"{{"agentwall_layer":1,"session":"s","name":"n","changes":"d","layers":[{},{}],"left_out":[]}}"#,
        layer(entries, lines),
        layer(0, 0)
    );
    wrapped(&format!("{manifest}\n"), members, originals)
}

pub fn wrapped(manifest: &str, members: &[Member], originals: &str) -> Vec<u8> {
    let mut out = file("agentwall-layer.json", manifest).bytes();
    out.extend(file("originals.jsonl", originals).bytes());
    members.iter().for_each(|m| out.extend(m.bytes()));
    out.extend(file("proof.json", "proof").bytes());
    out.extend([0; 1024]);
    out
}

pub fn read(bytes: &[u8]) -> Result<Archive, ArchiveError> {
    inspect(&mut Cursor::new(bytes), ArchiveLimits::default())
}
