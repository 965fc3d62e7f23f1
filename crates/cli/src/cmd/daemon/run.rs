//! `agentwall daemon run`: the kernel wall is loaded or found, proved, and served until a signal.
//!
//! Whatever happens to this process, what stands goes on; it is taken away only when somebody asks for that.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_kernel::{Holds, Note, Options, Wall, WallError, object};
use agentwall_ledger::hash::sha256_hex;
use anyhow::{Context as _, Result, anyhow, bail};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    args::daemon::RunArgs,
    host::{
        Places,
        book::Book,
        canary::{self, Proof},
        config::Config,
        daemon::{Daemon, Ending, Every, Found, Opening, hold_lock},
        kernel::Kernel,
        policy::{self, Mode, OwnFiles},
        trail,
    },
    output,
    prepare::own_binary,
    state::{State, shown},
    supervisor::serve_host,
    witnesses::Courier,
};

/// How long the events may be waited for: signals and the watchdog are looked at in between.
const TURN: Duration = Duration::from_millis(200);

/// Runs the command.
pub fn main(args: RunArgs) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the kernel wall is loaded by root; run it as root. 'agentwall run' needs no root");
    }
    raise_limit()?;
    let places = Places {
        config: std::path::absolute(&args.config)?,
        pins: std::path::absolute(&args.pins)?,
        state: std::path::absolute(&args.state)?,
        ..Places::default()
    };
    // While there is one thread only.
    let (holds, no_holds) = match Holds::new() {
        Ok(holds) => (Some(holds), None),
        Err(e) => (None, Some(e)),
    };
    make_folders(&places)?;
    let _held = hold_lock(&places)?;
    let config = policy::configuration(&places.config)?;
    let book = Book::read(&places.book()).unwrap_or_else(|e| {
        output::note(&format!("{e:#}; the policies that stand go on unknown"));
        None
    });
    let (wall, found) = stand(&places.pins, &config, book)?;
    let wall = Arc::new(wall);
    let mut proof = prove(&wall, &places, found == Found::Nothing)?;
    wall.protect_process(std::process::id())?;
    let kernel: Arc<dyn Kernel> = Arc::<Wall>::clone(&wall);
    let names = match prove_names(&wall, &kernel, &places) {
        Ok(more) => {
            proof.results.extend(more.results);
            true
        }
        Err(why) => {
            output::note(&format!(
                "host names are not decided here, so rules about them permit nothing: {why:#}"
            ));
            false
        }
    };
    let opening = Opening {
        own: OwnFiles::of(&places, own_binary()?),
        places: places.clone(),
        found,
        config,
        mode: Mode {
            audit: args.audit,
            names,
        },
        programs: programs(),
        proof,
        holds,
    };
    let config = opening.config.clone();
    let daemon = Arc::new(Daemon::start(Arc::clone(&kernel), opening)?);
    daemon.serve_names();
    daemon.try_entries(&config)?;
    if let Some(e) = no_holds {
        daemon.cannot_hold(&e);
    }
    daemon.hold_starts();
    open_sockets(&places, &daemon, &kernel)?;
    // Not what is replaced now and then: its number would be another file's soon.
    for path in [&places.state, &places.run, &places.control()] {
        kernel.note(path, &Note::Wall)?;
    }
    let courier = Courier::begin(&State::open_at(&places.state)?, true);
    let ending = serve(&daemon, &wall)?;
    tell(&[NotifyState::Stopping]);
    let ended = end(&daemon, &places, ending);
    if let Some(courier) = courier {
        courier.end();
    }
    ended
}

/// As many descriptors as may be: each connection by name takes some.
fn raise_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).context("cannot raise the limit on open files")
}

/// The programs that this binary brings.
fn programs() -> String {
    sha256_hex(&[object::WALL, object::NAMES].concat())
}

/// The wall: what is pinned, if it is what this binary brings, else loaded.
fn stand(pins: &Path, config: &Config, book: Option<Book>) -> Result<(Wall, Found)> {
    let mut options = Options::default();
    if let Some(bytes) = config.ring_bytes {
        options.ring_bytes = bytes;
    }
    let same = book.as_ref().is_some_and(|b| b.programs == programs());
    let (mut wall, found) = match Wall::open(pins) {
        Ok(Some(wall)) if same && Some(wall.hooks()) == book.as_ref().map(|b| b.hooks) => {
            return Ok((wall, Found::Same(book)));
        }
        Ok(Some(wall)) => (wall.replace(&options).map_err(cannot)?, Found::Other(book)),
        Ok(None) => (Wall::load(&options).map_err(cannot)?, Found::Nothing),
        Err(e) => return Err(cannot(e)),
    };
    wall.pin(pins).with_context(|| {
        format!(
            "the programs cannot be pinned to {}; it must lie in a BPF file system: 'mount -t bpf bpf \
             /sys/fs/bpf'",
            shown(pins)
        )
    })?;
    Ok((wall, found))
}

/// Why no wall stands, and what works all the same. The place for a monitor without enforcement, where one
/// is built, is here: it would be served instead, and never say that it enforces.
fn cannot(e: WallError) -> anyhow::Error {
    anyhow!(
        "the kernel wall cannot stand here: {e}\nnothing is governed. 'agentwall run' guards what it starts \
         without it, on this kernel, too; 'agentwall doctor' tells what this host offers"
    )
}

/// Only what is refused is a wall.
fn prove(wall: &Arc<Wall>, places: &Places, fresh: bool) -> Result<Proof> {
    let proof = canary::prove(&**wall, &places.run.join("canary"));
    let wrong = match proof {
        Ok(proof) if proof.holds() => return Ok(proof),
        Ok(proof) => proof.failures(),
        Err(e) => format!("{e:#}"),
    };
    if fresh {
        Wall::unpin(&places.pins)?;
    }
    bail!("the kernel wall does not refuse what it should, so it must not be relied on: {wrong}")
}

/// That host names lead to their doors, after those of a former daemon are closed.
fn prove_names(wall: &Wall, kernel: &Arc<dyn Kernel>, places: &Places) -> Result<Proof> {
    wall.close_doors()?;
    if !wall.has_names() {
        bail!(
            "{}",
            wall.without_names()
                .unwrap_or("the programs for them are not attached")
        );
    }
    let proof = canary::prove_names(kernel, &places.run.join("canary"))?;
    match proof.holds() {
        true => Ok(proof),
        false => bail!("{}", proof.failures()),
    }
}

fn make_folders(places: &Places) -> Result<()> {
    let run = &places.run;
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(run);
    made.with_context(|| format!("cannot make {}", shown(run)))?;
    // Everybody may ask why; what else is in it has rights of its own.
    fs::set_permissions(run, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open {} for others", shown(run)))?;
    let trails = run.join("trails");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&trails);
    made.with_context(|| format!("cannot make {}", shown(&trails)))
}

fn open_sockets(places: &Places, daemon: &Arc<Daemon>, kernel: &Arc<dyn Kernel>) -> Result<()> {
    trail::serve(places, Arc::clone(kernel))
        .with_context(|| format!("cannot listen at {}", shown(&places.why())))?;
    let control = places.control();
    // Its mark must not stay with an inode that is another's soon.
    kernel.forget(&control)?;
    let listener = trail::listen(&control, 0o666)
        .with_context(|| format!("cannot listen at {}", shown(&control)))?;
    let daemon = Arc::clone(daemon);
    serve_host(listener, move |peer, request| daemon.respond(peer, request));
    Ok(())
}

/// Reads events, and does what is due, until it is told to end.
fn serve(daemon: &Arc<Daemon>, wall: &Wall) -> Result<Ending> {
    let (hangup, terminate) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    signal_hook::flag::register(SIGHUP, Arc::clone(&hangup))?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&terminate))?;
    }
    let came = std::cell::Cell::new(false);
    let events = wall.events(|event| {
        came.set(true);
        daemon.event(event);
    })?;
    let watchdog = sd_notify::watchdog_enabled().is_some();
    tell(&[NotifyState::Ready]);
    output::note(
        "the kernel wall stands and is served; interrupt to end the daemon and leave it standing",
    );
    let now = Instant::now();
    let mut second = Every::new(Duration::from_secs(1), now);
    let mut minute = Every::new(Duration::from_secs(60), now);
    daemon.look_around();
    loop {
        came.set(false);
        events.poll(TURN)?;
        if watchdog {
            tell(&[NotifyState::Watchdog]);
        }
        if daemon.has_failed() {
            bail!(
                "the ledger cannot be written, and without one the daemon does not go on; what is enforced \
                 stays so"
            );
        }
        if hangup.swap(false, Ordering::SeqCst) {
            match daemon.reload(0) {
                Ok(text) => output::note(&text),
                Err(e) => output::note(&format!("{e:#}")),
            }
        }
        let now = Instant::now();
        if second.is_due(now) {
            daemon.look_around();
            daemon.tick(!came.get());
            let text = daemon.in_a_line();
            tell(&[NotifyState::Status(&text)]);
        }
        if minute.is_due(now) {
            daemon.tally();
        }
        if let Some(ending) = daemon.ending() {
            return Ok(ending);
        }
        if terminate.load(Ordering::SeqCst) {
            return Ok(Ending {
                unload: false,
                by: None,
            });
        }
    }
}

fn end(daemon: &Daemon, places: &Places, ending: Ending) -> Result<ExitCode> {
    if !ending.unload {
        daemon.close("left", ending.by)?;
        output::note("the daemon has ended; what is enforced stays so");
        return Ok(ExitCode::SUCCESS);
    }
    // It stands in the ledger before nothing is refused any more.
    daemon.close("removed", ending.by)?;
    Wall::unpin(&places.pins)?;
    let _ = fs::remove_file(places.book());
    output::note("the daemon has ended and the kernel wall is removed");
    Ok(ExitCode::SUCCESS)
}

/// Tells the service manager, if one started this.
fn tell(state: &[NotifyState<'_>]) {
    // Nobody can be told if it is gone.
    let _ = sd_notify::notify(state);
}
