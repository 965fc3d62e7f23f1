//! Patterns name objects, not spellings: `/bin/ls` and `/usr/bin/ls` are one binary on a host where
//! `/bin` is a link.
//!
//! An enforcement point decides on canonical paths, so before use the literal front part of each
//! path pattern is resolved on the host once; the pattern then matches under either spelling. The
//! library does not look at the host itself: the caller passes a function that does.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    glob::Glob,
    pattern::{ResourcePattern, UnixPattern},
    policy::Policy,
};

type Places = Arc<[Glob]>;

impl Policy {
    /// The same policy, whose path patterns also match under the real path of their literal front
    /// part. `real` resolves symlinks of an absolute path, `None` if it does not exist. The digest
    /// stays: it is the policy's, not the host's.
    #[must_use]
    pub fn with_real_paths(mut self, real: &dyn Fn(&Path) -> Option<PathBuf>) -> Policy {
        // Rules share the places of a label, before and after.
        let mut places: Vec<(Places, Places)> = Vec::new();
        let mut shared = |globs: &Places| {
            let known = places.iter().find(|(before, _)| Arc::ptr_eq(before, globs));
            known.map(|(_, after)| after.clone()).unwrap_or_else(|| {
                let after = resolved(globs, real);
                places.push((globs.clone(), after.clone()));
                after
            })
        };
        for rule in self.layers.iter_mut().flat_map(|l| &mut l.rules) {
            let list = &mut rule.resource;
            for pattern in list.positive.iter_mut().chain(&mut list.negative) {
                match pattern {
                    ResourcePattern::Path(glob)
                    | ResourcePattern::Unix(UnixPattern::Path(glob)) => resolve(glob, real),
                    ResourcePattern::Label(label) => {
                        label.paths = shared(&label.paths);
                        label.sockets = shared(&label.sockets);
                    }
                    _ => {}
                }
            }
        }
        self
    }
}

fn resolved(globs: &[Glob], real: &dyn Fn(&Path) -> Option<PathBuf>) -> Places {
    let mut globs = globs.to_vec();
    globs.iter_mut().for_each(|g| resolve(g, real));
    globs.into()
}

fn resolve(glob: &mut Glob, real: &dyn Fn(&Path) -> Option<PathBuf>) {
    let mut more = Vec::new();
    for nfa in glob.alternatives() {
        let literal = nfa.literal();
        // How much of the literal names something that exists: all of it for a whole path or a
        // tree, else up to the last slash; then shorter, for names that do not exist yet.
        let mut end = if nfa.as_literal().is_some() || nfa.as_tree().is_some() || nfa.floats() {
            literal.len()
        } else {
            literal.iter().rposition(|b| *b == b'/').unwrap_or(0)
        };
        while end > 1 {
            if let Some(path) = real(Path::new(OsStr::from_bytes(&literal[..end]))) {
                let bytes = path.as_os_str().as_bytes();
                let bytes = if bytes == b"/" { b"" } else { bytes };
                if bytes != &literal[..end] {
                    more.push(nfa.rebased(end, bytes));
                }
                break;
            }
            end = literal[..end].iter().rposition(|b| *b == b'/').unwrap_or(0);
        }
    }
    glob.extend(more);
}

#[cfg(test)]
mod tests {
    use agentwall_action::{Action, Effect, Resource, Subject, Verb};

    use super::*;
    use crate::{Layer, Source, Variables, load};

    fn links(path: &Path) -> Option<PathBuf> {
        let text = path.to_str()?;
        match text {
            "/bin" => Some("/usr/bin".into()),
            "/bin/awk" | "/usr/bin/awk" => Some("/usr/bin/mawk".into()),
            "/usr/bin" | "/usr" => Some(path.into()),
            "/var/run" => Some("/run".into()),
            _ => text
                .strip_prefix("/bin/")
                .map(|n| Path::new("/usr/bin").join(n)),
        }
    }

    fn effect(resource: &str, object: &str) -> Effect {
        let text = format!(
            "agentwall: 1\nrules: [{{id: r, action: process.exec, resource: '{resource}', effect: allow}}]"
        );
        let source = Source::new("t", text, Layer::User);
        let policy = load(&[source], &Variables::default())
            .unwrap()
            .with_real_paths(&links);
        let subject = Subject::agent("a");
        policy
            .decide(&Action::new(
                subject,
                Verb::ProcessExec,
                Resource::path(object),
            ))
            .effect
    }

    #[test]
    fn either_spelling_names_the_object() {
        for pattern in [
            "/bin/ls",
            "/bin/l*",
            "/bin/**",
            "/usr/bin/ls",
            "/bin/{cat,ls}",
        ] {
            assert_eq!(effect(pattern, "/usr/bin/ls"), Effect::Allow, "{pattern}");
        }
        assert_eq!(effect("/bin/awk", "/usr/bin/mawk"), Effect::Allow);
        assert_eq!(effect("/var/run/new/*", "/run/new/x"), Effect::Allow);
        assert_eq!(effect("/bin/ls", "/usr/bin/lsof"), Effect::Deny);
        assert_eq!(effect("/bin/**", "/usr/sbin/x"), Effect::Deny);
    }
}
