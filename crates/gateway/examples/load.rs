//! Load for the benchmark of the gateway (`bench/rows_gateway.py`).
//!
//! ```text
//! load serve                                         an API that answers at once; prints its port
//! load verify SECONDS THREADS                        signatures of tokens verified in a second
//! load calls URL AGENT HOST RATE COUNT CONNECTIONS   calls with a token each; AGENT and HOST are files of 'agentwall identity', or '-' for none
//! ```
//!
//! RATE 0: as many as can be, each connection one after the other. Times are from when a call was due, so that a call that waits for
//! another one is not counted as fast (coordinated omission). Prints one JSON object.

use std::{
    convert::Infallible,
    error::Error,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agentwall_identity::{AgentClaims, Jws, SecretKey, Thumbprint};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match words[..] {
        ["serve"] => runtime.block_on(serve()),
        ["verify", seconds, threads] => verify(seconds.parse()?, threads.parse()?),
        ["calls", url, agent, host, rate, count, connections] => {
            let signer = Signer::read(url, agent, host)?;
            let (rate, count, connections) = (rate.parse()?, count.parse()?, connections.parse()?);
            let told = calls(url, signer, rate, count, connections)?;
            println!("{told}");
            Ok(())
        }
        _ => Err(
            "serve | verify SECONDS THREADS | calls URL AGENT HOST RATE COUNT CONNECTIONS".into(),
        ),
    }
}

async fn serve() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = hyper::service::service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                b"{\"ok\":true}",
            ))))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer),
        );
    }
}

/// What one verification for each request allows.
fn verify(seconds: u64, threads: usize) -> Result<()> {
    let key = Arc::new(SecretKey::generate()?);
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let key = Arc::clone(&key);
            std::thread::spawn(move || -> std::result::Result<u64, String> {
                let token = key.sign_agent(&claims(
                    "http://127.0.0.1",
                    key.public().thumbprint(),
                    "agt_x",
                    0,
                )?);
                let (began, mut count) = (Instant::now(), 0);
                while began.elapsed() < Duration::from_secs(seconds) {
                    let jws = Jws::parse(&token).map_err(|e| e.to_string())?;
                    jws.verify(key.public()).map_err(|e| e.to_string())?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    let mut sum = 0;
    for worker in workers {
        sum += worker.join().map_err(|_| "a thread ended")??;
    }
    println!("{}", json!({ "per_second": sum / seconds }));
    Ok(())
}

/// Who calls.
struct Signer {
    key: SecretKey,
    agent: String,
    host: Thumbprint,
    issuer: String,
}

impl Signer {
    fn read(url: &str, agent: &str, host: &str) -> Result<Option<Signer>> {
        if agent == "-" {
            return Ok(None);
        }
        let enrolled: Value = serde_json::from_slice(&std::fs::read(agent)?)?;
        let host = SecretKey::from_jwk(&std::fs::read(host)?)?;
        let end = url
            .get(8..)
            .and_then(|rest| rest.find('/'))
            .map_or(url.len(), |at| at + 8);
        Ok(Some(Signer {
            key: SecretKey::from_jwk(enrolled["key"].to_string().as_bytes())?,
            agent: enrolled["agent"].as_str().unwrap_or_default().to_owned(),
            host: host.public().thumbprint(),
            issuer: url[..end].to_owned(),
        }))
    }

    fn token(&self, number: u64) -> Result<String> {
        Ok(self
            .key
            .sign_agent(&claims(&self.issuer, self.host, &self.agent, number)?))
    }
}

fn claims(
    issuer: &str,
    host: Thumbprint,
    agent: &str,
    number: u64,
) -> std::result::Result<AgentClaims, String> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|e| e.to_string())?;
    let now = since.as_secs().cast_signed();
    Ok(AgentClaims {
        iss: Some(host),
        sub: agent.parse().map_err(|_| "no id of an agent")?,
        aud: issuer.to_owned(),
        iat: now,
        exp: now + 60,
        jti: format!("{}-{number}", since.as_nanos()),
        capabilities: None,
        jkt: None,
        request: None,
    })
}

/// Each connection is a thread of its own that sleeps until its next call is due: a runtime's timer is late by up to a millisecond.
fn calls(
    url: &str,
    signer: Option<Signer>,
    rate: u64,
    count: u64,
    connections: u64,
) -> Result<Value> {
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().ok_or("a URL with a host")?.to_string();
    let path = uri.path().to_owned();
    // Signing is the agent's work, and done before.
    let mut shares: Vec<Vec<(u64, Request<Empty<Bytes>>)>> =
        (0..connections).map(|_| Vec::new()).collect();
    for number in 0..count {
        let mut request = Request::get(&path).header(header::HOST, &authority);
        if let Some(signer) = &signer {
            let bearer = format!("Bearer {}", signer.token(number)?);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let share = usize::try_from(number % connections)?;
        shares[share].push((number, request.body(Empty::<Bytes>::new())?));
    }
    let began = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = shares
        .into_iter()
        .map(|share| {
            let authority = authority.clone();
            std::thread::spawn(move || connection(&authority, share, began, rate))
        })
        .collect();
    let (mut times, mut wrong) = (Vec::new(), 0);
    for thread in threads {
        let (some, bad) = thread.join().map_err(|_| "a thread ended")??;
        times.extend(some);
        wrong += bad;
    }
    let seconds = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: f64| {
        let place = (times.len() as f64 * part) as usize;
        times.get(place).copied().unwrap_or_default()
    };
    Ok(json!({
        "answered": times.len(), "wrong": wrong, "seconds": seconds,
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
    }))
}

/// The calls of one connection: their times in nanoseconds, and how many were refused or broke off.
fn connection(
    authority: &str,
    share: Vec<(u64, Request<Empty<Bytes>>)>,
    began: Instant,
    rate: u64,
) -> Result<(Vec<u64>, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut sender = runtime.block_on(async {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok::<_, Box<dyn Error + Send + Sync>>(sender)
    })?;
    let (mut times, mut wrong) = (Vec::new(), 0);
    for (number, request) in share {
        let due = match rate {
            0 => Instant::now(),
            rate => began + Duration::from_nanos(number * 1_000_000_000 / rate),
        };
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let good = runtime.block_on(async {
            let answer = sender.send_request(request).await?;
            let good = answer.status().is_success();
            answer.into_body().collect().await?;
            Ok::<_, hyper::Error>(good)
        });
        match good {
            Ok(good) => wrong += u64::from(!good),
            Err(_) => return Ok((times, wrong + 1)),
        }
        times.push(u64::try_from(due.elapsed().as_nanos())?);
    }
    Ok((times, wrong))
}
