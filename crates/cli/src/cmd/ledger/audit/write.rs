//! Writing an export for an auditor.

use std::{io::Write, path::Path, process::ExitCode};

use agentwall_cow::{ExportError, PlainArchive};
use agentwall_ledger::{
    Defect, KeyHistory, Reader,
    entry::Opening,
    hash::sha256_hex,
    tile::{Level, Tile},
};
use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    FOR_THE_AUDITOR, File, HEAD, KEY, LEDGER, Line, MANIFEST, Manifest, README, answers, put,
    texts_of,
};
use crate::{
    access,
    args::ledger::ExportArgs,
    cmd::{
        export::to_file,
        ledger::{Filter, first_of, has_log, told},
    },
    output::{self, Style, paint},
    state::{State, now_ms, rfc3339_of, shown},
};

/// Runs the command.
pub fn main(args: &ExportArgs, path: &Path) -> Result<ExitCode> {
    let state = State::open()?;
    if !has_log(&state.ledger_dir()) {
        bail!("there is no ledger yet; 'agentwall run -- CMD' begins one");
    }
    // What is in the journal, or was cut off, is brought in: what is exported is all there is.
    state
        .open_log()?
        .close()
        .context("cannot write the ledger")?;
    let reader = state.reader().context("cannot read the ledger")?;
    let keys = reader.keys(&state.verifier()?)?;
    keys.open(reader.note().to_text().as_bytes())?;
    let manifest = to_file(path, |out| {
        let mut export = Export {
            archive: PlainArchive::new(out),
            files: Vec::new(),
        };
        export.put(README, FOR_THE_AUDITOR.as_bytes())?;
        export.put(KEY, format!("{}\n", keys.newest()).as_bytes())?;
        export.log(&reader, &keys)?;
        let manifest = export.texts(&state, &reader, &keys, args)?;
        let text = format!("{HEAD}\n{}\n", serde_json::to_string(&manifest)?);
        export.put(MANIFEST, state.sign(&text)?.as_bytes())?;
        export.archive.end().map_err(failed)?;
        Ok(manifest)
    })?;
    access::record(&state, "export", manifest.entries, false);
    output::print(&format!(
        "{} {}\n  log   all {} entries\n  texts of {} entries, of {} more withheld\n  \
         note  hand over the key another way: {}\n",
        paint(Style::Green, "exported"),
        shown(path),
        manifest.size,
        manifest.entries - manifest.withheld,
        manifest.withheld,
        manifest.key
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// As an error of the system, so that a reader who went away is known as one.
fn failed(error: ExportError) -> anyhow::Error {
    match error {
        ExportError::Write(e) => anyhow::Error::new(e).context("cannot write the archive"),
        e => anyhow!("cannot write the archive: {e}"),
    }
}

struct Export<'a> {
    archive: PlainArchive<'a>,
    files: Vec<File>,
}

impl Export<'_> {
    fn put(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.files.push(File {
            name: name.to_owned(),
            size: content.len() as u64,
            sha256: sha256_hex(content),
        });
        self.archive.file(name, content).map_err(failed)
    }

    /// The log as the reader sees it, in the layout of its folder.
    fn log(&mut self, reader: &Reader, keys: &KeyHistory) -> Result<()> {
        let note = reader.note().to_text();
        self.put(&format!("{LEDGER}checkpoint"), note.as_bytes())?;
        let cosigned = reader
            .cosigned(keys.newest(), None)
            .map_err(|e| anyhow!("the log contradicts what witnesses have cosigned: {e}"))?;
        if let Some(cosigned) = cosigned.filter(|c| c.checkpoint.size <= reader.size()) {
            let note = cosigned.note.to_text();
            self.put(&format!("{LEDGER}checkpoint.cosigned"), note.as_bytes())?;
        }
        for (number, rotation) in keys.rotations().iter().enumerate() {
            let name = format!("{LEDGER}rotation/{number}");
            self.put(&name, rotation.proof.to_string().as_bytes())?;
        }
        let gone = first_of(reader)?;
        for level in Level::all(reader.size()) {
            for index in 0..level.files(reader.size()) {
                let Some(tile) = Tile::at(level, index, reader.size()) else {
                    continue;
                };
                let content = match reader.tile(tile) {
                    Err(Defect::Missing { .. })
                        if level == Level::Entries && (index + 1) * 256 <= gone =>
                    {
                        None
                    }
                    other => other?,
                };
                if let Some(content) = content {
                    self.put(&format!("{LEDGER}{tile}"), &content)?;
                }
            }
        }
        Ok(())
    }

    /// The texts of the entries that are picked.
    fn texts(
        &mut self,
        state: &State,
        reader: &Reader,
        keys: &KeyHistory,
        args: &ExportArgs,
    ) -> Result<Manifest> {
        let mut filter = Filter::new(state, &args.filter)?;
        let (mut entries, mut texts, mut withheld) = (0, 0, 0);
        let first = reader.first()?;
        for bundle in first / 256..reader.size().div_ceil(256) {
            let mut lines = Vec::new();
            for index in bundle * 256..reader.size().min((bundle + 1) * 256) {
                let told = told(reader, index)?;
                if !filter.passes(&told.entry) {
                    continue;
                }
                let why = match args.without_text {
                    true => Some("no text was exported".to_owned()),
                    false => told.withheld().map(ToString::to_string),
                };
                let openings = match &why {
                    Some(_) => Vec::new(),
                    None => opened(reader, index)?,
                };
                let mut entry = serde_json::from_slice(&reader.entry(index)?)?;
                put(&mut entry, &openings);
                entries += 1;
                texts += openings.len() as u64;
                withheld += u64::from(why.is_some());
                let line = Line {
                    index,
                    entry,
                    openings,
                    withheld: why,
                };
                serde_json::to_writer(&mut lines, &line)?;
                lines.write_all(b"\n")?;
            }
            if !lines.is_empty() {
                self.put(&texts_of(bundle), &lines)?;
            }
        }
        Ok(Manifest {
            log: reader.checkpoint().origin.clone(),
            key: keys.newest().to_string(),
            size: reader.size(),
            root: reader.checkpoint().root.to_base64(),
            made: rfc3339_of(now_ms()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            options: picked(access::given("export")),
            entries,
            texts,
            withheld,
            answers: answers(),
            files: self.files.clone(),
        })
    }
}

/// The options but for where the archive goes, which is nobody else's business.
fn picked(given: Vec<String>) -> Vec<String> {
    let mut given = given.into_iter();
    let mut options = Vec::new();
    while let Some(option) = given.next() {
        if option == "--bundle" {
            given.next();
        } else if !option.starts_with("--bundle=") {
            options.push(option);
        }
    }
    options
}

fn opened(reader: &Reader, index: u64) -> Result<Vec<Opening>> {
    reader
        .openings(index, |_| true)?
        .map_err(|why| anyhow!("entry {index} cannot be opened: {why}"))
}
