//! `agentwall ledger serve`: the log's tiles for monitors.

use std::{process::ExitCode, sync::Arc};

use agentwall_ledger::Reader;
use agentwall_witness::{Listen, LogService, serve};
use anyhow::{Result, bail};

use super::{has_log, settle};
use crate::{
    access,
    args::witness::LedgerServeArgs,
    output::{self, UsageError, tame},
    state::{State, shown},
};

pub fn main(args: LedgerServeArgs) -> Result<ExitCode> {
    allowed(&args.listen, args.plain)?;
    let mut own = None;
    let dir = match args.dir {
        Some(dir) => dir,
        None => {
            let state = State::for_reading()?;
            settle(&state);
            own = Some(state.clone());
            state.ledger_dir()
        }
    };
    if !has_log(&dir) {
        bail!("{} has no file 'checkpoint': it is not a log", shown(&dir));
    }
    let service = LogService::new(dir, |why| output::note(&tame(why)));
    let server = serve(&args.listen, Arc::new(service))?;
    if let Some(state) = &own {
        // Whoever asks may have all of it.
        let size = Reader::open(&state.ledger_dir()).map_or(0, |r| r.size());
        access::record(state, "serve", size, true);
    }
    output::note(&format!(
        "the log is served at {}; interrupt to end",
        place(server.at())
    ));
    server.wait();
    Ok(ExitCode::SUCCESS)
}

/// Others than this host are served without TLS only if somebody says so.
pub fn allowed(listen: &Listen, plain: bool) -> Result<()> {
    if plain || listen.is_local() {
        return Ok(());
    }
    Err(UsageError(format!(
        "{listen} can be reached from elsewhere, and this server speaks plain HTTP: listen on loopback or a Unix \
         socket behind a server with TLS, or say --plain"
    ))
    .into())
}

/// Where a person or a proxy finds it.
pub fn place(at: &Listen) -> String {
    match at {
        Listen::Tcp(address) => format!("http://{address}/"),
        unix @ Listen::Unix(_) => tame(&unix.to_string()),
    }
}
