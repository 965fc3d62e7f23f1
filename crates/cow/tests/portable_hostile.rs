//! Archives that nobody's export wrote: refused, and nothing is written but below the upper directory.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Cursor;
use std::path::PathBuf;

use agentwall_cow::{
    ArchiveLimits, ImportError, ImportOptions, Layer, base_timestamp, inspect, unpack,
};
use common::byhand::{
    Member, archive, file, gone, header, link, member, padded, read, record, with, wrapped,
};
use common::{Session, exported, tree, whole};

/// A place to import to, beside something that must not be touched.
struct There {
    tmp: tempfile::TempDir,
    layer: Layer,
}

impl There {
    fn new() -> There {
        let tmp = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(tmp.path()).unwrap();
        for dir in ["root", "upper", "work", "out"] {
            std::fs::create_dir(top.join(dir)).unwrap();
        }
        std::fs::write(top.join("out/kept"), "kept").unwrap();
        std::fs::write(top.join("root/f"), "original").unwrap();
        let base = base_timestamp(&top, None).unwrap();
        let at = |name| top.join(name);
        let layer = Layer::begin(at("root"), at("upper"), at("work"), base).unwrap();
        There { tmp, layer }
    }

    /// All but what is below the upper directory and the file beside it.
    fn outside(&self) -> Vec<(PathBuf, String)> {
        let names = std::fs::read_dir(self.tmp.path()).unwrap();
        let mut all: Vec<(PathBuf, String)> = names
            .map(|e| (e.unwrap().path(), String::new()))
            .filter(|(path, _)| !path.ends_with("upper.differences"))
            .collect();
        for dir in ["root", "work", "out"] {
            all.extend(tree(&self.tmp.path().join(dir)));
        }
        all.sort();
        all
    }

    /// Imports `bytes` as if they had taken the place of an archive that was inspected.
    fn instead_of(&self, good: &[u8], bytes: &[u8]) -> Result<(), ImportError> {
        let archive = read(good).unwrap();
        let layers = [Some(self.layer.clone()), None];
        let options = ImportOptions::default();
        unpack(&mut Cursor::new(bytes), &archive, &layers, options).map(drop)
    }
}

/// Refused when it is looked at and when it comes in the place of another; writes nothing outside.
fn refused(name: &str, bytes: &[u8], expected: &str) {
    let error = read(bytes).expect_err(name).to_string();
    assert!(error.contains(expected), "{name}: {error}");
    let there = There::new();
    let before = there.outside();
    let good = archive(1, &[file("layer/0/f", "x")], "");
    there.instead_of(&good, bytes).expect_err(name);
    assert_eq!(before, there.outside(), "{name}");
}

#[test]
fn the_members_made_by_hand_are_those_that_are_written() {
    let members = [
        member("layer/0/d/", b'5'),
        gone("layer/0/d/.wh..wh..opq"),
        gone("layer/0/d/.wh.a"),
        with(
            file("layer/0/d/f", "content"),
            "SCHILY.xattr.user.k",
            b"v\n1",
        ),
        link("layer/0/d/g", b'1', "layer/0/d/f"),
        link("layer/0/d/l", b'2', "t".repeat(200)),
        member("layer/0/p", b'6'),
        file(&format!("layer/0/{}", "q".repeat(200)), "long"),
    ];
    let bytes = archive(7, &members, "");
    read(&bytes).unwrap();
    let there = There::new();
    there.instead_of(&bytes, &bytes).unwrap();
    let upper = there.layer.upper.clone();
    let long = "q".repeat(200);
    assert_eq!(std::fs::read_to_string(upper.join(long)).unwrap(), "long");
    // The writer makes of it what was read.
    let (out, _) = exported(whole(&there.layer)).unwrap();
    let from = |bytes: &[u8]| {
        let at = |name: &[u8]| bytes.windows(name.len()).position(|w| w == name).unwrap();
        bytes[at(b"layer/0/d/\0")..at(b"proof.json\0")].to_vec()
    };
    let own = rustix::process::geteuid().as_raw();
    if own == 0 {
        assert_eq!(from(&out), from(&bytes));
    }
}

/// The vectors of docs/layer-archive.md are those that are made here. `AGENTWALL_WRITE_VECTORS=1`
/// writes them.
#[test]
fn the_vectors_say_what_is_taken_and_what_is_not() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/layer-archive");
    let write = std::env::var_os("AGENTWALL_WRITE_VECTORS").is_some();
    let vector = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        if write {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).unwrap() == bytes,
            "{name} is another file"
        );
    };
    let mut sparse = padded(b"1\n1048576\n5\n".to_vec());
    sparse.extend(b"holes");
    let mut hole = Member {
        content: sparse,
        ..member("GNUSparseFile.0/hole", b'0')
    };
    for (key, value) in [
        ("major", "1"),
        ("minor", "0"),
        ("name", "layer/0/hole"),
        ("realsize", "1048581"),
    ] {
        hole = with(hole, &format!("GNU.sparse.{key}"), value);
    }
    let long = format!("layer/0/{}", "n".repeat(120));
    let kinds = [
        ("deletion", gone("layer/0/.wh.gone")),
        ("directory", member("layer/0/anew/", b'5')),
        ("", gone("layer/0/anew/.wh..wh..opq")),
        (
            "file",
            with(
                file("layer/0/anew/f", "content\n"),
                "SCHILY.xattr.user.k",
                b"a\nb\0",
            ),
        ),
        ("link", link("layer/0/anew/g", b'1', "layer/0/anew/f")),
        ("sparse", hole),
        ("symlink", link("layer/0/link", b'2', "../anywhere")),
        ("file", file(&long, "a long name\n")),
        ("fifo", member("layer/0/pipe", b'6')),
        ("file", with(file("layer/0/time", ""), "mtime", "-1.25")),
    ];
    let was = r#""was":{"kind":"directory","mode":493,"owner":[0,0]}"#;
    let originals =
        format!("{{\"layer\":0,\"path\":\"anew\",{was}}}\n{{\"layer\":0,\"path\":\"gone\"}}\n");
    let members: Vec<Member> = kinds.iter().map(|(_, m)| m.clone()).collect();
    let bytes = archive(9, &members, &originals);
    let found = read(&bytes).unwrap();
    vector("kinds.tar", &bytes);
    let names = kinds.iter().filter(|(kind, _)| !kind.is_empty());
    let names = names.map(|(kind, m)| match *kind {
        "sparse" => (*kind, "layer/0/hole".to_owned()),
        kind => (kind, String::from_utf8(m.name.clone()).unwrap()),
    });
    let json = serde_json::json!({
        "digest": found.digest(),
        "members": names.map(|(kind, name)| serde_json::json!([kind, name])).collect::<Vec<_>>(),
    });
    let text =
        |json: &serde_json::Value| format!("{}\n", serde_json::to_string_pretty(json).unwrap());
    vector("kinds.json", text(&json).as_bytes());

    let good = file("layer/0/f", "x");
    let mut cut = archive(1, std::slice::from_ref(&good), "");
    cut.truncate(cut.len() - 512);
    let mut blank = archive(1, std::slice::from_ref(&good), "");
    let at = blank.windows(9).position(|w| w == b"layer/0/f").unwrap();
    blank[at + 124] = b' ';
    let dots = file("layer/0/../f", "x");
    let below = [link("layer/0/d", b'2', "/"), file("layer/0/d/f", "x")];
    let twice = [good.clone(), good.clone()];
    let both = [gone("layer/0/.wh.f"), good.clone()];
    let mark = with(good, "SCHILY.xattr.user.overlay.redirect", "/");
    let mut reasons = serde_json::Map::new();
    for (name, bytes, what) in [
        ("cut", cut, "it ends after one block of zeros"),
        ("number", blank, "a size is spelled with a blank"),
        ("dots", archive(1, &[dots], ""), "'..' in a name"),
        (
            "below-link",
            archive(2, &below, ""),
            "an entry below a symlink",
        ),
        ("twice", archive(2, &twice, ""), "one name twice"),
        (
            "deleted-and-there",
            archive(2, &both, ""),
            "one name deleted and there",
        ),
        (
            "overlay",
            archive(1, &[mark], ""),
            "an attribute of overlayfs",
        ),
    ] {
        read(&bytes).expect_err(name);
        vector(&format!("refused/{name}.tar"), &bytes);
        reasons.insert(name.into(), what.into());
    }
    vector("refused.json", text(&reasons.into()).as_bytes());
}

#[test]
fn what_leads_out_is_refused() {
    let d = || member("layer/0/d/", b'5');
    let cases: Vec<(&str, Vec<Member>, &str)> = vec![
        ("dot dot", vec![file("layer/0/../out/x", "x")], "'..'"),
        (
            "dot dot below",
            vec![d(), file("layer/0/d/../../out/x", "x")],
            "'..'",
        ),
        ("dot", vec![file("layer/0/./x", "x")], "'..'"),
        ("absolute", vec![file("/out/x", "x")], "in no layer"),
        (
            "absolute in a layer",
            vec![file("layer/0//out/x", "x")],
            "empty name",
        ),
        (
            "absolute by pax",
            vec![file(&format!("/{}", "a".repeat(150)), "x")],
            "in no layer",
        ),
        ("empty name", vec![file("layer/0/", "x")], "empty name"),
        (
            "other layer",
            vec![file("layer/2/x", "x")],
            "the manifest does not have",
        ),
        (
            "layer spelled otherwise",
            vec![file("layer/00/x", "x")],
            "in no layer",
        ),
        (
            "layers out of order",
            vec![file("layer/1/x", "x"), file("layer/0/x", "x")],
            "not in order",
        ),
        ("NUL", vec![with(d(), "path", b"layer/0/d\0/")], "form"),
        (
            "below a symlink",
            vec![link("layer/0/d", b'2', "/out"), file("layer/0/d/x", "x")],
            "no directory",
        ),
        (
            "below a file",
            vec![file("layer/0/d", ""), file("layer/0/d/x", "x")],
            "no directory",
        ),
        (
            "below a deletion",
            vec![gone("layer/0/.wh.d"), file("layer/0/d/x", "x")],
            "no directory",
        ),
        (
            "below nothing",
            vec![file("layer/0/d/x", "x")],
            "no directory",
        ),
        (
            "below what was left",
            vec![d(), file("layer/0/e", ""), file("layer/0/d/x", "x")],
            "no directory",
        ),
        (
            "below another layer's",
            vec![d(), file("layer/1/d/x", "x")],
            "no directory",
        ),
        (
            "link to elsewhere",
            vec![link("layer/0/x", b'1', "/etc/passwd")],
            "out of its layer",
        ),
        (
            "link up",
            vec![link("layer/0/x", b'1', "layer/0/../out/kept")],
            "no file before",
        ),
        (
            "link to another layer",
            vec![file("layer/0/x", ""), link("layer/1/x", b'1', "layer/0/x")],
            "out of its layer",
        ),
        (
            "link to what comes",
            vec![link("layer/0/a", b'1', "layer/0/b"), file("layer/0/b", "")],
            "no file before",
        ),
        (
            "link to a symlink",
            vec![
                link("layer/0/a", b'2', "/out/kept"),
                link("layer/0/b", b'1', "layer/0/a"),
            ],
            "no file before",
        ),
        (
            "link to a folder",
            vec![d(), link("layer/0/e", b'1', "layer/0/d")],
            "no file before",
        ),
        (
            "link with content",
            vec![
                file("layer/0/a", ""),
                Member {
                    content: b"x".to_vec(),
                    ..link("layer/0/b", b'1', "layer/0/a")
                },
            ],
            "only a file",
        ),
        (
            "link of another mode",
            vec![
                file("layer/0/a", ""),
                Member {
                    mode: 0o4755,
                    ..link("layer/0/b", b'1', "layer/0/a")
                },
            ],
            "attributes of the file",
        ),
        (
            "link to nothing",
            vec![link("layer/0/a", b'2', "")],
            "target",
        ),
        (
            "link too far",
            vec![link("layer/0/a", b'2', vec![b'x'; 5000])],
            "target",
        ),
        (
            "file with a target",
            vec![link("layer/0/a", b'0', "t")],
            "target",
        ),
    ];
    for (name, members, expected) in cases {
        refused(name, &archive(members.len(), &members, ""), expected);
    }
}

#[test]
fn what_is_there_twice_or_means_nothing_is_refused() {
    let f = |name: &str| file(&format!("layer/0/{name}"), "x");
    let d = || member("layer/0/d/", b'5');
    let cases: Vec<(&str, Vec<Member>, &str)> = vec![
        ("twice", vec![f("a"), f("a")], "not in order"),
        ("a folder twice", vec![d(), d()], "not in order"),
        ("file and folder", vec![f("d"), d()], "not in order"),
        ("out of order", vec![f("b"), f("a")], "not in order"),
        (
            "deleted and there",
            vec![gone("layer/0/.wh.a"), f("a")],
            "there and deleted",
        ),
        (
            "there and deleted",
            vec![f("!"), gone("layer/0/.wh.!")],
            "there and deleted",
        ),
        (
            "opaque root",
            vec![gone("layer/0/.wh..wh..opq")],
            "first in a directory",
        ),
        (
            "opaque twice",
            vec![
                d(),
                gone("layer/0/d/.wh..wh..opq"),
                gone("layer/0/d/.wh..wh..opq"),
            ],
            "more than a mark",
        ),
        (
            "opaque late",
            vec![d(), f("d/!"), gone("layer/0/d/.wh..wh..opq")],
            "first in a directory",
        ),
        (
            "opaque folder",
            vec![d(), member("layer/0/d/.wh..wh..opq/", b'5')],
            "more than a mark",
        ),
        (
            "reserved",
            vec![gone("layer/0/.wh..wh.plnk")],
            "no file has here",
        ),
        (
            "deletion of nothing",
            vec![gone("layer/0/.wh.")],
            "no file has here",
        ),
        (
            "deletion of dot dot",
            vec![gone("layer/0/.wh...")],
            "no file has here",
        ),
        (
            "deletion with content",
            vec![Member {
                content: b"x".to_vec(),
                ..gone("layer/0/.wh.a")
            }],
            "more than a mark",
        ),
        (
            "deletion of a kind",
            vec![Member {
                mode: 0o777,
                ..link("layer/0/.wh.a", b'2', "/out")
            }],
            "more than a mark",
        ),
        ("slash after a file", vec![file("layer/0/a/", "x")], "slash"),
        ("folder without", vec![member("layer/0/a", b'5')], "slash"),
        (
            "folder with content",
            vec![Member {
                content: b"x".to_vec(),
                ..d()
            }],
            "only a file",
        ),
        (
            "character device",
            vec![member("layer/0/a", b'3')],
            "a type",
        ),
        ("block device", vec![member("layer/0/a", b'4')], "a type"),
        (
            "GNU long name",
            vec![
                file("layer/0/a", ""),
                Member {
                    content: b"layer/0/x\0".to_vec(),
                    ..member("././@LongLink", b'L')
                },
            ],
            "a type",
        ),
        ("GNU sparse", vec![member("layer/0/a", b'S')], "a type"),
        (
            "global pax",
            vec![Member {
                content: record("path", b"x"),
                ..member("g", b'g')
            }],
            "a type",
        ),
        (
            "mode of more bits",
            vec![Member {
                mode: 0o17777,
                ..f("a")
            }],
            "mode",
        ),
        (
            "overlay attribute",
            vec![with(f("a"), "SCHILY.xattr.user.overlay.redirect", "/")],
            "does not travel",
        ),
        (
            "opaque attribute",
            vec![with(d(), "SCHILY.xattr.user.overlay.opaque", "y")],
            "does not travel",
        ),
        (
            "trusted attribute",
            vec![with(f("a"), "SCHILY.xattr.trusted.x", "y")],
            "does not travel",
        ),
        (
            "label",
            vec![with(f("a"), "SCHILY.xattr.security.selinux", "y")],
            "does not travel",
        ),
        (
            "attribute of a link",
            vec![with(
                link("layer/0/a", b'2', "t"),
                "SCHILY.xattr.user.k",
                "y",
            )],
            "only a file or",
        ),
        (
            "long attribute",
            vec![with(f("a"), "SCHILY.xattr.user.k", vec![0; 70_000])],
            "no file can have",
        ),
        (
            "attributes out of order",
            vec![with(
                with(f("a"), "SCHILY.xattr.user.k", "1"),
                "SCHILY.xattr.user.a",
                "1",
            )],
            "form",
        ),
        (
            "attribute twice",
            vec![with(
                with(f("a"), "SCHILY.xattr.user.k", "1"),
                "SCHILY.xattr.user.k",
                "1",
            )],
            "form",
        ),
        (
            "short path by pax",
            vec![with(f("a"), "path", "layer/0/b")],
            "form",
        ),
        (
            "unknown pax",
            vec![with(f("a"), "comment", "x")],
            "pax record",
        ),
        (
            "charset",
            vec![with(f("a"), "hdrcharset", "BINARY")],
            "pax record",
        ),
        (
            "long name",
            vec![file(&format!("layer/0/{}", "n".repeat(256)), "x")],
            "absolute",
        ),
    ];
    for (name, members, expected) in cases {
        refused(name, &archive(members.len(), &members, ""), expected);
    }
}

#[test]
fn bombs_are_bounded() {
    let sparse = |real: &str, map: &str, data: &[u8]| {
        let mut content = padded(map.as_bytes().to_vec());
        content.extend(data);
        let mut m = Member {
            content,
            ..member("GNUSparseFile.0/a", b'0')
        };
        for (key, value) in [
            ("major", "1"),
            ("minor", "0"),
            ("name", "layer/0/a"),
            ("realsize", real),
        ] {
            m = with(m, &format!("GNU.sparse.{key}"), value);
        }
        archive(1, &[m], "")
    };
    let block = [7; 65536];
    let good = sparse("131072", "1\n65536\n65536\n", &block);
    let there = There::new();
    there.instead_of(&good, &good).unwrap();
    let made = std::fs::read(there.layer.upper.join("a")).unwrap();
    assert_eq!((made.len(), &made[65536..]), (131_072, &block[..]));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "exabytes",
            sparse("9000000000000000000", "1\n9000000000000000000\n0\n", b""),
            "bytes in one file",
        ),
        (
            "beyond the end",
            sparse("65536", "1\n65536\n65536\n", &block),
            "beyond its file",
        ),
        (
            "overflow",
            sparse("131072", "1\n18446744073709551615\n65536\n", &block),
            "beyond its file",
        ),
        (
            "twice the same",
            sparse("131072", "2\n65536\n65536\n65536\n65536\n", &[7; 131_072]),
            "not in order",
        ),
        (
            "not whole",
            sparse("131072", "1\n100\n65536\n", &block),
            "whole blocks",
        ),
        (
            "a map that never ends",
            sparse("131072", &"9".repeat(4000), &block),
            "too long",
        ),
        (
            "many pieces",
            sparse("131072", "99999999999\n", &block),
            "too long",
        ),
        ("a map cut off", sparse("131072", "3\n0\n", b""), "cut off"),
        (
            "less data",
            sparse("131072", "1\n65536\n65536\n", &block[..600]),
            "does not fit",
        ),
        (
            "more data",
            sparse("131072", "1\n65536\n65536\n", &[7; 66000]),
            "does not fit",
        ),
        (
            "folders",
            archive(
                2000,
                &(1..2000)
                    .map(|n| member(format!("layer/0/{}", "d/".repeat(n)), b'5'))
                    .collect::<Vec<_>>(),
                "",
            ),
            "names in one path",
        ),
        (
            "a path",
            archive(
                100,
                &(1..100)
                    .map(|n| {
                        member(
                            format!("layer/0/{}", format!("{}/", "d".repeat(255)).repeat(n)),
                            b'5',
                        )
                    })
                    .collect::<Vec<_>>(),
                "",
            ),
            "bytes in one path",
        ),
    ];
    for (name, bytes, expected) in cases {
        refused(name, &bytes, expected);
    }
    // Announced, and not there: nothing is reserved for it.
    for size in [1 << 30, (1u64 << 33) - 1] {
        let mut bytes = file("agentwall-layer.json", "").bytes();
        bytes[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        refused("a manifest of gigabytes", &bytes, "layer archive");
        let mut head = header(b"agentwall-layer.json", b'0', 0o644, size, b"");
        head.extend([b' '; 2048]);
        refused(
            "a manifest of gigabytes",
            &head,
            "bytes in a member of its own",
        );
        let mut head = header(b"././@PaxHeader", b'x', 0, size, b"");
        head.extend([b'1'; 2048]);
        refused("a pax header of gigabytes", &head, "bytes in a pax header");
    }
    let members: Vec<Member> = (0..30)
        .map(|n| file(&format!("layer/0/{n:02}"), ""))
        .collect();
    let bytes = archive(30, &members, "");
    let mut limits = ArchiveLimits::default();
    limits.entries = 29;
    let error = inspect(&mut Cursor::new(&bytes), limits)
        .unwrap_err()
        .to_string();
    assert!(error.contains("more entries than 29"), "{error}");
    limits = ArchiveLimits::default();
    limits.bytes = 8000;
    let error = inspect(&mut Cursor::new(&bytes), limits)
        .unwrap_err()
        .to_string();
    assert!(error.contains("more bytes than 8000"), "{error}");
}

#[test]
fn its_own_members_are_read_in_one_form() {
    let good =
        r#"{"agentwall_layer":1,"session":"s","name":"n","changes":"d","layers":[],"left_out":[]}"#;
    read(&wrapped(&format!("{good}\n"), &[], "")).unwrap();
    let layer =
        r#"{"root":"/w","place":"workspace","path":"","owner":[0,0],"entries":0,"originals":0}"#;
    let of = |layer: &str| {
        good.replace("[]", &format!("[{layer}]")).replacen(
            &format!("\"left_out\":[{layer}]"),
            "\"left_out\":[]",
            1,
        )
    };
    read(&wrapped(&format!("{}\n", of(layer)), &[], "")).unwrap();
    for (manifest, expected) in [
        (good.replace(":1", ":2"), "version 2"),
        (good.replace("\"agentwall_layer\":1,", ""), "no version"),
        (good.replace("\"s\"", "\"\\u0073\""), "one form"),
        (
            good.replace("\"left_out\":[]", "\"left_out\":[],\"x\":1"),
            "one form",
        ),
        (format!("{good} "), "one form"),
        ("[".repeat(100_000), "recursion"),
        (
            of(&layer.replace("\"path\":\"\"", "\"path\":\"../out\"")),
            "place",
        ),
        (
            of(&layer.replace("\"path\":\"\"", "\"path\":\"/out\"")),
            "place",
        ),
        (of(&layer.replace("workspace", "absolute")), "place"),
        (
            of(&layer.replace("workspace", "w\u{7f}rkspace")),
            "w\\u{7f}rkspace",
        ),
        (of(&layer.replace("\"/w\"", "\"w\"")), "place"),
        (
            of(&layer.replace("\"entries\":0", "\"entries\":1")),
            "number of entries",
        ),
        (
            of(&layer.replace("\"originals\":0", "\"originals\":1")),
            "number of lines",
        ),
    ] {
        refused(
            &manifest[..manifest.len().min(200)],
            &wrapped(&format!("{manifest}\n"), &[], ""),
            expected,
        );
    }
    let line = r#"{"layer":0,"path":"f"}"#;
    read(&archive(0, &[], &format!("{line}\n"))).unwrap();
    for (lines, expected) in [
        (format!("{line}\n{line}\n"), "not in order"),
        (
            format!("{}\n{line}\n", line.replace('f', "g")),
            "not in order",
        ),
        (format!("{}\n", line.replace('f', "../f")), "plainly below"),
        (format!("{}\n", line.replace('f', "")), "plainly below"),
        (format!("{}\n", line.replace('0', "7")), "not there"),
        (line.to_owned(), "one form"),
        ("\n".to_owned(), "line 1"),
    ] {
        refused(&lines, &archive(0, &[], &lines), expected);
    }
    let proof_first = {
        let mut out = file("proof.json", "x").bytes();
        out.extend([0; 1024]);
        out
    };
    for (bytes, expected) in [
        (proof_first, "does not begin"),
        (b"PK\x03\x04".repeat(1000), "does not begin"),
        (Vec::new(), "layer archive"),
        (vec![0; 1024], "layer archive"),
    ] {
        refused("no archive", &bytes, expected);
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    let s = Session::new("echo one >f; mkdir d; echo two >d/g");
    s.agent("echo new >f; rm -r d; echo n >n; ln n m; ln -s f l; mkdir e; chmod 700 e");
    let (out, _) = exported(whole(&s.layer)).unwrap();
    // The proof of this archive is its digest: whoever believes only that finds every other change.
    let believed = |bytes: &[u8]| match read(bytes) {
        Ok(archive) => archive.proof() == archive.digest().as_bytes(),
        Err(_) => false,
    };
    assert!(believed(&out));
    for at in 0..out.len() {
        for with in [1u8, 0x80] {
            let mut other = out.clone();
            other[at] ^= with;
            assert!(!believed(&other), "byte {at}");
        }
    }
    for cut in (0..out.len()).step_by(64).chain(out.len() - 64..out.len()) {
        assert!(read(&out[..cut]).is_err(), "cut at {cut}");
    }
    for more in [&[0u8][..], b"x", &[0; 512], &[0; 10240]] {
        assert!(
            read(&[&out, more].concat()).is_err(),
            "{} bytes more",
            more.len()
        );
    }
}

#[test]
fn rights_pass_only_when_they_are_asked_for() {
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for member in [
        Member {
            mode: 0o4755,
            ..file("layer/0/tool", "x")
        },
        Member {
            mode: 0o2755,
            ..file("layer/0/tool", "x")
        },
        with(
            file("layer/0/tool", "x"),
            "SCHILY.xattr.security.capability",
            capability,
        ),
    ] {
        let bytes = archive(1, &[member], "");
        let there = There::new();
        let error = there.instead_of(&bytes, &bytes).unwrap_err();
        assert!(matches!(error, ImportError::Privileged { .. }), "{error}");
        assert!(there.layer.is_untouched());
    }
}

#[test]
fn another_archive_in_its_place_is_found() {
    let good = archive(1, &[file("layer/0/a", "x")], "");
    for other in [
        archive(1, &[file("layer/0/a", "y")], ""),
        archive(1, &[link("layer/0/a", b'2', "/out/kept")], ""),
        archive(
            2,
            &[member("layer/0/d/", b'5'), file("layer/0/d/a", "x")],
            "",
        ),
    ] {
        let there = There::new();
        let before = there.outside();
        let error = there.instead_of(&good, &other).unwrap_err();
        assert!(matches!(error, ImportError::Changed), "{error}");
        assert_eq!(before, there.outside());
    }
    let there = There::new();
    std::fs::write(there.layer.upper.join("x"), "").unwrap();
    let error = there.instead_of(&good, &good).unwrap_err();
    assert!(matches!(error, ImportError::NotEmpty { .. }), "{error}");
}
