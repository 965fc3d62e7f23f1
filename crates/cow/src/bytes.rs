//! Serialising names that need not be UTF-8.
//!
//! A UTF-8 name is a JSON string; any other is `{"base64": …, "lossy": …}`, of which only `base64`
//! is read back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Text(String),
    Raw {
        base64: String,
        #[serde(default)]
        lossy: String,
    },
}

fn to_wire(bytes: &[u8]) -> Wire {
    match std::str::from_utf8(bytes) {
        Ok(text) => Wire::Text(text.to_owned()),
        Err(_) => Wire::Raw {
            base64: STANDARD.encode(bytes),
            lossy: String::from_utf8_lossy(bytes).into_owned(),
        },
    }
}

fn from_wire<E: serde::de::Error>(wire: Wire) -> Result<Vec<u8>, E> {
    match wire {
        Wire::Text(text) => Ok(text.into_bytes()),
        Wire::Raw { base64, .. } => STANDARD.decode(base64).map_err(E::custom),
    }
}

/// `#[serde(with)]` for [`std::path::PathBuf`].
pub(crate) mod path {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    pub(crate) fn serialize<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
        to_wire(path.as_os_str().as_bytes()).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        let bytes = from_wire::<D::Error>(Wire::deserialize(d)?)?;
        if bytes.contains(&0) {
            return Err(D::Error::custom("a path cannot contain a NUL byte"));
        }
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }
}

/// `#[serde(with)]` for `Option<PathBuf>`.
pub(crate) mod opt_path {
    use super::*;
    use std::path::PathBuf;

    #[derive(Serialize, Deserialize)]
    struct Wrap(#[serde(with = "super::path")] PathBuf);

    pub(crate) fn serialize<S: Serializer>(p: &Option<PathBuf>, s: S) -> Result<S::Ok, S::Error> {
        p.clone().map(Wrap).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Wrap>::deserialize(d)?.map(|w| w.0))
    }
}

/// `#[serde(with)]` for raw bytes such as an overlay-relative name.
pub(crate) mod raw {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        to_wire(bytes).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        from_wire(Wire::deserialize(d)?)
    }
}
