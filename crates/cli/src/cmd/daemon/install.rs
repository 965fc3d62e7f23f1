//! `agentwall daemon install`: the systemd unit, with no more rights than the daemon needs.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    args::daemon::InstallArgs,
    host::{self, UNIT},
    output,
    prepare::own_binary,
    state::shown,
};

/// Writes the unit, or prints it.
pub fn install(args: InstallArgs) -> Result<ExitCode> {
    let binary = own_binary()?;
    let unit = unit(&binary)?;
    if args.print {
        output::print(&unit)?;
        return Ok(ExitCode::SUCCESS);
    }
    needs_root()?;
    host::policy::belongs_to_root(&binary).context(
        "systemd would start this program as root; install it where root alone can change it, for example \
         /usr/local/bin",
    )?;
    fs::write(UNIT, unit).with_context(|| format!("cannot write {UNIT}"))?;
    reload_units();
    output::print(&format!(
        "{UNIT} is written; 'systemctl enable --now agentwall' starts it now and with every boot\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the unit.
pub fn uninstall() -> Result<ExitCode> {
    needs_root()?;
    match fs::remove_file(UNIT) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            output::print("there is no unit\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(e) => return Err(e).with_context(|| format!("cannot remove {UNIT}")),
    }
    reload_units();
    output::print(
        "the unit is removed; a daemon that runs goes on ('agentwall daemon stop'), and what is enforced \
         stays so until 'agentwall daemon stop --unload' or a reboot\n",
    )?;
    Ok(ExitCode::SUCCESS)
}

fn needs_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "units are root's; run it as root, or 'agentwall daemon install --print' shows the unit"
        );
    }
    Ok(())
}

/// A host without systemd reads no units: nothing to tell it.
fn reload_units() {
    if Path::new("/run/systemd/system").is_dir() {
        let done = Command::new("systemctl").arg("daemon-reload").status();
        if !done.is_ok_and(|s| s.success()) {
            output::note("systemd did not read its units again; run 'systemctl daemon-reload'");
        }
    }
}

/// The unit for a binary (systemd.service(5), systemd.exec(5)).
fn unit(binary: &Path) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.+".contains(c);
    let Some(binary) = binary.to_str().filter(|b| b.chars().all(plain)) else {
        bail!(
            "{} cannot stand in a unit as it is; move the program to a plain name, for example \
             /usr/local/bin/agentwall",
            shown(binary)
        );
    };
    Ok(format!(
        "\
[Unit]
Description=AgentWall, the kernel wall
Documentation=man:agentwall-daemon(1)
After=local-fs.target sys-fs-bpf.mount
Before=multi-user.target

[Service]
Type=notify
ExecStart={binary} daemon run
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=60
Restart=on-failure
RestartSec=2
# What stands in the kernel goes on without the daemon, so stopping it takes nothing away.
# Each connection by host name takes a few.
LimitNOFILE=65536
StateDirectory=agentwall
StateDirectoryMode=0700
RuntimeDirectory=agentwall
RuntimeDirectoryMode=0755
# What a restarted daemon must know lies there.
RuntimeDirectoryPreserve=yes
ConfigurationDirectory=agentwall

# BPF: programs and maps. PERFMON: LSM programs and iterators. SYSLOG: addresses in /proc/kallsyms, without
# which the kernel caches no decisions. SYS_PTRACE: program and folder of other users' processes.
# DAC_READ_SEARCH: to follow the names in a policy through folders of others. SYS_RESOURCE: locked memory
# of maps on kernels before 5.11 is not ours, but its limit is asked for. NET_ADMIN: programs of the root cgroup,
# without which host names are not decided. SYS_ADMIN: one call makes what holds starts (fanotify_init); the daemon
# then gives it up, before it does anything else.
CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_SYSLOG CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_SYS_RESOURCE CAP_NET_ADMIN CAP_SYS_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
# ProtectSystem leaves /sys writable; all but the pins need not be. ProtectKernelTunables and
# ProtectKernelLogs would hide /proc/kallsyms.
ReadWritePaths=/sys/fs/bpf
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelModules=yes
PrivateDevices=yes
# Commands come by a Unix socket; what governed processes reach by name, and the log's witnesses, the daemon
# connects to, and NETLINK is for the host's resolver.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service bpf fanotify_init fanotify_mark
UMask=0077

[Install]
WantedBy=multi-user.target
"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_this_program_and_gives_it_no_more_than_it_needs() {
        let text = unit(Path::new("/usr/local/bin/agentwall")).unwrap();
        for line in [
            "Type=notify",
            "ExecStart=/usr/local/bin/agentwall daemon run",
            "NoNewPrivileges=yes",
            "Restart=on-failure",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        let bounded = text
            .lines()
            .find_map(|l| l.strip_prefix("CapabilityBoundingSet="));
        assert!(!bounded.unwrap().contains("SYS_MODULE"));
        assert!(unit(Path::new("/a b/agentwall")).is_err());
        assert!(unit(Path::new("/a%b/agentwall")).is_err());
    }

    /// Where systemd is there, it says whether it understands every line.
    #[test]
    fn systemd_understands_the_unit() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("agentwall.service");
        // The program must exist for the check.
        fs::write(&file, unit(Path::new("/bin/true")).unwrap()).unwrap();
        let said = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&file)
            .output();
        let Ok(said) = said else {
            eprintln!("systemd-analyze is not there: the unit was not verified");
            return;
        };
        let text = String::from_utf8_lossy(&said.stderr);
        let about_ours = text.lines().any(|l| l.contains("agentwall.service"));
        assert!(!about_ours, "{text}");
    }
}
