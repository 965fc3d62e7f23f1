//! `agentwall identity`: keys and tokens of agents of this host, for gateways.
//!
//! ```text
//! identity/host.json          the host's key, a JWK
//! identity/agents/<n>.json    one agent at one gateway: its id, its name, its key
//! ```

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use agentwall_action::escape_text;
use agentwall_gateway::{target::Target, upstream::Upstream};
use agentwall_identity::{AgentClaims, AgentId, HostClaims, KeySource, MAX_LIFETIME, SecretKey};
use agentwall_ledger::hash::sha256_hex;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    args::gateway::{EnrolArgs, IdentityCommand, IdentityStatusArgs, TokenArgs},
    output,
    state::{State, now_ms, random_text, shown},
};

/// How long the gateway may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// How often '--wait' asks.
const INTERVAL: Duration = Duration::from_secs(2);

/// An agent of this host at one gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Enrolled {
    issuer: String,
    agent: AgentId,
    name: String,
    /// Its private key, a JWK.
    key: Value,
}

/// Runs the command.
pub fn main(command: IdentityCommand) -> Result<ExitCode> {
    let state = State::open()?;
    match command {
        IdentityCommand::Enrol(args) => enrol(&state, &args),
        IdentityCommand::Token(args) => token(&state, &args),
        IdentityCommand::Status(args) => status(&state, &args),
    }
}

fn enrol(state: &State, args: &EnrolArgs) -> Result<ExitCode> {
    let gateway = Gateway::discover(&args.url)?;
    let host = host_key(state)?;
    let key = SecretKey::generate()?;
    let wanted = match args.capability.is_empty() {
        true => gateway.capabilities()?,
        false => args.capability.clone(),
    };
    let claims = HostClaims {
        agent_key: Some(KeySource::Inline(key.public().clone())),
        host_name: Some(host_name()),
        ..host_claims(&host, &gateway.issuer)?
    };
    let mut body = json!({ "name": args.name, "capabilities": wanted });
    if let Some(reason) = &args.reason {
        body["reason"] = json!(reason);
    }
    let answer = gateway.post("register", &host.sign_host(&claims), &body)?;
    let agent: AgentId = answer["agent_id"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .context("the gateway gave no agent id")?;
    keep(
        state,
        &Enrolled {
            issuer: gateway.issuer.clone(),
            agent: agent.clone(),
            name: args.name.clone(),
            key: serde_json::from_str(&key.to_jwk())?,
        },
    )?;
    output::print(&format!("{agent} {}\n", told(&answer["status"])))?;
    if let Some(code) = answer["approval"]["user_code"].as_str() {
        output::note(&format!(
            "a person lets it in: agentwall approve {}:{}",
            told(&gateway.name),
            escape_text(code)
        ));
    }
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        std::thread::sleep(INTERVAL);
        let answer = gateway.status(&host, &agent)?;
        match answer["status"].as_str().unwrap_or_default() {
            "pending" => {}
            "active" => {
                output::note("it is let in");
                return Ok(ExitCode::SUCCESS);
            }
            other => bail!("it was not let in: {}", escape_text(other)),
        }
    }
}

fn token(state: &State, args: &TokenArgs) -> Result<ExitCode> {
    let issuer = args.url.trim_end_matches('/').to_owned();
    let enrolled = find(state, &issuer, args.name.as_deref())?;
    let host = host_key(state)?;
    let key = SecretKey::from_jwk(enrolled.key.to_string().as_bytes())?;
    let now = (now_ms() / 1000).cast_signed();
    let capabilities = args
        .capability
        .iter()
        .cloned()
        .collect::<std::collections::BTreeSet<_>>();
    let claims = AgentClaims {
        iss: Some(host.public().thumbprint()),
        sub: enrolled.agent,
        aud: issuer,
        iat: now,
        exp: now + MAX_LIFETIME,
        jti: random_text(26)?,
        capabilities: (!capabilities.is_empty()).then_some(capabilities),
        jkt: None,
        request: None,
    };
    output::print(&format!("{}\n", key.sign_agent(&claims)))?;
    Ok(ExitCode::SUCCESS)
}

fn status(state: &State, args: &IdentityStatusArgs) -> Result<ExitCode> {
    let gateway = Gateway::discover(&args.url)?;
    let enrolled = find(state, &gateway.issuer, args.name.as_deref())?;
    let answer = gateway.status(&host_key(state)?, &enrolled.agent)?;
    if args.json {
        output::print_json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&format!(
        "{} {}: {}\n",
        told(&answer["name"]),
        enrolled.agent,
        told(&answer["status"])
    ))?;
    for grant in answer["agent_capability_grants"]
        .as_array()
        .into_iter()
        .flatten()
    {
        output::print(&format!(
            "  {} {}\n",
            told(&grant["capability"]),
            told(&grant["status"])
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A gateway, as its discovery document describes it.
struct Gateway {
    issuer: String,
    name: Value,
    endpoints: Value,
}

impl Gateway {
    fn discover(url: &str) -> Result<Gateway> {
        let url = url.trim_end_matches('/');
        let document = call(
            Method::GET,
            &format!("{url}/.well-known/agent-configuration"),
            None,
            None,
        )?;
        let issuer = document["issuer"].as_str().unwrap_or_default().to_owned();
        if issuer != url {
            bail!(
                "{url} says that it is '{}'; use that URL if it is the gateway you mean",
                escape_text(&issuer)
            );
        }
        Ok(Gateway {
            issuer,
            name: document["provider_name"].clone(),
            endpoints: document["endpoints"].clone(),
        })
    }

    /// An endpoint; tokens go to the issuer alone.
    fn at(&self, endpoint: &str) -> Result<String> {
        let url = self.endpoints[endpoint].as_str().unwrap_or_default();
        match url.strip_prefix(&self.issuer) {
            Some(path) if path.starts_with('/') => Ok(url.to_owned()),
            _ => bail!("the gateway names no '{endpoint}' of its own"),
        }
    }

    fn capabilities(&self) -> Result<Vec<String>> {
        let list = call(Method::GET, &self.at("capabilities")?, None, None)?;
        let names = list["capabilities"].as_array().into_iter().flatten();
        Ok(names
            .filter_map(|c| c["name"].as_str().map(str::to_owned))
            .collect())
    }

    fn post(&self, endpoint: &str, token: &str, body: &Value) -> Result<Value> {
        call(Method::POST, &self.at(endpoint)?, Some(token), Some(body))
    }

    fn status(&self, host: &SecretKey, agent: &AgentId) -> Result<Value> {
        let url = format!("{}?agent_id={agent}", self.at("status")?);
        let claims = host_claims(host, &self.issuer)?;
        call(Method::GET, &url, Some(&host.sign_host(&claims)), None)
    }
}

/// One request; an answer that is no success is an error with the gateway's words.
fn call(method: Method, url: &str, token: Option<&str>, body: Option<&Value>) -> Result<Value> {
    let after = url.find("://").map_or(0, |at| at + 3);
    let path = url[after..].find('/').map_or(url.len(), |at| after + at);
    let upstream = Upstream::new(&url[..path], HeaderMap::new(), PATIENCE)?;
    let target = Target::parse(if path == url.len() { "/" } else { &url[path..] })?;
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_str(&format!("Bearer {token}"))?,
        );
    }
    if body.is_some() {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
    }
    let body = body.map_or_else(Bytes::new, |b| b.to_string().into());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (status, text) = runtime.block_on(async {
        let answer = upstream.call(method, &target, headers, body).await?;
        let status = answer.status();
        let read = tokio::time::timeout(
            PATIENCE,
            Limited::new(answer.into_body(), MAX_ANSWER).collect(),
        );
        let read = read
            .await
            .context("the gateway's answer did not come in time")?;
        let text = read
            .map_err(|e| anyhow::anyhow!("the gateway's answer broke off: {e}"))?
            .to_bytes();
        Ok::<_, anyhow::Error>((status, text))
    })?;
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    if !status.is_success() {
        let said = value["message"].as_str().unwrap_or("no reason given");
        bail!(
            "{} answered {status}: {}",
            escape_text(url),
            escape_text(said)
        );
    }
    Ok(value)
}

fn host_claims(host: &SecretKey, issuer: &str) -> Result<HostClaims> {
    let now = (now_ms() / 1000).cast_signed();
    Ok(HostClaims {
        iss: host.public().thumbprint(),
        aud: issuer.to_owned(),
        iat: now,
        exp: now + MAX_LIFETIME,
        jti: random_text(26)?,
        host_key: KeySource::Inline(host.public().clone()),
        agent_key: None,
        host_name: None,
    })
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// The host's key; made on first use.
fn host_key(state: &State) -> Result<SecretKey> {
    let path = folder(state)?.join("host.json");
    match fs::read(&path) {
        Ok(bytes) => SecretKey::from_jwk(&bytes)
            .with_context(|| format!("cannot use the key {}", shown(&path))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = SecretKey::generate()?;
            write(&path, key.to_jwk().as_bytes())?;
            Ok(key)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read {}", shown(&path))),
    }
}

fn keep(state: &State, enrolled: &Enrolled) -> Result<()> {
    let name = sha256_hex(format!("{}\n{}", enrolled.issuer, enrolled.name).as_bytes());
    let path = folder(state)?
        .join("agents")
        .join(format!("{}.json", &name[..16]));
    write(&path, &serde_json::to_vec(enrolled)?)
}

fn find(state: &State, issuer: &str, name: Option<&str>) -> Result<Enrolled> {
    let mut all = Vec::new();
    let dir = folder(state)?.join("agents");
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", shown(&dir)))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", shown(&path)))?;
            let one: Enrolled = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not of an agent", shown(&path)))?;
            all.push(one);
        }
    }
    all.retain(|one| one.issuer == issuer && name.is_none_or(|name| one.name == name));
    match (all.pop(), all.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => bail!(
            "no agent of this host is enrolled at {issuer}; 'agentwall identity enrol {issuer}' enrols one"
        ),
        (Some(_), _) => bail!("several agents are enrolled at {issuer}; name one with --name"),
    }
}

fn folder(state: &State) -> Result<PathBuf> {
    let dir = state.root().join("identity");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir.join("agents"));
    made.with_context(|| format!("cannot make {}", shown(&dir)))?;
    Ok(dir)
}

/// A private file, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let wrong = || format!("cannot write {}", shown(path));
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .with_context(wrong)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(wrong)?;
    fs::rename(&new, path).with_context(wrong)
}

fn told(value: &Value) -> String {
    escape_text(value.as_str().unwrap_or_default())
}
