//! What a tool call of an agent will do, in the policy's vocabulary.
//!
//! A claim says what the call is for, not all that it needs: a shell line starts programs and reads files
//! that nobody can tell before. Each of those is decided on when it comes. A tool that is not known here
//! claims nothing.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::Does;

/// The claims of a tool call made in the folder `cwd`.
pub fn of_tool(tool: &str, input: &Value, cwd: &Path) -> Vec<Does> {
    let text = |key: &str| input[key].as_str().unwrap_or_default();
    let does = |verb: &str, resource: String| Does {
        verb: verb.to_owned(),
        resource,
        argv: Vec::new(),
    };
    match tool {
        "Bash" | "shell" | "local_shell" | "exec_command" => {
            let Some(shell) = program(OsStr::new("bash")).or_else(|| program(OsStr::new("sh")))
            else {
                return Vec::new();
            };
            // Codex has the line of its model under another name, or as the last argument of a shell.
            let last = |list: &Value| list.as_array()?.last().cloned();
            let line = [
                last(&input["command"]),
                Some(input["command"].clone()),
                Some(input["cmd"].clone()),
            ];
            let mut line = line.iter().flatten().filter_map(Value::as_str);
            let line = line.next().unwrap_or_default();
            let mut all = vec![Does {
                verb: "process.exec".into(),
                argv: vec![shell.clone(), "-c".into(), line.to_owned()],
                resource: shell,
            }];
            // Codex carries out itself what it is given as a command so.
            if line.contains("*** Begin Patch") {
                all.extend(patched(line).map(|path| written(cwd, path)));
            }
            all
        }
        "Read" => vec![does("file.read", place(cwd, text("file_path")))],
        "Glob" | "Grep" | "LS" => vec![does("file.read", place(cwd, text("path")))],
        "Write" | "Edit" | "MultiEdit" => vec![written(cwd, text("file_path"))],
        "NotebookEdit" => vec![written(cwd, text("notebook_path"))],
        "WebFetch" => endpoint(text("url"))
            .map(|to| does("net.connect", to))
            .into_iter()
            .collect(),
        "apply_patch" => patched(text("command"))
            .map(|path| written(cwd, path))
            .collect(),
        _ => match tool.strip_prefix("mcp__").and_then(|t| t.split_once("__")) {
            Some((server, name)) => vec![does("tool.call", format!("mcp:{server}/{name}"))],
            None => Vec::new(),
        },
    }
}

/// The canonical path of a program as a shell finds it; `None` when there is none.
pub fn program(name: &OsStr) -> Option<String> {
    let path = Path::new(name);
    let found = if path.components().count() > 1 {
        Some(path.to_owned())
    } else {
        let search = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&search)
            .map(|dir| dir.join(name))
            .find(|path| {
                let runs = |m: fs::Metadata| m.is_file() && m.permissions().mode() & 0o111 != 0;
                fs::metadata(path).is_ok_and(runs)
            })
    };
    let path = fs::canonicalize(found?).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// A path as the kernel will find it, as far as it exists.
fn place(cwd: &Path, path: &str) -> String {
    let whole = cwd.join(path);
    let mut rest = PathBuf::new();
    let mut front = whole.as_path();
    let found = loop {
        if let Ok(found) = fs::canonicalize(front) {
            break found;
        }
        let (Some(parent), Some(name)) = (front.parent(), front.file_name()) else {
            break front.to_owned();
        };
        rest = match rest.as_os_str().is_empty() {
            true => PathBuf::from(name),
            false => Path::new(name).join(rest),
        };
        front = parent;
    };
    let path = match rest.as_os_str().is_empty() {
        true => found,
        false => found.join(rest),
    };
    path.to_string_lossy().into_owned()
}

fn written(cwd: &Path, path: &str) -> Does {
    let resource = place(cwd, path);
    let verb = match Path::new(&resource).exists() {
        true => "file.write",
        false => "file.create",
    };
    Does {
        verb: verb.to_owned(),
        resource,
        argv: Vec::new(),
    }
}

/// Host and port of a URL (RFC 3986), as a resource.
fn endpoint(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme.to_ascii_lowercase().as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, p)| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    match (host.is_empty(), has_port) {
        (true, _) => None,
        (_, true) => Some(format!("tcp://{host}")),
        (_, false) => Some(format!("tcp://{}:{port}", host.trim_end_matches(':'))),
    }
}

/// The files of a patch in Codex's form.
fn patched(patch: &str) -> impl Iterator<Item = &str> {
    patch.lines().filter_map(|line| {
        let change = line.strip_prefix("*** ")?;
        let (kind, path) = change.split_once(": ")?;
        let changes = ["Add File", "Update File", "Delete File", "Move to"];
        changes.contains(&kind).then(|| path.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(tool: &str, input: Value, cwd: &Path) -> Vec<String> {
        let all = of_tool(tool, &input, cwd).into_iter();
        all.map(|d| format!("{} {}", d.verb, d.resource)).collect()
    }

    #[test]
    fn each_tool_claims_what_it_is_for() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(tmp.path()).unwrap();
        fs::write(dir.join("old"), "").unwrap();
        std::os::unix::fs::symlink(&dir, dir.join("link")).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let read = said("Read", json!({"file_path": "link/old"}), &dir);
        assert_eq!(read, [format!("file.read {}", at("old"))]);
        let old = said("Edit", json!({"file_path": at("old")}), &dir);
        assert_eq!(old, [format!("file.write {}", at("old"))]);
        let new = said("Write", json!({"file_path": "link/d/new"}), &dir);
        assert_eq!(new, [format!("file.create {}", at("d/new"))]);
        let patch = "*** Begin Patch\n*** Add File: a/b\n+x\n*** Update File: old\n*** End Patch";
        let patched = said("apply_patch", json!({"command": patch}), &dir);
        let wanted = [
            format!("file.create {}", at("a/b")),
            format!("file.write {}", at("old")),
        ];
        assert_eq!(patched, wanted);
        let line = format!("apply_patch <<'EOF'\n{patch}\nEOF");
        let given = said("Bash", json!({"command": line}), &dir);
        assert_eq!(given[1..], wanted);
        let fetch = |url: &str| said("WebFetch", json!({"url": url}), &dir);
        assert_eq!(
            fetch("https://u@Example.org/x?y"),
            ["net.connect tcp://Example.org:443"]
        );
        assert_eq!(
            fetch("http://[::1]:8080/"),
            ["net.connect tcp://[::1]:8080"]
        );
        assert!(fetch("file:///etc/passwd").is_empty());
        let tool = said("mcp__db__run__all", json!({}), &dir);
        assert_eq!(tool, ["tool.call mcp:db/run__all"]);
        assert!(said("TodoWrite", json!({}), &dir).is_empty());
        let bash = &of_tool("Bash", &json!({"command": "make test"}), &dir)[0];
        assert_eq!(bash.argv[1..], ["-c", "make test"]);
        assert_eq!(bash.argv[0], bash.resource);
        assert!(Path::new(&bash.resource).is_absolute());
    }
}
