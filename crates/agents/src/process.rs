//! A process as it is described: what can be seen of it without privilege, and what follows from that.
//!
//! Descriptions come from `/proc` or from the tests of a signature file. Everything is bytes, as the
//! kernel gives it. What follows from a description (how an interpreter was called, which package a
//! path is in) is worked out here from the text alone, without a look at the disk.

use std::{fmt, net::SocketAddr};

use serde::Serialize;

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// npm and what is compatible: a folder in `node_modules`, or the `name` of a `package.json`.
    Npm,
    /// Python: a distribution that pipx or uv installed, or a module.
    Python,
}

/// A package that a process runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Package {
    /// Where it comes from.
    pub ecosystem: Ecosystem,
    /// Its name, such as `@scope/name` or `aider-chat`.
    pub name: String,
}

impl fmt::Display for Package {
    /// `npm:@scope/name`, as signatures write it. Not escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ecosystem = match self.ecosystem {
            Ecosystem::Npm => "npm",
            Ecosystem::Python => "python",
        };
        write!(f, "{ecosystem}:{}", self.name)
    }
}

/// What a file descriptor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file, by its path.
    Path(Vec<u8>),
    /// A pipe, by its inode.
    Pipe(u64),
    /// A socket, by its inode.
    Socket(u64),
    /// Something else: an anonymous inode, a memory file.
    Other,
}

/// An open file descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub target: Target,
}

/// What is known of one process. `None` means that it could not be seen, not that there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The parent's; 0 for none.
    pub parent: u32,
    /// When it was started, in clock ticks since the host was (proc_pid_stat(5), field 22).
    pub started: u64,
    /// The real user id.
    pub uid: Option<u32>,
    /// The name the kernel has, at most 15 bytes; the process may change it.
    pub comm: Vec<u8>,
    /// The program's path, without the kernel's mark for a file that is gone.
    pub exe: Option<Vec<u8>>,
    /// The arguments; the process may change them.
    pub args: Vec<Vec<u8>>,
    /// The folder it works in.
    pub cwd: Option<Vec<u8>>,
    /// The path of its control group.
    pub cgroup: Option<Vec<u8>>,
    /// The names in its environment, without values, as it was started with.
    pub env: Option<Vec<Vec<u8>>>,
    /// The interpreter's script, absolute, links at its end followed; else see
    /// [`Process::script`].
    pub script: Option<Vec<u8>>,
    /// Packages that were found on the disk, beside those that the paths tell.
    pub packages: Vec<Package>,
    /// The open descriptors.
    pub descriptors: Option<Vec<Descriptor>>,
    /// The far ends of its established TCP connections.
    pub connections: Vec<SocketAddr>,
    /// The TCP ports on which it listens.
    pub listening: Vec<u16>,
    /// Its process id namespace, by inode.
    pub pid_namespace: Option<u64>,
}

/// How a program was called, as far as its arguments tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Invocation<'a> {
    /// The script of an interpreter, as it was given.
    pub script: Option<&'a [u8]>,
    /// The module of `python -m`.
    pub module: Option<&'a [u8]>,
    /// The first argument after the program, script or module that is no option.
    pub subcommand: Option<&'a [u8]>,
}

impl Process {
    /// The last part of the program's path.
    pub fn basename(&self) -> Option<&[u8]> {
        self.exe.as_deref().map(last_part)
    }

    /// Whether the program runs scripts of Node.js or Python (or what stands in for them).
    pub fn is_interpreter(&self) -> bool {
        self.is_javascript() || self.is_python()
    }

    /// Whether the program runs JavaScript.
    pub fn is_javascript(&self) -> bool {
        let names: [&[u8]; 4] = [b"node", b"nodejs", b"bun", b"deno"];
        self.basename().is_some_and(|name| names.contains(&name))
    }

    /// Whether the program is Python: `python`, `python3`, `python3.12`, `pypy3`.
    pub fn is_python(&self) -> bool {
        let version = |rest: &[u8]| rest.iter().all(|b| b.is_ascii_digit() || *b == b'.');
        self.basename().is_some_and(|name| {
            let rest = name
                .strip_prefix(b"python")
                .or_else(|| name.strip_prefix(b"pypy"));
            rest.is_some_and(version)
        })
    }

    /// Whether the program is a shell.
    pub fn is_shell(&self) -> bool {
        const SHELLS: [&[u8]; 8] = [
            b"sh", b"bash", b"dash", b"zsh", b"fish", b"ksh", b"ash", b"mksh",
        ];
        self.basename().is_some_and(|name| SHELLS.contains(&name))
    }

    /// Whether it is a shell that was given a command line: `sh -c …`, `bash -lc …`.
    pub fn is_command_line(&self) -> bool {
        let flag = |arg: &[u8]| {
            arg.first() == Some(&b'-') && arg.get(1) != Some(&b'-') && arg[1..].contains(&b'c')
        };
        let options = self.args.iter().skip(1);
        self.is_shell()
            && options
                .take_while(|arg| arg.starts_with(b"-"))
                .any(|arg| flag(arg))
    }

    /// How it was called.
    pub fn invocation(&self) -> Invocation<'_> {
        let mut called = Invocation::default();
        let mut rest = self.args.iter().skip(1).map(Vec::as_slice).peekable();
        if self.is_interpreter() {
            // `deno run`, `bun run`: the word is no script.
            let runners: [&[u8]; 2] = [b"deno", b"bun"];
            let runs = self.basename().is_some_and(|n| runners.contains(&n));
            if runs && rest.peek() == Some(&b"run".as_slice()) {
                rest.next();
            }
            while let Some(arg) = rest.next() {
                if arg == b"--" {
                    called.script = rest.next();
                    break;
                }
                if self.is_python() && arg == b"-m" {
                    called.module = rest.next();
                    break;
                }
                if arg.len() < 2 || arg[0] != b'-' {
                    called.script = Some(arg).filter(|a| *a != b"-");
                    break;
                }
                if is_code(arg) {
                    break;
                }
                if takes_value(self.is_python(), arg) {
                    rest.next();
                }
            }
        }
        called.subcommand = rest.find(|arg| !arg.is_empty() && arg[0] != b'-');
        called
    }

    /// The script's path: as it was found on the disk, else as it was given, in the folder the process
    /// works in.
    pub fn script(&self) -> Option<Vec<u8>> {
        if let Some(script) = &self.script {
            return Some(script.clone());
        }
        let given = self.invocation().script?;
        absolute(given, self.cwd.as_deref())
    }

    /// Every package it runs: those that its paths and its module name, and those that were found.
    pub fn packages(&self) -> Vec<Package> {
        let mut all = self.packages.clone();
        let invocation = self.invocation();
        let paths = [
            self.exe.as_deref(),
            // The program of a virtual environment is a link: only the argument tells which one it is.
            self.args.first().map(Vec::as_slice),
            invocation.script,
        ];
        let script = self.script();
        for path in paths.into_iter().chain([script.as_deref()]).flatten() {
            all.extend(packages_of_path(path));
        }
        if let Some(module) = invocation.module {
            all.extend(python_module(module));
        }
        all.sort();
        all.dedup();
        all
    }

    /// What standard input and output are: `piped` when both are pipes or sockets, `terminal` when both
    /// are terminals, else `other`.
    pub fn stdio(&self) -> Option<&'static str> {
        let descriptors = self.descriptors.as_ref()?;
        let at = |n: u32| descriptors.iter().find(|d| d.number == n);
        let both = |what: fn(&Target) -> bool| {
            [0, 1]
                .iter()
                .all(|n| at(*n).is_some_and(|d| what(&d.target)))
        };
        let piped = both(|t| matches!(t, Target::Pipe(_) | Target::Socket(_)));
        let terminal = both(
            |t| matches!(t, Target::Path(p) if p.starts_with(b"/dev/pts/") || p.starts_with(b"/dev/tty")),
        );
        Some(match (piped, terminal) {
            (true, _) => "piped",
            (_, true) => "terminal",
            _ => "other",
        })
    }
}

/// The module at the top of `a.b.c`, as a package.
pub(crate) fn python_module(module: &[u8]) -> Option<Package> {
    let top = module.split(|b| *b == b'.').next()?;
    let ident = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-';
    if top.is_empty() || !top.iter().all(ident) {
        return None;
    }
    Some(Package {
        ecosystem: Ecosystem::Python,
        name: String::from_utf8_lossy(top).into_owned(),
    })
}

/// A path without `.`, `..` and double slashes, relative ones in `cwd`. Links are not followed.
pub(crate) fn absolute(path: &[u8], cwd: Option<&[u8]>) -> Option<Vec<u8>> {
    let whole = match path.first()? {
        b'/' => path.to_vec(),
        _ => [cwd?, b"/", path].concat(),
    };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in whole.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(whole.len());
    for part in parts {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    Some(out)
}

/// The last part of a path.
pub(crate) fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// `-c CODE`, `-e CODE`: what follows is the program itself.
fn is_code(arg: &[u8]) -> bool {
    let codes: [&[u8]; 6] = [b"-c", b"-e", b"--eval", b"-p", b"--print", b"-pe"];
    codes.contains(&arg)
}

/// Options of the interpreters whose value is an argument of its own (node(1), python(1)).
fn takes_value(python: bool, arg: &[u8]) -> bool {
    let options: &[&[u8]] = if python {
        &[b"-W", b"-X", b"--check-hash-based-pycs"]
    } else {
        &[
            b"-r",
            b"--require",
            b"--import",
            b"--loader",
            b"--experimental-loader",
            b"-C",
            b"--conditions",
            b"--env-file",
            b"--config",
        ]
    };
    options.contains(&arg)
}

/// The packages that a path is in: the innermost one in `node_modules`, the virtual environment of a
/// tool (`pipx/venvs/NAME`, `uv/tools/NAME`), a folder in `site-packages`.
fn packages_of_path(path: &[u8]) -> Vec<Package> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let mut found = Vec::new();
    let mut add = |ecosystem, name: Vec<u8>| {
        if let Ok(name) = String::from_utf8(name) {
            found.push(Package { ecosystem, name });
        }
    };
    // The package's folder holds the file: at least one more part follows.
    let named = |n: usize| -> Option<&[u8]> {
        let name = *parts.get(n)?;
        (n + 1 < parts.len() && !name.is_empty() && name[0] != b'.').then_some(name)
    };
    if let Some(at) = parts.iter().rposition(|p| *p == b"node_modules")
        && let Some(name) = named(at + 1)
    {
        match (name[0], named(at + 2)) {
            (b'@', Some(inner)) => add(Ecosystem::Npm, [name, b"/", inner].concat()),
            (b'@', None) => {}
            _ => add(Ecosystem::Npm, name.to_vec()),
        }
    }
    for (n, pair) in parts.windows(2).enumerate() {
        let tool: [&[u8]; 2] = [pair[0], pair[1]];
        if tool == [b"pipx".as_slice(), b"venvs"] || tool == [b"uv".as_slice(), b"tools"] {
            if let Some(name) = named(n + 2) {
                add(Ecosystem::Python, name.to_vec());
            }
        } else if matches!(tool[0], b"site-packages" | b"dist-packages")
            && let Some(name) = named(n + 1)
        {
            add(Ecosystem::Python, name.to_vec());
        }
    }
    found
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
