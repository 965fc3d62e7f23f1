//! Cases that make no sense behind the wall in the kernel (`--kernel`), and why. What is not here must hold there, too.

/// Beginnings of names, and why such a case is not played there.
const NOT_IN_KERNEL: &[(&str, &str)] = &[
    (
        "process/ends/",
        "a session has no pid namespace of its own: its processes stay governed, and stay",
    ),
    (
        "process/outside/see",
        "the process list of the host is shown; what is in it is out of reach",
    ),
    (
        "process/outside/kill-init-of-session",
        "a session has no process 1 of its own",
    ),
    (
        "process/privileged/capabilities",
        "capabilities are refused where they are used; the set is not emptied",
    ),
    (
        "process/privileged/new-privileges",
        "set-id programs are refused when they are started; the flag is not set",
    ),
    (
        "process/privileged/set-user-id-program",
        "root, who plays it, starts as root what it may start",
    ),
    (
        "process/privileged/quota",
        "the kernel looks the device up before it asks",
    ),
    (
        "files/write-outside/fchmodat2",
        "the kernel of the machine has no such call",
    ),
    (
        "files/glob-inside-isolated/rename-parent",
        "the folder is moved for good, since there is no copy: the neighbour's path is gone",
    ),
    (
        "network/unix/in-workspace",
        "its policy permits the sockets of the workspace, and without a copy those of the host are in it",
    ),
    (
        "self-protection/",
        "about the processes of the rootless wall",
    ),
    ("commit/", "there is no copy to commit"),
];

/// Why a case is not played behind the wall in the kernel.
pub fn why_not(name: &str) -> Option<&'static str> {
    NOT_IN_KERNEL
        .iter()
        .find(|(beginning, _)| name.starts_with(beginning))
        .map(|(_, why)| *why)
}
