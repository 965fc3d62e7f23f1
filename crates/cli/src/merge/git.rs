//! What a file held when the session began, if git recorded it: the blob of the index entry that has the
//! very stat data of the base manifest.
//!
//! The `git` binary reads it: it knows every form of index, pack and alternate, and adds no dependency.
//! It runs with a fixed environment and only to look: no hook, no file system monitor, no fetch of
//! missing objects, no replaced objects, no configuration but the repository's own, of which nothing
//! that these commands execute is left. A repository of another user it refuses by itself. The index and
//! the objects are the originals' own, which the agent reaches by commits of a person alone.
//!
//! An entry counts only if git itself could tell an edit by it: one whose file was changed in the same
//! moment as the index was written ("racy") does not. A file that git would filter (attribute `filter`)
//! or of another length than it had in the work tree (line ends, encodings) does not either.

use std::{
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agentwall_cow::Snapshot;

/// Where `git` is looked for: never in a folder that the person's `PATH` adds.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin";

/// A command that takes longer is ended.
const MOST_TIME: Duration = Duration::from_secs(20);

/// The content that `path` had when it was `seen`; else why it is not known.
pub fn content(path: &Path, seen: &Snapshot) -> Result<Vec<u8>, String> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("it has no folder".into());
    };
    let most = usize::try_from(seen.size).unwrap_or(usize::MAX);
    let name = name.to_os_string();
    let listed = run(
        command(dir)
            .args(["ls-files", "--stage", "--debug", "-z", "--"])
            .arg(&name),
        1 << 20,
    )
    .ok_or("no git repository that can be read holds it")?;
    let entry =
        Entry::parse(&listed, name.as_bytes()).ok_or("git has no single recorded version of it")?;
    if !entry.is(seen) {
        return Err("what git recorded is another version".into());
    }
    let folder = run(
        command(dir).args(["rev-parse", "--absolute-git-dir"]),
        1 << 16,
    )
    .ok_or("git does not tell its folder")?;
    let folder = folder.strip_suffix(b"\n").unwrap_or(&folder);
    let index = Path::new(std::ffi::OsStr::from_bytes(folder)).join("index");
    let written = std::fs::symlink_metadata(index).map_err(|_| "the index cannot be read")?;
    if (seen.mtime.sec, i64::from(seen.mtime.nsec)) >= (written.mtime(), written.mtime_nsec()) {
        return Err("git recorded it in the moment in which it was written".into());
    }
    let filter = run(
        command(dir)
            .args(["check-attr", "-z", "filter", "--"])
            .arg(&name),
        1 << 16,
    )
    .ok_or("git does not tell its attributes")?;
    let value = filter.split(|b| *b == 0).nth(2).unwrap_or_default();
    if value != b"unspecified" && value != b"unset" {
        return Err("git filters its content".into());
    }
    let blob = run(
        command(dir).args(["cat-file", "blob"]).arg(&entry.object),
        most,
    )
    .ok_or("git does not have the object")?;
    match blob.len() == most {
        true => Ok(blob),
        false => Err("git stores it with other line ends or in another encoding".into()),
    }
}

/// An entry of the index, as `ls-files --stage --debug -z` tells it. Git keeps 32 bits of the numbers.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    object: String,
    mtime: (u32, u32),
    ctime: (u32, u32),
    dev: u32,
    ino: u32,
    size: u32,
}

impl Entry {
    /// `MODE OBJECT STAGE\tNAME\0` and then lines of stat data. `None` for anything else than one entry
    /// of stage 0 and of this name.
    fn parse(text: &[u8], name: &[u8]) -> Option<Entry> {
        let end = text.iter().position(|b| *b == 0)?;
        let head = &text[..end];
        let tab = head.iter().position(|b| *b == b'\t')?;
        if &head[tab + 1..] != name {
            return None;
        }
        let mut words = std::str::from_utf8(&head[..tab]).ok()?.split(' ');
        let (mode, object, stage) = (words.next()?, words.next()?, words.next()?);
        let hex = object.len() >= 40 && object.bytes().all(|b| b.is_ascii_hexdigit());
        if !mode.starts_with("100") || stage != "0" || !hex {
            return None;
        }
        let data = std::str::from_utf8(&text[end + 1..]).ok()?;
        // Another entry would begin with its mode.
        if data.contains('\0') {
            return None;
        }
        let of = |key: &str| {
            let at = data.find(&format!("{key}: "))? + key.len() + 2;
            data[at..].split(['\t', '\n']).next()
        };
        let time = |key: &str| {
            let (sec, nsec) = of(key)?.split_once(':')?;
            Some((sec.parse().ok()?, nsec.parse().ok()?))
        };
        Some(Entry {
            object: object.to_owned(),
            mtime: time("mtime")?,
            ctime: time("ctime")?,
            dev: of("dev")?.parse().ok()?,
            ino: of("ino")?.parse().ok()?,
            size: of("size")?.parse().ok()?,
        })
    }

    /// Whether this is the file that was seen.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as git stores them
    fn is(&self, seen: &Snapshot) -> bool {
        let time = |t: &agentwall_cow::Timestamp| (t.sec as u32, t.nsec);
        self.mtime == time(&seen.mtime)
            && self.ctime == time(&seen.ctime)
            && self.dev == seen.id.dev as u32
            && self.ino == seen.id.ino as u32
            && u64::from(self.size) == seen.size
            && self.size != 0
    }
}

fn command(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .env("HOME", "/nonexistent")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .args(["--no-pager", "--literal-pathspecs"])
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "protocol.allow=never"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    git
}

/// Its output, if it succeeded in time and wrote no more than `most` bytes.
fn run(command: &mut Command, most: usize) -> Option<Vec<u8>> {
    let mut child = command.spawn().ok()?;
    let out = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        out.take(limit).read_to_end(&mut text).map(|_| text)
    });
    let end = Instant::now() + MOST_TIME;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let text = reader.join().ok()?.ok()?;
    (status?.success() && text.len() <= most).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &[u8] = b"100644 45b983be36b73c0788dc9cbcb76cbb80fc7bb057 0\ta b\0  ctime: \
        1795274802:21138378\n  mtime: 1795274801:5\n  dev: 65024\tino: 11495271\n  uid: 0\tgid: 0\n  \
        size: 3\tflags: 0\n";

    #[test]
    fn an_entry_of_the_index_is_read_as_git_tells_it() {
        let entry = Entry::parse(LISTED, b"a b").unwrap();
        assert_eq!(entry.object, "45b983be36b73c0788dc9cbcb76cbb80fc7bb057");
        assert_eq!(entry.mtime, (1_795_274_801, 5));
        assert_eq!(entry.ctime, (1_795_274_802, 21_138_378));
        assert_eq!((entry.dev, entry.ino, entry.size), (65024, 11_495_271, 3));
        assert_eq!(Entry::parse(LISTED, b"b"), None);
        let twice = [LISTED, LISTED].concat();
        assert_eq!(Entry::parse(&twice, b"a b"), None);
        let staged = String::from_utf8_lossy(LISTED).replace(" 0\t", " 2\t");
        assert_eq!(Entry::parse(staged.as_bytes(), b"a b"), None);
        let link = String::from_utf8_lossy(LISTED).replace("100644", "120000");
        assert_eq!(Entry::parse(link.as_bytes(), b"a b"), None);
        for cut in 0..LISTED.len() {
            // Never a panic, whatever is cut off.
            let _ = Entry::parse(&LISTED[..cut], b"a b");
        }
    }
}
