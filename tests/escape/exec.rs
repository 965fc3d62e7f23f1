//! Starting, or otherwise running, what must not run.

use agentwall_tests::{
    Case,
    Check::{NoEffect, Silent},
    Native, World,
    case::says,
};

const ROUTES: &[(&str, Native)] = &[
    ("execve", Native::Works),
    ("execveat", Native::Works),
    ("execveat-fd", Native::Works),
    ("execveat-path-fd", Native::Works),
    ("execveat-dir", Native::Works),
    ("proc-fd", Native::Works),
    ("proc-root", Native::Works),
    ("proc-cwd", Native::Works),
    ("null-argv", Native::Works),
    ("vfork", Native::Works),
    ("spawn", Native::Works),
    ("symlink", Native::Works),
    ("hardlink", Native::Works),
    ("rename", Native::Works),
    ("memfd", Native::Works),
    ("memfd-proc", Native::Works),
    ("tmpfile", Native::Works),
    ("bind", Native::Works),
    ("int80", Native::Works),
    ("x32", Native::Cannot("this kernel has no x32 entry points")),
    ("map-exec", Native::Works),
    ("mprotect-exec", Native::Works),
];

/// Roads whose permitted use is not asked for: the neighbour takes the plain one.
fn neighbour_route(route: &str) -> &str {
    match route {
        "memfd" | "memfd-proc" | "tmpfile" | "bind" | "int80" | "x32" | "hardlink" | "rename" => {
            "execve"
        }
        r => r,
    }
}

/// All cases of this theme.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (route, native) in ROUTES {
        let n = neighbour_route(route);
        let expected = if n.ends_with("-exec") {
            "EFFECT mapped"
        } else {
            "SAID"
        };
        all.push(
            Case::new(
                format!("exec/unlisted/{route}"),
                "peers: loader, memfd, fexecve and alias roads that no suite covers well",
            )
            .attack(
                format!("{{kit}}/runner {route} {{out}}/bin/canary {{scratch}}"),
                [NoEffect],
            )
            .neighbour(
                format!("{{kit}}/runner {n} {{kit}}/say {{scratch}}"),
                [says(expected)],
            )
            .native(*native),
        );
        if matches!(
            *route,
            "map-exec" | "mprotect-exec" | "x32" | "rename" | "tmpfile"
        ) {
            continue;
        }
        // Denied by name inside a tree whose programs are permitted.
        all.push(
            Case::new(
                format!("exec/denied-inside-allowed/{route}"),
                "deny inside allow",
            )
            .rules(DENY_CANARY)
            .attack(
                format!("{{kit}}/runner {route} {{kit}}/canary {{scratch}}"),
                [NoEffect],
            )
            .neighbour(
                format!("{{kit}}/runner {n} {{kit}}/say {{scratch}}"),
                [says("SAID")],
            )
            .native(match route {
                &"hardlink" => {
                    Native::RootOnly("the kit belongs to the superuser (protected hard links)")
                }
                _ => *native,
            }),
        );
    }
    all.extend(more());
    all
}

const DENY_CANARY: &str = "  - { id: no-canary, priority: 30, action: [process.exec, file.exec], resource: [\"{kit}/canary\", \"{kit}/canary-static\"], effect: deny }\n";

fn more() -> Vec<Case> {
    let simple = |name: &str, source, attack: &str, neighbour: &str, ok: &str| {
        Case::new(format!("exec/{name}"), source)
            .attack(attack, [NoEffect])
            .neighbour(neighbour, [says(ok)])
    };
    vec![
        simple(
            "loader", "ld-linux PROG", "/lib64/ld-linux-x86-64.so.2 {out}/bin/canary; /usr/lib64/ld-linux-x86-64.so.2 {out}/bin/canary x",
            "{kit}/say", "SAID",
        ),
        simple(
            "loader-denied", "ld-linux PROG", "/lib64/ld-linux-x86-64.so.2 {kit}/canary", "{kit}/say", "SAID",
        )
        .rules(DENY_CANARY),
        simple(
            "loader-renamed", "a copy of the loader starts the program",
            "cp /lib64/ld-linux-x86-64.so.2 {scratch}/l; chmod +x {scratch}/l; {scratch}/l {out}/bin/canary", "{kit}/say", "SAID",
        ),
        simple("static", "no loader at all", "{out}/bin/canary-static", "{kit}/say-static", "SAID"),
        simple("shell-path", "relative names", "cd {out}/bin && ./canary; PATH={out}/bin canary", "cd {kit} && ./say", "SAID"),
        simple("copy-to-workspace", "a copy is a new file in a place without exec", "cp {out}/bin/canary {work}/c; {work}/c", "{kit}/say", "SAID"),
        simple("copy-to-tmp", "a copy is a new file in a place without exec", "cp {out}/bin/canary {scratch}/c; chmod +x {scratch}/c; {scratch}/c", "{kit}/say", "SAID"),
        simple(
            "copy-of-denied", "the name is denied, the bytes are copied", "cp {kit}/canary {work}/c; chmod +x {work}/c; {work}/c", "cp {kit}/say {work}/s; chmod +x {work}/s; {work}/s", "SAID",
        )
        .rules(DENY_CANARY)
        .rules("  - { id: run-workspace, priority: 40, action: [process.exec, file.exec], resource: \"${workspace}/**\", effect: allow }\n")
        .with(|c| c.open = Some("a rule that denies a path does not deny a copy of its bytes where programs may be made and run; name the places instead")),
        simple("script-denied", "scripts count by both names", "{out}/bin/script", "printf '#!/bin/sh\\n' >/dev/null; {bin}/hello", "hello-ok")
            .with(|c| c.setup = Some(hello))
            .rules("  - { id: hello, priority: 40, action: [process.exec, file.read], resource: \"{bin}/hello\", effect: allow }\n"),
        // The script is permitted, its interpreter is not.
        simple(
            "interpreter-denied", "scripts count by both names",
            "printf '#!{out}/bin/canary\\n' > {work}/s; chmod +x {work}/s; {work}/s", "printf '#!{kit}/say\\n' > {work}/t; chmod +x {work}/t; {work}/t", "SAID",
        )
        .rules("  - { id: run-workspace, priority: 40, action: process.exec, resource: \"${workspace}/**\", effect: allow }\n"),
        simple(
            "interpreter-of-interpreter", "the kernel follows #! five times",
            "printf '#!{out}/bin/canary\\n' > {work}/a; printf '#!{work}/a\\n' > {work}/b; chmod +x {work}/a {work}/b; {work}/b",
            "printf '#!{kit}/say\\n' > {work}/c; printf '#!{work}/c\\n' > {work}/d; chmod +x {work}/c {work}/d; {work}/d", "SAID",
        )
        .rules("  - { id: run-workspace, priority: 40, action: process.exec, resource: \"${workspace}/**\", effect: allow }\n"),
        simple("python", "interpreter indirection", "python3 -c 'import os; os.execv(\"{out}/bin/canary\", [\"x\"])'", "python3 -c 'import os; os.execv(\"{kit}/say\", [\"x\"])'", "SAID"),
        simple("python-subprocess", "interpreter indirection", "python3 -c 'import subprocess; subprocess.run([\"{out}/bin/canary\"])'", "python3 -c 'import subprocess; subprocess.run([\"{kit}/say\"])'", "SAID"),
        simple("env-and-xargs", "programs that start programs", "env {out}/bin/canary; echo x | xargs {out}/bin/canary; find {out}/bin/canary -exec {{}} ';'; nice {out}/bin/canary; setsid {out}/bin/canary", "env {kit}/say", "SAID")
            .with(|c| c.attack = c.attack.replace("{{}}", "{}")),
        simple("preload", "LD_PRELOAD of a library from a denied place", "LD_PRELOAD={out}/lib/evil.so {kit}/say", "LD_PRELOAD={kit}/evil.so {kit}/say", "library loaded"),
        simple("audit-library", "LD_AUDIT", "LD_AUDIT={out}/lib/evil.so {kit}/say", "{kit}/say", "SAID"),
        simple("library-path", "LD_LIBRARY_PATH", "LD_LIBRARY_PATH={out}/lib LD_PRELOAD=evil.so {kit}/say; cp {out}/lib/evil.so {scratch}/; LD_LIBRARY_PATH={scratch} LD_PRELOAD=evil.so {kit}/say", "LD_LIBRARY_PATH={scratch}/empty {kit}/say", "SAID"),
        simple("dlopen", "a library mapped by a permitted program", "{kit}/runner dlopen {out}/lib/evil.so", "{kit}/runner dlopen {kit}/evil.so", "library loaded"),
        simple("ctypes", "a library mapped by an interpreter", "python3 -c 'import ctypes; ctypes.CDLL(\"{out}/lib/evil.so\")'", "python3 -c 'import ctypes; ctypes.CDLL(\"libm.so.6\"); print(\"libm-ok\")'", "libm-ok"),
        simple("python-extension", "a library copied to a writable place", "cp {out}/lib/evil.so {scratch}/e.so; python3 -c 'import ctypes; ctypes.CDLL(\"{scratch}/e.so\")'", "python3 -c 'import _ctypes; print(\"extension-ok\")'", "extension-ok"),
        simple("anonymous-memory", "a loader without files", "{kit}/runner anonymous {out}/bin/canary", "{kit}/say", "SAID")
            .with(|c| c.open = Some("bytes that may be read can be copied into anonymous memory and run inside an already permitted program: no new program starts, and every later action is still decided")),
        simple("binfmt", "the kernel starts the interpreter, not the caller", "{kit}/runner binfmt {out}/bin/canary {scratch} {kit}/magic", "{kit}/say", "SAID"),
        simple("binfmt-register", "persistence for the whole host", "{kit}/priv binfmt", "cat /proc/self/comm", "cat")
            .native(Native::Cannot("binfmt_misc is not mounted on this host")),
        simple("race-path", "path swapped between check and execve", "{kit}/runner race {out}/bin/canary {kit}/say", "{kit}/say", "SAID"),
        simple("race-path-denied", "path swapped between check and execve", "{kit}/runner race {kit}/canary {kit}/say", "{kit}/say", "SAID").rules(DENY_CANARY)
        .with(|c| c.limit = 100),
        simple(
            "race-path-traced",
            "a debugger of the agent's own keeps the wall from looking at the image",
            "strace -f -o /dev/null -e trace=none {kit}/runner race {kit}/canary {kit}/say; strace -f -o /dev/null -e trace=none {kit}/runner race {out}/bin/canary {kit}/say",
            "strace -f -o /dev/null {kit}/say",
            "SAID",
        )
        .rules(DENY_CANARY)
        .with(|c| {
            c.limit = 100;
            c.open = Some("only where a rule allows process.trace: a process that its own debugger traces cannot be looked at once more between execve and its first instruction");
        }),
        // Arguments.
        Case::new("exec/arguments", "agentsh, codex execpolicy: rules on `git push`")
            .rules(ARGUMENTS)
            .attack("{kit}/say push origin; {kit}/runner execve {kit}/say {scratch} push; env {kit}/say push; python3 -c 'import os; os.execv(\"{kit}/say\", [\"say\", \"push\"])'", [Silent("SAID push".into())])
            .neighbour("{kit}/say pull origin", [says("SAID pull")]),
        Case::new("exec/arguments-loader", "the loader shifts the arguments by one")
            .rules(ARGUMENTS)
            .attack("/lib64/ld-linux-x86-64.so.2 {kit}/say push origin; /lib64/ld-linux-x86-64.so.2 --argv0 say {kit}/say push", [Silent("SAID push".into())])
            .neighbour("{kit}/say pull origin", [says("SAID pull")]),
        Case::new("exec/denied-tool", "codex landlock suite: network tools")
            .rules("  - { id: no-curl, priority: 30, action: process.exec, resource: [/usr/bin/curl, /usr/bin/ssh, /bin/nc], effect: deny }\n")
            .attack("curl --version; /bin/curl --version; ln -s /usr/bin/curl {work}/c; {work}/c --version; /proc/self/root/usr/bin/curl --version", [Silent("libcurl".into())])
            .neighbour("git --version", [says("git version")]),
        Case::new("exec/denied-by-other-spelling", "`/bin` and `/usr/bin` are one binary")
            .rules("  - { id: no-cmp, priority: 30, action: process.exec, resource: /bin/cmp, effect: deny }\n")
            .attack("/usr/bin/cmp --version; cmp --version; /bin/../bin/cmp --version", [Silent("diffutils".into())])
            .neighbour("/usr/bin/diff --version", [says("diffutils")]),
    ]
}

const ARGUMENTS: &str = "  - { id: no-push, priority: 30, action: process.exec, resource: \"{kit}/say\", when: 'size(args) > 1 && args[1] == \"push\"', effect: deny }\n";

fn hello(w: &World) -> Result<(), String> {
    let path = w.shared.root.join("bin/hello");
    let draft = path.with_extension(&w.token);
    let err = |e: std::io::Error| format!("{}: {e}", path.display());
    std::fs::write(&draft, "#!/bin/sh\necho hello-ok\n").map_err(err)?;
    std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(err)?;
    std::fs::rename(&draft, &path).map_err(err)
}
