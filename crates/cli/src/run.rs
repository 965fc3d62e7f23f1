//! `agentwall run`: from a policy and a command to an agent behind the wall, and what happens to
//! its changes afterwards.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::{ffi::OsStrExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use agentwall_action::escape_bytes;
use agentwall_cow::{KeepLimits, Layer, Limits, NotKept, Taken, Taker, base_timestamp};
use agentwall_egress::{Egress, EgressConfig};
use agentwall_ledger::{
    Entry, Log, Record, Sealed,
    entry::{Intent, SessionEnd},
};
use agentwall_wall::{LayerPaths, Spec, Wall, launch};
use anyhow::{Context as _, Result, bail};

use crate::{
    args::RunArgs,
    beginning::{Earlier, Ground, How},
    bundles, changes,
    cmd::{commit, discard},
    control,
    fixed::{self, Fixed},
    layers,
    output::{WALL_FAILED, note},
    policies::{self, Origin},
    prepare::{self, Prepared},
    review,
    session::{NewSession, Outcome, Session},
    state::{self, State, shown},
    supervisor::{
        Ending, Supervisor, SupervisorGate, TerminalRelay,
        intents::serve_intents,
        model::{self, ModelReader},
        opening, serve_control, standard_terminals,
    },
    witnesses::Courier,
};

/// Runs a command behind the wall.
pub fn run(args: RunArgs) -> Result<ExitCode> {
    if state::inside_wall() {
        bail!("this is inside a wall already; start agents from outside");
    }
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let earlier = Earlier::find(&args.beginning, args.workspace.as_deref())?;
    let known = earlier.as_ref().map(|e| &e.session.record.workspace);
    let workspace = policies::workspace(known.or(args.workspace.as_ref()).map(PathBuf::as_path))?;
    let origin = Origin {
        user: args.user_policy.clone(),
        policy: args.policy.clone(),
        trust: args.trust.clone(),
    };
    let chosen = origin.choose(&workspace)?;
    let state = State::open()?;
    layers::sweep(&state);
    let (mut session, held) = match &earlier {
        Some(earlier) if earlier.how == How::On => {
            let lock = earlier.lock.try_clone();
            let lock = lock.context("cannot share the session's lock")?;
            (earlier.session.clone(), lock)
        }
        _ => {
            let name = args.name.clone().unwrap_or_else(|| {
                let program = args.command.first().and_then(|c| Path::new(c).file_name());
                program.map_or_else(|| "agent".into(), |n| n.to_string_lossy().into_owned())
            });
            let new = NewSession {
                name,
                workspace: workspace.clone(),
                command: command_text(&args),
            };
            Session::create(&state, new)?
        }
    };
    let name = session.record.name.clone();
    let goes_on = earlier.as_ref().is_some_and(|e| e.how == How::On);
    let prepared = prepare::prepare(&state, chosen, &name, &workspace, session.id(), args.learn)
        .and_then(|prepared| {
            let policy = prepared.engine.policy();
            session.keep_policy(&prepared.sources, &prepared.variables, &policy)?;
            for bundle in &prepared.bundles {
                bundles::remember(&state, bundle)?;
            }
            Ok(prepared)
        });
    let ending = match prepared {
        Ok(prepared) => conduct(&args, &state, &mut session, prepared, origin, here, earlier),
        Err(e) => Err(Failure {
            error: e,
            started: false,
        }),
    };
    match ending {
        Ok(ending) => finish(&args, &state, session, held, &ending),
        Err(Failure { error, started }) => {
            // Nothing of the agent ran, or nothing was to stay: nothing is worth keeping.
            if (!started && !goes_on) || args.beginning.ephemeral {
                let _ = session.remove_held();
            }
            Err(error)
        }
    }
}

/// A run that failed, and whether the agent had started by then.
struct Failure {
    error: anyhow::Error,
    started: bool,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure {
            error: error.into(),
            started: false,
        }
    }
}

/// The command as the session's record has it.
fn command_text(args: &RunArgs) -> Vec<String> {
    let each = args.command.iter().map(|c| escape_bytes(c.as_bytes()));
    each.collect()
}

/// From the layers to the end of the agent. The caller holds the session's lock.
fn conduct(
    args: &RunArgs,
    state: &State,
    session: &mut Session,
    prepared: Prepared,
    origin: Origin,
    here: PathBuf,
    earlier: Option<Earlier>,
) -> Result<Ending, Failure> {
    let mut beginning = opening::Beginning {
        ephemeral: args.beginning.ephemeral,
        ..opening::Beginning::default()
    };
    let ground = Ground::lay(session, &prepared, earlier.as_ref())?;
    match earlier {
        Some(Earlier { how: How::On, .. }) => beginning.resumes = true,
        // Its layers are copied; others may use it again.
        from => beginning.from = from.map(|e| e.session.id().to_owned()),
    }
    if beginning.ephemeral {
        layers::mark_ephemeral(session)?;
    }
    let first_seq = match beginning.resumes {
        true => state.next_seq(session.id())?,
        false => 0,
    };
    let start = Start {
        beginning,
        first_seq,
        mounts: ground.mounts.clone(),
    };
    let (wall, (log, command), base) = stand(args, state, session, &prepared, here, &start)?;
    let Wall {
        broker,
        socket,
        listeners,
        terminal: controller,
        intents,
        report,
    } = wall;
    for (place, why) in &report.read_only {
        note(&format!(
            "{} is read-only in this session: {}",
            shown(place),
            escape_bytes(why.as_bytes())
        ));
    }
    let log: Arc<Log> = Arc::new(log);
    raise_descriptor_limit();
    let (all, fresh) = ground.layers(base)?;
    let known: Vec<Layer> = all.iter().filter(|l| !fresh.contains(l)).cloned().collect();
    session.record.layers = all;
    if start.beginning.resumes {
        go_on(session, args);
    }
    session.save_soon()?;
    // Beside the session: it starts no later for it.
    let manifests = match start.beginning.ephemeral {
        // Nothing of it is ever merged.
        true => Taker::start(fresh, Limits::default()),
        false => Taker::keeping(fresh, known, Limits::default(), KeepLimits::default()),
    };
    let engine = &prepared.engine;
    let line = socket
        .try_clone()
        .context("cannot share the line to the broker")?;
    let supervisor = Supervisor::new(
        Arc::clone(engine),
        session.id().to_owned(),
        Arc::clone(&log),
        start.first_seq + opening::COUNT,
        line,
        args.ask_timeout,
    );
    for record in opening::findings(&report) {
        supervisor.note(record);
    }
    let gate = Arc::new(SupervisorGate(Arc::downgrade(&supervisor)));
    let mut network = EgressConfig::default();
    network.inspect = Some(Arc::new(ModelReader::new(&supervisor, broker)));
    let egress = Egress::start(listeners, gate, network)?;
    let _ = supervisor.egress.set(egress);
    supervisor
        .revisions
        .begin(prepared, origin, session.clone());
    supervisor.keeper.begin(broker, session.clone());
    serve_control(Arc::clone(&supervisor), control::listen(session)?);
    serve_intents(&supervisor, intents, broker);
    let relay =
        TerminalRelay::start(&supervisor, controller).context("cannot take over the terminal")?;
    let reading = socket
        .try_clone()
        .context("cannot share the line to the broker")?;
    let ready = Ready {
        command,
        intents: args.intents,
        supervisor,
        relay,
        socket,
        reading,
        broker,
        manifests,
    };
    let courier = Courier::begin(state, false);
    let ended = ready.go(session).map_err(|error| Failure {
        error,
        started: true,
    });
    if let Some(courier) = courier {
        // What it brings is the checkpoint; a failure of the log has ended the session, or shows at its next use.
        let _ = log.flush();
        courier.end();
    }
    ended
}

/// Everything that can fail before the agent starts has not failed.
struct Ready {
    /// What is run, sealed.
    command: Sealed<Intent>,
    /// The session tells its intents from the beginning.
    intents: bool,
    supervisor: Arc<Supervisor>,
    relay: TerminalRelay,
    /// The line to the broker, and a second handle of it to read from.
    socket: UnixStream,
    reading: UnixStream,
    broker: u32,
    manifests: Taker,
}

impl Ready {
    /// Lets the agent start, and serves it to its end. Whatever goes wrong from here on, the agent may
    /// have written something.
    fn go(self, session: &mut Session) -> Result<Ending> {
        let Ready {
            command,
            intents,
            supervisor,
            relay,
            socket,
            reading,
            broker,
            manifests,
        } = self;
        supervisor.go(&command, intents);
        let record = session.clone();
        // A failure shows again when the session's end is written.
        let _ = std::thread::Builder::new().spawn(move || record.sync());

        let served = supervisor.serve(reading, || relay.stopped(&supervisor));
        relay.finish();
        // The mounts are gone when the broker is; only then may the layers be read.
        let _ = socket.shutdown(std::net::Shutdown::Both);
        // What was applied meanwhile is the session's policy from here on. Nobody waits for the broker
        // any more, so this does not either.
        supervisor.revisions.end(session);
        supervisor.keeper.end();
        let gone = std::thread::Builder::new().spawn(move || wait_for(broker));
        let _ = std::fs::remove_file(session.socket_path());
        let end = match &served {
            Ok(ending) => SessionEnd {
                exit: ending.signal.is_none().then_some(ending.code),
                signal: ending.signal,
                allowed: ending.allowed.clone(),
                decisions: ending.decisions.clone(),
            },
            Err(_) => SessionEnd::default(),
        };
        supervisor.end_actions();
        if let Some(gap) = supervisor.learned.gap() {
            supervisor.note(Record::Gap(gap));
        }
        let recorded = supervisor.seal(Record::SessionEnd(end));
        if let (Ok(()), Err(e)) = (&recorded, supervisor.publish()) {
            note(&format!(
                "the session's end is durable in the ledger's journal, but not in its tiles yet: {e}; the next command \
                 that reads the ledger tries again"
            ));
        }
        match gone {
            Ok(gone) => drop(gone.join()),
            Err(_) => wait_for(broker),
        }
        let _ = std::fs::remove_dir(stage(session));
        finish_manifests(session, manifests);
        session.record.ended_ms = Some(state::now_ms());
        session.record.exit = served.as_ref().ok().map(|e| e.code);
        let unrecorded = recorded
            .as_ref()
            .err()
            .and_then(|e| supervisor.unrecorded(e));
        if unrecorded.is_some() {
            session.record.unrecorded.clone_from(&unrecorded);
        }
        // The ledger has the end, durably; the layers were named durably when the session began.
        let saved = session.save_soon();
        if let Some(unrecorded) = &unrecorded {
            // The policy let it go on without a ledger: this is the only place that still takes it for sure.
            note(&format!(
                "{} of this session are in no ledger, its end among them, since {}: {}",
                crate::output::count(
                    usize::try_from(unrecorded.lost).unwrap_or(usize::MAX),
                    "record"
                ),
                unrecorded.from,
                unrecorded.reason
            ));
            if let Err(e) = saved {
                note(&format!("{e:#}"));
            }
            return served.map_err(|e| {
                anyhow::anyhow!("{e}; the changes are kept in session {}", session.id())
            });
        }
        saved?;
        if supervisor.has_failed() {
            bail!(
                "the session was ended because the ledger could not be written; the changes are kept \
                 in session {}",
                session.id()
            );
        }
        recorded.context("the session's end could not be recorded")?;
        served.map_err(|e| anyhow::anyhow!("{e}; the changes are kept in session {}", session.id()))
    }
}

/// Waits for the base manifests where the session wrote something; says so where there is none, or where
/// originals could have been kept and are not.
fn finish_manifests(session: &Session, manifests: Taker) {
    if session.record.layers.iter().all(Layer::is_untouched) {
        return;
    }
    let untouched = |root: &Path| {
        let mut layers = session.record.layers.iter();
        layers.any(|l| l.root == root && l.is_untouched())
    };
    for Taken {
        root,
        manifest,
        originals,
    } in manifests.finish()
    {
        if untouched(&root) {
            continue;
        }
        if let Err(NotKept::Failed(error)) = originals {
            note(&format!(
                "no originals of {} are kept: {error}; what both sides edit there is merged only where \
                 git has the original",
                shown(&root)
            ));
        }
        let why = match manifest {
            Ok(Ok(_)) => continue,
            Ok(Err(refusal)) => refusal.to_string(),
            Err(error) => error.to_string(),
        };
        note(&format!(
            "no base manifest of {}: {why}; what others change there meanwhile is told by change \
             times alone",
            shown(&root)
        ));
    }
}

/// Notes in the session's record that it runs again.
fn go_on(session: &mut Session, args: &RunArgs) {
    let record = &mut session.record;
    record.command = command_text(args);
    record.resumed_ms = Some(state::now_ms());
    (record.ended_ms, record.exit) = (None, None);
    record.supervisor_pid = std::process::id();
    if record.outcome == Outcome::Committed {
        record.outcome = Outcome::Partly;
    }
}

/// How and with what a wall is begun.
struct Start {
    beginning: opening::Beginning,
    first_seq: u64,
    mounts: Vec<LayerPaths>,
}

type Standing = (Wall, (Log, Sealed<Intent>), agentwall_cow::Timestamp);

/// Builds the wall; the session's start is recorded while the broker works.
fn stand(
    args: &RunArgs,
    state: &State,
    session: &Session,
    prepared: &Prepared,
    here: PathBuf,
    start: &Start,
) -> Result<Standing> {
    let Prepared { engine, view, .. } = prepared;
    let stage = stage(session);
    // A supervisor that was killed leaves it, empty.
    let _ = std::fs::remove_dir(&stage);
    std::fs::create_dir(&stage).with_context(|| format!("cannot make {}", shown(&stage)))?;
    let binary = prepare::own_binary()?;
    let workspace = &session.record.workspace;
    let directory = match here.canonicalize() {
        Ok(here) if here.starts_with(workspace) => here,
        _ => workspace.clone(),
    };
    let fixed = Fixed::of(engine);
    let spec = Spec {
        canaries: prepare::canaries(engine, view, &binary),
        host_loopback: fixed::host_loopback(&fixed.loopback),
        no_trace: fixed.no_trace,
        guard: policies::guard(&prepared.variables),
        engine: Arc::clone(engine),
        view: view.clone(),
        layers: start.mounts.clone(),
        stage,
        devices: fixed.devices,
        binary,
        command: args.command.clone(),
        environment: environment(session.id(), prepared.engine.policy().inspect()),
        directory,
        terminal: standard_terminals(),
    };
    let mut begun: Result<(Log, Sealed<Intent>)> =
        Err(anyhow::anyhow!("the ledger was not opened"));
    let base = || base_timestamp(session.dir(), None);
    // What is copied while the wall is built must not change unseen after that.
    let before = view.has_surfaces().then(base);
    let launched = launch(spec, || {
        begun = state.keep_log().and_then(|log| {
            let command = begin_ledger(session, &log, args, prepared, start)?;
            Ok((log, command))
        });
        before.unwrap_or_else(base)
    });
    match (launched, begun) {
        (Ok((wall, base)), Ok(begun)) => {
            let base = base.context("cannot read the file clock in the state folder")?;
            Ok((wall, begun, base))
        }
        (Err(e), Ok((log, _))) => {
            // The start is in the ledger; so is that nothing came of it.
            let end = Record::SessionEnd(SessionEnd {
                exit: Some(WALL_FAILED.into()),
                ..SessionEnd::default()
            });
            let seq = start.first_seq + opening::COUNT;
            let entry = Entry::now(session.id(), seq, end).to_bytes();
            // A failure of it is told by the next command that reads the ledger.
            let _ = log.append(&entry).and_then(|_| log.flush());
            Err(e.into())
        }
        (Err(e), Err(_)) => Err(e.into()),
        (Ok(_), Err(e)) => Err(e),
    }
}

fn stage(session: &Session) -> PathBuf {
    session.dir().join("stage")
}

/// Records that the session begins, durably.
fn begin_ledger(
    session: &Session,
    log: &Log,
    args: &RunArgs,
    prepared: &Prepared,
    start: &Start,
) -> Result<Sealed<Intent>> {
    let records = opening::begin(&args.command, prepared, &start.beginning);
    let entries = (start.first_seq..)
        .zip(records)
        .map(|(seq, record)| Entry::now(session.id(), seq, record));
    let entries: Vec<Entry> = entries.collect();
    let command = opening::command(&session.record.name, &args.command)?;
    let seq = start.first_seq + entries.len() as u64;
    log.seal(&entries, session.id(), seq, command)
        .context("the session's start could not be recorded")
}

/// Each connection takes up to six descriptors here. After the wall's processes were made: the
/// agent's own limits stay what they were.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it, connections past the limit are refused; nothing else breaks.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

fn wait_for(pid: u32) {
    if let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

/// What the agent inherits: everything but the wall's own variables.
fn environment(session: &str, inspected: &[String]) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<_> = std::env::vars_os()
        .filter(|(k, _)| k != "PATH" && !k.as_bytes().starts_with(b"AGENTWALL_"))
        .collect();
    let mut path =
        std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    path.push(":/dev/agentwall/bin");
    variables.push(("PATH".into(), path));
    variables.push(("AGENTWALL_SESSION".into(), session.into()));
    variables.push((
        "AGENTWALL_INTENT".into(),
        agentwall_wall::INTENT_PATH.into(),
    ));
    let places = model::places(inspected, |name| std::env::var_os(name));
    variables.retain(|(name, _)| places.iter().all(|(place, _)| place != name));
    variables.extend(places);
    variables
}

/// Review, commit, keep or discard. The lock is the run's own and was never free since it began: what
/// is known of the session is what is on disk, and nobody worked in it in between.
fn finish(
    args: &RunArgs,
    state: &State,
    session: Session,
    held: File,
    ending: &Ending,
) -> Result<ExitCode> {
    let code = u8::try_from(ending.code).unwrap_or(u8::MAX);
    let end = end_of_run(state, session, &held, args).unwrap_or_else(|e| {
        note(&format!("{e:#}"));
        WALL_FAILED
    });
    // The agent's own failure is the news; else what became of its changes.
    Ok(ExitCode::from(if code == 0 { end } else { code }))
}

/// What was asked for, else review on a terminal and keep without one.
fn end_of_run(state: &State, mut session: Session, _held: &File, args: &RunArgs) -> Result<u8> {
    if args.beginning.ephemeral {
        return session.remove_held().map(|()| 0);
    }
    let ending = args.ending;
    let [input, output, _] = standard_terminals();
    if ending.commit {
        let report = commit::commit_session(state, &mut session, &commit::Options::default())?;
        commit::note_report(&session, &report);
        return Ok(report.status());
    }
    if ending.discard {
        discard::discard_session(state, &mut session)?;
        return Ok(0);
    }
    let set = changes::scan(&session, false)?;
    if set.is_empty() {
        return Ok(0);
    }
    if ending.review || (!ending.keep && input && output) {
        review::review(state, &mut session)?;
        return Ok(0);
    }
    note(&format!(
        "{} kept in session {}; next: agentwall diff, agentwall commit, agentwall discard",
        crate::output::count(set.changes.len(), "change"),
        session.id()
    ));
    Ok(0)
}
