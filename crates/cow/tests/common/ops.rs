//! Random work as shell commands, for model tests.

use proptest::prelude::*;

/// An original tree.
pub const SETUP: &str =
    "mkdir -p a/b c; echo one >f; echo two >a/f; seq 300 >a/b/g; echo three >c/h
     ln -s f l; echo x >x; chmod 755 x; echo same >s1; echo same >s2; mkdir e";

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "a", "b", "c", "e", "f", "g", "h", "l", "x", "s1", "s2", "n",
    ]);
    prop::collection::vec(name, 1..4).prop_map(|v| v.join("/"))
}

/// An ordinary user cannot enter a directory without its `x`, while the agent, root of its namespace,
/// can: there the two sides would do different work.
fn modes() -> [&'static str; 4] {
    if rustix::process::geteuid().is_root() {
        ["644", "700", "755", "600"]
    } else {
        ["711", "700", "755", "750"]
    }
}

/// One operation as a shell command that fails alike natively and in the overlay.
pub fn operation() -> impl Strategy<Value = String> {
    let text = prop::sample::select(vec!["", "one", "two", "same", "longer text"]);
    // Nothing is followed: a symlink out of the way keeps an operation on its own name.
    let plain = |p: &str| format!("[ -L {p} ] || ");
    let parts = (path(), path(), text, 0u32..3000);
    (0..17u8, parts).prop_map(move |(op, (p, q, t, n))| match op {
        0 | 1 => format!("{}echo {t} >{p}", plain(&p)),
        2 => format!("{}echo {t} >>{p}", plain(&p)),
        3 => format!("[ -L {p} ] || [ ! -f {p} ] || truncate -s {n} {p}"),
        4 => format!("[ -d {p} ] || [ -d {q} ] || mv -f -T {p} {q}"),
        // A directory takes only a free name; onto another one, mv's fallback copy behaves differently.
        5 | 6 => format!("[ -e {q} ] || [ -L {q} ] || mv -T {p} {q}"),
        7 => format!("rm -f {p}"),
        8 => format!("rmdir {p}"),
        9 => format!("rm -rf {p}"),
        10 => format!("mkdir {p}"),
        11 => format!("mkdir -p {p}"),
        12 => format!("ln -sfn {t}t {p}"),
        13 => format!("[ -d {q} ] || ln -f -P -T {p} {q}"),
        14 => format!("[ -L {p} ] || chmod {} {p}", modes()[n as usize % 4]),
        15 => format!("rm -rf {p}; mkdir -p {p}; echo {t} >{p}/n"),
        _ => {
            format!("[ -L {p} ] || [ ! -f {p} ] || {{ truncate -s 200000 {p}; printf end >>{p}; }}")
        }
    })
}

/// The commands as one script, in which any may fail.
pub fn script(operations: &[String]) -> String {
    let line = |o: &String| format!("{{ {o} ; }} 2>/dev/null || :\n");
    operations.iter().map(line).collect()
}
