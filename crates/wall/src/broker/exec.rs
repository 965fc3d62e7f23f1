//! execve and execveat.
//!
//! Starting a program cannot be done on behalf of the caller, so the call continues in the kernel,
//! and three things make that exact:
//! 1. mounts (`noexec`) and Landlock bound which files the kernel would start at all;
//! 2. the decision is made on the resolved binary, for a script on the script and on each
//!    interpreter, and on the arguments as they were read;
//! 3. a worker traces the caller across the call and, when the new image is complete but before
//!    its first instruction, compares binary and arguments with what was decided. A thread that
//!    rewrote the memory meanwhile gets a killed process, not a different program.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::Arc,
};

use agentwall_action::{Action, Decision, Effect, ObjectKind, Resource, Verb};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat};

use super::{Broker, ask::Decided, binding_of, kind_of};
use crate::{
    notify::Call,
    resolve::Object,
    sys,
    wire::{Actor, Binding, Event},
};

/// Arguments past this are not read; such a call is refused when a condition looks at arguments,
/// else decided without them (`MAX_ARG_STRINGS` would be 2^31).
const ARGUMENT_LIMIT: usize = 65_536;
const ARGUMENT_BYTES: usize = 4 << 20;
/// The kernel follows at most this many interpreters (`fs/exec.c`).
const INTERPRETER_LIMIT: usize = 5;
/// `BINPRM_BUF_SIZE`: how much of a script's first line the kernel looks at.
const SCRIPT_LINE: usize = 256;

/// What the kernel is about to start.
#[derive(Debug)]
struct Plan {
    /// The file named in the call, then each interpreter.
    chain: Vec<Object>,
    /// Device and inode of the image that will run: the last of the chain.
    image: Binding,
    /// The arguments as the caller gave them.
    arguments: Vec<Vec<u8>>,
    /// For a script, the interpreter that will run, as its `#!` line names it.
    interpreter: Option<Vec<u8>>,
    /// A program that a loader named in the call is asked to load, and its arguments.
    loaded: Option<(Object, Vec<Vec<u8>>)>,
    /// The path of the loader the image asks for, if it is there but unreachable or missing.
    missing_loader: Option<PathBuf>,
    /// The loader the image asks for.
    loader: Option<Object>,
}

pub(super) fn handle(broker: &Arc<Broker>, call: Call) {
    let a = call.data.args;
    let (dirfd, path, argv, flags) = if i64::from(call.data.nr) == libc::SYS_execve {
        (libc::AT_FDCWD, a[0], a[1], 0)
    } else {
        (a[0] as i32, a[1], a[2], a[4] as i32)
    };
    let Some(path) = broker.string(&call, path) else {
        return;
    };
    let plan = match plan(broker, &call, dirfd, &path, argv, flags) {
        Ok(plan) => plan,
        Err(e) => return broker.unresolved(&call, &e),
    };
    let started = plan
        .chain
        .iter()
        .map(|object| action(broker, object, &plan.arguments));
    let loaded = plan
        .loaded
        .iter()
        .map(|(object, arguments)| action(broker, object, arguments));
    let decided = broker.decide(started.chain(loaded).collect());
    if broker.engine.is_learning()
        && let Some(loader) = &plan.loader
    {
        note_loader(broker, loader);
    }
    let own = plan.chain.len() == 1
        && (plan.chain[0].path == OsStr::new("/dev/agentwall/bin/agentwall")
            || broker.is_own_binary(&plan.image));
    let Some(mut decided) = decided else {
        return broker.listener.fail(&call, libc::EACCES);
    };
    // The wall's own tool explains refusals; it is a face of the wall, not of the policy.
    if own && decided.decision.rule.is_none() {
        decided.decision.effect = Effect::Allow;
    }
    let asks_why = own && plan.arguments.get(1).is_some_and(|a| a == b"why");
    match decided.decision.effect {
        Effect::Allow | Effect::Isolate if asks_why => broker.later(move |broker| {
            // Somebody wants to know: before it looks.
            let reachable = |action: &Action, object: &Resource| match object {
                Resource::Path(p) => broker.view.reaches(action.verb, &p.path),
                _ => true,
            };
            broker
                .trail
                .advise(&broker.engine.policy(), &broker.guard, reachable);
            start(broker, call, plan, decided);
        }),
        Effect::Allow | Effect::Isolate => start(broker, call, plan, decided),
        Effect::Ask => broker.later(move |broker| {
            broker.ask(&call, decided, plan.image.clone(), |action, answer| {
                run(broker, &call, &plan, action, answer);
            });
        }),
        _ => broker.refuse(&call, decided.action, decided.decision, plan.image, true),
    }
}

fn start(broker: &Arc<Broker>, call: Call, plan: Plan, decided: Decided) {
    let Decided {
        action, decision, ..
    } = decided;
    if let Some(loader) = &plan.missing_loader {
        // The kernel would answer ENOENT, which names the program and not what is missing.
        let decision = missing_loader(decision, loader);
        let mut action = action;
        action.verb = Verb::FileExec;
        action.resource = Resource::path(loader);
        return broker.refuse(&call, action, decision, plan.image, true);
    }
    broker.later(move |broker| {
        // A short program may be gone before it is looked at again.
        let lineage = broker.lineage(call.pid);
        run(broker, &call, &plan, &action, &decision);
        let mut actor = broker.actor(call.pid);
        if !lineage.is_empty() {
            actor.lineage = lineage;
        }
        broker.report(Event {
            action,
            decision,
            actor,
            binding: plan.image,
            enforced_by: "exec-check".to_owned(),
        });
    });
}

/// The kernel maps the loader of a program by itself: nobody opens it, yet no program starts without.
fn note_loader(broker: &Broker, loader: &Object) {
    for verb in [Verb::FileRead, Verb::FileExec] {
        let action = broker.path_action(verb, &loader.path, ObjectKind::File);
        let decision = broker.engine.decide(&action);
        if decision.effect.proceeds() {
            broker.report(Event {
                action,
                decision,
                actor: Actor::default(),
                binding: Binding::default(),
                enforced_by: "exec-check".to_owned(),
            });
        }
    }
}

fn missing_loader(decision: Decision, loader: &std::path::Path) -> Decision {
    let text = format!(
        "the program needs its loader {0}, which the policy does not show; add a rule with \
         'action: [file.read, file.exec]' and a 'resource' that covers {0} and the libraries",
        loader.display()
    );
    Decision {
        effect: Effect::Deny,
        rule: None,
        reason: text,
        hint: agentwall_action::Hint {
            next: Some("add-rule".into()),
            with: Some(format!("file.exec {}", loader.display())),
            text: None,
        },
        ..decision
    }
}

fn action(broker: &Broker, object: &Object, arguments: &[Vec<u8>]) -> Action {
    let mut action = broker.path_action(Verb::ProcessExec, &object.path, kind_of(object));
    action.facts.args = arguments
        .iter()
        .map(|a| serde_json::Value::String(String::from_utf8_lossy(a).into_owned()))
        .collect();
    action
}

fn plan(
    broker: &Broker,
    call: &Call,
    dirfd: i32,
    path: &[u8],
    argv: u64,
    flags: i32,
) -> io::Result<Plan> {
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    let object = if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        broker
            .resolver
            .base(call.pid, dirfd)
            .and_then(|fd| broker.resolver.adopt(fd))?
    } else {
        broker.resolver.existing(call.pid, dirfd, path, follow)?
    };
    if object.file_type() != FileType::RegularFile {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    let arguments = arguments(call, argv)?;
    let mut chain = vec![object];
    let mut outermost = None;
    let mut missing = None;
    let mut its_loader = None;
    loop {
        let head = head(broker, &chain[chain.len() - 1]);
        if let Some(line) = head.strip_prefix(b"#!") {
            let Some(interpreter) = shebang(line) else {
                return Err(io::Error::from_raw_os_error(libc::ENOEXEC));
            };
            if chain.len() > INTERPRETER_LIMIT {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let next = broker
                .resolver
                .existing(call.pid, libc::AT_FDCWD, &interpreter, true)?;
            outermost = Some(interpreter);
            chain.push(next);
            continue;
        }
        if head.starts_with(b"\x7fELF")
            && let Some(loader) = elf_interpreter(broker, &chain[chain.len() - 1])
        {
            match broker
                .resolver
                .existing(call.pid, libc::AT_FDCWD, &loader, true)
            {
                Ok(object) => its_loader = Some(object),
                Err(_) => missing = Some(PathBuf::from(OsStr::from_bytes(&loader))),
            }
        }
        break;
    }
    let image = binding_of(&chain[chain.len() - 1].stat);
    let loaded = if is_loader(broker, &chain[chain.len() - 1]) {
        loaded_program(broker, call, &arguments)
    } else {
        None
    };
    Ok(Plan {
        loaded,
        chain,
        image,
        arguments,
        interpreter: outermost,
        missing_loader: missing,
        loader: its_loader,
    })
}

/// Places of dynamic loaders (ld.so(8), musl's dynamic linker), in the root.
const LOADERS: [&str; 3] = [
    "lib64/ld-linux-x86-64.so.2",
    "lib/ld-linux.so.2",
    "lib/ld-musl-x86_64.so.1",
];

/// Whether a file is a dynamic loader: one of the known ones under any name, or any by its name.
fn is_loader(broker: &Broker, object: &Object) -> bool {
    let named = object.path.file_name().is_some_and(|name| {
        let name = name.as_bytes();
        name.starts_with(b"ld-") || name.starts_with(b"ld.so") || name.starts_with(b"ld64")
    });
    named
        || LOADERS.iter().any(|path| {
            let loader = statat(&broker.resolver.root, *path, AtFlags::empty());
            loader.is_ok_and(|loader| object.is_same(&loader))
        })
}

/// The program that `ld.so [OPTIONS] PROGRAM [ARGUMENTS]` loads. Started that way it is not an
/// execve(2) of its own, so it is decided here, as if it were.
fn loaded_program(
    broker: &Broker,
    call: &Call,
    arguments: &[Vec<u8>],
) -> Option<(Object, Vec<Vec<u8>>)> {
    const WITH_VALUE: [&[u8]; 7] = [
        b"--library-path",
        b"--glibc-hwcaps-prepend",
        b"--glibc-hwcaps-mask",
        b"--inhibit-rpath",
        b"--audit",
        b"--preload",
        b"--argv0",
    ];
    let mut rest = arguments.get(1..)?;
    while let [option, tail @ ..] = rest {
        if !option.starts_with(b"-") {
            break;
        }
        let skip = usize::from(WITH_VALUE.contains(&option.as_slice()));
        rest = tail.get(skip..)?;
    }
    let program = rest.first()?;
    let object = broker
        .resolver
        .existing(call.pid, libc::AT_FDCWD, program, true)
        .ok()?;
    Some((object, rest.to_vec()))
}

/// The first bytes of a file, empty if they cannot be read: the kernel can start a program that
/// its user cannot read.
fn head(broker: &Broker, object: &Object) -> Vec<u8> {
    let mut buf = vec![0; SCRIPT_LINE];
    let n = broker
        .reopen(object.fd.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)
        .and_then(|fd| Ok(rustix::io::pread(&fd, &mut buf, 0)?))
        .unwrap_or(0);
    buf.truncate(n);
    buf
}

/// The interpreter of a `#!` line (execve(2), "Interpreter scripts").
pub(crate) fn shebang(line: &[u8]) -> Option<Vec<u8>> {
    let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let word = line.split(|b| matches!(b, b' ' | b'\t')).next()?;
    (!word.is_empty()).then(|| word.to_vec())
}

/// The loader that an ELF file asks for.
fn elf_interpreter(broker: &Broker, object: &Object) -> Option<Vec<u8>> {
    let fd: OwnedFd = broker.reopen(object.fd.as_fd(), OFlags::RDONLY).ok()?;
    program_interpreter(|buf, at| rustix::io::pread(&fd, buf, at).ok())
}

/// `PT_INTERP` of a 64-bit little-endian ELF file (elf(5)). `read` fills a buffer from an offset of
/// the file and says how many bytes were there.
pub(crate) fn program_interpreter(
    read: impl Fn(&mut [u8], u64) -> Option<usize>,
) -> Option<Vec<u8>> {
    let mut header = [0u8; 64];
    if read(&mut header, 0)? < 64 || header[4] != 2 {
        return None;
    }
    let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).ok();
    let short = |b: &[u8]| b.try_into().map(u16::from_le_bytes).ok();
    let table = word(&header[32..40])?;
    let (size, count) = (short(&header[54..56])?, short(&header[56..58])?);
    if size != 56 || count > 64 {
        return None;
    }
    let mut entries = vec![0u8; usize::from(size) * usize::from(count)];
    let n = read(&mut entries, table)?;
    entries[..n].chunks_exact(56).find_map(|entry| {
        const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
        if entry[..4] != PT_INTERP {
            return None;
        }
        let (offset, length) = (word(&entry[8..16])?, word(&entry[32..40])?);
        let mut text = vec![0u8; usize::try_from(length).ok().filter(|l| *l <= 4096)?];
        let n = read(&mut text, offset)?;
        text.truncate(n);
        let end = text.iter().position(|b| *b == 0)?;
        text.truncate(end);
        Some(text)
    })
}

fn arguments(call: &Call, argv: u64) -> io::Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    if argv == 0 {
        return Ok(out);
    }
    let mut total = 0;
    let mut at = argv;
    let mut chunk = [0u8; 256];
    'read: loop {
        let want = (4096 - (at as usize & 4095)).min(chunk.len());
        // A pointer that straddles a page is read in one piece of eight bytes.
        let want = if want < 8 { 8 } else { want & !7 };
        let n = sys::read_memory(call.pid, at, &mut chunk[..want])?;
        if n < 8 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        for word in chunk[..n & !7].chunks_exact(8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let pointer = u64::from_ne_bytes(bytes);
            if pointer == 0 {
                break 'read;
            }
            let text = sys::read_string(call.pid, pointer, ARGUMENT_BYTES)?;
            total += text.len();
            out.push(text);
            if out.len() > ARGUMENT_LIMIT || total > ARGUMENT_BYTES {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
        }
        at += (n & !7) as u64;
    }
    Ok(out)
}

/// Lets the call continue and checks the image that comes out of it.
fn run(broker: &Broker, call: &Call, plan: &Plan, action: &Action, decision: &Decision) {
    let tid = call.pid;
    if let Err(e) = sys::trace_exec(tid) {
        // Somebody in the agent's tree traces this process already (a debugger), or it is gone.
        let traced = e.raw_os_error() == Some(libc::EPERM);
        let tracing = broker.path_action(Verb::ProcessTrace, &plan.chain[0].path, ObjectKind::File);
        let permitted = broker.engine.decide(&tracing);
        if traced && permitted.effect == Effect::Allow && permitted.rule.is_some() {
            return broker.listener.proceed(call);
        }
        let refusal = Decision {
            effect: Effect::Deny,
            rule: permitted.rule,
            reason: "a traced process cannot start programs: the wall could not check the image; \
                     allow process.trace to debug inside the wall"
                .into(),
            hint: agentwall_action::Hint {
                next: Some("add-rule".into()),
                with: Some("process.trace".into()),
                text: None,
            },
            ..decision.clone()
        };
        return broker.refuse(call, action.clone(), refusal, plan.image.clone(), true);
    }
    broker.listener.proceed(call);
    let verdict = sys::await_exec(|pid| image_matches(broker, pid, plan));
    if verdict == sys::ExecOutcome::Killed {
        let decision = Decision {
            effect: Effect::Deny,
            rule: decision.rule.clone(),
            reason: "the program or its arguments changed between decision and start; killed"
                .into(),
            ..decision.clone()
        };
        broker.record(
            call,
            action.clone(),
            decision,
            plan.image.clone(),
            "exec-check",
        );
    }
}

fn image_matches(broker: &Broker, pid: u32, plan: &Plan) -> bool {
    let open = |name: &str, flags| {
        openat(
            &broker.resolver.host_proc,
            format!("{pid}/{name}"),
            flags,
            Mode::empty(),
        )
    };
    let Ok(exe) = open("exe", OFlags::PATH | OFlags::CLOEXEC) else {
        return false;
    };
    let Ok(stat) = fstat(&exe) else { return false };
    if binding_of(&stat) != plan.image {
        return false;
    }
    let Ok(cmdline) = open("cmdline", OFlags::RDONLY | OFlags::CLOEXEC) else {
        return false;
    };
    let mut actual = Vec::new();
    if io::Read::read_to_end(&mut std::fs::File::from(cmdline), &mut actual).is_err() {
        return false;
    }
    let joined = |arguments: &[Vec<u8>]| -> Vec<u8> {
        arguments
            .iter()
            .flat_map(|a| a.iter().copied().chain([0]))
            .collect()
    };
    match &plan.interpreter {
        // The kernel turns an empty argument list into one empty argument.
        None => actual == joined(&plan.arguments) || (plan.arguments.is_empty() && actual == [0]),
        // A script's own arguments are the caller's, to the byte; what stands before them (the
        // interpreter, its argument, the script) comes from files, not from the caller's memory.
        Some(interpreter) => {
            let own = plan.arguments.get(1..).unwrap_or(&[]);
            actual.ends_with(&joined(own)) && actual.starts_with(interpreter)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreter_lines() {
        let line = |t: &str| shebang(t.as_bytes());
        assert_eq!(line("/bin/sh\nrest").as_deref(), Some(&b"/bin/sh"[..]));
        assert_eq!(
            line(" /usr/bin/env  python3 -u \n").as_deref(),
            Some(&b"/usr/bin/env"[..])
        );
        assert_eq!(line(" \n"), None);
    }
}
