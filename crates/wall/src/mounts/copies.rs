//! Copy layers: the overlay of an isolated node, over the host's tree or over what stands in for it.

use std::{
    ffi::{CStr, CString, OsStr},
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};

use super::{BASE, Builder, MountError, at, tmpfs_of};
use crate::{
    plan::{FileView, Node, Writes},
    surface::{self, Cover},
    sys::{self, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_RDONLY},
};

/// One overlay: where it is, and where its writable part lies on the host.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct LayerPaths {
    /// The isolated tree.
    pub root: PathBuf,
    /// Upper directory.
    pub upper: PathBuf,
    /// Work directory.
    pub work: PathBuf,
    /// It is of what lies directly in the tree: [`Placement::surface`](crate::plan::Placement).
    pub surface: bool,
}

/// The mount of a node, and what is to be done once it is attached.
pub(super) struct Tree {
    pub mount: OwnedFd,
    /// Names in it that stand for others.
    pub covers: surface::Covers,
    pub read_only: bool,
}

impl Tree {
    fn whole(mount: OwnedFd) -> Tree {
        Tree {
            mount,
            covers: Vec::new(),
            read_only: false,
        }
    }
}

/// Whether an error speaks of the tree, and not of what this process or host has run out of.
fn is_of_tree(e: &io::Error) -> bool {
    use libc::{EDQUOT, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC};
    let other = [EDQUOT, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC];
    !e.raw_os_error().is_some_and(|code| other.contains(&code))
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

impl Builder<'_> {
    /// The mount of a visible node, not attached yet.
    pub(super) fn tree(
        &mut self,
        node: &Node,
        source: &OwnedFd,
        in_split: bool,
    ) -> Result<Tree, MountError> {
        let placement = &node.placement;
        let isolated = placement.writes == Writes::Isolated;
        let layered = match isolated {
            true if placement.surface => self.surface(node, source),
            true => self.overlay(&node.path, None).map(Tree::whole),
            false => sys::clone_tree(source.as_fd(), true)
                .map(Tree::whole)
                .map_err(at("clone", &node.path)),
        };
        match layered {
            Ok(mut tree) => {
                tree.read_only = placement.writes == Writes::None;
                Ok(tree)
            }
            // What others mounted must not keep the agent from everything else.
            Err(e) if isolated && (in_split || placement.surface) && is_of_tree(&e.source) => {
                let clone = sys::clone_tree(source.as_fd(), true).map_err(at("clone", &node.path));
                let mut tree = Tree::whole(clone?);
                tree.read_only = true;
                self.read_only.push((node.path.clone(), e.to_string()));
                Ok(tree)
            }
            Err(e) => Err(e),
        }
    }

    /// An overlay of what lies directly in a folder, and the names in it that are to be covered.
    fn surface(&mut self, node: &Node, source: &OwnedFd) -> Result<Tree, MountError> {
        let path = &node.path;
        let size = CString::new(surface::MAX_BYTES.to_string()).unwrap_or_default();
        let memory = tmpfs_of(&size, c"0755").map_err(at("make a memory file system for", path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(source, ".", flags, Mode::empty())
            .map_err(io::Error::from)
            .map_err(at("list", path))?;
        let nodes = &self.view.nodes;
        let placed = |name: &OsStr| {
            let path = path.join(name);
            nodes.binary_search_by(|n| n.path.cmp(&path)).is_ok()
        };
        let mut covers = surface::fill(
            memory.as_fd(),
            folder.as_fd(),
            &mut self.copies_left,
            placed,
        )
        .map_err(at("stand in for the names in", path))?;
        // What an earlier run of the session made of a name is over its stand-in.
        let upper = open_dir(&self.layer(path)?.upper).map_err(at("open the copies of", path))?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        covers.retain(|(name, _)| statat(&upper, name, flags).is_err());
        self.mount_scaffold(&memory, path)?;
        let overlay = self.overlay(path, Some(&memory));
        self.unmount_scaffold(path)?;
        Ok(Tree {
            mount: overlay?,
            covers,
            read_only: false,
        })
    }

    /// Covers a stand-in in the attached `tree`, whose attributes are `set`.
    pub(super) fn cover(
        &self,
        tree: &OwnedFd,
        host: &OwnedFd,
        name: &CStr,
        cover: Cover,
        set: u64,
    ) -> io::Result<()> {
        let target = sys::open_path_exact(tree.as_fd(), name, libc::O_NOFOLLOW)?;
        let with = |object: &OwnedFd, set: u64| -> io::Result<()> {
            let mount = sys::clone_tree(object.as_fd(), false)?;
            sys::mount_setattr(mount.as_fd(), set | MOUNT_ATTR_RDONLY, 0, false)?;
            sys::attach(mount.as_fd(), target.as_fd())
        };
        match cover {
            Cover::EmptyFolder => with(&self.empty_folder, BASE | MOUNT_ATTR_NOEXEC),
            Cover::EmptyFile => with(&self.empty_file, BASE | MOUNT_ATTR_NOEXEC),
            // It may be gone by now, or be another thing.
            Cover::Original => sys::open_path_exact(host.as_fd(), name, libc::O_NOFOLLOW)
                .and_then(|original| match surface::may_be_shown(original.as_fd()) {
                    true => with(&original, set),
                    false => Err(io::ErrorKind::NotFound.into()),
                })
                .or_else(|_| with(&self.empty_file, BASE | MOUNT_ATTR_NOEXEC)),
        }
    }

    fn layer(&self, root: &Path) -> Result<&LayerPaths, MountError> {
        let mut layers = self.layers.iter();
        layers
            .find(|l| l.root == root)
            .ok_or_else(|| at("find the copy layer of", root)(io::ErrorKind::NotFound.into()))
    }

    /// The copy layer over a tree, or over what stands in for it.
    fn overlay(&self, root: &Path, lower: Option<&OwnedFd>) -> Result<OwnedFd, MountError> {
        let layer = self.layer(root)?;
        // As descriptors: fsconfig(2) takes at most 255 bytes of text, and a colon in a name would
        // separate layers.
        let open = |path: &Path| -> Result<OwnedFd, MountError> {
            open_dir(path).map_err(at("open a folder of the copy layer of", root))
        };
        let name = |fd: &OwnedFd| {
            CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
        };
        let (upper, work) = (open(&layer.upper)?, open(&layer.work)?);
        let original;
        let lower = match lower {
            Some(lower) => lower,
            None => {
                original = open(root)?;
                &original
            }
        };
        let result = sys::new_mount(
            c"overlay",
            &[
                (c"source", Some(c"agentwall")),
                (c"lowerdir", Some(&name(lower))),
                (c"upperdir", Some(&name(&upper))),
                (c"workdir", Some(&name(&work))),
                (c"userxattr", None),
            ],
            BASE,
        );
        result.map_err(at("put a copy layer over", root))
    }
}

/// Creates upper and work directories for each isolated node, numbered in order; `place` says below
/// which folder those of a tree lie.
pub fn create_layers(
    view: &FileView,
    place: impl Fn(&Path) -> PathBuf,
) -> io::Result<Vec<LayerPaths>> {
    let mut layers = Vec::new();
    let isolated = view
        .nodes
        .iter()
        .filter(|n| n.placement.writes == Writes::Isolated);
    for (index, node) in isolated.enumerate() {
        // The upper's own mode shows through as the mode of the tree's root.
        let meta = match fs::metadata(&node.path) {
            Ok(meta) => meta,
            // Removed since the view was planned: it will not be shown.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let base = place(&node.path).join(index.to_string());
        let layer = LayerPaths {
            root: node.path.clone(),
            upper: base.join("upper"),
            work: base.join("work"),
            surface: node.placement.surface,
        };
        fs::create_dir_all(&layer.upper)?;
        fs::create_dir_all(&layer.work)?;
        fs::set_permissions(&layer.upper, meta.permissions())?;
        layers.push(layer);
    }
    Ok(layers)
}
