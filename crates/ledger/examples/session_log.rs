//! Writes a log as a session would, of any length, to measure what reads logs:
//!
//!     cargo run --release -p agentwall-ledger --example session_log -- STATE 1000000
//!
//! STATE becomes a state folder with the log in `ledger/` and its key in `keys/`; the entries are the
//! starts of programs and refused reads, a session per thousand.

use std::{error::Error, fs, path::Path};

use agentwall_ledger::{Log, LogOptions, key};

mod records;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(state), Some(count)) = (args.next(), args.next()) else {
        return Err("usage: session_log STATE COUNT".into());
    };
    let (state, count): (&Path, u64) = (state.as_ref(), count.parse()?);
    fs::create_dir_all(state.join("keys"))?;
    let signer = key::load_or_create(&state.join("keys/ledger.key"), "agentwall.local/measured")?;
    let options = LogOptions {
        head: Some(state.join("keys/ledger.head")),
        ..LogOptions::default()
    };
    let log = Log::open_with(&state.join("ledger"), signer, options)?;
    let mut batch = Vec::new();
    for n in 0..count {
        batch.push(records::entry(n));
        if batch.len() == 4096 || n + 1 == count {
            let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
            log.append_batch(&slices)?;
            batch.clear();
        }
    }
    log.close()?;
    Ok(())
}
