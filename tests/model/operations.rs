//! Random lists of operations for `play.c`, over few names, so that they meet.

use proptest::{prelude::*, sample::select};

/// The original tree: groups of hard links, attributes, holes, symlinks, a pipe, a read-only file.
pub const ORIGINAL: &str = "mkdir d 0755\nmkdir d/e 0755\nmkdir empty 0755\nmkdir p 0700
write a 100 1\nwrite b 5000 2\nwrite d/a 10 3\nwrite d/e/a 70000 4\nwrite p/a 1 5\nwrite d/e/b 10 3
write h1 300 6\nlink h1 h2\nlink h1 d/h3\nwrite k1 20 7\nlink k1 p/k2\ncreate s\npwrite s 300000 100 8
write x 20 9\nsetattr x user.k first\nsetattr d user.k folder\nchmod x 0755\nwrite ro 10 1\nchmod ro 0444
symlink a l\nsymlink nowhere d/dangling\nsymlink d ld\nfifo q\n";

/// Names: of the original, new ones, below new ones, through a symlink.
const NAMES: &[&str] = &[
    "a",
    "b",
    "d",
    "d/a",
    "d/e",
    "d/e/a",
    "d/e/b",
    "empty",
    "empty/n",
    "p",
    "p/a",
    "p/k2",
    "h1",
    "h2",
    "d/h3",
    "k1",
    "s",
    "x",
    "ro",
    "l",
    "ld",
    "ld/a",
    "d/dangling",
    "q",
    "n",
    "n/a",
    "n/m",
    "n/m/a",
    "o",
    "o/a",
    "d/n",
    "d/n/a",
];

fn name() -> impl Strategy<Value = &'static str> {
    select(NAMES)
}

/// Set-id bits are held for a person, which is a test of its own.
fn mode() -> impl Strategy<Value = &'static str> {
    select(
        &[
            "0755", "0700", "0555", "01755", "0511", "0644", "0600", "0444", "0000", "0200", "0311",
        ][..],
    )
}

fn size() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1..100u32, 4090..4100u32, 60_000..140_000u32]
}

fn place() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..5000u32, 1 => Just(65_536), 1 => 100_000..2_000_000u32]
}

fn attribute() -> impl Strategy<Value = &'static str> {
    select(&["user.k", "user.long.name", "user.empty"][..])
}

/// One operation.
pub fn operation() -> impl Strategy<Value = String> {
    let seed = 0..26u32;
    let one = |op: &'static str| name().prop_map(move |p| format!("{op} {p}"));
    let two = |op: &'static str| (name(), name()).prop_map(move |(p, q)| format!("{op} {p} {q}"));
    let put = |op: &'static str| {
        (name(), size(), 0..26u32).prop_map(move |(p, n, s)| format!("{op} {p} {n} {s}"))
    };
    let put_at = |op: &'static str| {
        (name(), place(), size(), 0..26u32)
            .prop_map(move |(p, at, n, s)| format!("{op} {p} {at} {n} {s}"))
    };
    let range = |op: &'static str| {
        (name(), place(), 1..200_000u32).prop_map(move |(p, at, n)| format!("{op} {p} {at} {n}"))
    };
    let with_mode =
        move |op: &'static str| (name(), mode()).prop_map(move |(p, m)| format!("{op} {p} {m}"));
    prop_oneof![
        2 => one("create"),
        4 => put("write"),
        2 => put_at("pwrite"),
        3 => put("append"),
        2 => (name(), place()).prop_map(|(p, n)| format!("truncate {p} {n}")),
        1 => (name(), place()).prop_map(|(p, n)| format!("cut {p} {n}")),
        2 => put_at("map"),
        1 => range("alloc"),
        2 => range("punch"),
        2 => (name(), name(), size(), seed.clone()).prop_map(|(d, p, n, s)| format!("unnamed {d} {p} {n} {s}")),
        1 => (name(), name(), size(), seed).prop_map(|(p, q, n, s)| format!("late {p} {q} {n} {s}")),
        4 => two("rename"),
        2 => two("exchange"),
        3 => two("mv"),
        3 => two("link"),
        1 => two("symlink"),
        1 => one("fifo"),
        3 => with_mode("mkdir"),
        3 => one("unlink"),
        2 => one("rmdir"),
        2 => one("rmtree"),
        3 => with_mode("chmod"),
        1 => with_mode("fchmod"),
        1 => (name(), select(&["-1", "0", "1000"][..]), select(&["-1", "0"][..]))
            .prop_map(|(p, u, g)| format!("chown {p} {u} {g}")),
        2 => (name(), 0..1_500_000_000u32, 0..1_000_000_000u32).prop_map(|(p, s, n)| format!("times {p} {s} {n}")),
        2 => (name(), attribute(), select(&["v", "another-value"][..])).prop_map(|(p, k, v)| format!("setattr {p} {k} {v}")),
        1 => (name(), attribute()).prop_map(|(p, k)| format!("rmattr {p} {k}")),
    ]
}

/// A list of operations, as `play.c` reads it.
pub fn list() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(operation(), 1..30)
}
