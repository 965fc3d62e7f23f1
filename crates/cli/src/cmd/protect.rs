//! `agentwall protect`: a gateway in front of an API, in the foreground.

use std::{
    io::Read as _,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_budget::{Counters, Embedded, EmbeddedConfig, OnFailure, Redis, RedisConfig};
use agentwall_gateway::{
    answer::Disclosure,
    authzen::Pdp,
    catalogue::Catalogue,
    contact::{self, Contact},
    ext_authz::ExtAuthz,
    fetch::{Fetcher, keys::KeySets},
    gateway::{Config, Gateway},
    judge::{Judge, Parts},
    mcp::Server,
    record::Recorder,
    serve,
    upstream::Upstream,
};
use agentwall_identity::{Directory, Profile, Settings};
use agentwall_ledger::entry::GatewayState;
use agentwall_policy::{Layer, Policy, Variables};
use agentwall_store::{PostgresStore, SqliteStore};
use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    args::gateway::{Disclose, ProtectArgs, WithoutRedis},
    control::Response,
    gateway::{Place, ask, pins::Pinned, recorder::Book, requests, tokens::Tokens},
    output,
    policies::{self, read_file},
    state::{State, now_ms, random_text, rfc3339_of, shown},
    supervisor::serve_private,
};

/// Longest OpenAPI document, in bytes.
const MAX_DOCUMENT: u64 = 16 << 20;

/// How often it is written down when agents were used last.
const NOTE_USE: Duration = Duration::from_secs(10);

/// How long it waits to be told of changes by other instances before it looks by itself.
const LOOK: Duration = Duration::from_secs(1);

/// How soon it looks again when the common store gave no answer.
const AGAIN: Duration = Duration::from_millis(200);

/// Runs the command.
pub fn main(args: ProtectArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let place = Place::of(&state, &args.name);
    let _lock = place.take()?;
    let policy = policy(&args)?;
    refuse_what_is_not_enforced(&policy)?;
    let catalogue = catalogue(&args)?;
    let upstream = Upstream::new(
        &args.url,
        credentials(&args)?,
        Duration::from_secs(args.timeout.max(1)),
    )?;
    let directory = directory(&args, &place)?;
    let upstream = match args.mcp {
        true => upstream.of_endpoint(),
        false => upstream,
    };
    let mcp = match args.mcp {
        true => {
            let pins = Arc::new(Pinned::open(&place.tools())?);
            let mut server = Server::new(&args.name, pins);
            server.show_denied = args.show_denied;
            server.on_finding = args.hidden_text.into();
            Some(server)
        }
        false => None,
    };
    let log = Arc::new(state.keep_log()?);
    let session = session_id()?;
    let since = begins(&directory, args.redis.is_some());
    let book = Arc::new(Book::new(
        log,
        &session,
        &args.name,
        policy.on_ledger_failure(),
    ));
    let tokens = Arc::new(Tokens::open(&place, Arc::clone(&book))?);
    let pdp = (args.pdp.as_ref())
        .map(|at| ask::listen(at, "--pdp", args.pdp_public.as_deref()))
        .transpose()?;
    let ext_authz = (args.ext_authz.as_ref())
        .map(|at| ask::listen(at, "--ext-authz", None))
        .transpose()?;
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("cannot start the threads of the gateway")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await.with_context(|| {
            format!(
                "cannot listen at {}; --listen names another address",
                args.listen
            )
        })?;
        let address = listener.local_addr()?;
        let public = public(&args, address)?;
        let recorder: Arc<dyn Recorder> = Arc::<Book>::clone(&book);
        let gateway = Arc::new(Gateway {
            config: Config {
                name: args.name.clone(),
                hosts: hosts(&public, address),
                public: public.clone(),
                max_body: args.max_body,
                profile: if args.compat {
                    Profile::Compat
                } else {
                    Profile::Strict
                },
                disclosure: match args.disclose {
                    Disclose::Full => Disclosure::Full,
                    Disclose::Code => Disclosure::Code,
                    Disclose::None => Disclosure::None,
                },
                on_failure: match args.without_redis {
                    WithoutRedis::Closed => OnFailure::Closed,
                    WithoutRedis::Local => OnFailure::Local,
                    WithoutRedis::Open => OnFailure::Open,
                },
                since,
            },
            catalogue,
            directory: Arc::new(directory),
            judge: Judge::new(Parts {
                gateway: args.name.clone(),
                session: session.clone(),
                policy: Arc::clone(&policy),
                counters: counters(&args)?,
                recorder,
                deviations: Vec::new(),
            }),
            upstream,
            mcp,
            live: Default::default(),
            contact: match args.identities {
                Some(_) => Contact::shared(Instant::now()),
                None => Contact::alone(),
            },
            tokens: Arc::clone(&tokens.all),
            keys: KeySets::new(Fetcher::new()?),
            rates: Default::default(),
        });
        let told = |outcome: &str| GatewayState {
            outcome: outcome.to_owned(),
            name: args.name.clone(),
            public: public.clone(),
            upstream: gateway.upstream.base(),
            policy: gateway.judge.policy().digest().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        book.state(told("started"))?;
        let is_over = Arc::<AtomicBool>::default();
        let following = follow(&gateway, &is_over)?;
        if args.identities.is_some() {
            hear(&gateway, &is_over)?;
        }
        let reload = reloader(&args, &gateway, &book);
        answer_commands(&place, &gateway, &tokens, &reload)?;
        announce(&args, &gateway);
        let (end, ends) = tokio::sync::watch::channel(());
        let over = || {
            let mut ends = ends.clone();
            // Closed is the end, too.
            async move { drop(ends.changed().await) }
        };
        let mut beside = tokio::task::JoinSet::new();
        if let Some(listening) = pdp {
            let public = args.pdp_public.clone().unwrap_or_else(|| listening.url());
            let public = public.trim_end_matches('/').to_owned();
            output::note(&format!("decisions: {public}/access/v1/evaluation"));
            let pdp = Arc::new(Pdp::new(Arc::clone(&gateway), public));
            beside.spawn(listening.serve(pdp, over()));
        }
        if let Some(listening) = ext_authz {
            let envoy = Arc::new(ExtAuthz::new(Arc::clone(&gateway)));
            beside.spawn(listening.serve(envoy, over()));
        }
        serve::serve(listener, Arc::clone(&gateway), ended(&reload)).await;
        drop(end);
        while let Some(done) = beside.join_next().await {
            done??;
        }
        is_over.store(true, Ordering::Relaxed);
        let _ = following.join();
        if let Err(e) = gateway.directory.store_use() {
            output::note(&e.to_string());
        }
        book.state(told("ended"))?;
        Ok(ExitCode::SUCCESS)
    })
}

type Reload = Arc<dyn Fn() -> Response + Send + Sync>;

/// Reads the policy again; one that is wrong changes nothing.
fn reloader(args: &ProtectArgs, gateway: &Arc<Gateway>, book: &Arc<Book>) -> Reload {
    let (args, gateway, book) = (args.clone(), Arc::clone(gateway), Arc::clone(book));
    let one = Mutex::new(());
    Arc::new(move || {
        let _one = one.lock();
        let read = policy(&args).and_then(|policy| {
            refuse_what_is_not_enforced(&policy)?;
            Ok(policy)
        });
        match read {
            Ok(policy) => {
                let digest = policy.digest().to_owned();
                let state = GatewayState {
                    outcome: "policy".to_owned(),
                    name: args.name.clone(),
                    public: gateway.config.public.clone(),
                    upstream: gateway.upstream.base(),
                    policy: digest.clone(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                if let Err(e) = book.state(state) {
                    return Response::Error {
                        text: format!("the old policy stays: {e}"),
                    };
                }
                book.on_failure(policy.on_ledger_failure());
                gateway.judge.replace_policy(policy);
                Response::Done {
                    text: format!("in force: {digest}"),
                }
            }
            Err(e) => Response::Error {
                text: format!("the old policy stays: {e:#}"),
            },
        }
    })
}

/// Comes back when the gateway is told to end.
async fn ended(reload: &Reload) {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        // Without them it ends as any process does.
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = hangup.recv() => match reload() {
                Response::Error { text } | Response::Done { text } => output::note(&output::tame(&text)),
                _ => {}
            },
        }
    }
}

/// Follows what becomes of hosts and agents, on a thread of its own.
fn follow(gateway: &Arc<Gateway>, over: &Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>> {
    let events = gateway.directory.subscribe()?;
    let (gateway, over) = (Arc::clone(gateway), Arc::clone(over));
    let thread = std::thread::Builder::new().name("principals".into());
    let noted = Mutex::new(Instant::now());
    let follow = move || {
        let is_over = || {
            let mut last = noted.lock().unwrap_or_else(|e| e.into_inner());
            if last.elapsed() >= NOTE_USE {
                *last = Instant::now();
                let _ = gateway.directory.store_use();
            }
            over.load(Ordering::Relaxed)
        };
        gateway.follow(events, is_over, |text| output::note(&output::tame(text)));
    };
    thread.spawn(follow).context("cannot start a thread")
}

/// Takes in what other instances change, on a thread that ends with the process.
fn hear(gateway: &Arc<Gateway>, over: &Arc<AtomicBool>) -> Result<()> {
    let (gateway, over) = (Arc::clone(gateway), Arc::clone(over));
    let hear = move || {
        let mut heard = true;
        while !over.load(Ordering::Relaxed) {
            // As of before the question.
            let asked = Instant::now();
            match gateway.directory.follow(LOOK) {
                Ok(_) => gateway.contact.made(asked),
                Err(e) if heard => output::note(&output::tame(&format!(
                    "{e}; agents are refused when it has not answered for {} s",
                    contact::STALE.as_secs()
                ))),
                Err(_) => std::thread::sleep(AGAIN),
            }
            let fresh = gateway.contact.is_fresh();
            if !fresh {
                // Whoever was revoked meanwhile would go on.
                gateway.live.end(|_| true);
            }
            if fresh != heard {
                heard = fresh;
                output::note(match heard {
                    true => "the store of identities answers again",
                    false => "the store of identities gives no answer: agents are refused",
                });
            }
        }
    };
    let thread = std::thread::Builder::new().name("instances".into());
    let started = thread.spawn(hear).context("cannot start a thread");
    started.map(drop)
}

fn answer_commands(
    place: &Place,
    gateway: &Arc<Gateway>,
    tokens: &Arc<Tokens>,
    reload: &Reload,
) -> Result<()> {
    let listener = place.listen()?;
    let (gateway, tokens, reload) = (Arc::clone(gateway), Arc::clone(tokens), Arc::clone(reload));
    serve_private(listener, move |peer, request| {
        requests::respond(&gateway, &tokens, peer.uid, request, &*reload)
    });
    Ok(())
}

fn announce(args: &ProtectArgs, gateway: &Gateway) {
    let public = &gateway.config.public;
    let names: Vec<&str> = gateway.catalogue.all().map(|c| c.name.as_str()).collect();
    let first = match names.len() {
        0..=6 => names.join(", "),
        n => format!("{} and {} more", names[..6].join(", "), n - 6),
    };
    let (here, there) = match &gateway.mcp {
        Some(_) => {
            let endpoint = gateway.upstream.endpoint();
            (endpoint.to_text(), gateway.upstream.url(endpoint))
        }
        None => (String::new(), gateway.upstream.base()),
    };
    output::note(&format!("{public}{here} stands before {there}"));
    output::note(&format!("capabilities: {first}"));
    match &args.policy {
        Some(file) => output::note(&format!("policy: {}", shown(file))),
        None => output::note(
            "policy: built in - reading is allowed, a person is asked about the rest; --policy names your own",
        ),
    }
    output::note(&format!(
        "let an agent in: agentwall identity enrol {public}, then agentwall pending"
    ));
}

fn policy(args: &ProtectArgs) -> Result<Arc<Policy>> {
    let Some(file) = &args.policy else {
        return Ok(agentwall_gateway::policy::built_in()?);
    };
    let source = policies::read_source(file, Layer::User)?;
    policies::load(&[source], &Variables::default()).map(Arc::new)
}

/// Temporal properties are for a later version: nobody relies on what is without effect.
pub fn refuse_what_is_not_enforced(policy: &Policy) -> Result<()> {
    if !policy.properties().is_empty() && policy.require() != agentwall_policy::Enforcement::Audit {
        bail!(
            "the policy has 'properties', which a gateway does not enforce; it would have to say 'require: {{ enforcement: audit }}'"
        );
    }
    Ok(())
}

fn catalogue(args: &ProtectArgs) -> Result<Catalogue> {
    if args.mcp {
        return Ok(Catalogue::mcp());
    }
    let Some(file) = &args.openapi else {
        return Ok(Catalogue::plain());
    };
    let name = || format!("cannot use the OpenAPI document {}", shown(file));
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).with_context(name)?;
    opened
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .with_context(name)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        bail!("{}: it is longer than {MAX_DOCUMENT} bytes", name());
    }
    let document =
        serde_json::from_slice(&bytes).with_context(|| format!("{}: JSON is expected", name()))?;
    Catalogue::of_openapi(&document).with_context(name)
}

fn credentials(args: &ProtectArgs) -> Result<HeaderMap> {
    let mut all = HeaderMap::new();
    for header in &args.credential {
        // Nothing of the value is shown: it is a secret.
        let form = "--credential is 'Header: value', or 'Header: value @FILE'";
        let (name, value) = header.split_once(':').context(form)?;
        let value = value.trim();
        let value = match value.rsplit_once('@') {
            Some((before, file))
                if !file.is_empty() && (before.is_empty() || before.ends_with(' ')) =>
            {
                let path = std::path::Path::new(file);
                let text =
                    read_file(path).with_context(|| format!("cannot read {}", shown(path)))?;
                format!("{before}{}", String::from_utf8_lossy(&text).trim())
            }
            _ => value.to_owned(),
        };
        let name: HeaderName = name.trim().parse().context(form)?;
        let mut value = HeaderValue::from_str(&value)
            .context("the credential has characters that no header has")?;
        value.set_sensitive(true);
        all.append(name, value);
    }
    Ok(all)
}

/// From when on tokens are taken. Counters in memory do not know the tokens of the run before: those were made before this second,
/// which is waited for. Redis knows them.
fn begins(directory: &Directory, shared: bool) -> i64 {
    if shared || directory.hosts().is_empty() {
        return 0;
    }
    let now = now_ms();
    std::thread::sleep(Duration::from_millis(1000 - now % 1000));
    (now / 1000).cast_signed() + 1
}

fn counters(args: &ProtectArgs) -> Result<Counters> {
    let Some(url) = &args.redis else {
        return Ok(Counters::Embedded(Embedded::new(EmbeddedConfig::default())));
    };
    let config = RedisConfig {
        instances: args.instances,
        deadline: Duration::from_millis(args.redis_timeout),
        ..RedisConfig::new(url, &args.name)
    };
    Ok(Counters::Redis(Box::new(Redis::new(&config)?)))
}

fn directory(args: &ProtectArgs, place: &Place) -> Result<Directory> {
    if let Some(url) = &args.identities {
        if args.redis.is_none() {
            bail!(
                "--identities shares agents with other gateways, and without --redis each of them would take a token once; \
                 name the Redis that they share, too"
            );
        }
        let url = match url.strip_prefix('@') {
            Some(file) => {
                let path = std::path::Path::new(file);
                let text =
                    read_file(path).with_context(|| format!("cannot read {}", shown(path)))?;
                String::from_utf8_lossy(&text).trim().to_owned()
            }
            None => url.clone(),
        };
        let store = PostgresStore::open(&url, &args.name).context("cannot use --identities")?;
        return Ok(Directory::open(Box::new(store), Settings::default())?);
    }
    let path = place.identities();
    let store = SqliteStore::open(&path).with_context(|| format!("cannot use {}", shown(&path)))?;
    Ok(Directory::open(Box::new(store), Settings::default())?)
}

/// The URL that agents know. Where no TLS is, there must be no network.
fn public(args: &ProtectArgs, address: std::net::SocketAddr) -> Result<String> {
    let Some(url) = &args.public else {
        if !address.ip().is_loopback() {
            bail!(
                "{address} can be reached by others, and tokens would be sent in clear: put something that ends TLS before it, \
                 listen on a loopback address, and name the outer URL with --public"
            );
        }
        return Ok(format!("http://{address}"));
    };
    let uri: http::Uri = url
        .parse()
        .with_context(|| format!("--public {url} is no URL"))?;
    let plain = uri.path() == "/" && uri.query().is_none();
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() || !plain {
        bail!("--public is http:// or https://, a host and perhaps a port, without a path");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// What a Host header may say.
fn hosts(public: &str, address: std::net::SocketAddr) -> Vec<String> {
    let outer = public.split_once("://").map_or(public, |(_, host)| host);
    let mut all = vec![outer.to_owned(), address.to_string()];
    if address.ip().is_loopback() {
        all.push(format!("localhost:{}", address.port()));
    }
    all
}

/// Sorts by its start, like that of other sessions.
pub fn session_id() -> Result<String> {
    let now = rfc3339_of(now_ms());
    let digits: String = now.chars().filter(char::is_ascii_digit).take(12).collect();
    let (day, time) = digits.split_at(8.min(digits.len()));
    Ok(format!("{day}-{time}-{}", random_text(4)?))
}
