//! What a wall is built for beside the file view: devices, tracing, loopback ports of the host.
//!
//! It follows from the policy that a session starts with, and stays as long as the wall stands: another
//! policy can come into force there only if it asks for the same.

use std::path::{Path, PathBuf};

use agentwall_action::{Effect, Resource, Verb};
use agentwall_egress::HostLoopback;
use agentwall_engine::Engine;
use agentwall_policy::LoopbackPorts;

/// What a policy asks of a wall beside the file view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Host devices that the policy lets the agent open by a literal name.
    pub devices: Vec<PathBuf>,
    /// Whether a rule forbids tracing even inside the agent's own process tree.
    pub no_trace: bool,
    /// The host's loopback ports that the policy names.
    pub loopback: LoopbackPorts,
}

impl Fixed {
    /// What the engine's policy asks for.
    pub fn of(engine: &Engine) -> Fixed {
        Fixed {
            devices: devices(engine),
            no_trace: denies_tracing(engine),
            loopback: engine.policy().host_loopback(),
        }
    }
}

/// The policy's host loopback ports in the form the capture takes.
pub fn host_loopback(ports: &LoopbackPorts) -> HostLoopback {
    match ports {
        LoopbackPorts::All => HostLoopback::all(),
        LoopbackPorts::Ports(ranges) => HostLoopback::ports(ranges.iter().cloned()),
    }
}

/// Whether a rule forbids tracing even inside the agent's own process tree.
pub fn denies_tracing(engine: &Engine) -> bool {
    let action = engine.action(Verb::ProcessTrace, Resource::path("/proc"));
    let decision = engine.decide(&action);
    decision.effect == Effect::Deny && decision.rule.is_some()
}

/// Host devices that the policy lets the agent open by a literal name.
fn devices(engine: &Engine) -> Vec<PathBuf> {
    let anchors = engine.policy().anchors();
    anchors
        .into_iter()
        .filter(|p| p.starts_with("/dev") && is_device(p))
        .filter(|p| {
            let action = engine.action(Verb::DeviceOpen, Resource::path(p));
            engine.decide(&action).effect == Effect::Allow
        })
        .collect()
}

/// A device node that the wall does not make itself.
fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    const OWN: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];
    let own = path.parent() == Some(Path::new("/dev"))
        && path
            .file_name()
            .is_some_and(|n| OWN.iter().any(|o| n == *o));
    let node = std::fs::symlink_metadata(path).map(|m| m.file_type());
    !own && node.is_ok_and(|t| t.is_char_device() || t.is_block_device())
}
