//! Variables: `${workspace}`, `${home}`, `${tmp}`, `${state}` and a leading `~/`.
//!
//! Values are paths of the session. They are inserted with their glob characters escaped, so that a
//! folder named `a*b` means itself. The library never looks at the environment: whoever loads a
//! policy says what the variables are; a variable without a value is a load error where it is used.

use std::{os::unix::ffi::OsStrExt, path::PathBuf};

use crate::glob::{GlobError, glob_escape};

/// The values of a session. Absolute paths, canonical (symlinks resolved) for patterns to match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variables {
    /// `${workspace}`: the folder the agent works in.
    pub workspace: Option<PathBuf>,
    /// `${home}` and a leading `~/`: the home folder of the agent's user.
    pub home: Option<PathBuf>,
    /// `${tmp}`: the folder for temporary files.
    pub tmp: Option<PathBuf>,
    /// `${state}`: where AgentWall keeps its own state.
    pub state: Option<PathBuf>,
}

/// The names of the variables.
pub(crate) const NAMES: &[&str] = &["workspace", "home", "tmp", "state"];

impl Variables {
    /// The bytes of a variable's value without a trailing `/`, so that the root folder is empty.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let path = match name {
            "workspace" => &self.workspace,
            "home" => &self.home,
            "tmp" => &self.tmp,
            "state" => &self.state,
            _ => return None,
        };
        let mut bytes = path.as_deref()?.as_os_str().as_bytes();
        while let Some(rest) = bytes.strip_suffix(b"/") {
            bytes = rest;
        }
        Some(bytes)
    }

    /// Expands a pattern; values are escaped.
    pub(crate) fn expand_pattern(&self, text: &str) -> Result<String, GlobError> {
        self.expand(text, true, |bytes| Ok(glob_escape(bytes)))
    }

    /// Expands a literal resource, as in a test line.
    pub(crate) fn expand_literal(&self, text: &str) -> Result<String, GlobError> {
        self.expand(text, false, |bytes| {
            String::from_utf8(bytes.to_vec())
                .map_err(|_| GlobError::new(0, "the variable's value is not UTF-8"))
        })
    }

    fn expand(
        &self,
        text: &str,
        escapes: bool,
        render: impl Fn(&[u8]) -> Result<String, GlobError>,
    ) -> Result<String, GlobError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        if text == "~" || text.starts_with("~/") {
            out.push_str(&render(self.value("home", 0)?)?);
            rest = &text[1..];
        } else if text.starts_with('~') {
            return Err(
                GlobError::new(0, "the home folder of another user is not known")
                    .suggest("~/ for the agent's home, else an absolute path"),
            );
        }
        while let Some(c) = rest.chars().next() {
            let at = text.len() - rest.len();
            if escapes && c == '\\' {
                let len = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..len]);
                rest = &rest[len..];
            } else if let Some(after) = rest.strip_prefix("${") {
                let (name, tail) = after.split_once('}').ok_or_else(|| {
                    GlobError::new(at, "'${' is not closed").suggest("${workspace}")
                })?;
                out.push_str(&render(self.value(name, at)?)?);
                rest = tail;
            } else if escapes && c == '$' {
                return Err(GlobError::new(at, "'$' begins a variable")
                    .suggest("${workspace}, or \\$ for the character itself"));
            } else {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        Ok(if out.is_empty() { "/".into() } else { out })
    }

    fn value(&self, name: &str, at: usize) -> Result<&[u8], GlobError> {
        if !NAMES.contains(&name) {
            let suggestion = crate::diagnostic::did_you_mean(name, NAMES);
            let mut error = GlobError::new(at, format!("unknown variable '{name}'"));
            error.suggestion = suggestion;
            return Err(error);
        }
        let bytes = self.bytes(name).ok_or_else(|| {
            GlobError::new(at, format!("the variable '{name}' has no value here"))
        })?;
        if !bytes.is_empty() && !bytes.starts_with(b"/") {
            return Err(GlobError::new(
                at,
                format!("the value of '{name}' is not an absolute path"),
            ));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_unknown_names_are_refused() {
        let vars = Variables {
            workspace: Some("/w/a*b{c}".into()),
            home: Some("/".into()),
            ..Variables::default()
        };
        assert_eq!(
            vars.expand_pattern("${workspace}/**").unwrap(),
            "/w/a\\*b\\{c\\}/**"
        );
        assert_eq!(vars.expand_pattern("~/x").unwrap(), "/x");
        assert_eq!(vars.expand_pattern("\\${x").unwrap(), "\\${x");
        let error = vars.expand_pattern("${workspcae}/x").unwrap_err();
        assert_eq!(error.suggestion.unwrap(), "did you mean 'workspace'?");
        assert!(vars.expand_pattern("${tmp}").is_err());
        assert!(vars.expand_pattern("~bob/x").is_err());
        assert_eq!(
            vars.expand_literal("${workspace}/x").unwrap(),
            "/w/a*b{c}/x"
        );
    }
}
