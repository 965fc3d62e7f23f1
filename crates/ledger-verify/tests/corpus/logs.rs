//! Forgeries of a log's folder: entries, tiles, which files there are, and its past.

use std::{fs, os::unix::fs::symlink, path::Path};

use agentwall_action::Effect;
use agentwall_ledger::{
    Checkpoint,
    hash::{leaf_hash, node_hash, tree_hash},
    tile::{Level, Tile, push_entry, split_bundle},
};

use crate::{
    case::{Corpus, Layer, Verdict::*, Who, copy},
    genuine::{self, entries, entry, flipped, former, replace, signer},
};

/// Sizes with a genuine log: around the widths of bundles and tiles, and a tree of three levels.
pub const SIZES: [u64; 12] = [0, 1, 2, 3, 255, 256, 257, 600, 1000, 65_536, 65_537, 70_000];
/// What most forgeries begin with: two full bundles and a partial one.
const SIZE: u64 = 600;

/// A change of a file's bytes.
type Raw = fn(&mut Vec<u8>);

pub fn genuine_cases(corpus: &mut Corpus, logs: &Path) {
    for size in SIZES {
        let dir = at(logs, size);
        let name = format!("genuine@{size}");
        corpus.log(name, "nothing", Layer::Entries, Verified, &dir, |_| {});
        let sizes = [1, 256, size / 2, size - size.min(1)];
        for old in sizes.into_iter().filter(|old| size <= 1000 || (size, *old) == (70_000, 256)) {
            let name = format!("genuine-grown@{size}-{old}");
            if 0 < old && old <= size && !corpus.cases.iter().any(|c| c.name == name) {
                let what = "nothing; the log has grown since";
                let case = corpus.log(name, what, Layer::Former, Verified, &dir, |_| {});
                case.former(&former(&dir, old));
            }
        }
    }
    let dir = at(logs, SIZE);
    let what = "nothing; a partial tile that a wider one has replaced is still there";
    corpus.log("genuine-replaced", what, Layer::Files, Verified, &dir, |dir| {
        cut_copy(dir, "tile/0/000", "tile/0/000.p/3", 96);
        let bundle = read(dir, "tile/entries/002.p/88");
        cut_copy(dir, "tile/entries/002.p/88", "tile/entries/002.p/5", offset(&bundle, 5));
    });
}

pub fn at(logs: &Path, size: u64) -> std::path::PathBuf {
    logs.join(size.to_string()).join("ledger")
}

/// Every entry is guarded: changed in its bundle, with its tile, in all tiles, and with the signature.
pub fn entry_cases(corpus: &mut Corpus, logs: &Path) {
    for size in [1, 2, 255, 256, 257, 1000, 70_000] {
        let dir = at(logs, size);
        for (index, what) in [
            (0, "the first answer was changed"),
            (size / 2, "an answer was changed"),
            (size - 1, "the last answer was changed"),
        ] {
            let name = format!("flipped-decision@{size}-{index}");
            let again = size > 1000 && index != size / 2;
            if again || corpus.cases.iter().any(|c| c.name == name) {
                continue;
            }
            let file = bundle_name(index, size);
            corpus.log(name, what, Layer::Entries, Refused(leak(&file)), &dir, |dir| {
                edit_bundle(dir, &file, |all| all[(index % 256) as usize] = flipped(index));
            });
        }
    }
    let dir = at(logs, SIZE);
    type Edit = fn(&mut Vec<Vec<u8>>);
    let edits: [(&str, &str, Edit, &str); 10] = [
        ("removed-record", "a record was taken out", |all| drop(all.remove(3)), "tile/entries/001"),
        (
            "repeated-record",
            "a record is there twice",
            |all| all.insert(4, all[3].clone()),
            "tile/entries/001",
        ),
        (
            "index-reuse",
            "a record in the place of another",
            |all| all[7] = all[8].clone(),
            "tile/entries/001",
        ),
        (
            "swapped-records",
            "two records have changed places",
            |all| all.swap(3, 4),
            "tile/entries/001",
        ),
        (
            "removed-and-padded",
            "a record was taken out and another added at the end",
            |all| {
                all.remove(3);
                all.push(entry(600));
            },
            "tile/entries/001",
        ),
        (
            "foreign-seq",
            "a record has the number of another",
            |all| {
                all[9] = genuine::decided(265, 264, Effect::Deny);
            },
            "tile/entries/001",
        ),
        (
            "appended-byte",
            "a byte after an entry, within its length",
            |all| all[5].push(b' '),
            "tile/entries/001",
        ),
        (
            "cut-entry",
            "an entry is shorter, its length too",
            |all| all[5].truncate(20),
            "tile/entries/001",
        ),
        ("emptied-entry", "an entry was emptied", |all| all[5].clear(), "tile/entries/001"),
        (
            "moved-boundary",
            "a byte has gone from one entry to the next",
            |all| {
                let byte = all[5].pop().expect("a byte");
                all[6].insert(0, byte);
            },
            "tile/entries/001",
        ),
    ];
    for (name, what, edit, file) in edits {
        corpus.log(name, what, Layer::Entries, Refused(file), &dir, |dir| {
            edit_bundle(dir, file, edit)
        });
    }
    let files = ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"];
    for (i, file) in files.into_iter().enumerate() {
        let raw: [(&str, &str, Raw); 5] = [
            ("truncated-bundle", "a bundle lacks its last byte", |b| b.truncate(b.len() - 1)),
            ("halved-bundle", "a bundle was cut in the middle", |b| b.truncate(b.len() / 2)),
            ("emptied-bundle", "a bundle is empty", Vec::clear),
            ("extra-byte", "a byte after the last entry", |b| b.push(0)),
            ("extra-entry", "an entry after the last one", |b| b.extend(b"\0\x02{}")),
        ];
        for (name, what, edit) in raw {
            let name = format!("{name}@{i}");
            corpus.log(name, what, Layer::Entries, Refused(file), &dir, |dir| {
                change(dir, file, edit)
            });
        }
    }
    corpus.log(
        "swapped-bundles",
        "two bundles have changed places",
        Layer::Entries,
        Refused("tile/entries/000"),
        &dir,
        |dir| swap(dir, "tile/entries/000", "tile/entries/001"),
    );
}

/// Tiles against each other, and rewriting them up to the root.
pub fn tile_cases(corpus: &mut Corpus, logs: &Path) {
    let dir = at(logs, SIZE);
    let tiles = ["tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"];
    for (i, tile) in tiles.into_iter().enumerate() {
        // Of an entry and its hash nobody can say which was changed: the bundle is named.
        let blamed = ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/88", tile][i];
        for at in [0, 1] {
            let (name, what) = (format!("flipped-hash@{i}-{at}"), "a bit of a hash was changed");
            corpus.log(name, what, Layer::Tiles, Refused(blamed), &dir, |dir| {
                change(dir, tile, |b| b[at * 32 + 7] ^= 0x10);
            });
        }
        let raw: [(&str, &str, Raw); 4] = [
            ("truncated-tile", "a tile lacks its last hash", |b| b.truncate(b.len() - 32)),
            ("torn-tile", "a tile lacks its last byte", |b| b.truncate(b.len() - 1)),
            ("longer-tile", "a tile has a hash too many", |b| b.extend([7; 32])),
            ("emptied-tile", "a tile is empty", Vec::clear),
        ];
        for (name, what, edit) in raw {
            let name = format!("{name}@{i}");
            corpus
                .log(name, what, Layer::Tiles, Refused(tile), &dir, |dir| change(dir, tile, edit));
        }
    }
    let what = "two tiles have changed places";
    corpus.log("swapped-tiles", what, Layer::Tiles, Refused("tile/entries/000"), &dir, |dir| {
        swap(dir, "tile/0/000", "tile/0/001");
    });
    let what = "two bundles have changed places, with their tiles";
    let verdict = Refused("tile/1/000.p/2");
    let case = corpus.log("swapped-subtrees", what, Layer::Entries, verdict, &dir, |dir| {
        swap(dir, "tile/entries/000", "tile/entries/001");
        swap(dir, "tile/0/000", "tile/0/001");
    });
    case.lenient(Who::Tiles, UNCHECKED);
    for (size, index) in [(257, 9), (600, 300), (1000, 300), (70_000, 300), (70_000, 69_000)] {
        let dir = at(logs, size);
        let above = Tile::at(Level::Hashes(1), index / 65_536, size).expect("a tile").to_string();
        let name = format!("rewritten-segment@{size}-{index}");
        let what = "an answer was changed, and its hash in the tile";
        let case = corpus.log(name, what, Layer::Entries, Refused(leak(&above)), &dir, |dir| {
            edit_bundle(dir, &bundle_name(index, size), |all| {
                all[(index % 256) as usize] = flipped(index)
            });
            let tile = Tile::at(Level::Hashes(0), index / 256, size).expect("a tile");
            change(dir, &tile.to_string(), |b| {
                let at = (index % 256) as usize * 32;
                b[at..at + 32].copy_from_slice(&leaf_hash(&flipped(index)).0);
            });
        });
        // Of 257 entries each hash at the right edge is in a tile of its own.
        if size > 257 {
            case.lenient(Who::Tiles, UNCHECKED);
        }
    }
    for size in [2, 257, 1000, 70_000] {
        let dir = at(logs, size);
        let (name, what) =
            (format!("rewritten-tree@{size}"), "an answer was changed, and every tile");
        corpus.log(name, what, Layer::Entries, Refused("checkpoint"), &dir, |dir| {
            rewrite(dir, size, 1);
        });
    }
    let what = "the root of an inner node stands as the hash of an entry";
    let verdict = Refused("tile/entries/000.p/1");
    corpus.log("inner-node-as-entry", what, Layer::Entries, verdict, &at(logs, 2), |dir| {
        // A log of one entry whose bytes are the two leaf hashes: without the byte before leaves and
        // nodes it would have the same root.
        let hashes = [leaf_hash(&entry(0)), leaf_hash(&entry(1))];
        let mut bundle = Vec::new();
        push_entry(&mut bundle, &[hashes[0].0, hashes[1].0].concat());
        fs::remove_dir_all(dir.join("tile")).expect("removed");
        write(dir, "tile/entries/000.p/1", &bundle);
        write(dir, "tile/0/000.p/1", &node_hash(&hashes[0], &hashes[1]).0);
        let root = tree_hash(&hashes);
        let text = Checkpoint::new(genuine::ORIGIN, 1, root).to_text();
        fs::write(dir.join("checkpoint"), signer(1).sign(&text).expect("signed")).expect("written");
    });
}

const UNCHECKED: &str = "TileHashReader compares a tile with its parent only from position `stx.len()` of its list \
     on, and tiles that hold several of the hashes at the right edge stand in the list once: those \
     behind them are left out. Go's original does the same; verify.go compares them itself";

/// A flipped answer in the whole tree, with the genuine checkpoint put back.
fn rewrite(dir: &Path, size: u64, index: u64) {
    let checkpoint = genuine::checkpoint(dir);
    let mut all = entries(size);
    all[index as usize] = flipped(index);
    replace(dir, signer(1), &all);
    fs::write(dir.join("checkpoint"), checkpoint).expect("written");
}

/// Old bundles that were removed: as far as a record in the log allows, and further.
pub fn pruned_cases(corpus: &mut Corpus, logs: &Path) {
    let record = genuine::pruned;
    for (name, what, verdict, record, removed) in [
        ("genuine-pruned", "nothing; old entries were removed", Verified, record(512), 0..2),
        ("genuine-pruned-part", "nothing; a removal was cut off", Verified, record(512), 0..1),
        ("genuine-pruned-not-yet", "nothing; a removal has not begun", Verified, record(512), 0..0),
        (
            "pruned-too-far",
            "more was removed than recorded",
            Refused("tile/entries/001"),
            record(256),
            0..2,
        ),
        (
            "pruned-middle",
            "not the oldest was removed",
            Refused("tile/entries/001"),
            record(512),
            1..2,
        ),
        (
            "pruned-half",
            "the record is about half a bundle",
            Refused("tile/entries/000"),
            record(300),
            0..1,
        ),
        (
            "pruned-ahead",
            "the record is about what comes after it",
            Refused("tile/entries/000"),
            record(768),
            0..1,
        ),
        (
            "pruned-by-words",
            "the record is text of an agent",
            Refused("tile/entries/000"),
            genuine::about_pruning(512),
            0..1,
        ),
    ] {
        corpus.log(name, what, Layer::Files, verdict, &at(logs, SIZE), |dir| {
            genuine::append(dir, signer(1), &[record]);
            for number in removed {
                let file = Tile::full(Level::Entries, number).to_string();
                fs::remove_file(dir.join(file)).expect("removed");
            }
        });
    }
}

/// Files that are missing, or should be.
pub fn file_cases(corpus: &mut Corpus, logs: &Path) {
    for (size, file) in [
        (600, "tile/0/000"),
        (600, "tile/0/002.p/88"),
        (600, "tile/1/000.p/2"),
        (600, "tile/entries/000"),
        (600, "tile/entries/002.p/88"),
        (600, "checkpoint"),
        (256, "tile/1/000.p/1"),
        (70_000, "tile/1/000"),
        (70_000, "tile/2/000.p/1"),
        (70_000, "tile/0/272"),
    ] {
        let layer = if file.contains("entries") { Layer::Entries } else { Layer::Tiles };
        let name = format!("missing@{size}-{}", file.replace('/', "-"));
        corpus.log(name, "a file is missing", layer, Refused(file), &at(logs, size), |dir| {
            fs::remove_file(dir.join(file)).expect("removed");
        });
    }
    let dir = at(logs, SIZE);
    for (i, (from, to, what)) in [
        ("tile/0/002.p/88", "tile/0/002.p/87", "a partial tile under a smaller width"),
        ("tile/0/002.p/88", "tile/0/002.p/89", "a partial tile under a larger width"),
        (
            "tile/entries/002.p/88",
            "tile/entries/002.p/87",
            "a partial bundle under a smaller width",
        ),
        ("tile/entries/002.p/88", "tile/entries/002", "a partial bundle as a full one"),
        ("tile/0/001", "tile/0/001.p/255", "a full tile as a partial one"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("wrong-width@{i}");
        corpus.log(name, what, Layer::Files, Refused(to), &dir, |dir| {
            let bytes = read(dir, from);
            fs::remove_file(dir.join(from)).expect("removed");
            write(dir, to, &bytes);
        });
    }
    for (i, file) in [
        "notes.txt",
        "tile/0/0000",
        "tile/00",
        "tile/00/000",
        "tile/entries/x000",
        "tile/entries/000~",
        "tile/0/000.p/0",
        "tile/0/002.p/088",
        "tile/0/x000/000",
        "tile/-1/000",
        "tile/8/000",
        "tile/+0/000",
        "tile/0/000.p/1/1",
        "tile/data/000",
        "tile/0/002.p/256",
        "tile/63/000.p/1",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("stray-file@{i}");
        let what = "a file that no log has, or in another spelling";
        corpus.log(name, what, Layer::Files, Refused(file), &dir, |dir| write(dir, file, b"x"));
    }
    for (i, file) in ["tile/0/003", "tile/0/002.p/89", "tile/2/000.p/1", "tile/entries/003.p/1"]
        .into_iter()
        .enumerate()
    {
        let name = format!("beyond@{i}");
        let what = "a file beyond what the checkpoint signs";
        corpus.log(name, what, Layer::Files, Refused(file), &dir, |dir| write(dir, file, &[7; 32]));
    }
    let what = "a replaced partial tile that is not the beginning of the one that is there";
    for (i, (from, to, length)) in [
        ("tile/0/001", "tile/0/000.p/3", 96),
        ("tile/0/000", "tile/0/000.p/3", 95),
        ("tile/0/000", "tile/0/000.p/3", 97),
        ("tile/0/000", "tile/0/000.p/3", 0),
        ("tile/entries/000", "tile/entries/000.p/3", 100),
        ("tile/entries/000", "tile/entries/000.p/3", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("false-replaced@{i}");
        corpus.log(name, what, Layer::Files, Refused(to), &dir, |dir| {
            cut_copy(dir, from, to, length)
        });
    }
    for file in ["checkpoint", "tile/0/000", "tile/entries/002.p/88", "tile"] {
        let name = format!("link@{}", file.replace('/', "-"));
        let what = "a link in place of a file";
        corpus.log(name, what, Layer::Files, Refused(file), &dir, |dir| {
            let aside = dir.parent().expect("a parent").join("aside");
            fs::rename(dir.join(file), &aside).expect("moved");
            symlink(&aside, dir.join(file)).expect("a link");
        });
    }
}

/// What only somebody who was there before can see.
pub fn past_cases(corpus: &mut Corpus, logs: &Path) {
    let (old, new) = (at(logs, 600), at(logs, 1000));
    let before = genuine::checkpoint(&new);
    let what = "the whole folder was put back to an older genuine state";
    let case = corpus.log("rolled-back", what, Layer::Former, Refused("checkpoint"), &old, |_| {});
    case.former(&before);
    let nobody = "an older genuine log is a genuine log; keep a checkpoint of it, or ask a witness";
    corpus.log("rolled-back-unremembered", what, Layer::Former, Unseen(nobody), &old, |_| {});
    let what = "the checkpoint was put back to an older genuine one";
    let put =
        |dir: &Path| fs::write(dir.join("checkpoint"), genuine::checkpoint(&old)).expect("written");
    let beyond = "files beyond the checkpoint are not among what it reads";
    let case = corpus.log("rolled-back-checkpoint", what, Layer::Files, Refused(""), &new, put);
    case.lenient(Who::Tiles, beyond);

    type Edit = fn(&mut Vec<Vec<u8>>);
    let owner: [(&str, &str, Edit); 4] = [
        (
            "resigned-flip",
            "an answer was changed by the owner of the key, everything made anew",
            |all| {
                all[300] = flipped(300);
            },
        ),
        (
            "resigned-removal",
            "a record was taken out by the owner of the key, the rest linked anew",
            |all| {
                all.remove(300);
            },
        ),
        (
            "resigned-insertion",
            "a record was put in by the owner of the key, the rest linked anew",
            |all| {
                all.insert(300, flipped(300));
            },
        ),
        ("resigned-tail", "the owner of the key has written the end anew", |all| {
            all.truncate(550);
            all.extend((550..1000).map(flipped));
        }),
    ];
    for (name, what, edit) in owner {
        let mut all = entries(1000);
        edit(&mut all);
        let forge = |dir: &Path| replace(dir, signer(1), &all);
        let verdict = Refused("checkpoint");
        let case = corpus.log(name, what, Layer::Former, verdict, &new, forge);
        case.former(&former(&new, 600));
        let name = &format!("{name}-unremembered");
        let nobody = "the holder of the key can sign another history; only a former checkpoint or witnesses show it";
        corpus.log(name.as_str(), what, Layer::Former, Unseen(nobody), &new, forge);
        let mut longer = all.clone();
        longer.extend((1000..1100).map(entry));
        let name = format!("{}-and-grown", name.trim_end_matches("-unremembered"));
        let case = corpus.log(name, what, Layer::Former, Refused("checkpoint"), &new, |dir| {
            replace(dir, signer(1), &longer);
        });
        case.former(&former(&new, 1000));
    }
    let what = "the log was replaced by one signed with another key of the same name";
    corpus.log("foreign-key", what, Layer::Note, Refused("checkpoint"), &new, |dir| {
        replace(dir, signer(2), &entries(1000));
    });
    let what = "a log under another name, signed with the right key";
    corpus.log("foreign-origin", what, Layer::Note, Refused("checkpoint"), &new, |dir| {
        replace(dir, genuine::named("agentwall.example/other", 1), &entries(1000));
    });
    let what = "what was appended lies in the folder, the genuine checkpoint of a stranger over it";
    corpus.log("extended-by-stranger", what, Layer::Note, Refused("checkpoint"), &new, |dir| {
        let other = dir.parent().expect("a parent").join("other");
        copy(dir, &other);
        replace(&other, signer(2), &entries(1100));
        fs::remove_dir_all(dir).expect("removed");
        fs::rename(other, dir).expect("moved");
    });
    let what = "the checkpoint kept from before is one of a stranger";
    let case = corpus.log("former-of-stranger", what, Layer::Note, Refused("former"), &new, |_| {});
    let text = genuine::body(&before).to_owned() + "\n";
    case.former(&signer(2).sign(&text).expect("signed"));
}

fn leak(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}

fn bundle_name(index: u64, size: u64) -> String {
    Tile::at(Level::Entries, index / 256, size).expect("a bundle").to_string()
}

fn read(dir: &Path, file: &str) -> Vec<u8> {
    fs::read(dir.join(file)).expect(file)
}

fn write(dir: &Path, file: &str, bytes: &[u8]) {
    let path = dir.join(file);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, bytes).expect(file);
}

fn change(dir: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = read(dir, file);
    change(&mut bytes);
    write(dir, file, &bytes);
}

fn swap(dir: &Path, one: &str, other: &str) {
    let (a, b) = (read(dir, one), read(dir, other));
    write(dir, one, &b);
    write(dir, other, &a);
}

fn cut_copy(dir: &Path, from: &str, to: &str, length: usize) {
    let bytes = read(dir, from);
    write(dir, to, &bytes[..length]);
}

/// Where entry `i` of a bundle begins.
fn offset(bundle: &[u8], i: usize) -> usize {
    split_bundle(bundle).take(i).map(|e| 2 + e.expect("whole").len()).sum()
}

/// Changes the list of a bundle's entries.
fn edit_bundle(dir: &Path, file: &str, edit: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let bundle = read(dir, file);
    let mut all: Vec<Vec<u8>> = split_bundle(&bundle).map(|e| e.expect("whole").to_vec()).collect();
    edit(&mut all);
    let mut bytes = Vec::new();
    all.iter().for_each(|entry| assert!(push_entry(&mut bytes, entry)));
    write(dir, file, &bytes);
}
