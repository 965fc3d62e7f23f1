//! Paths in JSON: a string, or `{"bytes": […]}` where the path is not UTF-8. For use as
//! `#[serde(with = "agentwall_action::path_bytes")]`: serde itself refuses such paths, and a name
//! that an agent chose must never keep a record from being written.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Text(String),
    Bytes { bytes: Vec<u8> },
}

/// Writes a path.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => Wire::Bytes {
            bytes: path.as_os_str().as_bytes().to_vec(),
        }
        .serialize(serializer),
    }
}

/// Reads a path.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Ok(match Wire::deserialize(deserializer)? {
        Wire::Text(text) => text.into(),
        Wire::Bytes { bytes } => OsString::from_vec(bytes).into(),
    })
}

#[cfg(test)]
mod tests {
    use crate::{Action, Resource, Subject, Verb};

    #[test]
    fn any_path_survives() {
        for bytes in [&b"/plain"[..], b"/new\nline", b"/not-\xff-utf8"] {
            use std::os::unix::ffi::OsStrExt;
            let path = std::path::Path::new(std::ffi::OsStr::from_bytes(bytes));
            for resource in [Resource::path(path), Resource::Unix(path.into())] {
                let action = Action::new(Subject::agent("a"), Verb::FileRead, resource);
                let json = serde_json::to_string(&action).unwrap();
                assert_eq!(serde_json::from_str::<Action>(&json).unwrap(), action);
            }
        }
    }
}
