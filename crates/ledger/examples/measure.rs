//! Measures the log beside what it could be compared with; `bench/rows_ledger.py` makes rows of it.
//!
//!     measure seal FOLDER ROUNDS       one entry durable: the log, one append with `fdatasync`, a hash chain
//!     measure writers FOLDER SECONDS   durable entries per second with 64 writers: the log, a hash chain
//!     measure write FOLDER COUNT       a log of so many entries, and how long that took
//!     measure open FOLDER ROUNDS       opening that log for writing
//!     measure prove FOLDER ROUNDS      reader opened, checkpoint checked, proof of a random entry made
//!     measure verify FOLDER            everything checked, as `agentwall ledger verify` does
//!     measure peer FOLDER              the same with the crates `tlog_tiles` and `signed_note`
//!
//! Prints one JSON object; times are in ns. FOLDER is made if it is not there and holds `ledger/` and
//! `ledger.key`; it should be on the file system that is of interest.

use std::{
    error::Error,
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::Write as _,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_ledger::{
    Log, LogOptions, Reader, Signer, TextFolders, VerifyOptions, hash::sha256_hex, key,
    tile::split_bundle, verify,
};
use serde_json::{Value, json};
use tlog_tiles::tlog::{self, HashReader as _};

mod records;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const WRITERS: usize = 64;
const LAG: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [verb, folder, rest @ ..] = &args[..] else {
        return Err("usage: measure VERB FOLDER [NUMBER]".into());
    };
    let number: u64 = rest.first().map_or(Ok(0), |n| n.parse())?;
    let folder = Path::new(folder);
    fs::create_dir_all(folder)?;
    let signer = key::load_or_create(&folder.join("ledger.key"), "agentwall.example/bench")?;
    let dir = folder.join("ledger");
    let told = match verb.as_str() {
        "seal" => seal(folder, &dir, signer, number)?,
        "writers" => writers(folder, &dir, signer, Duration::from_secs(number))?,
        "write" => write(&dir, signer, number)?,
        "open" => {
            let times = rounds(number, || {
                black_box(open(&dir, signer.clone())?);
                Ok(())
            });
            json!({ "open": times? })
        }
        "prove" => prove(&dir, &signer, number)?,
        "verify" => {
            let start = Instant::now();
            let report = verify(&dir, &VerifyOptions::new(signer.verifier()))?;
            json!({ "entries": report.size, "took": nanos(start) })
        }
        "peer" => peer(&dir, &signer)?,
        other => return Err(format!("no verb is called {other:?}").into()),
    };
    println!("{told}");
    Ok(())
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

fn rounds(count: u64, mut action: impl FnMut() -> Result<()>) -> Result<Vec<u64>> {
    let one = |_| {
        let start = Instant::now();
        action()?;
        Ok(nanos(start))
    };
    (0..count).map(one).collect()
}

/// With the journal: entries are durable in the journal, the checkpoint follows.
fn open(dir: &Path, signer: Signer) -> Result<Log> {
    let options = LogOptions {
        head: Some(dir.with_file_name("head")),
        lag: LAG,
        text: Some(TextFolders {
            values: dir.with_file_name("values"),
            subjects: dir.with_file_name("subjects"),
        }),
        key: None,
    };
    Ok(Log::open_with(dir, signer, options)?)
}

/// What somebody writes who has not thought of more: each line has the hash of the one before.
struct Chain {
    file: File,
    last: String,
}

impl Chain {
    fn new(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Chain {
            file,
            last: String::new(),
        })
    }

    fn append(&mut self, entry: &[u8]) -> Result<()> {
        let line = [self.last.as_bytes(), b" ", entry, b"\n"].concat();
        self.last = sha256_hex(&line);
        self.file.write_all(&line)?;
        Ok(self.file.sync_all()?)
    }
}

/// The three take turns, so that what else the disk does meets all of them.
fn seal(folder: &Path, dir: &Path, signer: Signer, count: u64) -> Result<Value> {
    let log = open(dir, signer)?;
    let mut plain = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("plain"))?;
    let mut chain = Chain::new(&folder.join("chain"))?;
    let (mut sealed, mut flushed, mut chained) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let entry = records::entry(n);
        let start = Instant::now();
        log.append(&entry)?;
        sealed.push(nanos(start));
        let start = Instant::now();
        plain.write_all(&entry)?;
        plain.sync_data()?;
        flushed.push(nanos(start));
        let start = Instant::now();
        chain.append(&entry)?;
        chained.push(nanos(start));
    }
    log.close()?;
    Ok(json!({ "log": sealed, "fdatasync": flushed, "chain": chained }))
}

fn writers(folder: &Path, dir: &Path, signer: Signer, time: Duration) -> Result<Value> {
    let log = open(dir, signer)?;
    let chain = Mutex::new(Chain::new(&folder.join("chain"))?);
    // Made beforehand: what a caller needs to make an entry is not the log's time.
    let entries: Vec<Vec<u8>> = (0..1000).map(records::entry).collect();
    let rate = |append: &(dyn Fn(&[u8]) -> bool + Sync)| {
        let done = AtomicU64::new(0);
        let start = Instant::now();
        std::thread::scope(|s| {
            for writer in 0..WRITERS {
                let (entries, done) = (&entries, &done);
                s.spawn(move || {
                    for entry in entries.iter().cycle().skip(writer) {
                        if start.elapsed() > time || !append(entry) {
                            break;
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        done.into_inner() as f64 / start.elapsed().as_secs_f64()
    };
    let ours = rate(&|entry| log.append(entry).is_ok());
    let chained = rate(&|entry| chain.lock().is_ok_and(|mut c| c.append(entry).is_ok()));
    log.close()?;
    Ok(json!({ "log": ours, "chain": chained }))
}

fn write(dir: &Path, signer: Signer, count: u64) -> Result<Value> {
    let key = signer.verifier().to_string();
    let log = Log::open(dir, signer)?;
    let start = Instant::now();
    for first in (0..count).step_by(1 << 16) {
        let all: Vec<_> = (first..count.min(first + (1 << 16)))
            .map(records::entry)
            .collect();
        log.append_batch(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    }
    log.close()?;
    Ok(json!({ "entries": count, "took": nanos(start), "key": key }))
}

fn prove(dir: &Path, signer: &Signer, count: u64) -> Result<Value> {
    let size = Reader::open(dir)?.size();
    let mut state = 1u64;
    let times = rounds(count, || {
        // Knuth's generator: spread over the log, the same in every run.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let index = (state >> 11) % size;
        let reader = Reader::open_signed(dir, &signer.verifier())?;
        black_box(reader.tlog_proof(index, None)?.to_string());
        Ok(())
    })?;
    Ok(json!({ "entries": size, "prove": times }))
}

/// Tiles for `tlog_tiles`, whose names have the height in them.
struct Files<'a>(&'a Path);

impl tlog_tiles::TileReader for Files<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(
        &self,
        tiles: &[tlog_tiles::Tile],
    ) -> std::result::Result<Vec<Vec<u8>>, tlog::Error> {
        let read = |t: &tlog_tiles::Tile| {
            fs::read(self.0.join(t.path().replacen("tile/8/", "tile/", 1))).unwrap_or_default()
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

fn peer(dir: &Path, signer: &Signer) -> Result<Value> {
    let start = Instant::now();
    let note = signed_note::Note::from_bytes(&fs::read(dir.join("checkpoint"))?)?;
    let key = signed_note::StandardVerifier::new(&signer.verifier().to_string())?;
    note.verify(&signed_note::VerifierList::new(vec![Box::new(key)]))?;
    let log = tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|_| "a bad checkpoint")?;
    let files = Files(dir);
    let source = tlog_tiles::TileHashReader::new(log.size(), *log.hash(), &files);
    for first in (0..log.size()).step_by(256) {
        let width = (log.size() - first).min(256);
        let tile = tlog_tiles::Tile::new(8, 0, first / 256, width as u32, true);
        let bundle = fs::read(dir.join(tile.path().replacen("tile/8/data/", "tile/entries/", 1)))?;
        let wanted: Vec<_> = (first..first + width)
            .map(|i| tlog::stored_hash_index(0, i))
            .collect();
        for (entry, leaf) in split_bundle(&bundle).zip(source.read_hashes(&wanted)?) {
            if tlog::record_hash(entry.map_err(|_| "a torn bundle")?).0 != leaf.0 {
                return Err("an entry with another hash".into());
            }
        }
    }
    Ok(json!({ "entries": log.size(), "took": nanos(start) }))
}
