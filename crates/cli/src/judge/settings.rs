//! Settings files that an agent keeps its login and history in, and commands as well. A path cannot tell
//! one from the other, so the content does: such a change runs on the host later if it names a command, or
//! a permission, that the original does not name.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::Value;

/// JSON files of this kind.
const NAMES: &[&str] = &[".claude.json", ".claude.json.backup"];

/// Keys, at any depth, whose values are commands, or what may be done without a question. Claude Code's
/// settings reference lists them.
const KEYS: &[&str] = &[
    "allowedTools",
    "apiKeyHelper",
    "awsAuthRefresh",
    "awsCredentialExport",
    "enableAllProjectMcpServers",
    "enabledMcpjsonServers",
    "env",
    "hooks",
    "mcpServers",
    "otelHeadersHelper",
    "permissions",
    "statusLine",
];

/// Larger files are not read.
const MOST: u64 = 16 << 20;

/// Whether the change from `old` to `new`, files on this host, names more commands. What cannot be read as
/// JSON may.
pub fn names_more(name: &str, old: &Path, new: &Path) -> bool {
    if !NAMES.contains(&name) {
        return false;
    }
    let Ok(new) = commands(new) else { return true };
    // Nothing is there yet, or nothing that can be compared.
    let old = commands(old).unwrap_or_default();
    !new.is_subset(&old)
}

/// Where in the file, and what.
fn commands(path: &Path) -> io::Result<BTreeSet<(String, String)>> {
    let mut text = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
        .open(path)?;
    file.take(MOST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    let mut found = BTreeSet::new();
    collect(&serde_json::from_slice(&text)?, String::new(), &mut found);
    Ok(found)
}

fn collect(value: &Value, at: String, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                if KEYS.contains(&key.as_str()) {
                    leaves(value, at, found);
                } else {
                    collect(value, at, found);
                }
            }
        }
        Value::Array(all) => {
            for (n, value) in all.iter().enumerate() {
                collect(value, format!("{at}/{n}"), found);
            }
        }
        _ => {}
    }
}

/// A member of a list is the same wherever it stands; what is empty, or says no, names nothing.
fn leaves(value: &Value, at: String, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                // A whole entry counts: a command with other arguments is another command.
                found.insert((format!("{at}/{key}"), text_of(value)));
            }
        }
        Value::Array(all) => all.iter().for_each(|v| {
            found.insert((at.clone(), text_of(v)));
        }),
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        other => {
            found.insert((at, other.to_string()));
        }
    }
}

/// The same for the same value, in whatever order its keys stand.
fn text_of(value: &Value) -> String {
    let mut value = value.clone();
    value.sort_all_objects();
    value.to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_new_commands_and_permissions_count() {
        let tmp = tempfile::tempdir().unwrap();
        let (old, new) = (tmp.path().join("old"), tmp.path().join("new"));
        let more = |before: Option<&str>, after: &str| {
            let _ = fs::remove_file(&old);
            before.into_iter().for_each(|t| fs::write(&old, t).unwrap());
            fs::write(&new, after).unwrap();
            names_more(".claude.json", &old, &new)
        };
        let server = r#"{"oauth":1,"mcpServers":{"a":{"command":"x","args":["1"]}}}"#;
        let project = |inner: &str| format!(r#"{{"projects":{{"/w":{{{inner}}}}}}}"#);
        // Login, history, counters, and what is empty.
        assert!(!more(None, r#"{"oauthAccount":{"a":1},"numStartups":3}"#));
        assert!(!more(
            Some(server),
            r#"{"oauth":2,"mcpServers":{"a":{"args":["1"],"command":"x"}}}"#
        ));
        assert!(!more(Some(server), "{}"));
        let fresh =
            r#""mcpServers":{},"allowedTools":[],"history":["x"],"hasTrustDialogAccepted":true"#;
        assert!(!more(Some("{}"), &project(fresh)));
        let tools = |list: &str| project(&format!(r#""allowedTools":{list}"#));
        assert!(!more(Some(&tools(r#"["a","b"]"#)), &tools(r#"["b"]"#)));

        assert!(more(None, server));
        assert!(more(Some("{}"), server));
        assert!(more(Some(server), &server.replace("\"1\"", "\"2\"")));
        assert!(more(Some(server), &server.replace("\"a\":{", "\"b\":{")));
        assert!(more(
            Some("{}"),
            &project(r#""mcpServers":{"a":{"url":"u"}}"#)
        ));
        assert!(more(Some(&tools(r#"["a"]"#)), &tools(r#"["a","Bash(*)"]"#)));
        assert!(more(Some("{}"), r#"{"apiKeyHelper":"x"}"#));
        assert!(more(Some("{}"), r#"{"enableAllProjectMcpServers":true}"#));
        assert!(more(Some("{}"), "{"), "no JSON");
        assert!(more(Some("not JSON"), server));
        assert!(!names_more("other.json", &old, &new));
    }
}
