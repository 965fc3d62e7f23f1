//! `agentwall doctor`: what this host offers, proved by trying, and what to do about what it lacks.

use std::{fs, path::Path, process::ExitCode};

use agentwall_policy::{Layer, Source};
use anyhow::Result;
use serde::Serialize;

use agentwall_kernel::{Options, Programs, Wall};

use crate::{args::DoctorArgs, cmd::daemon::stand, host, output, policies, selftest, state::State};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Without it no wall can stand.
    pub needed: bool,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What this host offers; the last one builds a wall.
pub fn findings() -> Vec<Finding> {
    let mut all = vec![
        kernel(),
        user_namespaces(),
        apparmor(),
        landlock(),
        overlay(),
        nf_tables(),
        state_folder(),
    ];
    all.extend(kernel_wall());
    all.push(wall());
    all
}

/// Whether a wall stands on a host with these findings.
pub fn stands(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.ok || !f.needed)
}

/// Runs the command.
pub fn main(args: DoctorArgs) -> Result<ExitCode> {
    let findings = findings();
    let ok = stands(&findings);
    if args.json {
        output::print_json(&serde_json::json!({ "ok": ok, "findings": findings }))?;
    } else {
        let mut rows = Vec::new();
        for f in &findings {
            let mark = match (f.ok, f.needed) {
                (true, _) => "ok",
                (false, true) => "MISSING",
                (false, false) => "weaker",
            };
            rows.push(vec![mark.to_owned(), f.what.to_owned(), f.found.clone()]);
            if let Some(next) = &f.next {
                rows.push(vec![String::new(), String::new(), format!("→ {next}")]);
            }
        }
        output::print(&output::table(&rows))?;
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(output::FAILED)
    })
}

fn finding(what: &'static str, needed: bool, ok: bool, found: impl Into<String>) -> Finding {
    Finding {
        what,
        ok,
        needed,
        found: found.into(),
        next: None,
    }
}

impl Finding {
    fn or(mut self, next: &str) -> Finding {
        if !self.ok {
            self.next = Some(next.to_owned());
        }
        self
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    finding("kernel", true, version >= (5, 19), release).or(
        "Linux 5.19 or newer is needed (seccomp WAIT_KILLABLE_RECV, overlay in user namespaces)",
    )
}

fn user_namespaces() -> Finding {
    let limit = read("/proc/sys/user/max_user_namespaces");
    let debian = read("/proc/sys/kernel/unprivileged_userns_clone");
    let off = limit.as_deref() == Some("0") || debian.as_deref() == Some("0");
    let found = format!(
        "max_user_namespaces={}{}",
        limit.unwrap_or_else(|| "?".into()),
        debian
            .map(|d| format!(", unprivileged_userns_clone={d}"))
            .unwrap_or_default()
    );
    finding("user namespaces", true, !off, found).or(
        "as root: sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1, and \
         put both into /etc/sysctl.d to keep them",
    )
}

fn apparmor() -> Finding {
    let restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let root = rustix::process::geteuid().is_root();
    let ok = restricted.as_deref() != Some("1") || root;
    let found = match restricted.as_deref() {
        Some("1") => "restricts user namespaces of ordinary users",
        Some(_) => "does not restrict user namespaces",
        None => "no restriction known",
    };
    finding("AppArmor", true, ok, found).or(
        "give this program a profile as root: printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\n\
         profile agentwall /**/agentwall flags=(unconfined) { userns, }\\n' \
         > /etc/apparmor.d/agentwall && apparmor_parser -r /etc/apparmor.d/agentwall",
    )
}

fn landlock() -> Finding {
    let abi = agentwall_wall::landlock_abi();
    let found = abi.map_or_else(|| "absent".to_owned(), |abi| format!("ABI {abi}"));
    finding("Landlock", false, abi.is_some(), found).or(
        "the wall stands without it, but loses its second line; boot with lsm=landlock,… in the \
         kernel's command line",
    )
}

fn overlay() -> Finding {
    let known = read("/proc/filesystems").unwrap_or_default();
    let ok =
        known.lines().any(|l| l.ends_with("overlay")) || Path::new("/sys/module/overlay").exists();
    let found = if ok {
        "known to the kernel"
    } else {
        "not loaded"
    };
    finding("overlayfs", false, ok, found)
        .or("as root: modprobe overlay (needed by policies that isolate)")
}

fn nf_tables() -> Finding {
    let loaded =
        Path::new("/sys/module/nf_tables").exists() || Path::new("/proc/net/netfilter").exists();
    let found = if loaded {
        "present"
    } else {
        "not seen; loaded on demand where it is a module"
    };
    finding("nf_tables", false, loaded, found)
        .or("as root: modprobe -a nf_tables nft_chain_nat nft_redir nft_reject_inet nft_ct")
}

/// The kernel wall is proved by loading it and letting canaries out, and taken away again at once. One that
/// stands is proved as it stands. Where it does not stand the monitor is tried in the same way.
fn kernel_wall() -> Vec<Finding> {
    const WHAT: &str = "kernel wall";
    if !rustix::process::geteuid().is_root() {
        return vec![
            finding(WHAT, false, false, "not tried")
                .or("run 'agentwall doctor' as root: only root can load it"),
        ];
    }
    let folder = std::env::temp_dir().join(format!("agentwall-canary-{}", std::process::id()));
    let opened = Wall::open(Path::new(host::PINS));
    let (wall, mode) = match opened {
        Ok(Some(wall)) if wall.kind() == Programs::Wall => (Ok(wall), "stands"),
        Ok(_) => (Wall::load(&Options::default()), "loads"),
        Err(e) => (Err(e), "stands"),
    };
    let wall = match wall {
        Ok(wall) => wall,
        Err(e) => {
            let found = finding(WHAT, false, false, stand::first_line(&e)).or(
                "'agentwall run' stands without it; the kernel wall needs Linux 6.1 or newer, built with \
                 CONFIG_BPF_LSM and started with bpf among lsm=… in its command line",
            );
            return match e.is_about_the_hooks() {
                true => vec![found, monitor(&folder)],
                false => vec![found],
            };
        }
    };
    match host::canary::prove(&wall, &folder) {
        Ok(proof) if proof.holds() => {
            let found = format!("{mode}, {} canaries held", proof.results.len());
            vec![finding(WHAT, false, true, found)]
        }
        Ok(proof) if stand::is_never_called(&wall, &proof).unwrap_or(false) => {
            let found = finding(WHAT, false, false, stand::NEVER_CALLED)
                .or("start the kernel with bpf among lsm=… in its command line");
            vec![found, monitor(&folder)]
        }
        Ok(proof) => vec![
            finding(WHAT, false, false, proof.failures())
                .or("report this: the kernel wall must not be used"),
        ],
        Err(e) => vec![
            finding(WHAT, false, false, format!("{e:#}"))
                .or("report this: the kernel wall must not be used"),
        ],
    }
}

/// One of its own, also where one stands: whose events are the daemon's.
fn monitor(folder: &Path) -> Finding {
    const WHAT: &str = "monitor";
    let options = Options {
        programs: Programs::Monitor,
        ..Options::default()
    };
    let seen = Wall::load(&options)
        .map_err(|e| stand::first_line(&e))
        .and_then(|wall| stand::watch(&wall, folder).map_err(|e| format!("{e:#}")));
    match seen {
        Ok((proof, _)) if proof.holds() => {
            let count = proof.results.len();
            let found = format!("loads, {count} canaries seen; audit only: it refuses nothing");
            finding(WHAT, false, true, found)
        }
        Ok((proof, _)) => finding(WHAT, false, false, proof.failures())
            .or("report this: the monitor must not be used"),
        Err(e) => finding(WHAT, false, false, e).or(
            "the monitor needs Linux 6.1 or newer with CONFIG_DEBUG_INFO_BTF; 'agentwall run' needs neither",
        ),
    }
}

fn state_folder() -> Finding {
    match State::open() {
        Ok(state) => finding(
            "state folder",
            true,
            true,
            crate::state::shown(state.root()),
        ),
        Err(e) => finding("state folder", true, false, format!("{e:#}"))
            .or("set AGENTWALL_STATE to a folder of your own"),
    }
}

/// The proof: a wall is built and the canaries are let out.
fn wall() -> Finding {
    let tried = State::open().and_then(|state| {
        let text = "agentwall: 1\ndefault: deny\n";
        let source = Source::new("(strictest)", text, Layer::User);
        let here = policies::workspace(None)?;
        selftest::attempt(&state, policies::Chosen::built_in(source), &here)
    });
    match tried {
        Ok(results) => {
            let held = results.iter().filter(|r| r.held).count();
            let found = format!("{held} of {} canaries held", results.len());
            finding("wall", true, held == results.len(), found)
                .or("run 'agentwall selftest' and report what it prints: the wall must not be used")
        }
        Err(e) => finding("wall", true, false, format!("{e:#}"))
            .or("the lines above name what this host lacks"),
    }
}
