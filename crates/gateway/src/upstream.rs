//! The API behind the gateway: one server, reached in its own name, with credentials that agents never see.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header, uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::target::Target;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Connections that nobody uses, at most.
const MAX_IDLE: usize = 64;

/// Where calls go.
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    scheme: uri::Scheme,
    authority: uri::Authority,
    /// Before each path; without a slash at its end.
    prefix: String,
    /// The path of the URL that it was given as.
    endpoint: Target,
    credentials: HeaderMap,
    patience: Duration,
}

/// Without the credentials.
impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.credentials.keys().collect();
        f.debug_struct("Upstream")
            .field("base", &self.base())
            .field("credentials", &names)
            .finish_non_exhaustive()
    }
}

/// An address that is no upstream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamUrlError {
    /// Not `http://` or `https://` and a host.
    #[error("'{0}' is no http:// or https:// URL with a host")]
    Form(String),
    /// With a user, a query or a fragment.
    #[error("'{0}' has more than scheme, host, port and path; give credentials as headers")]
    More(String),
    /// The path has no one meaning.
    #[error("'{url}': {error}")]
    Path {
        /// As given.
        url: String,
        /// What is wrong with its path.
        error: crate::target::TargetError,
    },
    /// There are no roots to check certificates by.
    #[error("the certificates that this host trusts cannot be used: {0}")]
    Roots(rustls::Error),
}

/// The upstream did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No connection: it has not seen the call.
    #[error("the API cannot be reached: {0}")]
    Connect(String),
    /// It may have seen the call.
    #[error("the API did not answer: {0}")]
    Broken(String),
    /// No answer in time; it may have seen the call.
    #[error("the API did not answer within {} s", .0.as_secs())]
    Late(Duration),
}

impl CallError {
    /// Whether the call cannot have had an effect.
    pub fn is_before_the_call(&self) -> bool {
        matches!(self, CallError::Connect(_))
    }
}

impl Upstream {
    /// The API at `url`. `credentials` are set on each call, over what an agent sent under the same names; an answer
    /// has to begin within `patience`.
    ///
    /// # Errors
    /// The URL is not one of an API, or TLS cannot be checked here.
    pub fn new(
        url: &str,
        credentials: HeaderMap,
        patience: Duration,
    ) -> Result<Upstream, UpstreamUrlError> {
        let form = || UpstreamUrlError::Form(url.to_owned());
        let parts = url.parse::<Uri>().map_err(|_| form())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(form());
        };
        if scheme != uri::Scheme::HTTP && scheme != uri::Scheme::HTTPS {
            return Err(form());
        }
        let path = parts.path_and_query.as_ref().map_or("/", |p| p.path());
        let query = parts.path_and_query.as_ref().and_then(|p| p.query());
        if authority.as_str().contains('@') || query.is_some() || url.contains('#') {
            return Err(UpstreamUrlError::More(url.to_owned()));
        }
        let path = Target::parse(path).map_err(|error| UpstreamUrlError::Path {
            url: url.to_owned(),
            error,
        })?;
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.try_with_platform_verifier())
            .map_err(UpstreamUrlError::Roots)?
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            // A call is made once: what may have been seen is not sent again.
            .retry_canceled_requests(false)
            .build(connector);
        Ok(Upstream {
            client,
            scheme,
            authority,
            prefix: path.path().trim_end_matches('/').to_owned(),
            endpoint: path,
            credentials,
            patience,
        })
    }

    /// The URL is that of one endpoint, not of what lies below it: requests have its whole path.
    pub fn of_endpoint(self) -> Upstream {
        Upstream {
            prefix: String::new(),
            ..self
        }
    }

    /// The path of the URL.
    pub fn endpoint(&self) -> &Target {
        &self.endpoint
    }

    /// The URL of the API, without a slash at its end.
    pub fn base(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.prefix)
    }

    /// What is set on each call.
    pub(crate) fn credentials(&self) -> &HeaderMap {
        &self.credentials
    }

    /// The URL that a target leads to.
    pub fn url(&self, target: &Target) -> String {
        format!("{}{}", self.base(), target.to_text())
    }

    /// Makes a call. The head has to be one that [`headers::of_request`](crate::headers::of_request) has cleared.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn call(
        &self,
        method: Method,
        target: &Target,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, CallError> {
        for name in self.credentials.keys() {
            headers.remove(name);
        }
        headers.extend(self.credentials.clone());
        let host = HeaderValue::from_str(self.authority.as_str());
        headers.insert(
            header::HOST,
            host.map_err(|e| CallError::Connect(e.to_string()))?,
        );
        // The length is that of what is sent, not what the agent said it to be.
        headers.remove(header::CONTENT_LENGTH);
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{}", self.prefix, target.to_text()))
            .build()
            .map_err(|e| CallError::Connect(e.to_string()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        match tokio::time::timeout(self.patience, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) if e.is_connect() => Err(CallError::Connect(chain(&e))),
            Ok(Err(e)) => Err(CallError::Broken(chain(&e))),
            Err(_) => Err(CallError::Late(self.patience)),
        }
    }
}

/// An error with what lies beneath it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Result<Upstream, UpstreamUrlError> {
        Upstream::new(url, HeaderMap::new(), Duration::from_secs(1))
    }

    #[test]
    fn an_upstream_is_a_scheme_a_host_and_a_path() {
        let target = Target::parse("/a?b").unwrap();
        for (url, whole) in [
            ("http://api.example", "http://api.example/a?b"),
            (
                "https://api.example:8443/v1/",
                "https://api.example:8443/v1/a?b",
            ),
            ("http://[::1]:80/", "http://[::1]:80/a?b"),
        ] {
            assert_eq!(at(url).unwrap().url(&target), whole);
        }
        for url in ["api.example", "ftp://a", "unix:/x", "http://", "/a"] {
            assert!(matches!(at(url), Err(UpstreamUrlError::Form(_))), "{url}");
        }
        for url in ["http://u:p@a/", "http://a/?k=v", "http://a/#f"] {
            assert!(matches!(at(url), Err(UpstreamUrlError::More(_))), "{url}");
        }
        assert!(matches!(
            at("http://a/x/../y"),
            Err(UpstreamUrlError::Path { .. })
        ));
    }

    #[test]
    fn credentials_are_not_shown() {
        let mut credentials = HeaderMap::new();
        credentials.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer secret"),
        );
        let upstream = Upstream::new("http://a", credentials, Duration::from_secs(1)).unwrap();
        let text = format!("{upstream:?}");
        assert!(
            text.contains("authorization") && !text.contains("secret"),
            "{text}"
        );
    }
}
