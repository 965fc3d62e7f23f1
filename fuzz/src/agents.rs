//! Knowing the agents: signature files, and the text of `/proc`, in part chosen by processes.

use agentwall_agents::{
    Process, identify, load,
    proc::parse::{self, Names},
    suspects,
};
use agentwall_policy::{Layer, Source};

use crate::input::{assert_shown, parts};

/// A signature file: one set or a report that can be shown. Its tests end, and what they say can be
/// shown. After a line `%%`, command lines of processes that are identified by it.
pub fn signatures(data: &[u8]) {
    let parts = parts(data);
    let signatures = match load(&[Source::new("a.yaml", parts[0], Layer::User)]) {
        Ok(signatures) => signatures,
        Err(error) => {
            assert_shown(&error.to_string());
            return;
        }
    };
    let report = signatures.run_tests();
    assert!(report.failures.len() <= report.run);
    for failure in &report.failures {
        assert_shown(&failure.to_string());
    }
    let processes: Vec<Process> = (2..)
        .zip(&parts[1..])
        .map(|(pid, text)| {
            let mut args = parse::cmdline(text).into_iter();
            Process {
                pid,
                // Parents among them, circles too.
                parent: u32::from(text.first().copied().unwrap_or_default()) % 8,
                exe: args.next(),
                args: args.collect(),
                ..Process::default()
            }
        })
        .collect();
    let known = identify(&signatures, &processes);
    let members: Vec<u32> = known.found.iter().flat_map(|f| f.members.clone()).collect();
    for pid in &members {
        assert_eq!(
            members.iter().filter(|m| *m == pid).count(),
            1,
            "in one tree"
        );
    }
    for found in &known.found {
        assert_eq!(found.members.first(), Some(&found.root));
        assert!(
            !found.reasons.is_empty(),
            "nothing is said without a reason"
        );
        for reason in &found.reasons {
            assert_shown(&reason.to_string());
        }
    }
    for suspect in suspects(&processes, &known) {
        assert!(known.of(suspect.pid).is_none());
        assert_eq!(
            suspect.findings.iter().map(|f| f.points).sum::<u32>(),
            suspect.points
        );
        suspect.findings.iter().for_each(|f| assert_shown(&f.fact));
    }
}

/// The files of `/proc`: `stat`, `cmdline`, `environ`, `status`, `cgroup`, `net/tcp`, a `package.json` and
/// a script. Of an environment the same names in any pieces, and nothing that stands behind a `=`.
pub fn proc(data: &[u8]) {
    if let Some(stat) = parse::stat(data) {
        assert!(stat.comm.len() <= data.len());
        let again = parse::stat(data);
        assert_eq!(again, Some(stat));
    }
    let args = parse::cmdline(data);
    assert!(args.len() <= parse::MAX_ARGS);
    assert!(args.iter().all(|a| !a.contains(&0)));
    let names = |size: usize| {
        let mut names = Names::default();
        data.chunks(size).for_each(|piece| names.take(piece));
        names.finish()
    };
    let whole = names(data.len().max(1));
    assert_eq!(whole, names(1));
    assert_eq!(whole, names(7));
    let strings: Vec<&[u8]> = data.split(|b| *b == 0).collect();
    for name in &whole {
        assert!(!name.is_empty() && name.len() <= parse::MAX_NAME && !name.contains(&b'='));
        let begins = |s: &&[u8]| {
            s.strip_prefix(name.as_slice())
                .is_some_and(|r| r.first() == Some(&b'='))
        };
        assert!(
            strings.iter().any(begins),
            "a name is what stands before the first '='"
        );
    }
    parse::uid(data);
    parse::cgroup(data);
    parse::boot(data);
    parse::sockets(data);
    parse::file(data);
    parse::inode(data, "pipe");
    parse::package_name(data);
    parse::entry_module(data);
    // What a process says of itself is understood somehow, for every kind of program.
    for exe in [
        "/usr/bin/node",
        "/usr/bin/python3",
        "/usr/bin/deno",
        "/bin/bash",
        "/x",
    ] {
        let process = Process {
            exe: Some(exe.into()),
            args: args.clone(),
            cwd: Some(b"/w".to_vec()),
            ..Process::default()
        };
        process.packages();
        process.is_command_line();
        if let Some(script) = process.script() {
            assert!(script.is_empty() || script.starts_with(b"/"));
            assert!(!script.split(|b| *b == b'/').any(|part| part == b".."));
        }
    }
}
