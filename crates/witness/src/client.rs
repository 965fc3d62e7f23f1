//! Calls over HTTP with limits: in time, in bytes, in redirections.
//!
//! For `https` the certificates count that the host trusts; there is no list of its own.

use std::{
    sync::Once,
    time::{Duration, Instant},
};

use ureq::{
    Agent, Proxy,
    http::{Response, Uri},
    tls::{RootCerts, TlsConfig},
};

use crate::serve::is_this_host;

/// A peer did not answer as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Not a URL of this kind.
    #[error("expected a URL that begins with http:// or https://, found {0:?}")]
    Url(String),
    /// No connection, no answer in time, or one that is too long or is not HTTP.
    #[error("{0}")]
    Failed(String),
}

/// What a peer answered.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) status: u16,
    /// Empty if it says none.
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

/// Calls to the resources below one prefix, by a point in time at the latest.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    prefix: String,
    until: Instant,
}

impl Client {
    /// For the prefix of a witness or a log.
    pub(crate) fn new(prefix: &str, patience: Duration) -> Result<Self, CallError> {
        let wrong = || CallError::Url(prefix.to_owned());
        let uri: Uri = prefix.parse().map_err(|_| wrong())?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || uri.query().is_some() {
            return Err(wrong());
        }
        // A proxy cannot reach this host's own addresses for it.
        let own = uri.host().is_some_and(is_this_host);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(3)
            .user_agent("agentwall")
            .proxy(if own { None } else { Proxy::try_from_env() })
            .tls_config(tls());
        Ok(Client {
            agent: config.build().into(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            until: Instant::now() + patience,
        })
    }

    /// Reads a resource of at most `limit` bytes.
    pub(crate) fn get(&self, path: &str, limit: u64) -> Result<Called, CallError> {
        let request = self.agent.get(self.url(path)).config();
        let request = request.timeout_global(Some(self.left())).build();
        read(request.call(), limit)
    }

    /// Sends a text; the answer has at most `limit` bytes.
    pub(crate) fn post(&self, path: &str, text: &str, limit: u64) -> Result<Called, CallError> {
        let request = self.agent.post(self.url(path)).config();
        let request = request
            .timeout_global(Some(self.left()))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .header("content-type", "text/plain; charset=utf-8");
        read(request.send(text), limit)
    }

    /// Sends a query of some type to the prefix itself; the answer has at most `limit` bytes.
    pub(crate) fn query(&self, bytes: &[u8], kind: &str, limit: u64) -> Result<Called, CallError> {
        let request = self.agent.post(&self.prefix).config();
        let request = request.timeout_global(Some(self.left())).build();
        read(request.header("content-type", kind).send(bytes), limit)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.prefix)
    }

    /// Not nothing: that would be no limit.
    fn left(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        left.max(Duration::from_millis(1))
    }
}

fn read(
    answer: Result<Response<ureq::Body>, ureq::Error>,
    limit: u64,
) -> Result<Called, CallError> {
    let failed = |e: ureq::Error| CallError::Failed(e.to_string());
    let mut answer = answer.map_err(failed)?;
    let content_type = answer.headers().get("content-type");
    Ok(Called {
        status: answer.status().as_u16(),
        content_type: content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        body: answer
            .body_mut()
            .with_config()
            .limit(limit)
            .read_to_vec()
            .map_err(failed)?,
    })
}

fn tls() -> TlsConfig {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error says that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let config = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
    config.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http() {
        let new = |url| Client::new(url, Duration::from_secs(1)).map(drop);
        for good in ["http://127.0.0.1:1", "https://witness.example/prefix/"] {
            assert_eq!(new(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "file:///etc/passwd",
            "witness.example",
            "ftp://a",
            "http://a/?b",
        ] {
            assert_eq!(new(bad), Err(CallError::Url(bad.into())));
        }
    }
}
