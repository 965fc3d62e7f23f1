//! Checking an export for an auditor: unpacked into a temporary folder, the log in it verified as any other, and every text
//! against its entry. Nothing in it is believed for standing there: the key comes from whoever checks.

use std::{collections::BTreeMap, fs, io::Read as _, path::Path};

use agentwall_cow::read_plain;
use agentwall_ledger::{KeyHistory, Note, Reader, Verifier, hash::sha256_hex};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    File, HEAD, KEY, LEDGER, Line, MANIFEST, MAX_FILE, Manifest, README, TEXTS, put, texts_of,
};
use crate::{output::tame, state::shown};

/// Whether the file is an archive (POSIX.1-2017 `pax`, the magic of a ustar header).
pub fn is_one(path: &Path) -> bool {
    let mut head = [0; 263];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head[257..] == *b"ustar\0"
}

/// An archive whose manifest is signed and has the digests of all its files.
pub struct Unpacked {
    folder: TempDir,
    manifest: Manifest,
}

impl Unpacked {
    /// Unpacks it. The manifest must be signed by the key that has followed `known` in the log that is in it.
    pub fn new(path: &Path, known: &Verifier) -> Result<Unpacked> {
        let folder = tempfile::tempdir().context("cannot make a folder for the archive")?;
        let mut files: Vec<File> = Vec::new();
        let mut note = None;
        let file = fs::File::open(path).with_context(|| format!("cannot read {}", shown(path)))?;
        let mut file = std::io::BufReader::new(file);
        read_plain(&mut file, MAX_FILE, |name, content| {
            if note.is_some() {
                bail!("{} stands behind the manifest", tame(name));
            }
            if name == MANIFEST {
                note = Some(content);
                return Ok(());
            }
            let own = [README, KEY].contains(&name);
            if !own && !name.starts_with(LEDGER) && !name.starts_with(TEXTS) {
                bail!("{} does not belong into an export", tame(name));
            }
            files.push(File {
                name: name.to_owned(),
                size: content.len() as u64,
                sha256: sha256_hex(&content),
            });
            let path = folder.path().join(name);
            let made = path.parent().map_or(Ok(()), fs::create_dir_all);
            // A name that is there twice would hide what was read first.
            made.and_then(|()| fs::File::create_new(&path))
                .and_then(|mut file| std::io::Write::write_all(&mut file, &content))
                .with_context(|| format!("cannot unpack {}", tame(name)))
        })?;
        let Some(note) = note else {
            bail!("it has no {MANIFEST}: it is no export for auditors, or it was cut");
        };
        let keys = KeyHistory::read(&folder.path().join(LEDGER), known, u64::MAX)?;
        let manifest = signed(&note, &keys).with_context(|| format!("its {MANIFEST}"))?;
        let listed: BTreeMap<&str, &File> = manifest
            .files
            .iter()
            .map(|f| (f.name.as_str(), f))
            .collect();
        if let Some(file) = files
            .iter()
            .find(|f| listed.get(f.name.as_str()) != Some(f))
        {
            bail!("{} is not what was exported", tame(&file.name));
        }
        if let Some(file) = manifest.files.iter().find(|f| !files.contains(f)) {
            bail!("{} is missing", tame(&file.name));
        }
        Ok(Unpacked { folder, manifest })
    }

    /// The log in it, which is to be verified.
    pub fn ledger(&self) -> std::path::PathBuf {
        self.folder.path().join(LEDGER)
    }

    /// Checks every text against its entry; the log was verified.
    pub fn texts(&self) -> Result<()> {
        let reader = Reader::open(&self.ledger())?;
        let (log, manifest) = (reader.checkpoint(), &self.manifest);
        if (log.size, log.root.to_base64()) != (manifest.size, manifest.root.clone()) {
            bail!("its {MANIFEST} is about another state of the log");
        }
        let mut entries = 0;
        for file in manifest.files.iter().filter(|f| f.name.starts_with(TEXTS)) {
            let text = fs::read_to_string(self.folder.path().join(&file.name))
                .with_context(|| format!("cannot read {}", tame(&file.name)))?;
            for line in text.lines() {
                let line: Line = serde_json::from_str(line)
                    .with_context(|| format!("a line of {}", tame(&file.name)))?;
                if texts_of(line.index / 256) != file.name {
                    bail!(
                        "entry {} does not belong into {}",
                        line.index,
                        tame(&file.name)
                    );
                }
                check(&reader, &line)
                    .with_context(|| format!("the text of entry {}", line.index))?;
                entries += 1;
            }
        }
        if entries != manifest.entries {
            bail!(
                "it has {entries} entries in texts, its {MANIFEST} says {}",
                manifest.entries
            );
        }
        Ok(())
    }

    /// What was found, for a person.
    pub fn told(&self) -> String {
        let m = &self.manifest;
        let options = match m.options.join(" ") {
            none if none.is_empty() => "all".to_owned(),
            options => options,
        };
        format!(
            "  export  of {}, {} entries picked ({}), {} texts, each the one that its entry commits to; of {} entries no \
             text is told\n",
            tame(&m.made),
            m.entries,
            tame(&options),
            m.texts,
            m.withheld
        )
    }

    /// The same for scripts.
    pub fn json(&self) -> Value {
        let m = &self.manifest;
        json!({
            "made": m.made,
            "options": m.options,
            "entries": m.entries,
            "texts": m.texts,
            "withheld": m.withheld,
        })
    }
}

fn signed(note: &[u8], keys: &KeyHistory) -> Result<Manifest> {
    let note = Note::parse(note)?;
    note.verify(keys.newest())?;
    let json = note
        .text()
        .strip_prefix(HEAD)
        .and_then(|t| t.strip_prefix('\n'));
    match json {
        Some(json) => Ok(serde_json::from_str(json)?),
        None => bail!("expected the line '{HEAD}' at its beginning"),
    }
}

/// With its opened texts put in, the entry of the log is the one that is shown.
fn check(reader: &Reader, line: &Line) -> Result<()> {
    let leaf = reader.entry(line.index)?;
    for opening in &line.openings {
        opening.check(&leaf)?;
    }
    let mut entry: Value = serde_json::from_slice(&leaf)?;
    put(&mut entry, &line.openings);
    match entry == line.entry {
        true => Ok(()),
        false => bail!("it is shown as another one than the log has"),
    }
}
