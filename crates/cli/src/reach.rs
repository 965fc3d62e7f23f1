//! What a name leads to, and whether the agent of a running session has a say in it.
//!
//! A name goes through links. One in a tree that the agent writes in place may be the agent's, and with
//! it what the name means. At the start of a session nobody is behind the wall yet; whoever takes a
//! name later asks here.

use std::{
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
};

use agentwall_wall::plan::{FileView, Writes};

/// More links are not followed (`MAXSYMLINKS` of the kernel, path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Whether the agent can change what is read under this name.
pub fn is_file_of_agent(file: &Path, view: &FileView) -> bool {
    let (links, end) = steps(file);
    links.iter().chain([&end]).any(|p| is_in_place(p, view))
}

/// Whether the agent can change that this name leads to `real`, or has changed it.
pub fn is_way_of_agent(name: &Path, real: &Path, view: &FileView) -> bool {
    let (links, end) = steps(name);
    end != real || links.iter().any(|p| is_in_place(p, view))
}

fn is_in_place(path: &Path, view: &FileView) -> bool {
    let stands = view.placement(path);
    stands.is_some_and(|p| p.writes == Writes::Direct)
}

/// The links that the kernel would follow for an absolute path, by their real names, and where it
/// arrives. What does not exist is taken as it is written.
fn steps(path: &Path) -> (Vec<PathBuf>, PathBuf) {
    let mut links = Vec::new();
    let mut end = PathBuf::from("/");
    let mut rest: Vec<OsString> = Vec::new();
    push(&mut rest, path);
    while let Some(next) = rest.pop() {
        match next.to_str() {
            Some("/") => end = PathBuf::from("/"),
            Some("..") => drop(end.pop()),
            _ => {
                end.push(next);
                if links.len() < MOST_LINKS
                    && let Ok(target) = fs::read_link(&end)
                {
                    links.push(end.clone());
                    end.pop();
                    push(&mut rest, &target);
                }
            }
        }
    }
    (links, end)
}

/// Puts the components of a path on a stack, the first on top.
fn push(stack: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().filter(|c| *c != Component::CurDir);
    let parts: Vec<_> = parts.map(|c| c.as_os_str().to_owned()).collect();
    stack.extend(parts.into_iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn steps_are_those_of_the_kernel() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), "").unwrap();
        symlink("b/../b", at("a/inner")).unwrap();
        symlink(at("a/inner"), at("outer")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for (name, links) in [
            ("a/b/file", vec![]),
            ("a/./b/../b/file", vec![]),
            ("a/inner/file", vec!["a/inner"]),
            ("outer/file", vec!["outer", "a/inner"]),
        ] {
            let expected: Vec<PathBuf> = links.into_iter().map(at).collect();
            assert_eq!(steps(&at(name)), (expected, at("a/b/file")), "{name}");
        }
        let missing = steps(&at("outer/none/below"));
        assert_eq!(missing.1, at("a/b/none/below"));
        assert_eq!(steps(&at("loop/x")).0.len(), MOST_LINKS);
    }
}
