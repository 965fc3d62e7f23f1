//! Where a gateway's decision point listens (`protect --pdp`).

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::FileTypeExt as _, net::UnixListener, net::UnixStream},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use agentwall_gateway::{authzen::Pdp, gateway::Gateway, serve};
use anyhow::{Context as _, Result, bail};
use rustix::{fs::Mode, process::umask};

use crate::state::shown;

/// An address for enforcement points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PdpAddress {
    /// `127.0.0.1:8788`.
    Tcp(SocketAddr),
    /// `unix:/run/agentwall/pdp.sock`.
    Unix(PathBuf),
}

impl FromStr for PdpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(PdpAddress::Unix(path.into())),
            Some(_) => Err("after 'unix:' is an absolute path".into()),
            None => (text.parse().map(PdpAddress::Tcp))
                .map_err(|_| "an address is '127.0.0.1:8788' or 'unix:/path'".into()),
        }
    }
}

/// A listener that is open, and the URL that enforcement points know.
#[derive(Debug)]
pub struct Listening {
    open: Open,
    /// Without a slash at its end.
    pub public: String,
}

#[derive(Debug)]
enum Open {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens. Before any thread runs: the mask of new files is the process's.
pub fn listen(at: &PdpAddress, public: Option<&str>) -> Result<Listening> {
    let (open, own) = match at {
        PdpAddress::Tcp(address) => {
            let listener = TcpListener::bind(address).with_context(|| {
                format!("cannot listen at {address}; --pdp names another address")
            })?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            if public.is_none() && !address.ip().is_loopback() {
                bail!(
                    "{address} can be reached by others, and tokens would be sent in clear: put something that ends TLS before \
                     it, listen on a loopback address, and name the outer URL with --pdp-public"
                );
            }
            (Open::Tcp(listener), format!("http://{address}"))
        }
        PdpAddress::Unix(path) => (
            Open::Unix(listen_unix(path)?),
            "http://localhost".to_owned(),
        ),
    };
    let public = public.map_or(own, |url| url.trim_end_matches('/').to_owned());
    Ok(Listening { open, public })
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

/// Answers until `over` comes. Inside the runtime.
pub async fn serve(
    listening: Listening,
    gateway: Arc<Gateway>,
    over: impl Future<Output = ()>,
) -> Result<()> {
    let pdp = Arc::new(Pdp::new(gateway, listening.public));
    match listening.open {
        Open::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            serve::serve(listener, pdp, over).await;
        }
        Open::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            serve::serve(listener, pdp, over).await;
        }
    }
    Ok(())
}
