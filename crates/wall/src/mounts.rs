//! Executes a [`FileView`]: builds the agent's root from detached mounts.
//!
//! Runs inside the new user and mount namespaces, with the host's tree still in place. Sources are
//! cloned with `open_tree(2)` from exact, symlink-free lookups and attached with `move_mount(2)` to
//! exact, symlink-free lookups below the new root, so that nobody who swaps a directory for a
//! symlink meanwhile can redirect a mount. The root and everything in it is created in memory:
//! the host gets no ghost files.

mod copies;

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};

use crate::{
    plan::{FileView, Node, NodeKind, Writes},
    surface,
    sys::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY},
};

use copies::Tree;
pub use copies::{LayerPaths, create_layers};

/// A tree the broker writes to while the agent's own mount of it is read-only.
#[derive(Debug)]
pub struct BrokerView {
    /// Where the agent sees it.
    pub root: PathBuf,
    /// A detached, writable mount of the same tree.
    pub mount: OwnedFd,
}

/// The new root, built but not yet entered.
#[derive(Debug)]
pub struct Built {
    /// The root directory's mount.
    pub root: OwnedFd,
    /// Writable views for the broker.
    pub broker_views: Vec<BrokerView>,
    /// Every hidden path that hides something, with the rule that did.
    pub masks: Vec<(PathBuf, Option<String>)>,
    /// Trees that were to be isolated and are shown read-only, and why.
    pub read_only: Vec<(PathBuf, String)>,
    /// The wall's own folder (`/dev/agentwall`), writable; the agent's mount of it is not.
    pub own: OwnedFd,
    /// Skeleton mounts to be made read-only once all mount points exist.
    skeletons: Vec<OwnedFd>,
}

/// Which step failed on which path.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}: {source}")]
pub struct MountError {
    /// What was attempted.
    pub step: &'static str,
    /// On which path of the view.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

fn at<'p>(step: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> MountError + 'p {
    move |source| MountError {
        step,
        path: path.to_owned(),
        source,
    }
}

/// The devices that every session has, below `/dev`.
pub(crate) const OWN_DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const BASE: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

struct Builder<'a> {
    stage: &'a Path,
    host: OwnedFd,
    root: OwnedFd,
    view: &'a FileView,
    layers: &'a [LayerPaths],
    built_views: Vec<BrokerView>,
    masks: Vec<(PathBuf, Option<String>)>,
    read_only: Vec<(PathBuf, String)>,
    skeletons: Vec<OwnedFd>,
    /// Bytes that may still be copied for surfaces.
    copies_left: u64,
    /// An empty file in memory that nobody can write to, bound over hidden files.
    empty_file: OwnedFd,
    /// The same as a folder.
    empty_folder: OwnedFd,
}

/// Builds the root on top of `stage`, an empty host directory of ours. `/proc` is left to the
/// first process of the new process namespace, `/dev` is built here.
pub fn build(
    view: &FileView,
    layers: &[LayerPaths],
    stage: &Path,
    extra: &Extra<'_>,
) -> Result<Built, MountError> {
    sys::make_mounts_private().map_err(at("make mounts private below", Path::new("/")))?;
    let host = openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(io::Error::from)
    .map_err(at("open", Path::new("/")))?;
    let root =
        tmpfs(c"0755", false).map_err(at("make a memory file system for", Path::new("/")))?;
    let stage_fd = open_exact(host.as_fd(), stage).map_err(at("open", stage))?;
    sys::attach(root.as_fd(), stage_fd.as_fd()).map_err(at("attach", stage))?;
    // A host tree that holds the stage must not carry the root into itself.
    sys::make_unbindable(root.as_fd()).map_err(at("keep apart", stage))?;

    let empty = tmpfs(c"0755", false).map_err(at("make a memory file system for", stage))?;
    openat(
        &empty,
        "empty",
        OFlags::CREATE | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o444),
    )
    .map_err(io::Error::from)
    .map_err(at("create the empty file for", stage))?;
    let empty_file = sys::open_path_exact(empty.as_fd(), c"empty", 0)
        .map_err(at("open the empty file for", stage))?;
    mkdirat(&empty, "folder", Mode::from_raw_mode(0o755))
        .map_err(io::Error::from)
        .map_err(at("create the empty folder for", stage))?;
    let empty_folder = sys::open_path_exact(empty.as_fd(), c"folder", 0)
        .map_err(at("open the empty folder for", stage))?;
    sys::mount_setattr(
        empty.as_fd(),
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC,
        0,
        false,
    )
    .map_err(at("make read-only", stage))?;
    // Cloning needs an attached mount (before Linux 6.15): a folder of the new root holds it
    // while the view is built.
    let mut builder = Builder {
        stage,
        host,
        root,
        view,
        layers,
        built_views: Vec::new(),
        masks: Vec::new(),
        read_only: Vec::new(),
        skeletons: Vec::new(),
        copies_left: surface::MAX_BYTES,
        empty_file,
        empty_folder,
    };
    builder.make_dir(Path::new("/.agentwall"))?;
    let hook = open_exact(builder.root.as_fd(), Path::new("/.agentwall"))
        .map_err(at("open", Path::new("/.agentwall")))?;
    sys::attach(empty.as_fd(), hook.as_fd()).map_err(at("attach", Path::new("/.agentwall")))?;

    for (link, target) in &view.root_links {
        symlinkat(target, &builder.root, relative(link))
            .map_err(io::Error::from)
            .map_err(at("re-create the link", link))?;
    }
    // The state of the nearest enclosing node, to skip mounts that would change nothing.
    let mut stack: Vec<&Node> = Vec::new();
    for node in &view.nodes {
        while stack
            .last()
            .is_some_and(|top| !node.path.starts_with(&top.path))
        {
            stack.pop();
        }
        let parent = stack.last().copied();
        let in_split = stack.iter().any(|above| above.placement.surface);
        builder.place(node, parent, in_split)?;
        stack.push(node);
    }
    for dir in ["/proc", "/sys"] {
        builder.make_dir(Path::new(dir))?;
    }
    let own = builder.devices(extra)?;

    builder.unmount_scaffold(Path::new("/.agentwall"))?;
    rustix::fs::unlinkat(&builder.root, ".agentwall", rustix::fs::AtFlags::REMOVEDIR)
        .map_err(io::Error::from)
        .map_err(at("remove the scaffold", Path::new("/.agentwall")))?;

    let built = Built {
        root: builder.root,
        broker_views: builder.built_views,
        masks: builder.masks,
        read_only: builder.read_only,
        own,
        skeletons: builder.skeletons,
    };
    Ok(built)
}

/// What the wall itself puts into `/dev`.
#[derive(Debug)]
pub struct Extra<'a> {
    /// Host device nodes (canonical paths below `/dev`) that the policy lets the agent open.
    pub devices: &'a [PathBuf],
    /// The `agentwall` binary, bound at `/dev/agentwall/bin/agentwall` and at its own path.
    pub binary: &'a Path,
}

impl Built {
    /// Makes the in-memory directories read-only. Call after the last mount point was made.
    pub fn seal(&self) -> Result<(), MountError> {
        for skeleton in self.skeletons.iter().chain([&self.root]) {
            sys::mount_setattr(skeleton.as_fd(), MOUNT_ATTR_RDONLY, 0, false)
                .map_err(at("make read-only", Path::new("/")))?;
        }
        Ok(())
    }
}

/// A memory file system; small unless it is for the agent's own use.
fn tmpfs(mode: &CStr, roomy: bool) -> io::Result<OwnedFd> {
    tmpfs_of(if roomy { c"50%" } else { c"16m" }, mode)
}

fn tmpfs_of(size: &CStr, mode: &CStr) -> io::Result<OwnedFd> {
    sys::new_mount(
        c"tmpfs",
        &[
            (c"source", Some(c"agentwall")),
            (c"mode", Some(mode)),
            (c"size", Some(size)),
        ],
        BASE,
    )
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn open_exact(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = relative(path);
    if path.as_os_str().is_empty() {
        return sys::open_path_exact(dir, c".", 0);
    }
    sys::open_path_exact(dir, &sys::c_path(path)?, libc::O_NOFOLLOW)
}

impl Builder<'_> {
    fn make_dir(&self, path: &Path) -> Result<(), MountError> {
        let mut built = PathBuf::new();
        for part in relative(path).components() {
            built.push(part);
            match mkdirat(&self.root, &built, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                // An intermediate folder of a read-only host tree exists already.
                Err(rustix::io::Errno::ROFS) if self.exists(&built) => {}
                Err(e) => return Err(at("make the folder", path)(e.into())),
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        rustix::fs::statat(&self.root, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    fn make_mount_point(&self, path: &Path, kind: NodeKind) -> Result<OwnedFd, MountError> {
        if let Ok(fd) = open_exact(self.root.as_fd(), path) {
            return Ok(fd);
        }
        match kind {
            NodeKind::Directory => self.make_dir(path)?,
            NodeKind::File => {
                if let Some(parent) = path.parent() {
                    self.make_dir(parent)?;
                }
                openat(
                    &self.root,
                    relative(path),
                    OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o444),
                )
                .map_err(io::Error::from)
                .map_err(at("make the mount point", path))?;
            }
        }
        open_exact(self.root.as_fd(), path).map_err(at("open the mount point", path))
    }

    /// `in_split` says that the node is below a folder that holds mounts and is isolated.
    fn place(
        &mut self,
        node: &Node,
        parent: Option<&Node>,
        in_split: bool,
    ) -> Result<(), MountError> {
        let placement = &node.placement;
        if node.path == Path::new("/") {
            return Ok(()); // always the in-memory root; its entries are nodes of their own
        }
        let parent_is_root = parent.is_none_or(|p| p.path == Path::new("/"));
        let covered = !parent_is_root
            && parent.is_some_and(|p| {
                let own_layer = node.is_mount && p.placement.writes == Writes::Isolated;
                p.placement == *placement && !own_layer && !p.placement.surface
            });
        if covered {
            return Ok(());
        }
        if placement.hidden {
            if parent.is_some_and(|p| p.placement.hidden) || parent_is_root {
                // Already absent. Show the folder itself when it is a mount or in the root, so
                // that paths below can be built; an empty listing tells nothing.
                if node.kind == NodeKind::Directory && parent_is_root {
                    self.make_dir(&node.path)?;
                }
            } else {
                self.mask(node)?;
            }
            self.masks.push((node.path.clone(), node.rule.clone()));
            return Ok(());
        }
        if placement.writes == Writes::Private {
            return self.private(node);
        }
        let source = match open_exact(self.host.as_fd(), &node.path) {
            Ok(source) => source,
            // Unreachable for this user outside, so unreachable inside.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(e) => return Err(at("open", &node.path)(e)),
        };
        match self.show(node, &source, in_split) {
            // Somebody removed it meanwhile: there is nothing to show.
            Err(e) if e.source.kind() == io::ErrorKind::NotFound && !self.on_host(&node.path) => {
                Ok(())
            }
            other => other,
        }
    }

    fn on_host(&self, path: &Path) -> bool {
        open_exact(self.host.as_fd(), path).is_ok()
    }

    /// What a visible node shows, at its place in the view.
    fn show(&mut self, node: &Node, source: &OwnedFd, in_split: bool) -> Result<(), MountError> {
        let placement = &node.placement;
        let Tree {
            mount,
            covers,
            read_only,
        } = self.tree(node, source, in_split)?;
        let mut set = BASE;
        if placement.noexec {
            set |= MOUNT_ATTR_NOEXEC;
        }
        if read_only {
            set |= MOUNT_ATTR_RDONLY;
        }
        sys::mount_setattr(mount.as_fd(), set, 0, true)
            .map_err(at("set attributes of", &node.path))?;
        let target = self.make_mount_point(&node.path, node.kind)?;
        sys::attach(mount.as_fd(), target.as_fd()).map_err(at("attach", &node.path))?;
        // Before anybody gets another view of the tree: no stand-in is ever without its cover.
        for (name, cover) in &covers {
            self.cover(&mount, source, name, *cover, set)
                .map_err(at("cover a name in", &node.path))?;
        }
        if placement.brokered {
            // Only now: kernels before 6.15 clone attached mounts only.
            let writable = sys::clone_tree(mount.as_fd(), true)
                .map_err(at("clone the writable view of", &node.path))?;
            self.built_views.push(BrokerView {
                root: node.path.clone(),
                mount: writable,
            });
            sys::mount_setattr(mount.as_fd(), MOUNT_ATTR_RDONLY, 0, true)
                .map_err(at("make read-only", &node.path))?;
        }
        Ok(())
    }

    /// A folder or a copy of a file in memory.
    fn private(&self, node: &Node) -> Result<(), MountError> {
        let memory =
            tmpfs(c"0700", true).map_err(at("make a memory file system for", &node.path))?;
        let mut set = BASE;
        if node.placement.noexec {
            set |= MOUNT_ATTR_NOEXEC;
        }
        sys::mount_setattr(memory.as_fd(), set, 0, false)
            .map_err(at("set attributes of", &node.path))?;
        let target = self.make_mount_point(&node.path, node.kind)?;
        if node.kind == NodeKind::Directory {
            return sys::attach(memory.as_fd(), target.as_fd()).map_err(at("attach", &node.path));
        }
        self.mount_scaffold(&memory, &node.path)?;
        let copy = || -> io::Result<OwnedFd> {
            let from = openat(
                &self.host,
                relative(&node.path),
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&from)?.st_mode & 0o777);
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let to = openat(&memory, "copy", flags, mode)?;
            io::copy(&mut fs::File::from(from), &mut fs::File::from(to))?;
            let file = sys::open_path_exact(memory.as_fd(), c"copy", 0)?;
            sys::clone_tree(file.as_fd(), false)
        };
        let file = copy().map_err(at("copy", &node.path));
        self.unmount_scaffold(&node.path)?;
        let file = file?;
        sys::attach(file.as_fd(), target.as_fd()).map_err(at("attach", &node.path))
    }

    /// Attaches memory for a while: only an attached mount can be cloned.
    fn mount_scaffold(&self, memory: &OwnedFd, of: &Path) -> Result<(), MountError> {
        let scaffold =
            open_exact(self.root.as_fd(), Path::new("/.agentwall")).map_err(at("open", of))?;
        sys::attach(memory.as_fd(), scaffold.as_fd()).map_err(at("attach", of))
    }

    /// Takes away what [`Self::mount_scaffold`] attached last.
    fn unmount_scaffold(&self, of: &Path) -> Result<(), MountError> {
        rustix::mount::unmount(
            self.stage.join(".agentwall"),
            rustix::mount::UnmountFlags::DETACH,
        )
        .map_err(io::Error::from)
        .map_err(at("remove the scaffold", of))
    }

    fn mask(&mut self, node: &Node) -> Result<(), MountError> {
        let target = match open_exact(self.root.as_fd(), &node.path) {
            Ok(target) => target,
            // Not there in the view either: nothing to hide.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EACCES)) => {
                return Ok(());
            }
            Err(e) => return Err(at("open", &node.path)(e)),
        };
        let cover = match node.kind {
            NodeKind::Directory => {
                let cover = tmpfs(c"0755", false).map_err(at("hide", &node.path))?;
                sys::mount_setattr(cover.as_fd(), MOUNT_ATTR_NOEXEC, 0, false)
                    .map_err(at("hide", &node.path))?;
                cover
            }
            NodeKind::File => {
                sys::clone_tree(self.empty_file.as_fd(), false).map_err(at("hide", &node.path))?
            }
        };
        sys::attach(cover.as_fd(), target.as_fd()).map_err(at("hide", &node.path))?;
        if node.kind == NodeKind::Directory {
            self.skeletons.push(cover);
        }
        Ok(())
    }

    /// `/dev`: memory, with the harmless host devices bound in, a private `pts` and `shm`.
    fn devices(&mut self, extra: &Extra<'_>) -> Result<OwnedFd, MountError> {
        let dev = Path::new("/dev");
        self.make_dir(dev)?;
        let mount = tmpfs(c"0755", false).map_err(at("make a memory file system for", dev))?;
        let target = open_exact(self.root.as_fd(), dev).map_err(at("open", dev))?;
        sys::attach(mount.as_fd(), target.as_fd()).map_err(at("attach", dev))?;
        for name in OWN_DEVICES {
            self.bind_device(&dev.join(name))?;
        }
        for path in extra.devices {
            self.bind_device(path)?;
        }
        for (name, to) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            symlinkat(to, &self.root, relative(&dev.join(name)))
                .map_err(io::Error::from)
                .map_err(at("link", &dev.join(name)))?;
        }
        let shm = dev.join("shm");
        self.make_dir(&shm)?;
        let memory = tmpfs(c"1777", true).map_err(at("make a memory file system for", &shm))?;
        self.attach_at(&memory, &shm)?;
        let pts = dev.join("pts");
        self.make_dir(&pts)?;
        let terminals = sys::new_mount(
            c"devpts",
            &[
                (c"newinstance", None),
                (c"ptmxmode", Some(c"0666")),
                (c"mode", Some(c"0600")),
            ],
            MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
        )
        .map_err(at("make terminals at", &pts))?;
        self.attach_at(&terminals, &pts)?;

        let own = dev.join("agentwall");
        self.make_dir(&own.join("bin"))?;
        let binary = own.join("bin/agentwall");
        let source =
            open_exact(self.host.as_fd(), extra.binary).map_err(at("open", extra.binary))?;
        let tool = sys::clone_tree(source.as_fd(), false).map_err(at("clone", extra.binary))?;
        sys::mount_setattr(tool.as_fd(), BASE | MOUNT_ATTR_RDONLY, 0, false)
            .map_err(at("make read-only", extra.binary))?;
        let target = self.make_mount_point(&binary, NodeKind::File)?;
        sys::attach(tool.as_fd(), target.as_fd()).map_err(at("attach", &binary))?;
        // At its own path too, where the view has room for it.
        if let Ok(target) = self.make_mount_point(extra.binary, NodeKind::File) {
            let tool = sys::clone_tree(source.as_fd(), false).map_err(at("clone", extra.binary))?;
            sys::mount_setattr(tool.as_fd(), BASE | MOUNT_ATTR_RDONLY, 0, false)
                .map_err(at("make read-only", extra.binary))?;
            sys::attach(tool.as_fd(), target.as_fd()).map_err(at("attach", extra.binary))?;
        }
        let writable = sys::clone_tree(mount.as_fd(), false).map_err(at("clone", dev))?;
        let folder =
            sys::open_path_exact(writable.as_fd(), c"agentwall", 0).map_err(at("open", &own))?;
        self.skeletons.push(mount);
        Ok(folder)
    }

    fn attach_at(&self, mount: &OwnedFd, path: &Path) -> Result<(), MountError> {
        let target = open_exact(self.root.as_fd(), path).map_err(at("open", path))?;
        sys::attach(mount.as_fd(), target.as_fd()).map_err(at("attach", path))
    }

    fn bind_device(&self, path: &Path) -> Result<(), MountError> {
        let Ok(source) = open_exact(self.host.as_fd(), path) else {
            return Ok(());
        };
        let mount = sys::clone_tree(source.as_fd(), false).map_err(at("clone", path))?;
        // The one place where device nodes stay usable.
        sys::mount_setattr(
            mount.as_fd(),
            MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
            0,
            false,
        )
        .map_err(at("set attributes of", path))?;
        let target = self.make_mount_point(path, NodeKind::File)?;
        sys::attach(mount.as_fd(), target.as_fd()).map_err(at("attach", path))
    }
}

/// Mounts a fresh procfs for the calling process's process namespace on `root`/proc, with the
/// parts that reach the host's kernel settings read-only or hidden.
pub fn mount_proc(root: BorrowedFd<'_>) -> Result<(), MountError> {
    let path = Path::new("/proc");
    let proc = sys::new_mount(
        c"proc",
        &[],
        MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
    )
    .map_err(at("mount", path))?;
    let target = open_exact(root, path).map_err(at("open", path))?;
    sys::attach(proc.as_fd(), target.as_fd()).map_err(at("attach", path))?;
    let proc_dir = open_exact(root, path).map_err(at("open", path))?;
    for name in [
        "sys",
        "sysrq-trigger",
        "irq",
        "bus",
        "fs",
        "acpi",
        "scsi",
        "tty",
        "driver",
    ] {
        let Ok(inner) = open_exact(proc_dir.as_fd(), Path::new(name)) else {
            continue;
        };
        let clone = sys::clone_tree(inner.as_fd(), false).map_err(at("clone", path))?;
        sys::mount_setattr(clone.as_fd(), MOUNT_ATTR_RDONLY, 0, false)
            .map_err(at("make read-only", path))?;
        sys::attach(clone.as_fd(), inner.as_fd()).map_err(at("attach", path))?;
    }
    Ok(())
}
