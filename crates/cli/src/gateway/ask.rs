//! Where a gateway listens for those who ask it, beside agents (`protect --pdp`, `--ext-authz`).

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::FileTypeExt as _, net::UnixListener, net::UnixStream},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use agentwall_gateway::serve::{self, Service};
use anyhow::{Context as _, Result, bail};
use rustix::{fs::Mode, process::umask};

use crate::state::shown;

/// An address for who asks about agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskAddress {
    /// `127.0.0.1:8788`.
    Tcp(SocketAddr),
    /// `unix:/run/agentwall/pdp.sock`.
    Unix(PathBuf),
}

impl FromStr for AskAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(AskAddress::Unix(path.into())),
            Some(_) => Err("after 'unix:' is an absolute path".into()),
            None => (text.parse().map(AskAddress::Tcp))
                .map_err(|_| "an address is '127.0.0.1:8788' or 'unix:/path'".into()),
        }
    }
}

/// A listener that is open.
#[derive(Debug)]
pub enum Listening {
    /// On an address.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener),
}

/// Listens. Before any thread runs: the mask of new files is the process's. `option` named the address, `behind` is what ends TLS
/// before it.
pub fn listen(at: &AskAddress, option: &str, behind: Option<&str>) -> Result<Listening> {
    let address = match at {
        AskAddress::Unix(path) => return listen_unix(path).map(Listening::Unix),
        AskAddress::Tcp(address) => address,
    };
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen at {address}; {option} names another address"))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    if behind.is_none() && !address.ip().is_loopback() {
        bail!(
            "{address} can be reached by others, and tokens would be sent in clear: for {option} listen on a loopback address or at \
             unix:/PATH{}",
            match option {
                "--pdp" =>
                    ", put something that ends TLS before it, and name the outer URL with --pdp-public",
                _ => "",
            }
        );
    }
    Ok(Listening::Tcp(listener))
}

impl Listening {
    /// The URL that it has by itself.
    pub fn url(&self) -> String {
        let address = match self {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(_) => None,
        };
        address.map_or("http://localhost".to_owned(), |address| {
            format!("http://{address}")
        })
    }

    /// Answers until `over` comes. Inside the runtime.
    pub async fn serve<S: Service>(
        self,
        service: Arc<S>,
        over: impl Future<Output = ()>,
    ) -> io::Result<()> {
        match self {
            Listening::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                serve::serve(listener, service, over).await;
            }
            Listening::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                serve::serve(listener, service, over).await;
            }
        }
        Ok(())
    }
}

/// A socket that its owner alone may open.
fn listen_unix(path: &Path) -> Result<UnixListener> {
    let fails = || format!("cannot listen at {}", shown(path));
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() && UnixStream::connect(path).is_err() => {
            fs::remove_file(path).with_context(fails)?;
        }
        Ok(_) => bail!(
            "{}: something is there already, and it is no socket that nobody serves",
            fails()
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(fails),
    }
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.with_context(fails)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
