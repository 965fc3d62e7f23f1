//! Reading what is masked, writing what is read-only, and names denied inside an isolated tree:
//! the same operation by every road there is.

use agentwall_tests::{
    Case,
    Check::{NoEffect, NoSecret},
    Native,
    case::says,
};

const ALIAS: &str = "Aegis-BPF redteam_bypass, redteam_altread";
const CAP_READ: Native = Native::RootOnly("open_by_handle_at needs CAP_DAC_READ_SEARCH");
const NO_X32: Native = Native::Cannot("this kernel has no x32 entry points");

/// Routes of `reader` by which a path is read: (route, whether its scratch folder matters, native).
const READS: &[(&str, Native)] = &[
    ("open", Native::Works),
    ("openat", Native::Works),
    ("openat2", Native::Works),
    ("openat2-in-root", Native::Works),
    ("rdwr", Native::Works),
    ("o-path", Native::Works),
    ("o-path-dir", Native::Works),
    ("proc-root", Native::Works),
    ("proc-thread-root", Native::Works),
    ("proc-nested", Native::Works),
    (
        "proc-1-root",
        Native::Maybe("/proc/1/root needs CAP_SYS_PTRACE over process 1"),
    ),
    ("proc-cwd", Native::Works),
    ("dotdot", Native::Works),
    ("long", Native::Works),
    ("symlink", Native::Works),
    ("symlink-dir", Native::Works),
    ("hardlink", Native::Works),
    ("hardlink-fd", Native::Works),
    ("rename", Native::Works),
    ("rename-parent", Native::Works),
    ("bind-dir", Native::Works),
    ("bind-parent", Native::Works),
    ("umount", Native::Works),
    ("move-mount", Native::Works),
    ("open-tree", Native::Works),
    ("open-tree-move", Native::Works),
    ("overlay", Native::Works),
    ("fsopen-overlay", Native::Works),
    ("chroot", Native::Works),
    ("pivot-root", Native::Works),
    ("fresh-proc", Native::Works),
    ("handle", CAP_READ),
    ("handle-root", CAP_READ),
    ("uring", Native::Works),
    ("mmap", Native::Works),
    ("sendfile", Native::Works),
    ("splice", Native::Works),
    ("copy-range", Native::Works),
    ("int80", Native::Works),
    ("x32", NO_X32),
];

/// Roads that the wall may close whole; the neighbour then takes the plain one.
fn neighbour_route(route: &str) -> &str {
    match route {
        "uring" | "handle" | "handle-root" | "int80" | "x32" | "proc-1-root" | "openat2"
        | "openat2-in-root" | "rdwr" => "open",
        "rename" | "rename-parent" | "hardlink" | "hardlink-fd" => "symlink",
        r if r.starts_with("bind")
            || r.starts_with("open-tree")
            || r.contains("overlay")
            || r.contains("mount") =>
        {
            "open"
        }
        "chroot" | "pivot-root" | "fresh-proc" => "open",
        r => r,
    }
}

/// Routes of `writer`.
const WRITES: &[(&str, Native)] = &[
    ("write", Native::Works),
    ("creat", Native::Works),
    ("create-excl", Native::Works),
    ("create-readonly", Native::Works),
    ("append", Native::Works),
    ("openat2", Native::Works),
    ("rdonly-trunc", Native::Works),
    ("truncate", Native::Works),
    ("rename-over", Native::Works),
    ("rename-away", Native::Works),
    ("exchange", Native::Works),
    ("link-here", Native::Works),
    ("link-in", Native::Works),
    ("symlink-here", Native::Works),
    ("through-symlink", Native::Works),
    ("through-dangling", Native::Works),
    ("proc-root", Native::Works),
    (
        "proc-1-root",
        Native::Maybe("/proc/1/root needs CAP_SYS_PTRACE over process 1"),
    ),
    ("unlink", Native::Works),
    ("rmdir", Native::Works),
    ("mkdir", Native::Works),
    ("mkfifo", Native::Works),
    ("mknod-file", Native::Works),
    ("bind-socket", Native::Works),
    ("chmod", Native::Works),
    ("fchmodat2", Native::Works),
    ("fchmod-ro", Native::Works),
    ("chmod-proc-fd", Native::Works),
    ("chown", Native::Works),
    ("lchown", Native::Works),
    ("fchown-ro", Native::Works),
    ("setxattr", Native::Works),
    ("lsetxattr", Native::Works),
    ("fsetxattr-ro", Native::Works),
    ("setxattrat", Native::Works),
    ("utimes", Native::Works),
    ("utime", Native::Works),
    ("futimens-ro", Native::Works),
    ("setflags-ro", Native::Works),
    ("file-setattr", Native::Works),
    ("fallocate", Native::Works),
    ("reopen-ro", Native::Works),
    ("reopen-path", Native::Works),
    ("tmpfile", Native::Works),
    ("mmap", Native::Works),
    ("copy-range", Native::Works),
    ("uring-open", Native::Works),
    ("uring-unlink", Native::Works),
    ("uring-mkdir", Native::Works),
    ("int80-creat", Native::Works),
    ("x32-creat", NO_X32),
    ("remount", Native::Works),
    ("bind-rw", Native::Works),
];

fn write_neighbour(route: &str) -> &str {
    match route {
        r if r.starts_with("uring") || r.starts_with("int80") || r.starts_with("x32") => "write",
        "remount" | "bind-rw" | "proc-1-root" | "link-in" | "openat2" => "write",
        // Newer calls and copies across file systems may be refused: programs fall back.
        "copy-range" => "write",
        "setxattrat" => "setxattr",
        "file-setattr" => "chmod",
        "rename-over" => "rename-away",
        r => r,
    }
}

/// All cases of this theme.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (route, native) in READS {
        let allowed = format!(
            "{{kit}}/reader {} {{work}}/readme.txt {{scratch}}",
            neighbour_route(route)
        );
        all.push(
            Case::new(format!("files/read-masked/{route}"), ALIAS)
                .attack(
                    format!("{{kit}}/reader {route} {{key}} {{scratch}}"),
                    [NoSecret],
                )
                .neighbour(allowed, [says("WORKSPACE-OK")])
                .native(*native),
        );
    }
    for (route, native) in WRITES {
        all.push(
            Case::new(
                format!("files/write-outside/{route}"),
                "sandlock seccomp_enforce, ActPlane expF_completeness",
            )
            .attack(
                format!("{{kit}}/writer {route} {{out}}/canary.txt {{scratch}}"),
                [],
            )
            .neighbour(
                format!(
                    "{{kit}}/writer {0} {{work}}/readme.txt {{work}}/spare",
                    write_neighbour(route)
                ),
                [says(format!("done {}", write_neighbour(route)))],
            )
            .native(*native),
        );
    }
    all.extend(masked_more());
    all.extend(globs());
    all.extend(races());
    all
}

fn masked_more() -> Vec<Case> {
    let read = |name: &str, source, attack: &str, neighbour: &str, ok: &str| {
        Case::new(format!("files/read-masked/{name}"), source)
            .attack(attack, [NoSecret])
            .neighbour(neighbour, [says(ok)])
    };
    vec![
        read(
            "static-binary", "issue: programs that ignore the dynamic loader", "{kit}/reader-static open {key}",
            "{kit}/reader-static open {work}/readme.txt", "WORKSPACE-OK",
        ),
        read(
            "other-processes", "agentsh audit: descriptors of the supervisor", "{kit}/reader processes {key}",
            "{kit}/reader open {work}/readme.txt", "WORKSPACE-OK",
        ),
        read(
            "python", "interpreter indirection", "python3 -c 'print(open(\"{key}\").read())'",
            "python3 -c 'print(open(\"{work}/readme.txt\").read())'", "WORKSPACE-OK",
        ),
        read("shell-builtin", "interpreter indirection", "read x < {key}; echo $x", "read x < {work}/readme.txt; echo $x", "WORKSPACE-OK"),
        read(
            "archive", "whole-home copies", "tar cf - -C {home} . 2>/dev/null | cat; grep -r SECRET {home}",
            "tar cf - -C {home} notes.txt | cat", "HOME-OK",
        ),
        read("cloud-credentials", "label:secret", "cat {home}/.aws/credentials", "cat {home}/notes.txt", "HOME-OK"),
        // A prefix is not a folder: a name that only begins like a secret one stays readable.
        Case::new("files/read-masked/prefix-collision", "nono test_sensitive_paths (~/.sshfoo)")
            .with(|c| c.setup = Some(|w| { w.put("home/.sshfoo/plain.txt", "NEAR-OK\n"); Ok(()) }))
            .attack("cat {home}/.ssh/id_ed25519 {home}/.ssh/../.ssh/id_ed25519", [NoSecret])
            .neighbour("cat {home}/.sshfoo/plain.txt", [says("NEAR-OK")]),
        Case::new("files/read-masked/inherited-file", "agentsh audit: descriptors that leak into the child")
            .with(|c| c.wrapper = "{bin}/with-fd {key}".into())
            .with(|c| c.setup = Some(with_fd))
            .attack("{kit}/reader inherited {key}", [NoSecret])
            .neighbour("echo through-a-pipe | cat", [says("through-a-pipe")]),
        Case::new("files/read-masked/inherited-folder", "pre-opened directory descriptors")
            .with(|c| c.wrapper = "{bin}/with-fd {home}/.ssh".into())
            .with(|c| c.setup = Some(with_fd))
            .attack("{kit}/reader inherited {key}", [NoSecret])
            .neighbour("echo through-a-pipe | cat", [says("through-a-pipe")]),
        Case::new("files/read-masked/inherited-root", "pre-opened directory descriptors")
            .with(|c| c.wrapper = "{bin}/with-fd /".into())
            .with(|c| c.setup = Some(with_fd))
            .attack("{kit}/reader inherited {key}", [NoSecret])
            .neighbour("echo through-a-pipe | cat", [says("through-a-pipe")]),
        // Names below a masked folder are not told either.
        Case::new("files/read-masked/listing", "masked reads look absent or empty")
            .attack("{kit}/reader list {home}/.ssh; ls -la {home}/.ssh; find {home}/.ssh", [agentwall_tests::Check::Silent("id_ed25519".into())])
            .neighbour("{kit}/reader list {work}", [says("entry readme.txt")]),
        // An unmasked file is unreadable when no rule names it.
        Case::new("files/read-unlisted", "default deny")
            .with(|c| c.setup = Some(|w| { w.put("other/private.txt", &format!("{}\n", w.secret)); Ok(()) }))
            .attack("cat {home}/../other/private.txt; {kit}/reader openat2 {home}/../other/private.txt", [NoSecret])
            .neighbour("cat {pub}/data.txt", [says("PUBLIC-OK")]),
        Case::new("files/read-raw-disk", "Aegis-BPF redteam_altread (raw block device)")
            .attack("d=$(findmnt -no SOURCE -T /var/tmp); {kit}/priv disk $d {scratch} $((0x$(stat -c %t $d)*256+0x$(stat -c %T $d)))", [NoEffect])
            .neighbour("{kit}/reader open /dev/null && echo null-ok", [says("null-ok")])
            .native(Native::Maybe("needs CAP_MKNOD and a device control group that permits it")),
        Case::new("files/read-memory-devices", "/dev/mem, /proc/kcore, /dev/sda")
            .attack(
                "for f in /dev/mem /dev/kmem /dev/port /proc/kcore /dev/vda /dev/sda /dev/nvme0n1 /dev/kmsg /dev/fuse /dev/kvm; do {kit}/priv open-read $f; done",
                [NoEffect],
            )
            .neighbour("head -c 4 /dev/urandom | wc -c", [says("4")])
            .native(Native::Maybe("which device nodes there are, and who may open them")),
    ]
}

/// Puts a launcher beside the wall that opens its first argument as descriptor 9, without
/// close-on-exec, and runs the rest.
fn with_fd(w: &agentwall_tests::World) -> Result<(), String> {
    let path = w.shared.root.join("bin/with-fd");
    let text = "#!/bin/bash\nexec 9<\"$1\"\nshift\nexec \"$@\"\n";
    let err = |e: std::io::Error| format!("{}: {e}", path.display());
    if !path.exists() {
        // Written under another name first: cases run side by side.
        let draft = path.with_extension(&w.token);
        std::fs::write(&draft, text).map_err(err)?;
        std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(err)?;
        std::fs::rename(&draft, &path).map_err(err)?;
    }
    Ok(())
}

/// Names denied inside a tree that is otherwise isolated.
const GLOB_RULES: &str = r#"  - { id: no-env, priority: 30, action: "file.*", resource: ["${workspace}/**/.env", "${workspace}/**/secret-*.txt"], effect: deny, reason: "Environment files stay outside." }
"#;

fn globs() -> Vec<Case> {
    let mut all = Vec::new();
    for (route, native) in READS {
        if matches!(
            *route,
            "handle-root" | "x32" | "fresh-proc" | "umount" | "move-mount"
        ) {
            continue; // nothing about them depends on the rule being a glob
        }
        let scratch = if matches!(
            *route,
            "hardlink" | "hardlink-fd" | "rename" | "rename-parent"
        ) {
            "{work}/spare"
        } else {
            "{scratch}"
        };
        let file = if *route == "copy-range" {
            "{work}/app/secret-1.txt"
        } else {
            "{work}/app/.env"
        };
        all.push(
            Case::new(
                format!("files/glob-inside-isolated/{route}"),
                "nono #408 #128: deny inside allow; sandlock deny_openat2_does_not_bypass",
            )
            .rules(GLOB_RULES)
            .attack(
                format!("{{kit}}/reader {route} {file} {scratch}"),
                [NoSecret],
            )
            .neighbour(
                format!(
                    "{{kit}}/reader {} {{work}}/app/env.txt {scratch}",
                    neighbour_route(route)
                ),
                [says("PLAIN-OK")],
            )
            .native(*native),
        );
    }
    // Changing, moving or removing the denied name in the copy; then reading through what came of it.
    for route in [
        "write",
        "truncate",
        "unlink",
        "rename-away",
        "exchange",
        "link-here",
        "chmod",
        "setxattr",
        "utimes",
        "uring-unlink",
    ] {
        all.push(
            Case::new(format!("files/glob-inside-isolated/change-{route}"), "rules that mounts cannot express")
                .rules(GLOB_RULES)
                .attack(
                    format!("{{kit}}/writer {route} {{work}}/app/.env {{work}}/spare; find {{work}} -type f -print0 | xargs -0 cat; ls -la {{work}}/app"),
                    [agentwall_tests::Check::Silent(format!("done {route}")), NoSecret],
                )
                .neighbour(
                    format!("{{kit}}/writer {0} {{work}}/app/env.txt {{work}}/spare", write_neighbour(if route == "uring-unlink" { "write" } else { route })),
                    [says("done")],
                ),
        );
    }
    all.push(
        Case::new("files/glob-inside-isolated/new-name", "a denied name cannot be made either")
            .rules(GLOB_RULES)
            .attack("mkdir -p {work}/n && echo EFFECT > {work}/n/.env; cat {work}/n/.env; echo EFFECT > {work}/x; mv {work}/x {work}/n/secret-9.txt; cat {work}/n/secret-9.txt", [NoEffect])
            .neighbour("echo made > {work}/env2.txt; cat {work}/env2.txt", [says("made")]),
    );
    all.push(
        Case::new("files/glob-inside-isolated/git", "tools that walk the tree")
            .rules(GLOB_RULES)
            .attack("grep -rh . {work}; tar cf - {work} 2>/dev/null; cp -r {work}/app {scratch}/c; cat {scratch}/c/.env", [NoSecret])
            .neighbour("grep -rh PLAIN {work}/app/env.txt", [says("PLAIN-OK")]),
    );
    all
}

fn races() -> Vec<Case> {
    let mut all = Vec::new();
    for route in [
        "pointer-open",
        "pointer-openat2",
        "link-open",
        "link-openat2",
    ] {
        all.push(
            Case::new(
                format!("files/race/{route}-masked"),
                "nono security model, sandlock #27 #28: pointer swapped after the check",
            )
            .attack(
                format!("{{kit}}/race {route} {{work}}/readme.txt {{key}} 3 {{scratch}}"),
                [NoSecret],
            )
            .neighbour(
                "{kit}/reader open {work}/readme.txt",
                [says("WORKSPACE-OK")],
            ),
        );
        all.push(
            Case::new(
                format!("files/race/{route}-glob"),
                "nono security model, sandlock #27 #28: pointer swapped after the check",
            )
            .rules(GLOB_RULES)
            .attack(
                format!(
                    "{{kit}}/race {route} {{work}}/app/env.txt {{work}}/app/.env 3 {{work}}/spare"
                ),
                [NoSecret],
            )
            .neighbour("{kit}/reader open {work}/app/env.txt", [says("PLAIN-OK")]),
        );
    }
    for route in ["pointer-write", "link-write", "link-openat2-write"] {
        all.push(
            Case::new(
                format!("files/race/{route}-outside"),
                "agentsh audit: unlink and rename races",
            )
            .attack(
                format!(
                    "{{kit}}/race {route} {{work}}/readme.txt {{out}}/canary.txt 3 {{scratch}}"
                ),
                [],
            )
            .neighbour("{kit}/writer write {work}/readme.txt", [says("done")]),
        );
    }
    all
}
