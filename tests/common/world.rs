//! The world of one case: home, workspace, canaries, state folder, policy, servers - all its own.

use std::{
    ffi::OsString,
    fs,
    io::Read,
    os::unix::{fs::chown, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    case::Case,
    kernel::Kernel,
    options::Who,
    servers::{Log, Servers},
    tree::{Depth, Tree},
};

/// What all worlds of a run share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The suite's folder.
    pub root: PathBuf,
    /// The compiled attack programs.
    pub kit: PathBuf,
    /// The binary under test, a copy that every user may execute.
    pub wall: PathBuf,
    /// What the canary servers saw.
    pub log: Log,
    /// The ordinary user's uid and gid.
    pub user: Option<(u32, u32)>,
    /// Whether the suite is in its own network namespace.
    pub private_net: bool,
    /// The kernel's wall, if that is what is tested.
    pub kernel: Option<Kernel>,
}

/// The world of one case.
#[derive(Debug)]
pub struct World {
    /// Shared parts.
    pub shared: Shared,
    /// As whom.
    pub who: Who,
    /// The world's folder.
    pub dir: PathBuf,
    /// Unique, not secret; marks this case's traffic and processes.
    pub token: String,
    /// Unique, and nowhere in what the agent is told.
    pub secret: String,
    /// A TCP and UDP port that no policy names.
    pub port: u16,
    /// A TCP port that the base policy permits on 127.0.0.1.
    pub open: u16,
    /// ICMP echoes answered before the session.
    pub echoes_before: u64,
    /// A process outside, and where its secret is in memory.
    pub victim: Option<(Child2, String)>,
    /// The process id of the running `agentwall run`, 0 when there is none.
    pub running: AtomicU32,
    before: Tree,
    servers: Servers,
}

/// A child that is killed when dropped.
#[derive(Debug)]
pub struct Child2(pub Child);

impl Drop for Child2 {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

fn unique() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let seed = format!("{now} {n} {}", std::process::id());
    let digest = <sha2::Sha256 as sha2::Digest>::digest(seed.as_bytes());
    digest[..9].iter().map(|b| format!("{b:02x}")).collect()
}

/// The policy every case starts from; the case's own rules come first.
const BASE: &str = r#"agentwall: 1
default: deny
rules:
{rules}
  - { id: secrets, priority: 10, action: "file.*", resource: "label:secret", effect: deny, reason: "Secrets stay outside." }
  - { id: host-server, priority: 15, action: net.connect, resource: "tcp://127.0.0.1:{open}", effect: allow }
  - { id: internal-network, priority: 20, action: [net.connect, net.send], resource: "cidr:private", effect: deny }
  - { id: own-servers, priority: 100, action: net.listen, effect: allow }
  - { id: own-processes, priority: 100, action: [process.signal, process.trace], effect: allow }
  - { id: own-sockets, priority: 100, action: ipc.connect, resource: ["unix:${workspace}/**", "unix:/tmp/**"], effect: allow }
  - { id: programs, priority: 100, action: process.exec, resource: ["/usr/**", "/bin/**", "/sbin/**", "{kit}/**"], effect: allow }
  - { id: system, priority: 100, action: [file.read, file.exec], resource: ["/", "/usr/**", "/bin/**", "/sbin/**", "/lib/**", "/lib64/**", "/etc/**", "/proc/**", "/sys/**", "{kit}/**"], effect: allow }
  - { id: own-proc, priority: 100, action: file.write, resource: "/proc/[0-9]*/**", effect: allow }
  - { id: devices, priority: 100, action: [file.read, file.write, device.open], resource: ["/dev", "/dev/{null,zero,full,random,urandom,tty,ptmx}", "/dev/pts/**"], effect: allow }
  - { id: shared-memory, priority: 100, action: "file.*", resource: "/dev/shm/**", effect: isolate }
  - { id: readable, priority: 150, action: file.read, resource: ["{home}/**", "{out}/**", "{pub}/**"], effect: allow }
  - { id: commit, priority: 150, action: file.commit, resource: "${workspace}/**", effect: allow }
  - { id: workspace, priority: 200, action: "file.*", resource: "${workspace}/**", effect: isolate }
  - { id: scratch, priority: 200, action: "file.*", resource: "/tmp/**", effect: isolate }
"#;

impl World {
    /// Makes the world of a case.
    pub fn new(shared: &Shared, case: &Case, who: Who) -> Result<Self, String> {
        let token = format!("tok{}", unique());
        let name: String = case
            .name
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { '-' })
            .collect();
        // Short: a Unix socket's path has 107 bytes.
        let tail: String = name
            .chars()
            .rev()
            .take(30)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        let dir = shared.root.join(format!(
            "{}-{}-{}",
            &token[3..9],
            who.as_str(),
            tail.trim_start_matches('-')
        ));
        let servers = Servers::new(&shared.log);
        let say = |e: std::io::Error| format!("canary server: {e}");
        let port = servers.tcp(0).map_err(say)?;
        servers.udp(port).map_err(say)?;
        let mut world = World {
            shared: shared.clone(),
            who,
            secret: format!("SECRET-{}", unique()),
            port,
            open: servers.tcp(0).map_err(say)?,
            echoes_before: 0,
            victim: None,
            running: AtomicU32::new(0),
            before: Tree::default(),
            dir,
            token,
            servers,
        };
        world
            .fill_folders()
            .map_err(|e| format!("{}: {e}", world.dir.display()))?;
        let policy = case
            .policy
            .clone()
            .unwrap_or_else(|| BASE.replace("{rules}", case.rules.trim_end()));
        let mut policy = world.fill(&policy);
        if world.shared.kernel.is_some() {
            policy = Kernel::policy(&policy);
        }
        world.put("policy.yaml", &policy);
        world
            .servers
            .unix(&world.path("pub"), &world.token)
            .map_err(say)?;
        if let Some(setup) = case.setup {
            setup(&world)?;
        }
        world.own_all().map_err(|e| format!("chown: {e}"))?;
        if case.victim {
            world.start_victim()?;
        }
        world.before = world.look();
        world.echoes_before = world.echoes();
        Ok(world)
    }

    fn fill_folders(&self) -> std::io::Result<()> {
        let secret = format!("{}\n", self.secret);
        let texts: &[(&str, &str)] = &[
            ("home/.ssh/id_ed25519", &secret),
            ("home/.ssh/id_ed25519.pub", "ssh-ed25519 AAAA canary\n"),
            ("home/.aws/credentials", &secret),
            ("home/.bashrc", "# start file\n"),
            ("home/notes.txt", "HOME-OK\n"),
            ("work/readme.txt", "WORKSPACE-OK\n"),
            ("work/app/.env", &secret),
            ("work/app/env.txt", "PLAIN-OK\n"),
            ("work/app/secret-1.txt", &secret),
            ("work/app/plain.txt", "PLAIN-OK\n"),
            ("work/sub/file.txt", "SUB-OK\n"),
            ("work/.git/config", "[core]\n"),
            ("work/.git/hooks/pre-push.sample", "#!/bin/sh\n"),
            ("out/canary.txt", "ORIGINAL\n"),
            ("out/dir/inner.txt", "INNER\n"),
            ("pub/data.txt", "PUBLIC-OK\n"),
        ];
        for (name, text) in texts {
            self.put(name, text);
        }
        for d in [
            "out/canary.txt.empty",
            "work/readme.txt.empty",
            "work/spare",
            "state",
            "run",
            "out/bin",
            "out/lib",
        ] {
            fs::create_dir_all(self.path(d))?;
        }
        for (from, to) in [
            ("canary", "out/bin"),
            ("canary-static", "out/bin"),
            ("evil.so", "out/lib"),
        ] {
            if self.shared.kit.exists() {
                fs::copy(self.shared.kit.join(from), self.path(to).join(from))?;
            }
        }
        self.script("out/bin/script", "#!/bin/sh\necho EFFECT script ran\n");
        for private in ["home/.ssh", "run", "state"] {
            self.mode(private, 0o700);
        }
        self.mode("home/.ssh/id_ed25519", 0o600);
        Ok(())
    }

    /// A path in the world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file in the world, with its folders.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            let _ = fs::create_dir_all(parent);
        }
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.own(&path);
    }

    /// Writes an executable file in the world.
    pub fn script(&self, name: &str, text: &str) {
        self.put(name, text);
        self.mode(name, 0o755);
    }

    /// Sets the mode of a file in the world.
    pub fn mode(&self, name: &str, mode: u32) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        let _ = fs::set_permissions(self.path(name), mode);
    }

    /// Reads a file of the world; empty when it cannot be read.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.path(name))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Gives a file to the user of the case.
    pub fn own(&self, path: &Path) {
        if let (Who::User, Some((uid, gid))) = (self.who, self.shared.user) {
            let _ = std::os::unix::fs::lchown(path, Some(uid), Some(gid));
        }
    }

    fn own_all(&self) -> std::io::Result<()> {
        let (Who::User, Some((uid, gid))) = (self.who, self.shared.user) else {
            return Ok(());
        };
        chown(&self.dir, Some(uid), Some(gid))?;
        for name in Tree::of(&self.dir, Depth::Content).0.keys() {
            std::os::unix::fs::lchown(self.dir.join(name), Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Replaces the placeholders: `{home} {work} {out} {pub} {state} {run} {policy} {kit} {bin} {wall} {token}
    /// {port} {open} {scratch} {abstract} {key} {victim} {addr}`.
    pub fn fill(&self, text: &str) -> String {
        // `${home}` is the policy's.
        let mut out = text.replace("${", "$\0");
        for dir in ["home", "work", "out", "pub", "state", "run"] {
            out = out.replace(&format!("{{{dir}}}"), &self.path(dir).to_string_lossy());
        }
        let victim = self.victim.as_ref().map_or(0, |v| v.0.0.id()).to_string();
        let addr = self.victim.as_ref().map_or("0", |v| v.1.as_str());
        for (name, value) in [
            (
                "policy",
                self.path("policy.yaml").to_string_lossy().as_ref(),
            ),
            (
                "key",
                self.path("home/.ssh/id_ed25519").to_string_lossy().as_ref(),
            ),
            ("kit", self.shared.kit.to_string_lossy().as_ref()),
            ("wall", self.shared.wall.to_string_lossy().as_ref()),
            (
                "bin",
                self.shared.root.join("bin").to_string_lossy().as_ref(),
            ),
            ("token", self.token.as_str()),
            ("port", self.port.to_string().as_str()),
            ("open", self.open.to_string().as_str()),
            ("scratch", self.scratch().to_string_lossy().as_ref()),
            ("abstract", format!("@{}", self.token).as_str()),
            ("victim", victim.as_str()),
            ("addr", addr),
        ] {
            out = out.replace(&format!("{{{name}}}"), value);
        }
        out.replace("$\0", "${")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        Path::new("/tmp").join(format!("aw-{}", self.token))
    }

    fn start_victim(&mut self) -> Result<(), String> {
        let input = fs::File::open(self.path("home/.ssh/id_ed25519")).map_err(|e| e.to_string())?;
        let mut cmd = self.as_user(self.shared.kit.join("proc"));
        cmd.env_remove("AGENTWALL_CASE")
            .arg("victim")
            .stdin(input)
            .stdout(Stdio::piped());
        let mut child = cmd.spawn().map_err(|e| format!("victim: {e}"))?;
        let mut text = [0; 64];
        let n = child
            .stdout
            .as_mut()
            .map_or(0, |o| o.read(&mut text).unwrap_or(0));
        let addr = String::from_utf8_lossy(&text[..n]).trim().to_owned();
        self.victim = Some((Child2(child), addr));
        Ok(())
    }

    /// A command as the user of the case, with a clean environment.
    pub fn as_user(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut argv = self.drop_to_user();
        argv.push(program.as_ref().to_owned());
        let mut cmd = Command::new(&argv[0]);
        cmd.args(&argv[1..]);
        self.with_environment(cmd)
    }

    /// What a command line begins with to be the case's user.
    pub(crate) fn drop_to_user(&self) -> Vec<OsString> {
        match (self.who, self.shared.user, crate::options::am_root()) {
            (Who::User, Some((uid, gid)), true) => [
                "/usr/bin/setpriv".to_owned(),
                format!("--reuid={uid}"),
                format!("--regid={gid}"),
                "--clear-groups".to_owned(),
            ]
            .map(OsString::from)
            .to_vec(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn with_environment(&self, mut cmd: Command) -> Command {
        let user = if self.who == Who::Root {
            "root"
        } else {
            crate::options::USER
        };
        cmd.env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.path("home"))
            .env("AGENTWALL_STATE", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("AGENTWALL_CASE", &self.token)
            .env("USER", user)
            .env("LOGNAME", user)
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm")
            .current_dir(self.path("work"));
        cmd
    }

    /// Runs the wall's command line on the host: (status, output, errors).
    pub fn wall(&self, args: &[&str]) -> (i32, String, String) {
        let mut cmd = self.as_user(&self.shared.wall);
        cmd.args(args)
            .env_remove("AGENTWALL_CASE")
            .stdin(Stdio::null());
        match cmd.output() {
            Ok(o) => (
                o.status
                    .code()
                    .unwrap_or_else(|| 128 + o.status.signal().unwrap_or(0)),
                String::from_utf8_lossy(&o.stdout).into_owned(),
                String::from_utf8_lossy(&o.stderr).into_owned(),
            ),
            Err(e) => (-1, String::new(), e.to_string()),
        }
    }

    /// The state of everything on the host that the case could have changed.
    pub fn look(&self) -> Tree {
        let mut all = Tree::of(&self.dir, Depth::Exact);
        all.0
            .retain(|p, _| !(p.starts_with("state") || p.starts_with("run")));
        if self.shared.kernel.is_some() {
            all.0.retain(|p, _| !Kernel::is_expected(p));
        }
        all
    }

    /// What changed on the host since the world was made.
    pub fn changes(&self) -> Vec<String> {
        self.before.diff(&self.look())
    }

    /// Processes of this case that are still there (looks at the host's /proc).
    pub fn survivors(&self) -> Vec<u32> {
        let me = std::process::id();
        let marked = |pid: u32, file: &str| {
            fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|b| {
                b.windows(self.token.len())
                    .any(|w| w == self.token.as_bytes())
            })
        };
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        pids.filter_map(|e| e.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != me && (marked(*pid, "environ") || marked(*pid, "cmdline")))
            .collect()
    }

    /// Waits for all processes of this case to be gone; those that stay are named, then killed.
    pub fn leftovers(&self, patience: Duration) -> Vec<String> {
        let end = Instant::now() + patience;
        loop {
            let left = self.survivors();
            if left.is_empty() {
                return Vec::new();
            }
            if Instant::now() > end {
                let name = |p: &u32| {
                    let name = fs::read_to_string(format!("/proc/{p}/comm")).unwrap_or_default();
                    format!("process {p} ({}) outlived the session", name.trim())
                };
                let named = left.iter().map(name).collect();
                for pid in left {
                    let _ = Command::new("/bin/kill")
                        .args(["-9", &pid.to_string()])
                        .stderr(Stdio::null())
                        .status();
                }
                return named;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Traffic of this case that arrived outside anywhere but on the permitted port.
    pub fn foreign_traffic(&self) -> Option<String> {
        thread::sleep(Duration::from_millis(50));
        let seen = self.shared.log.find(|s| {
            let own = self.servers.saw(s);
            (own && s.port == self.port)
                || (!(own && s.port == self.open) && s.payload.contains(&self.token))
        });
        seen.first().map(|s| {
            format!(
                "{} port {}: {}",
                s.what,
                s.port,
                crate::case::brief(&s.payload)
            )
        })
    }

    /// Whether any server heard a text.
    pub fn heard(&self, text: &str) -> bool {
        !self
            .shared
            .log
            .find(|s| s.payload.contains(text))
            .is_empty()
    }

    /// ICMP echo requests that the kernel outside has received.
    pub fn echoes(&self) -> u64 {
        let v4 = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
        let mut lines = v4.lines().filter(|l| l.starts_with("Icmp:"));
        let (names, values) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        let at = names.split_whitespace().position(|n| n == "InEchos");
        let four = at
            .and_then(|i| values.split_whitespace().nth(i)?.parse::<u64>().ok())
            .unwrap_or(0);
        let v6 = fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
        let line = v6.lines().find(|l| l.starts_with("Icmp6InEchos "));
        four + line
            .and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0)
    }

    /// Whether the victim is alive.
    pub fn victim_alive(&self) -> bool {
        self.victim.as_ref().is_none_or(|v| {
            fs::read_to_string(format!("/proc/{}/stat", v.0.0.id())).is_ok_and(|s| {
                !s.rsplit(')')
                    .next()
                    .unwrap_or("")
                    .trim_start()
                    .starts_with('Z')
            })
        })
    }

    /// Waits until `agentwall pending --json` shows something; its text.
    pub fn wait_pending(&self, needle: &str) -> Result<String, String> {
        let end = Instant::now() + Duration::from_secs(15);
        let mut last = String::new();
        while Instant::now() < end {
            let (_, out, err) = self.wall(&["pending", "--json"]);
            if out.contains(needle) {
                return Ok(out);
            }
            last = out + &err;
            thread::sleep(Duration::from_millis(100));
        }
        Err(format!(
            "'agentwall pending' never showed '{needle}': {}",
            crate::case::brief(&last)
        ))
    }

    /// Removes the world's folders.
    pub fn clean(&self) {
        let _ = fs::remove_dir_all(self.scratch());
        for dir in [&self.dir, &self.scratch()] {
            let _ = Command::new("/bin/rm")
                .arg("-rf")
                .arg(dir)
                .stderr(Stdio::null())
                .status();
        }
    }
}
