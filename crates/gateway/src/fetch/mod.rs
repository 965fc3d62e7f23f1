//! Fetching what strangers name: an address in somebody's token leads to one request of this host.
//!
//! So that it leads nowhere else (server-side request forgery, OWASP API7; Agent Auth Protocol, section 8.12): https on port 443
//! alone; the name is resolved once, *every* address it has must be on the public internet, and the connection goes to one of
//! the addresses that were checked. No redirect is followed, no proxy is used, no compression is asked for or read. A fetch takes 5 s
//! and 1 MiB at most, and a host is asked [`MAX_OF_HOST`] times a minute at most, whoever wants it: the gateway is no amplifier.

pub mod keys;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use agentwall_policy::Addresses;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::ConfigBuilderExt as _;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_rustls::TlsConnector;

/// The one port.
const PORT: u16 = 443;

/// How long a fetch may take, from the name to the last byte.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer, in bytes.
pub const MAX_ANSWER: usize = 1 << 20;

/// How often a host is asked in a minute.
pub const MAX_OF_HOST: u32 = 10;

/// Most hosts whose number of fetches is known. While they are this many, no other host is asked.
const MAX_HOSTS: usize = 4096;

/// Fetches at a time. More wait.
const AT_ONCE: usize = 16;

const MINUTE: Duration = Duration::from_secs(60);

/// Who we are, to the server that is asked.
const AGENT: &str = concat!("agentwall/", env!("CARGO_PKG_VERSION"));

static PUBLIC: LazyLock<Option<Addresses>> = LazyLock::new(|| Addresses::parse("public").ok());

/// Names and connections. A test has its own.
pub trait Network: fmt::Debug + Send + Sync {
    /// All addresses of a host.
    fn resolve<'a>(&'a self, host: &'a str) -> Eventually<'a, Vec<IpAddr>>;

    /// A connection to exactly this address.
    fn connect(&self, to: SocketAddr) -> Eventually<'_, TcpStream>;
}

/// What is there later, or not.
pub type Eventually<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// This host's resolver and network.
#[derive(Debug)]
pub struct HostNetwork;

impl Network for HostNetwork {
    fn resolve<'a>(&'a self, host: &'a str) -> Eventually<'a, Vec<IpAddr>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, PORT)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    fn connect(&self, to: SocketAddr) -> Eventually<'_, TcpStream> {
        Box::pin(TcpStream::connect(to))
    }
}

/// Nothing was fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Not an address that is fetched.
    #[error("only https addresses with a host, port 443 and no user are fetched")]
    Url,
    /// The host has no address, or they cannot be found. The text is that of the next one, so that nobody learns which names there
    /// are behind this host.
    #[error("'{0}' has no address, or one that is not on the public internet")]
    Name(String),
    /// One of its addresses is not on the public internet.
    #[error("'{0}' has no address, or one that is not on the public internet")]
    Address(String),
    /// Too many fetches.
    #[error("'{0}' is asked too often; try again in a minute")]
    Rate(String),
    /// No connection, or no TLS.
    #[error("'{0}' cannot be reached: {1}")]
    Connect(String, String),
    /// Not in time.
    #[error("'{0}' did not answer within {s} s", s = PATIENCE.as_secs())]
    Late(String),
    /// Another status than 200.
    #[error("'{0}' answered {1}; redirects are not followed")]
    Status(String, u16),
    /// Too long.
    #[error("the answer of '{0}' is longer than {MAX_ANSWER} bytes")]
    Length(String),
    /// Not JSON, or compressed.
    #[error("the answer of '{0}' is not plain JSON")]
    Kind(String),
    /// This host cannot check certificates.
    #[error("the certificates that this host trusts cannot be used: {0}")]
    Roots(String),
}

/// Fetches.
pub struct Fetcher {
    network: Arc<dyn Network>,
    tls: TlsConnector,
    room: Semaphore,
    asked: Mutex<HashMap<String, Asked>>,
}

/// The fetches of a minute.
#[derive(Debug)]
struct Asked {
    since: Instant,
    count: u32,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// With this host's resolver, network, and the certificates that it trusts.
    ///
    /// # Errors
    /// Certificates cannot be checked here.
    pub fn new() -> Result<Fetcher, FetchError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.try_with_platform_verifier())
            .map_err(|e| FetchError::Roots(e.to_string()))?
            .with_no_client_auth();
        Ok(Fetcher::with(Arc::new(HostNetwork), config))
    }

    /// With another network.
    pub fn with(network: Arc<dyn Network>, tls: ClientConfig) -> Fetcher {
        Fetcher {
            network,
            tls: TlsConnector::from(Arc::new(tls)),
            room: Semaphore::new(AT_ONCE),
            asked: Mutex::default(),
        }
    }

    /// The JSON at an address.
    ///
    /// # Errors
    /// There is none, or it may not be fetched.
    pub async fn json(&self, url: &str) -> Result<Bytes, FetchError> {
        let (uri, host) = checked(url)?;
        self.count(&host)?;
        // Slow ones of others do not make this one late.
        let _room = self.room.acquire().await;
        tokio::time::timeout(PATIENCE, self.get(&uri, &host))
            .await
            .map_err(|_| FetchError::Late(host.clone()))?
    }

    async fn get(&self, uri: &Uri, host: &str) -> Result<Bytes, FetchError> {
        let unreachable =
            |e: &dyn fmt::Display| FetchError::Connect(host.to_owned(), e.to_string());
        let addresses = self.addresses(host).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Url)?;
        let stream = self
            .connect(&addresses)
            .await
            .map_err(|e| unreachable(&e))?;
        let stream = self
            .tls
            .connect(name, stream)
            .await
            .map_err(|e| unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(&e))?;
        let connection = Ended(tokio::spawn(connection));
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, AGENT)
            .body(Empty::new())
            .map_err(|_| FetchError::Url)?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| unreachable(&e))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(
                host.to_owned(),
                response.status().as_u16(),
            ));
        }
        let encoded = response
            .headers()
            .get(header::CONTENT_ENCODING)
            .is_some_and(|e| e != "identity");
        if encoded || !is_json(response.headers().get(header::CONTENT_TYPE)) {
            return Err(FetchError::Kind(host.to_owned()));
        }
        let read = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        drop(connection);
        read.map(|all| all.to_bytes())
            .map_err(|e| match e.is::<LengthLimitError>() {
                true => FetchError::Length(host.to_owned()),
                false => unreachable(&e),
            })
    }

    /// The addresses of a host, if all of them are public: whoever has a name could give it both kinds.
    async fn addresses(&self, host: &str) -> Result<Vec<SocketAddr>, FetchError> {
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let found = match literal {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.network.resolve(host).await,
        };
        let found = found.map_err(|_| FetchError::Name(host.to_owned()))?;
        if found.is_empty() {
            return Err(FetchError::Name(host.to_owned()));
        }
        let public = |ip: &IpAddr| PUBLIC.as_ref().is_some_and(|set| set.contains(*ip));
        if !found.iter().all(public) {
            return Err(FetchError::Address(host.to_owned()));
        }
        Ok(found
            .into_iter()
            .map(|ip| SocketAddr::new(ip, PORT))
            .collect())
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses.iter().take(4) {
            match self.network.connect(*address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// One more fetch from the host.
    fn count(&self, host: &str) -> Result<(), FetchError> {
        let now = Instant::now();
        let mut asked = self.asked.lock().unwrap_or_else(|e| e.into_inner());
        asked.retain(|_, asked| now.duration_since(asked.since) < MINUTE);
        if asked.len() >= MAX_HOSTS && !asked.contains_key(host) {
            return Err(FetchError::Rate(host.to_owned()));
        }
        let one = asked.entry(host.to_owned()).or_insert(Asked {
            since: now,
            count: 0,
        });
        if one.count >= MAX_OF_HOST {
            return Err(FetchError::Rate(host.to_owned()));
        }
        one.count += 1;
        Ok(())
    }
}

/// A connection that ends with who uses it.
struct Ended<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The address and its host, in small letters and without a dot at its end.
fn checked(url: &str) -> Result<(Uri, String), FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
    let plain = |authority: &Authority| {
        !authority.as_str().contains('@') && authority.port_u16().is_none_or(|p| p == PORT)
    };
    let known = uri.scheme_str() == Some("https")
        && uri.authority().is_some_and(plain)
        && !url.contains('#');
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_ascii_lowercase();
    match known && !host.is_empty() && host.is_ascii() {
        true => Ok((uri, host)),
        false => Err(FetchError::Url),
    }
}

fn is_json(kind: Option<&HeaderValue>) -> bool {
    let text = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || essence == "application/jwk-set+json"
}

#[cfg(test)]
mod tests;
