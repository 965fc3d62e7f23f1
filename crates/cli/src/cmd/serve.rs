//! `agentwall serve`: the console in the foreground, and who may use it.
//!
//! ```text
//! ROOT/console/console.db    people, their passkeys, tokens
//!              origin        where browsers find the console, while it runs
//! ```

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use agentwall_control::{
    Config, Console, Host,
    access::Role,
    host::{Act, Answer, GatewayAgent, HostError, LedgerEntry, Waiting},
    invite, new_token,
};
use agentwall_ledger::{Record, entry::ConsoleAct};
use agentwall_store::Accounts;
use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    args::serve::{InviteArgs, ServeArgs, ServeCommand, TokenCommand, account_name},
    cmd::gateway,
    control::Request,
    gateway::Place,
    output, questions,
    session::minute_of,
    state::{State, now_ms, random_text, shown},
    supervisor::Diary,
};

/// How long the ledger's writers are waited for when it is read.
const SETTLE: Duration = Duration::from_secs(1);
/// How long what still waits for a gateway or a session may take when the console ends.
const LEFT: Duration = Duration::from_millis(500);

/// Runs the command.
pub fn main(args: ServeArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let accounts = accounts(&state)?;
    match &args.command {
        None => serve(&args, state, accounts),
        Some(ServeCommand::Invite(args)) => invited(&state, &accounts, args),
        Some(ServeCommand::People) => {
            let all = accounts.accounts()?;
            let rows = all.into_iter().map(|a| vec![a.name, a.role]).collect();
            table(
                rows,
                "nobody has a passkey; 'agentwall serve invite' lets somebody in",
            )
        }
        Some(ServeCommand::Remove { name }) => {
            record(&state, "remove", name)?;
            match accounts.remove(name)? {
                true => said(&format!("removed: {name}")),
                false => bail!("nobody is called '{}'", output::tame(name)),
            }
        }
        Some(ServeCommand::Token(command)) => tokens(&state, &accounts, command),
    }
}

fn serve(args: &ServeArgs, state: State, accounts: Accounts) -> Result<ExitCode> {
    let log = Arc::new(state.keep_log()?);
    let session = format!("{}-{}", minute_of(now_ms()), random_text(4)?);
    let host = Local {
        diary: Diary::new(log, &session, 0),
        state,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of the console")?;
    let ended = runtime.block_on(async {
        let listeners = listen(args).await?;
        let first = listeners.first().context("it listens nowhere")?;
        let config = config(args, first.local_addr()?)?;
        let origin = config.origin.clone();
        let code = match accounts.accounts()?.is_empty() {
            true => {
                let name = own_name();
                host.record(&Act {
                    act: "invite",
                    object: &name,
                    by: &own_uid(),
                    proof: "terminal",
                    binding: None,
                })?;
                Some(invite(&accounts, &name, Role::Admin, now())?)
            }
            false => None,
        };
        let place = Origin::of(&host.state);
        let console = Console::new(config, Arc::new(host), accounts)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let held = place.hold(&origin)?;
        output::note(&format!("the console is at {origin}"));
        if let Some(code) = code {
            output::note(&format!(
                "register your passkey, once, within half an hour: {origin}/enrol#{}",
                code.as_str()
            ));
        }
        let ended = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        agentwall_control::serve(listeners, console, ended).await;
        drop(held);
        Ok(ExitCode::SUCCESS)
    });
    // A gateway that does not answer keeps nobody waiting.
    runtime.shutdown_timeout(LEFT);
    ended
}

/// Where it listens. `localhost` is 127.0.0.1 and ::1, and browsers take either: whoever has one of the two at that port
/// would get what is for the console, so it takes both or does not start. A host without IPv6 has no other one.
async fn listen(args: &ServeArgs) -> Result<Vec<TcpListener>> {
    let cannot =
        |address: SocketAddr| format!("cannot listen at {address}; --listen names another address");
    let bind = TcpListener::bind;
    let first = bind(args.listen).await;
    let first = first.with_context(|| cannot(args.listen))?;
    let port = first.local_addr()?.port();
    let mut all = vec![first];
    if args.public.is_some() || !args.listen.ip().is_loopback() {
        return Ok(all);
    }
    let both: [std::net::IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for ip in both.into_iter().filter(|ip| *ip != args.listen.ip()) {
        let address = SocketAddr::new(ip, port);
        match bind(address).await {
            Ok(one) => all.push(one),
            Err(e) if ip.is_ipv6() && is_absent(&e) => {}
            Err(e) => {
                return Err(e).with_context(|| {
                    format!("{}; 'localhost' would lead there, too", cannot(address))
                });
            }
        }
    }
    Ok(all)
}

/// Whether there is no such address on this host.
fn is_absent(e: &std::io::Error) -> bool {
    e.kind() == ErrorKind::AddrNotAvailable
        || e.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// The file that says where the console is, locked (flock) by it while it runs.
struct Origin(PathBuf);

impl Origin {
    fn of(state: &State) -> Origin {
        Origin(state.root().join("console/origin"))
    }

    /// Says it for as long as the file is kept open.
    fn hold(&self, origin: &str) -> Result<File> {
        let cannot = || format!("cannot write {}", shown(&self.0));
        let dir = self.0.parent().with_context(cannot)?;
        // Readable for its owner alone.
        let mut file = tempfile::NamedTempFile::new_in(dir).with_context(cannot)?;
        file.write_all(origin.as_bytes()).with_context(cannot)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(cannot)?;
        file.persist(&self.0).with_context(cannot)
    }

    /// Where the console is that runs now.
    fn read(&self) -> Option<String> {
        let mut file = File::open(&self.0).ok()?;
        // Nobody holds what a console left that has ended.
        flock(&file, FlockOperation::NonBlockingLockShared).err()?;
        let mut origin = String::new();
        file.read_to_string(&mut origin).ok()?;
        Some(origin)
    }
}

/// Where browsers find it. Passkeys need a name: an address is none.
fn config(args: &ServeArgs, address: std::net::SocketAddr) -> Result<Config> {
    let local = format!("localhost:{}", address.port());
    let Some(url) = &args.public else {
        if !address.ip().is_loopback() {
            bail!(
                "{address} can be reached by others, and passkeys need TLS there: put something that ends TLS before it, listen on a \
                 loopback address, and name the outer URL with --public"
            );
        }
        return Ok(Config {
            origin: format!("http://{local}"),
            hosts: vec![local],
        });
    };
    let origin = url.trim_end_matches('/').to_ascii_lowercase();
    let outer = origin
        .strip_prefix("https://")
        .or(origin.strip_prefix("http://"));
    let outer = outer.filter(|name| !name.is_empty() && !name.contains(['/', '?', '#', '@']));
    let outer = outer.context("--public is https://, a host and perhaps a port, without a path")?;
    Ok(Config {
        hosts: vec![outer.to_owned()],
        origin,
    })
}

fn invited(state: &State, accounts: &Accounts, args: &InviteArgs) -> Result<ExitCode> {
    let origin = args.url.clone().or_else(|| Origin::of(state).read());
    let origin = origin.context(
        "no console runs here; start 'agentwall serve', or name the URL of the console with --url",
    )?;
    record(state, "invite", &args.name)?;
    let code = invite(accounts, &args.name, args.role.into(), now())?;
    let url = origin.trim_end_matches('/');
    output::note("it holds for half an hour, once");
    said(&format!("{url}/enrol#{}", code.as_str()))
}

fn tokens(state: &State, accounts: &Accounts, command: &TokenCommand) -> Result<ExitCode> {
    match command {
        TokenCommand::Create { name, role } => {
            record(state, "token.create", name)?;
            match new_token(accounts, name, (*role).into(), now())? {
                Some(code) => said(code.as_str()),
                None => bail!("there is a token '{name}'; revoke it first, or take another name"),
            }
        }
        TokenCommand::List => {
            let all = accounts.tokens()?;
            let rows = all.into_iter().map(|t| vec![t.name, t.role]).collect();
            table(
                rows,
                "no tokens; 'agentwall serve token create NAME --role ROLE' makes one",
            )
        }
        TokenCommand::Revoke { name } => {
            record(state, "token.revoke", name)?;
            match accounts.revoke_token(name)? {
                true => said(&format!("revoked: {name}")),
                false => bail!("no token is called '{}'", output::tame(name)),
            }
        }
    }
}

fn accounts(state: &State) -> Result<Accounts> {
    let dir = state.root().join("console");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir);
    made.with_context(|| format!("cannot make {}", shown(&dir)))?;
    let path = dir.join("console.db");
    Accounts::open(&path).with_context(|| format!("cannot use {}", shown(&path)))
}

/// What the person at this terminal does is in the ledger before it is done.
fn record(state: &State, act: &str, object: &str) -> Result<()> {
    let session = format!("{}-{}", minute_of(now_ms()), random_text(4)?);
    let act = ConsoleAct {
        act: act.to_owned(),
        object: object.to_owned(),
        by: own_uid(),
        proof: "terminal".to_owned(),
        binding: None,
    };
    state.record(&session, vec![Record::Console(act)])
}

fn table(rows: Vec<Vec<String>>, none: &str) -> Result<ExitCode> {
    match rows.is_empty() {
        true => said(none),
        false => {
            output::print(&output::table(&rows))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn said(text: &str) -> Result<ExitCode> {
    output::print(&format!("{}\n", output::tame(text)))?;
    Ok(ExitCode::SUCCESS)
}

/// Who is at this terminal, for the ledger.
fn own_uid() -> String {
    format!("uid:{}", rustix::process::getuid().as_raw())
}

/// What the first person is called: as at the terminal.
fn own_name() -> String {
    let name = std::env::var("USER").unwrap_or_default();
    account_name(&name).unwrap_or_else(|_| "admin".to_owned())
}

fn now() -> i64 {
    now_ms().cast_signed()
}

/// This host, asked and answered as by the commands.
struct Local {
    state: State,
    diary: Diary,
}

impl Host for Local {
    fn waiting(&self) -> Result<Waiting, HostError> {
        let (asks, trouble) = questions::waiting(&self.state).map_err(unavailable)?;
        Ok(Waiting { asks, trouble })
    }

    fn answer(&self, id: &str, answer: &Answer) -> Result<String, HostError> {
        let request = |id| match answer {
            Answer::Approve { scope, digest } => Request::Approve {
                id,
                scope: scope.clone(),
                digest: Some(digest.clone()),
            },
            Answer::Reject { reason } => Request::Reject {
                id,
                reason: reason.clone(),
            },
        };
        questions::answer(id, request).map_err(refused)
    }

    fn agents(&self) -> Result<Vec<GatewayAgent>, HostError> {
        match self.gateways()?.is_empty() {
            true => Ok(Vec::new()),
            false => gateway::all_agents(&self.state, None).map_err(unavailable),
        }
    }

    fn revoke(&self, id: &str) -> Result<String, HostError> {
        gateway::end(&self.state, None, id).map_err(refused)
    }

    fn gateways(&self) -> Result<Vec<String>, HostError> {
        let running = Place::running(&self.state).map_err(unavailable)?;
        Ok(running.into_iter().map(|place| place.name).collect())
    }

    fn decisions(&self, before: Option<u64>, limit: usize) -> Result<Vec<LedgerEntry>, HostError> {
        self.newest(before, limit).map_err(unavailable)
    }

    fn record(&self, act: &Act<'_>) -> Result<(), HostError> {
        let act = ConsoleAct {
            act: act.act.to_owned(),
            object: act.object.to_owned(),
            by: act.by.to_owned(),
            proof: act.proof.to_owned(),
            binding: act.binding.map(str::to_owned),
        };
        let sealed = self.diary.seal(Record::Console(act));
        sealed.map_err(|e| {
            HostError::Unavailable(format!(
                "nothing was done, since it cannot be recorded: {e}"
            ))
        })
    }
}

impl Local {
    /// Decisions from the end of the ledger on, its text with them.
    fn newest(&self, before: Option<u64>, limit: usize) -> Result<Vec<LedgerEntry>> {
        // What is not published yet is on the next page that is asked for.
        let _ = self.state.settle(SETTLE);
        let reader = self.state.reader().context("cannot read the ledger")?;
        let first = reader.first().context("cannot read the ledger")?;
        let end = before.map_or(reader.size(), |before| before.min(reader.size()));
        let mut found = Vec::new();
        for index in (first..end).rev() {
            if found.len() == limit {
                break;
            }
            let told = reader.told(index).context("cannot read the ledger")?;
            let record = &told.entry.record;
            if record.decision().is_some() || matches!(record, Record::Call(_)) {
                let entry = serde_json::from_slice(&told.bytes)?;
                found.push(LedgerEntry { index, entry });
            }
        }
        Ok(found)
    }
}

fn unavailable(e: anyhow::Error) -> HostError {
    HostError::Unavailable(output::tame(&format!("{e:#}")))
}

fn refused(e: anyhow::Error) -> HostError {
    HostError::Refused(output::tame(&format!("{e:#}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn bound(listen: SocketAddr, public: bool) -> Result<Vec<SocketAddr>> {
        let args = ServeArgs {
            command: None,
            listen,
            public: public.then(|| "https://console.example".to_owned()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let all = runtime.block_on(super::listen(&args))?;
        Ok(all.iter().map(|one| one.local_addr().unwrap()).collect())
    }

    #[test]
    fn who_has_one_of_the_addresses_of_localhost_keeps_it_from_starting() {
        let any = |ip: std::net::IpAddr| SocketAddr::new(ip, 0);
        let (v4, v6) = (
            any(Ipv4Addr::LOCALHOST.into()),
            any(Ipv6Addr::LOCALHOST.into()),
        );
        let Ok(other) = std::net::TcpListener::bind(v6) else {
            // A host without IPv6 has no second address.
            assert_eq!(bound(v4, false).unwrap().len(), 1);
            return;
        };
        let port = other.local_addr().unwrap().port();
        let here = SocketAddr::new(v4.ip(), port);
        let error = bound(here, false).unwrap_err().to_string();
        assert!(error.contains(&format!("[::1]:{port}")), "{error}");
        // Under another name nobody looks there.
        assert_eq!(bound(here, true).unwrap(), [here]);
        drop(other);
        let both = bound(here, false).unwrap();
        assert_eq!(both, [here, SocketAddr::new(v6.ip(), port)]);
        let other = std::net::TcpListener::bind(v4).unwrap();
        let there = SocketAddr::new(v6.ip(), other.local_addr().unwrap().port());
        assert!(bound(there, false).is_err());
    }

    #[test]
    fn an_invitation_leads_to_the_console_that_runs_or_nowhere() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(tmp.path()).unwrap();
        let people = accounts(&state).unwrap();
        let args = InviteArgs {
            name: "ada".into(),
            role: crate::args::serve::RoleName::Approver,
            url: None,
        };
        let error = invited(&state, &people, &args).unwrap_err().to_string();
        assert!(error.contains("no console runs here"), "{error}");
        let origin = Origin::of(&state);
        let held = origin.hold("http://localhost:8770").unwrap();
        let mode = fs::metadata(&origin.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        invited(&state, &people, &args).unwrap();
        assert_eq!(origin.read().as_deref(), Some("http://localhost:8770"));
        drop(held);
        assert!(invited(&state, &people, &args).is_err());
    }
}
