//! What governed processes do while something is exchanged under them: a policy, or the programs themselves.
//!
//! Each case has loops of attempts on both processors for as long as the exchange lasts. Every answer must be one that
//! the one policy or the other gives; a loop that never met an exchange proves nothing, so both answers must have come.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use agentwall_tests::said::{Verdict, need};

use crate::{
    case::{Guest, command},
    wall::{Daemon, Governed, PINS, binary, done, say, start, status, wait_for},
};

/// All of them.
pub fn cases() -> Vec<Guest> {
    vec![Guest::new("exchange/policies", policies)]
}

/// What comes after the other cases, since other programs stand then.
pub fn last() -> Vec<Guest> {
    vec![Guest::new("end/upgrade", upgrade)]
}

/// A loop of attempts. `may` and `must` are tried until the file `stop` is there; then it tells how often each attempt
/// went through, was refused (EACCES), or had another error.
const LOOP: &str = "
import collections, os, sys
said = collections.Counter()
def tried(name, what, *args):
    try:
        what(*args)
        said[name + ' through'] += 1
    except PermissionError:
        said[name + ' refused'] += 1
    except OSError as e:
        said[name + ' ' + e.strerror] += 1
def read(name):
    os.close(os.open(name, os.O_RDONLY))
def child(name):
    pid = os.fork()
    if pid == 0:
        try:
            read(name)
        except PermissionError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise PermissionError
mine = sys.argv[1]
open('work/began-' + mine, 'w').close()
while not os.path.exists('stop'):
    for _ in range(20):
        tried('secret', read, 'secret')
        tried('one', read, 'one')
        tried('two', read, 'two')
        for _ in range(4):
            tried('moved', os.rename, 'work/from/' + mine, 'work/to/' + mine)
        tried('free', read, 'free')
    tried('child', child, 'secret')
for what in sorted(said.items()):
    print(*what, sep=': ')
";

/// The loops, on two processors.
struct Loops(Vec<Governed>);

impl Loops {
    fn begin(daemon: &Daemon<'_>) -> Result<Loops, String> {
        for name in ["one", "two"] {
            fs::write(daemon.path(name), name).map_err(say(name))?;
        }
        fs::write(daemon.path("loop.py"), LOOP).map_err(say("loop.py"))?;
        for name in ["from", "to"] {
            let at = daemon.path("work").join(name);
            fs::create_dir(&at).map_err(say(name))?;
        }
        let mut all = Vec::new();
        for mine in ["a", "b"] {
            fs::write(daemon.path("work/from").join(mine), mine).map_err(say(mine))?;
            all.push(daemon.spawn(&format!("exec nice -n 10 python3 loop.py {mine}"))?);
        }
        for mine in ["a", "b"] {
            let began = daemon.path("work").join(format!("began-{mine}"));
            wait_for("the loop", || began.exists())?;
        }
        Ok(Loops(all))
    }

    /// Ends them; `name outcome: count` in a line each.
    fn end(self, daemon: &Daemon<'_>) -> Result<Vec<(String, u64)>, String> {
        fs::write(daemon.path("stop"), "").map_err(say("stop"))?;
        let mut all = Vec::new();
        for governed in self.0 {
            let out = governed.out()?;
            let told = out.lines().filter_map(|l| l.split_once(": "));
            let told: Vec<_> = told
                .filter_map(|(what, n)| Some((what.to_owned(), n.parse().ok()?)))
                .collect();
            need(
                told.iter().any(|(what, _)| what == "free through"),
                format!("a loop told nothing: '{out}'"),
            )?;
            all.extend(told);
        }
        Ok(all)
    }
}

/// All that came is in the list, and all of the list came.
fn exactly(came: &[(String, u64)], expected: &[&str]) -> Verdict {
    let mut names: Vec<&str> = came.iter().map(|(what, _)| what.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    need(
        names == expected,
        format!("expected {expected:?}, found {came:?}"),
    )
}

/// A policy that gives `one` and moving away, or `two` and moving to: never both of a pair.
fn half(folder: &Path, first: bool) -> String {
    let effects = if first {
        ["allow", "deny"]
    } else {
        ["deny", "allow"]
    };
    let [yes, no] = effects;
    let at = folder.display();
    format!(
        "  - {{id: one, priority: 1, action: file.read, resource: '{at}/one', effect: {yes}}}
  - {{id: two, priority: 1, action: file.read, resource: '{at}/two', effect: {no}}}
  - {{id: from, priority: 1, action: file.rename, resource: '{at}/work/from/**', effect: {yes}}}
  - {{id: to, priority: 1, action: file.create, resource: '{at}/work/to/**', effect: {no}}}\n"
    )
}

/// While two policies alternate every answer is one of the two, also of what asks several questions: a file is never
/// moved that either of them holds back.
fn policies(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    daemon.swap(&half(folder, true))?;
    let loops = Loops::begin(&daemon)?;
    for round in 0..12 {
        daemon.swap(&half(folder, round % 2 == 1))?;
    }
    let came = loops.end(&daemon)?;
    exactly(
        &came,
        &[
            "child refused",
            "free through",
            "moved refused",
            "one refused",
            "one through",
            "secret refused",
            "two refused",
            "two through",
        ],
    )
}

/// The program under test with another name in the object that it loads: another build, as far as anybody can tell.
fn another_build(folder: &Path, name: &str, from: &str, to: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    let file = fs::File::create(&path).map_err(say(name))?;
    // Names in an object end with a zero byte.
    let made = command("sed")
        .args(["-z", &format!("s|^{from}$|{to}|")])
        .arg(binary())
        .stdout(file)
        .status()
        .map_err(say("sed"))?;
    need(made.success(), "sed cannot change the program")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(say(name))?;
    Ok(path)
}

/// Other programs take the place of those that stand, and nothing goes through meanwhile; programs that the kernel does
/// not take change nothing.
fn upgrade(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    daemon.swap(&half(folder, true))?;
    let (_, before) = status()?;
    let loops = Loops::begin(&daemon)?;
    let link = |name: &str| Path::new(PINS).join("links").join(name).exists();
    need(link("aw_syslog"), "the wall has no such program")?;

    daemon.kill()?;
    let broken = another_build(folder, "broken", "lsm/file_open", "lsm/file_opeX")?;
    let said = start(&[], &broken).err();
    need(
        said.as_deref()
            .is_some_and(|s| s.contains("the kernel refused")),
        format!("started with programs that no kernel takes: {said:?}"),
    )?;
    let (code, told) = status()?;
    need(
        code == 1 && told["standing"] == true && told["daemon"] == false,
        format!("status {code}: {told}"),
    )?;

    let other = another_build(folder, "other", "aw_syslog", "aw_sysloX")?;
    let daemon = Daemon::begin_with(folder, &[], other)?;
    let (code, after) = status()?;
    need(
        code == 0 && after["enforcing"] == true && after["programs"] != before["programs"],
        format!("status {code}: {after}"),
    )?;
    need(
        link("aw_sysloX") && !link("aw_syslog") && after["hooks"] == before["hooks"],
        "the new programs are not those that stand",
    )?;
    let came = loops.end(&daemon)?;
    exactly(
        &came,
        &[
            "child refused",
            "free through",
            "moved refused",
            "one through",
            "secret refused",
            "two refused",
        ],
    )?;
    // The new ones inherit, and are under the policy's next exchange.
    done(&["daemon", "reload"])?.ended(0)?;
    daemon
        .governed("cat secret || cat free; (setsid cat secret)")?
        .says(&["free"])?;
    let attempts: u64 = came.iter().map(|(_, n)| n).sum();
    println!("end/upgrade: {attempts} attempts while programs were exchanged");
    Ok(())
}
