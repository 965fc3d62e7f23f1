//! The machine itself: it is what the cases of the kernel wall take it for. Each fails when the
//! kernel, a mount or a module is not there, so that nothing is tested on a machine that cannot show it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
};

use agentwall_tests::said::{Verdict, need, run};

use crate::case::{AGENT_ID, Guest, command, given, out, sh, sh_as_agent};

/// All of them.
pub fn cases() -> Vec<Guest> {
    vec![
        Guest::new("machine/kernel", kernel),
        Guest::new("machine/lsm", lsm_list),
        Guest::new("machine/bpf-decides", bpf_decides),
        Guest::new("machine/overlay-in-user-namespace", overlay),
        Guest::new("machine/control-groups", control_groups),
        Guest::new("machine/network", network),
        Guest::new("machine/modules-on-demand", modules),
        Guest::new("machine/host-files", host_files),
        Guest::new("machine/ordinary-user", ordinary_user),
        Guest::new("wall/session", session),
    ]
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

/// Debian's kernel, 6.1 or later, with its types (BTF magic: Documentation/bpf/btf.rst).
fn kernel(_: &Path) -> Verdict {
    let version = read("/proc/version")?;
    need(
        version.contains("Debian"),
        format!("not Debian's: {version}"),
    )?;
    let release = read("/proc/sys/kernel/osrelease")?;
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    let found = (numbers.next(), numbers.next());
    need(
        found >= (Some(6), Some(1)),
        format!("expected 6.1 or later, found {release}"),
    )?;
    let types = fs::read("/sys/kernel/btf/vmlinux").map_err(|e| format!("no BTF: {e}"))?;
    need(types.starts_with(&[0x9f, 0xeb]), "BTF without its magic")
}

fn lsm_list(_: &Path) -> Verdict {
    let list = read("/sys/kernel/security/lsm")?;
    let has = |name| list.trim().split(',').any(|l| l == name);
    need(
        has("bpf") && has("landlock"),
        format!("expected bpf and landlock among '{list}'"),
    )
}

/// An LSM program denies one name to root and to the ordinary user, nothing else, and only while it is attached.
fn bpf_decides(folder: &Path) -> Verdict {
    let attach = concat!(env!("CARGO_MANIFEST_DIR"), "/vm/attach.py");
    let text = format!(
        "mkdir agentwall-denied agentwall-denied2
        setpriv --reuid {AGENT_ID} --regid {AGENT_ID} --clear-groups mkdir agentwall-denied agentwall-other
        ls"
    );
    let while_attached = run(command(attach)
        .arg(given("deny.bpf.o")?)
        .args(["sh", "-c", &text])
        .current_dir(folder))?;
    let denied = "mkdir: cannot create directory 'agentwall-denied': Operation not permitted\n";
    while_attached.ended(0)?;
    need(
        while_attached.err().replace(['‘', '’'], "'") == denied.repeat(2)
            && while_attached.out() == "agentwall-denied2\nagentwall-other\n",
        while_attached.brief(),
    )?;
    fs::create_dir(folder.join("agentwall-denied"))
        .map_err(|e| format!("still denied when detached: {e}"))
}

/// What sessions stand on: overlayfs with `userxattr` in a user namespace of the ordinary user.
fn overlay(folder: &Path) -> Verdict {
    let text = "set -e; mkdir lower upper work root; mkdir lower/d; echo old > lower/f; echo in > lower/d/x
        unshare -Urm sh -ec '
            mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work overlay root
            echo new > root/f; rm -r root/d; mkdir root/d; test -z \"$(ls root/d)\"; cat root/f'
        cat lower/f lower/d/x upper/f";
    let said = sh_as_agent(folder, text)?;
    said.ended(0)?;
    need(said.out() == "new\nold\nin\nnew\n", said.brief())
}

fn control_groups(folder: &Path) -> Verdict {
    let text = "set -e; cd /sys/fs/cgroup; grep -qw memory cgroup.controllers; mkdir one
        sh -ec 'echo $$ > one/cgroup.procs; cat /proc/self/cgroup'; rmdir one; grep cgroup2 /proc/mounts";
    sh(folder, text)?
        .ended(0)?
        .says(&["0::/one\n", " /sys/fs/cgroup cgroup2 "])
        .map(|_| ())
}

/// The loopback carries a connection; a namespace of its own has another one, which is down.
fn network(folder: &Path) -> Verdict {
    let say = |e: std::io::Error| format!("loopback: {e}");
    let server = TcpListener::bind("127.0.0.1:0").map_err(say)?;
    let mut client = TcpStream::connect(server.local_addr().map_err(say)?).map_err(say)?;
    client.write_all(b"over").map_err(say)?;
    drop(client);
    let mut heard = String::new();
    let (mut peer, _) = server.accept().map_err(say)?;
    peer.read_to_string(&mut heard).map_err(say)?;
    need(heard == "over", format!("heard '{heard}'"))?;
    let links = sh(folder, "ip -o link; unshare -n ip -o link")?;
    let up: Vec<bool> = links.out().lines().map(|l| l.contains(",UP,")).collect();
    need(up == [true, false], links.brief())
}

/// The kernel's own request for a module is answered.
fn modules(folder: &Path) -> Verdict {
    let text = "set -e; ! grep -q '^veth ' /proc/modules
        unshare -n ip link add one type veth peer name two; grep '^veth ' /proc/modules";
    sh(folder, text)?.ended(0).map(|_| ())
}

/// The host's files are all there and cannot be changed; the guest's own root can be.
fn host_files(folder: &Path) -> Verdict {
    let said = sh(
        folder,
        "touch /vm/host/usr/agentwall-vm 2>&1; touch /usr/agentwall-vm && rm /usr/agentwall-vm",
    )?;
    said.ended(0)?.says(&["Read-only file system"])?;
    let program = read("/vm/host/etc/os-release")?;
    need(
        program == read("/etc/os-release")?,
        "another root than the host's",
    )?;
    let here = sh(folder, "stat -f -c %T . /tmp /home/agent /root")?;
    need(here.out() == "ext2/ext3\n".repeat(4), here.brief())?;
    let file = out("self-test")?;
    fs::write(&file, "out\n").map_err(|e| format!("{}: {e}", file.display()))
}

fn ordinary_user(folder: &Path) -> Verdict {
    let said = sh_as_agent(
        folder,
        "id -u; id -un; cd; pwd; grep CapEff /proc/self/status; touch /etc/x",
    )?;
    let begin = format!("{AGENT_ID}\nagent\n/home/agent\nCapEff:\t0000000000000000\n");
    need(said.out() == begin && said.status != 0, said.brief())
}

/// The wall without the kernel part works in the guest, for root and for the ordinary user: what a
/// session writes is not on the host.
fn session(folder: &Path) -> Verdict {
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/generic.yaml");
    let text = &format!(
        "set -e; cd; mkdir work; cd work; echo old > file
        \"$AGENTWALL_BIN\" run --policy {policy} --workspace . -- sh -c 'echo new > file; cat file' 2>&1
        cat file"
    );
    let as_root = sh(folder, text)?;
    as_root.ended(0)?;
    need(as_root.out().ends_with("old\n"), as_root.brief())?;
    let as_agent = sh_as_agent(folder, text)?;
    as_agent.ended(0)?.says(&["new\n"])?;
    need(as_agent.out().ends_with("old\n"), as_agent.brief())
}
