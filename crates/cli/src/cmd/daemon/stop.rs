//! `agentwall daemon stop`: the daemon ends; with `--unload` the enforcement, too.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use agentwall_kernel::Wall;
use agentwall_ledger::{Record, entry::KernelWall};
use anyhow::{Context as _, Result, bail};

use super::{ask, said};
use crate::{
    args::daemon::StopArgs,
    control::HostRequest,
    host::{Places, book::Book, daemon::hold_lock},
    output::{self, UsageError},
    session::minute_of,
    state::{State, now_ms, random_text, shown},
};

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
pub fn main(args: StopArgs) -> Result<ExitCode> {
    if args.unload && !args.yes {
        confirm()?;
    }
    let places = Places {
        pins: args.pins.clone(),
        state: args.state.clone(),
        ..Places::default()
    };
    let asked = ask(HostRequest::Stop {
        unload: args.unload,
    });
    match asked {
        Ok(response) => {
            let code = said(response)?;
            wait_for_the_end(&places)?;
            if args.unload && args.pins.exists() {
                bail!(
                    "the daemon has ended and {} is still there; its last words are in the journal, \
                     and this command, once more, removes it",
                    shown(&args.pins)
                );
            }
            Ok(code)
        }
        Err(_) if args.unload => unload(&places),
        Err(e) => Err(e),
    }
}

fn confirm() -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(UsageError(
            "--unload takes the protection away and asks first; without a terminal say -y".into(),
        )
        .into());
    }
    output::note("this takes the kernel wall away: what is governed now will not be any more");
    let _ = write!(std::io::stderr(), "Go on? [y/N] ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was done"),
    }
}

/// The daemon holds its lock until its last entry is written.
fn wait_for_the_end(places: &Places) -> Result<()> {
    let begin = Instant::now();
    while hold_lock(places).is_err() {
        if begin.elapsed() > PATIENCE {
            bail!("the daemon has not ended yet; 'agentwall daemon status' tells");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Without a daemon: what it would do, by hand.
fn unload(places: &Places) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("no daemon answers, and only root removes the kernel wall; run it as root");
    }
    if !places.pins.exists() {
        output::print("no kernel wall stands\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::create_dir_all(&places.run)
        .with_context(|| format!("cannot make {}", shown(&places.run)))?;
    let _held = hold_lock(places)?;
    let book = Book::read(&places.book())
        .ok()
        .flatten()
        .unwrap_or_default();
    let record = Record::KernelWall(KernelWall {
        outcome: "removed".to_owned(),
        programs: book.programs,
        hooks: book.hooks as u64,
        audit: book.audit,
        monitor: book.no_wall,
        by: Some(format!("uid:{}", rustix::process::getuid().as_raw())),
    });
    let state = State::open_at(&places.state)?;
    state.record(
        &format!("{}-{}", minute_of(now_ms()), random_text(4)?),
        vec![record],
    )?;
    Wall::unpin(&places.pins)?;
    // It tells of what does not stand any more.
    let _ = std::fs::remove_file(places.book());
    output::print("the kernel wall is removed; no daemon ran\n")?;
    Ok(ExitCode::SUCCESS)
}
