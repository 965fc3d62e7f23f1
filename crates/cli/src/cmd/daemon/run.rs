//! `agentwall daemon run`: the kernel wall, or the monitor, is loaded or found, proved, and served until a signal.
//!
//! Whatever happens to this process, what stands goes on; it is taken away only when somebody asks for that.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_kernel::{Holds, Note, Wall};
use anyhow::{Context as _, Result, bail};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::stand::{self, Standing};
use crate::{
    args::daemon::RunArgs,
    host::{
        Places,
        book::Book,
        canary::{self, Proof},
        daemon::{Daemon, Ending, Every, HEARTBEAT, Opening, hold_lock},
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
    let Standing {
        wall,
        found,
        mut proof,
        no_wall,
        events,
    } = stand::stand(&places, &config, book)?;
    wall.protect_process(std::process::id())?;
    let kernel: Arc<dyn Kernel> = Arc::<Wall>::clone(&wall);
    // What only looks on leads nothing anywhere.
    let names = no_wall.is_none()
        && match prove_names(&wall, &kernel, &places) {
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
        programs: stand::digest(wall.kind()),
        proof,
        // Where nothing is refused nothing is held.
        holds: holds.filter(|_| no_wall.is_none()),
        no_wall,
    };
    let config = opening.config.clone();
    let daemon = Arc::new(Daemon::start(Arc::clone(&kernel), opening)?);
    daemon.serve_names();
    daemon.try_entries(&config)?;
    if daemon.no_wall().is_none() {
        if let Some(e) = no_holds {
            daemon.cannot_hold(&e);
        }
        daemon.hold_starts();
    }
    open_sockets(&places, &daemon, &kernel)?;
    // Not what is replaced now and then: its number would be another file's soon.
    for path in [&places.state, &places.run, &places.control()] {
        kernel.note(path, &Note::Wall)?;
    }
    for event in events {
        daemon.event(event);
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
    output::note(&match daemon.no_wall() {
        None => "the kernel wall stands and is served; interrupt to end the daemon and leave it standing"
            .to_owned(),
        Some(why) => format!(
            "audit only: the kernel wall cannot stand here ({why}); the monitor tells what it would have \
             refused, and nothing is refused. Interrupt to end the daemon and leave the monitor standing"
        ),
    });
    let now = Instant::now();
    let mut second = Every::new(Duration::from_secs(1), now);
    let mut beat = Every::new(HEARTBEAT, now);
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
                "the ledger cannot be written, and without one the daemon does not go on; {}",
                what_stays(daemon)
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
        if beat.is_due(now) {
            daemon.heartbeat();
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
        output::note(&format!("the daemon has ended; {}", what_stays(daemon)));
        return Ok(ExitCode::SUCCESS);
    }
    // It stands in the ledger before nothing is refused any more.
    daemon.close("removed", ending.by)?;
    Wall::unpin(&places.pins)?;
    let _ = fs::remove_file(places.book());
    output::note(match daemon.no_wall() {
        None => "the daemon has ended and the kernel wall is removed",
        Some(_) => "the daemon has ended and the monitor is removed",
    });
    Ok(ExitCode::SUCCESS)
}

fn what_stays(daemon: &Daemon) -> &'static str {
    match daemon.no_wall() {
        None => "what is enforced stays so",
        Some(_) => "the monitor stays and its events wait",
    }
}

/// Tells the service manager, if one started this.
fn tell(state: &[NotifyState<'_>]) {
    // Nobody can be told if it is gone.
    let _ = sd_notify::notify(state);
}
