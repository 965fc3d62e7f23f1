//! Entry points for the fuzz targets in `fuzz/`: parsers that nothing outside this crate calls.
//!
//! Only with the feature `fuzzing`, which no product build has. No stability is promised.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{broker, plan, resolve};

/// The interpreter of what follows `#!` in a script.
pub fn interpreter_line(line: &[u8]) -> Option<Vec<u8>> {
    broker::shebang(line)
}

/// The loader that an ELF file asks for.
pub fn program_loader(file: &[u8]) -> Option<Vec<u8>> {
    broker::program_interpreter(|buf, at| {
        let rest = file.get(usize::try_from(at).ok()?..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Some(n)
    })
}

/// What a socket address of connect(2) names: an address, or the path of a Unix socket; neither for
/// abstract names and other families.
///
/// # Errors
/// It is shorter than its family needs.
pub fn socket_address(bytes: &[u8]) -> io::Result<(Option<SocketAddr>, Option<Vec<u8>>)> {
    broker::destination(bytes)
}

/// `NStgid`, `NSpid`, `Tgid` and `Umask` of `/proc/TID/status`.
pub fn thread_status(text: &[u8]) -> Option<(u32, u32, u32, u32)> {
    let ids = resolve::parse_status(text)?;
    Some((ids.tgid, ids.tid, ids.host_tgid, ids.umask))
}

/// A path as `/proc/self/mountinfo` writes it.
pub fn mount_point(field: &[u8]) -> PathBuf {
    plan::unescape_octal(field)
}
