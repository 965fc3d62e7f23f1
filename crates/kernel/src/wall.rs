//! The programs in the kernel: loading them, keeping them there, talking to them.
//!
//! A [`Wall`] is a set of maps by name and of attached programs by hook. It stands either because
//! this process just loaded it or because an earlier one pinned it to a BPF file system: pinned, it goes on
//! enforcing when the process that loaded it is gone ([`Wall::pin`], [`Wall::open`]). A new version takes over the maps of
//! the old one, attaches beside it and only then takes it away, so at no moment does nothing stand
//! ([`Wall::replace`]).
//!
//! Where a kernel loads no LSM programs, the [monitor's](Programs::Monitor) stand in the same way and refuse
//! nothing.
//!
//! Nothing here decides: the policy is in the tables ([`crate::tables`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use agentwall_action::Verb;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Func, FuncProto};
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{
    Iter, Link, MapCore as _, MapFlags, MapHandle, Object, ObjectBuilder, PrintLevel, RingBuffer,
    RingBufferBuilder,
};

use crate::names;
use crate::object;
use crate::preempt::{MENDED, Preemption};
use crate::tables::{Tables, TablesError};
use crate::wire::{
    self, Event, Governed, Identity, Start, TASK_RELEASED, TASK_WALL, VERBS, VIEWS, WireError,
};

/// The version of what lies in the maps. Maps of another version are not taken over.
const LAYOUT: u32 = 2;

/// Hooks that came after the oldest supported kernel, or that some kernels are built without. Without one of them the
/// operation does not exist, or an older hook sees it.
const OPTIONAL: [&str; 9] = [
    "file_truncate",
    "file_ioctl_compat",
    "inode_set_acl",
    "inode_remove_acl",
    "inode_file_setattr",
    "uring_override_creds",
    "uring_cmd",
    "key_alloc",
    "key_permission",
];

/// Which programs stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Programs {
    /// Those of the LSM hooks, which refuse.
    #[default]
    Wall,
    /// Those of tracepoints, which tell what the others would have refused.
    Monitor,
}

impl Programs {
    /// The object that has them.
    pub const fn object(self) -> &'static [u8] {
        match self {
            Programs::Wall => object::WALL,
            Programs::Monitor => object::MONITOR,
        }
    }
}

/// A program that only the monitor has.
const OF_THE_MONITOR: &str = "mon_call";

/// How to load.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of the ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// What.
    pub programs: Programs,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ring_bytes: 1 << 22,
            programs: Programs::Wall,
        }
    }
}

/// Why the wall does not stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WallError {
    /// The kernel has no type information of itself.
    #[error(
        "the kernel tells no types of itself ({0}); it must be built with CONFIG_DEBUG_INFO_BTF, as Debian's are"
    )]
    NoTypes(libbpf_rs::Error),
    /// The kernel leaves programs out where it preempts tasks.
    #[error(
        "before Linux 6.2 a kernel that preempts tasks anywhere leaves programs out at its hooks, and this one {0}; boot \
         it with preempt=voluntary, or take Linux 6.2 or later"
    )]
    Preempts(&'static str),
    /// A hook that is needed is not there.
    #[error("the kernel has no LSM hook {hook}; Linux 6.1 or later is needed, with CONFIG_BPF_LSM")]
    NoHook {
        /// Its name.
        hook: String,
    },
    /// The kernel refused the programs.
    #[error("the kernel refused to load the programs: {source}{log}")]
    Load {
        /// What it said.
        source: libbpf_rs::Error,
        /// The loader's own messages, each on a line of its own.
        log: String,
    },
    /// A program was loaded and cannot be attached.
    #[error("cannot attach {program}: {source}{log}")]
    Attach {
        /// Its name.
        program: String,
        /// What the kernel said.
        source: libbpf_rs::Error,
        /// The loader's own messages.
        log: String,
    },
    /// The programs that decide about host names cannot be attached.
    #[error("the root cgroup takes no programs: {source}")]
    Names {
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A pin cannot be read or made.
    #[error("{path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// What is pinned is of another version.
    #[error("{path} holds a wall of layout {found}, this program speaks {LAYOUT}: load it anew")]
    Layout {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// A map does not do what it should.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A process cannot be found.
    #[error("process {pid}: {source}")]
    Process {
        /// Its number.
        pid: u32,
        /// What went wrong.
        source: io::Error,
    },
    /// The map of tables is none.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// What came out of the kernel cannot be read.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl WallError {
    /// Whether the kernel has no LSM hooks for programs, or lets nobody use them; that it takes other programs,
    /// loading the monitor shows. Everything else is a failure of its own.
    pub fn is_about_the_hooks(&self) -> bool {
        // Where trampolines are missing the kernel says ENOTSUPP, which has no name in user space.
        const ENOTSUPP: i32 = 524;
        let refused = |source: &libbpf_rs::Error| {
            let number = std::error::Error::source(source)
                .and_then(|e| e.downcast_ref::<io::Error>())
                .and_then(io::Error::raw_os_error);
            source.kind() == libbpf_rs::ErrorKind::PermissionDenied
                || matches!(number, Some(libc::EPERM | libc::EOPNOTSUPP | ENOTSUPP))
        };
        match self {
            WallError::NoHook { .. } => true,
            WallError::Load { source, .. } | WallError::Attach { source, .. } => refused(source),
            _ => false,
        }
    }
}

/// The programs, attached, and their maps.
#[derive(Debug)]
pub struct Wall {
    maps: BTreeMap<String, MapHandle>,
    links: BTreeMap<String, Link>,
    without_names: Option<String>,
}

/// Numbers that the programs count, over all processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Questions to a table.
    pub decisions: u64,
    /// Opens that the decision cache answered.
    pub cached: u64,
    /// Operations that were refused, or would have been.
    pub refused: u64,
    /// Events that found no room in the ring buffer.
    pub dropped: u64,
    /// Refusals because something could not be decided, or is never permitted.
    pub undecided: u64,
    /// Processes that could not be governed for want of memory, and so were not made.
    pub no_memory: u64,
    /// Grants that were used.
    pub granted: u64,
    /// Runs of a program that the kernel left out, since the same one was at work on that processor.
    pub missed: u64,
}

impl Wall {
    /// Loads the programs and attaches them. Without [`pin`](Wall::pin) they go when this value goes.
    ///
    /// # Errors
    /// The kernel is too old, or refuses; the message says what it said.
    pub fn load(options: &Options) -> Result<Wall, WallError> {
        Wall::start(options, &BTreeMap::new())
    }

    /// Takes the place of a wall that stands: the new programs take over its maps, are attached beside the old ones,
    /// and the old ones go last.
    ///
    /// # Errors
    /// As [`load`](Wall::load). The old wall is then still there.
    pub fn replace(self, options: &Options) -> Result<Wall, WallError> {
        Wall::start(options, &self.maps)
    }

    fn start(
        options: &Options,
        inherited: &BTreeMap<String, MapHandle>,
    ) -> Result<Wall, WallError> {
        let hooks = Hooks::of_this_kernel()?;
        if options.programs == Programs::Wall && !hooks.has("file_open") {
            let hook = "file_open".to_owned();
            return Err(WallError::NoHook { hook });
        }
        let messages = Messages::collect();
        let loaded = load(options, &hooks, inherited).map_err(|source| WallError::Load {
            source,
            log: messages.text(),
        })?;
        let mut maps = BTreeMap::new();
        for map in loaded.maps() {
            let name = map.name().to_string_lossy().into_owned();
            let handle = MapHandle::try_from(&map).map_err(|source| WallError::Load {
                source,
                log: messages.text(),
            })?;
            maps.insert(name, handle);
        }
        let mut links = BTreeMap::new();
        for program in loaded.progs_mut() {
            if !program.autoload() {
                continue;
            }
            let name = program.name().to_string_lossy().into_owned();
            let link = program.attach().map_err(|source| WallError::Attach {
                program: name.clone(),
                source,
                log: messages.text(),
            })?;
            links.insert(name, link);
        }
        let without_names = match names::attach(&maps) {
            Ok(attached) => {
                links.extend(attached);
                None
            }
            Err(e) => Some(format!("{e}{}", messages.text())),
        };
        Ok(Wall {
            maps,
            links,
            without_names,
        })
    }

    /// Pins everything below `folder`, in a BPF file system, in the place of what is pinned there.
    ///
    /// # Errors
    /// It is no BPF file system, or is not writable. What was pinned there before is then still there.
    pub fn pin(&mut self, folder: &Path) -> Result<(), WallError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| WallError::Pin { path, source }
        };
        let fresh = beside(folder, "_new");
        remove_pins(&fresh).map_err(failed(&fresh))?;
        let layout = fresh.join(format!("layout-{LAYOUT}"));
        for sub in ["maps", "links"] {
            fs::create_dir_all(fresh.join(sub)).map_err(failed(&fresh))?;
        }
        fs::create_dir(&layout).map_err(failed(&layout))?;
        for (name, map) in &mut self.maps {
            let path = fresh.join("maps").join(name.replace('.', "_"));
            map.pin(&path)
                .map_err(io::Error::other)
                .map_err(failed(&path))?;
        }
        for (name, link) in &mut self.links {
            let path = fresh.join("links").join(name);
            link.pin(&path)
                .map_err(io::Error::other)
                .map_err(failed(&path))?;
        }
        let old = beside(folder, "_old");
        remove_pins(&old).map_err(failed(&old))?;
        if folder.exists() {
            fs::rename(folder, &old).map_err(failed(folder))?;
        }
        fs::rename(&fresh, folder).map_err(failed(folder))?;
        remove_pins(&old).map_err(failed(&old))
    }

    /// The wall that is pinned below `folder`; `None`: there is none.
    ///
    /// # Errors
    /// It is of another version, or cannot be opened.
    pub fn open(folder: &Path) -> Result<Option<Wall>, WallError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| WallError::Pin { path, source }
        };
        if !folder.exists() {
            return Ok(None);
        }
        let names = names_in(folder).map_err(failed(folder))?;
        if !names.contains(&format!("layout-{LAYOUT}")) {
            let found = names
                .iter()
                .find_map(|n| n.strip_prefix("layout-"))
                .unwrap_or("unknown");
            return Err(WallError::Layout {
                path: folder.to_owned(),
                found: found.to_owned(),
            });
        }
        let mut wall = Wall {
            maps: BTreeMap::new(),
            links: BTreeMap::new(),
            without_names: None,
        };
        for name in names_in(&folder.join("maps")).map_err(failed(folder))? {
            let path = folder.join("maps").join(&name);
            let map = MapHandle::from_pinned_path(&path)
                .map_err(io::Error::other)
                .map_err(failed(&path))?;
            wall.maps.insert(name, map);
        }
        for name in names_in(&folder.join("links")).map_err(failed(folder))? {
            let path = folder.join("links").join(&name);
            let link = Link::open(&path)
                .map_err(io::Error::other)
                .map_err(failed(&path))?;
            wall.links.insert(name, link);
        }
        Ok(Some(wall))
    }

    /// Takes away what is pinned below `folder`: from then on the host is not guarded any more.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn unpin(folder: &Path) -> Result<(), WallError> {
        remove_pins(folder).map_err(|source| WallError::Pin {
            path: folder.to_owned(),
            source,
        })
    }

    /// Which programs these are.
    pub fn kind(&self) -> Programs {
        match self.links.contains_key(OF_THE_MONITOR) {
            true => Programs::Monitor,
            false => Programs::Wall,
        }
    }

    /// The hooks that are attached, by program.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.links.keys().map(String::as_str)
    }

    /// Why the programs that decide about host names could not be attached, if this process tried.
    pub fn without_names(&self) -> Option<&str> {
        self.without_names.as_deref()
    }

    /// The policy tables.
    ///
    /// # Errors
    /// The map is missing.
    pub fn tables(&self) -> Result<Tables, WallError> {
        let handle = |map| {
            MapHandle::try_from(self.map(map)?).map_err(|source| WallError::Map { map, source })
        };
        Ok(Tables::new(handle("tables")?, Some(handle("chosen")?))?)
    }

    pub(crate) fn map(&self, name: &'static str) -> Result<&MapHandle, WallError> {
        self.maps.get(name).ok_or_else(|| WallError::Map {
            map: name,
            source: libbpf_rs::Error::from(io::Error::from(io::ErrorKind::NotFound)),
        })
    }

    pub(crate) fn update(
        &self,
        name: &'static str,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), WallError> {
        self.map(name)?
            .update(key, value, MapFlags::ANY)
            .map_err(|source| WallError::Map { map: name, source })
    }

    pub(crate) fn delete(&self, name: &'static str, key: &[u8]) -> Result<(), WallError> {
        match self.map(name)?.delete(key) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(WallError::Map { map: name, source }),
        }
    }

    /// Puts a process with all its threads, and everything that descends from it, under a view. What is forked
    /// meanwhile is found by looking until nothing is new; from then on the kernel hands it on.
    /// View 0 takes the policy away.
    ///
    /// # Errors
    /// The process is gone, or a map is full.
    pub fn adopt(&self, pid: u32, view: u32, session: u64) -> Result<Vec<u32>, WallError> {
        self.place(pid, view, session, 0)
    }

    /// Marks a process and its descendants as the wall's own: governed ones may not signal or trace them.
    ///
    /// # Errors
    /// As [`adopt`](Wall::adopt).
    pub fn protect_process(&self, pid: u32) -> Result<(), WallError> {
        self.place(pid, 0, 0, TASK_WALL).map(drop)
    }

    /// Takes the policy away from a process and its descendants, and lets the configuration give them none.
    ///
    /// # Errors
    /// As [`adopt`](Wall::adopt).
    pub fn release(&self, pid: u32) -> Result<Vec<u32>, WallError> {
        self.place(pid, 0, 0, TASK_RELEASED)
    }

    /// Puts a view in place for starts that the configuration means; `None`: they go on without, and are told.
    ///
    /// # Errors
    /// The folder's name is too long, or the map is full.
    pub fn prepare(&self, start: &Start, view: Option<u32>) -> Result<(), WallError> {
        let key = start.key().ok_or_else(|| WallError::Map {
            map: "prepared",
            source: libbpf_rs::Error::from(io::Error::from(io::ErrorKind::InvalidFilename)),
        })?;
        self.update("prepared", &key, &view.unwrap_or(0).to_ne_bytes())
    }

    /// Takes it back.
    ///
    /// # Errors
    /// The map cannot be changed.
    pub fn unprepare(&self, start: &Start) -> Result<(), WallError> {
        match start.key() {
            Some(key) => self.delete("prepared", &key),
            None => Ok(()),
        }
    }

    /// All that is in place for starts, with its view.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn prepared(&self) -> Result<Vec<(Start, Option<u32>)>, WallError> {
        // The monitor puts nobody under a view.
        if self.kind() == Programs::Monitor {
            return Ok(Vec::new());
        }
        let map = self.map("prepared")?;
        let mut all = Vec::new();
        for key in map.keys() {
            let value = map
                .lookup(&key, MapFlags::ANY)
                .map_err(|source| WallError::Map {
                    map: "prepared",
                    source,
                })?;
            let number = value.and_then(|v| Some(u32::from_ne_bytes(v.try_into().ok()?)));
            // What was taken back meanwhile has no value.
            if let Some(number) = number {
                all.push((Start::parse(&key)?, (number != 0).then_some(number)));
            }
        }
        Ok(all)
    }

    fn place(&self, pid: u32, view: u32, session: u64, flags: u32) -> Result<Vec<u32>, WallError> {
        if view >= VIEWS {
            return Err(WallError::Map {
                map: "tables",
                source: libbpf_rs::Error::from(io::Error::from(io::ErrorKind::InvalidInput)),
            });
        }
        let mut placed = Vec::new();
        loop {
            let tree = descendants(pid).map_err(|source| WallError::Process { pid, source })?;
            let fresh: Vec<u32> = tree.into_iter().filter(|p| !placed.contains(p)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in &fresh {
                let mut value = Vec::with_capacity(24);
                value.extend_from_slice(&session.to_ne_bytes());
                value.extend_from_slice(&0u64.to_ne_bytes());
                value.extend_from_slice(&view.to_ne_bytes());
                value.extend_from_slice(&flags.to_ne_bytes());
                self.update("adopting", &pid.to_ne_bytes(), &value)?;
            }
            self.run_iterator("aw_adopt")?;
            placed.extend(fresh);
        }
        for pid in &placed {
            self.delete("adopting", &pid.to_ne_bytes())?;
        }
        Ok(placed)
    }

    /// Every governed process, and the wall's own.
    ///
    /// # Errors
    /// The iterator cannot be run.
    pub fn governed(&self) -> Result<Vec<Governed>, WallError> {
        Ok(Governed::parse_all(&self.run_iterator("aw_list")?)?)
    }

    fn run_iterator(&self, name: &'static str) -> Result<Vec<u8>, WallError> {
        let failed = |source| WallError::Map { map: name, source };
        let link = self.links.get(name).ok_or_else(|| {
            failed(libbpf_rs::Error::from(io::Error::from(
                io::ErrorKind::NotFound,
            )))
        })?;
        let mut out = Vec::new();
        Iter::new(link)
            .map_err(failed)?
            .read_to_end(&mut out)
            .map_err(|e| failed(libbpf_rs::Error::from(e)))?;
        Ok(out)
    }

    /// Permits what was asked about, for this session: `uses` times (0: any number), until `until`
    /// (nanoseconds of `CLOCK_BOOTTIME`; 0: until it is taken back).
    ///
    /// # Errors
    /// The map is full.
    pub fn grant(
        &self,
        session: u64,
        identity: &Identity,
        verb: Verb,
        until: u64,
        uses: u64,
    ) -> Result<(), WallError> {
        let mut value = until.to_ne_bytes().to_vec();
        value.extend_from_slice(&uses.to_ne_bytes());
        self.update("grants", &wire::grant_key(session, identity, verb), &value)
    }

    /// Whether a grant is there that can be used at this moment (nanoseconds of `CLOCK_BOOTTIME`).
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn granted(
        &self,
        session: u64,
        identity: &Identity,
        verb: Verb,
        now: u64,
    ) -> Result<bool, WallError> {
        let key = wire::grant_key(session, identity, verb);
        let found = self.map("grants")?.lookup(&key, MapFlags::ANY);
        let found = found.map_err(|source| WallError::Map {
            map: "grants",
            source,
        })?;
        let until = found.and_then(|v| Some(u64::from_ne_bytes(v.get(..8)?.try_into().ok()?)));
        Ok(until.is_some_and(|until| until == 0 || until > now))
    }

    /// Takes a grant back.
    ///
    /// # Errors
    /// The map cannot be changed.
    pub fn take_back(
        &self,
        session: u64,
        identity: &Identity,
        verb: Verb,
    ) -> Result<(), WallError> {
        self.delete("grants", &wire::grant_key(session, identity, verb))
    }

    /// Uses a grant up by one, where user space decides and not a program; whether there was one.
    ///
    /// # Errors
    /// The map cannot be read or changed.
    pub fn redeem(
        &self,
        session: u64,
        identity: &Identity,
        verb: Verb,
        now: u64,
    ) -> Result<bool, WallError> {
        let key = wire::grant_key(session, identity, verb);
        let found = self
            .map("grants")?
            .lookup(&key, MapFlags::ANY)
            .map_err(|source| WallError::Map {
                map: "grants",
                source,
            })?;
        let Some((until, uses)) = found.as_deref().and_then(wire::grant_of) else {
            return Ok(false);
        };
        if until != 0 && until < now {
            return Ok(false);
        }
        match uses {
            0 => {}
            1 => self.delete("grants", &key)?,
            _ => self.grant(session, identity, verb, until, uses - 1)?,
        }
        Ok(true)
    }

    /// Notes something about an object that its name does not tell.
    ///
    /// # Errors
    /// The object cannot be looked at, the other name is too long, or the map is full.
    pub fn note(&self, path: &Path, note: &Note) -> Result<(), WallError> {
        let failed = |source| WallError::Pin {
            path: path.to_owned(),
            source,
        };
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        let (flags, name): (u32, &[u8]) = match note {
            Note::Wall => (1, b""),
            Note::Pinned => (2, b""),
            Note::Alias(name) => (4, name),
        };
        if name.len() > wire::ALIAS_ROOM {
            return Err(failed(io::Error::from(io::ErrorKind::InvalidFilename)));
        }
        let key = object_key(&meta);
        let known = self
            .map("objects")?
            .lookup(&key, MapFlags::ANY)
            .map_err(|source| WallError::Map {
                map: "objects",
                source,
            })?;
        // One note does not take another away; of two other names the first stays.
        let had = known
            .as_ref()
            .and_then(|v| Some(u32::from_ne_bytes(v.get(..4)?.try_into().ok()?)))
            .unwrap_or(0);
        if had & flags == flags {
            return Ok(());
        }
        let flags = flags | had;
        if name.is_empty()
            && let Some(mut value) = known
        {
            value[0..4].copy_from_slice(&flags.to_ne_bytes());
            return self.update("objects", &key, &value);
        }
        let mut value = vec![0; 8 + wire::ALIAS_ROOM];
        value[0..4].copy_from_slice(&flags.to_ne_bytes());
        value[4..8].copy_from_slice(&(name.len() as u32).to_ne_bytes());
        value[8..8 + name.len()].copy_from_slice(name);
        self.update("objects", &key, &value)
    }

    /// Takes a note away. An object that is gone has none.
    ///
    /// # Errors
    /// The map cannot be changed.
    pub fn forget(&self, path: &Path) -> Result<(), WallError> {
        match fs::symlink_metadata(path) {
            Ok(meta) => self.delete("objects", &object_key(&meta)),
            Err(_) => Ok(()),
        }
    }

    /// A reader of events that calls `each` with every record that came.
    ///
    /// # Errors
    /// The ring buffer cannot be mapped.
    pub fn events<'a>(
        &'a self,
        mut each: impl FnMut(Result<Event, WireError>) + 'a,
    ) -> Result<Events<'a>, WallError> {
        let failed = |source| WallError::Map {
            map: "events",
            source,
        };
        let map = self.map("events")?;
        let mut builder = RingBufferBuilder::new();
        builder
            .add(map, move |bytes: &[u8]| {
                each(Event::parse(bytes));
                0
            })
            .map_err(failed)?;
        Ok(Events(builder.build().map_err(failed)?))
    }

    /// What the programs counted since they were loaded.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Counters, WallError> {
        let read = |index: u32| self.sum("counters", index);
        Ok(Counters {
            decisions: read(0)?,
            cached: read(1)?,
            refused: read(2)?,
            dropped: read(3)?,
            undecided: read(4)?,
            no_memory: read(5)?,
            granted: read(6)?,
            missed: self.missed()?,
        })
    }

    fn missed(&self) -> Result<u64, WallError> {
        let ids = self.links.values().map(|link| Ok(link.info()?.prog_id));
        let ids: Vec<u32> =
            ids.collect::<libbpf_rs::Result<_>>()
                .map_err(|source| WallError::Map {
                    map: "links",
                    source,
                })?;
        let of_ours = ProgInfoIter::default().filter(|p| ids.contains(&p.id));
        Ok(of_ours.map(|p| p.recursion_misses).sum())
    }

    /// Plain allows of a view by verb, those above zero.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn allows(&self, view: u32) -> Result<Vec<(Verb, u64)>, WallError> {
        let mut out = Vec::new();
        for verb in Verb::ALL {
            let index = (view % VIEWS) * VERBS + wire::number_of(*verb);
            let count = self.sum("allows", index)?;
            if count > 0 {
                out.push((*verb, count));
            }
        }
        Ok(out)
    }

    fn sum(&self, map: &'static str, index: u32) -> Result<u64, WallError> {
        let values = self
            .map(map)?
            .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
            .map_err(|source| WallError::Map { map, source })?
            .unwrap_or_default();
        Ok(values
            .iter()
            .filter_map(|v| Some(u64::from_ne_bytes(v.get(..8)?.try_into().ok()?)))
            .sum())
    }
}

/// What is known of an object beside its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It is the wall's own: no governed task opens, changes or moves it.
    Wall,
    /// A folder above something that a rule refuses: it is not moved.
    Pinned,
    /// It has another name, which is asked about as well.
    Alias(Vec<u8>),
}

/// A reader of the ring buffer.
#[derive(Debug)]
pub struct Events<'a>(RingBuffer<'a>);

impl Events<'_> {
    /// Hands over what is there, waiting for the first at most so long, or until a signal comes.
    ///
    /// # Errors
    /// The buffer cannot be read.
    pub fn poll(&self, timeout: Duration) -> Result<(), WallError> {
        match self.0.poll(timeout) {
            Err(e) if e.kind() == libbpf_rs::ErrorKind::Interrupted => Ok(()),
            Err(source) => Err(WallError::Map {
                map: "events",
                source,
            }),
            Ok(()) => Ok(()),
        }
    }
}

/// What differs between kernels.
struct Hooks {
    types: Btf<'static>,
    setattr_has_idmap: bool,
}

impl Hooks {
    fn of_this_kernel() -> Result<Hooks, WallError> {
        let types = Btf::from_vmlinux().map_err(WallError::NoTypes)?;
        if types.type_by_name::<Func<'_>>(MENDED).is_none() {
            match Preemption::now() {
                Preemption::Voluntary => {}
                Preemption::Full => return Err(WallError::Preempts("does")),
                Preemption::Unknown => {
                    return Err(WallError::Preempts(
                        "does not tell (mount debugfs on /sys/kernel/debug)",
                    ));
                }
            }
        }
        let arguments = |hook: &str| -> Option<usize> {
            let func: Func<'_> = types.type_by_name(&format!("bpf_lsm_{hook}"))?;
            let proto: FuncProto<'_> = FuncProto::try_from(func.next_type()?).ok()?;
            Some(proto.len())
        };
        let setattr_has_idmap = arguments("inode_setattr") == Some(3);
        Ok(Hooks {
            types,
            setattr_has_idmap,
        })
    }

    fn has(&self, hook: &str) -> bool {
        self.types
            .type_by_name::<Func<'_>>(&format!("bpf_lsm_{hook}"))
            .is_some()
    }
}

fn load(
    options: &Options,
    hooks: &Hooks,
    inherited: &BTreeMap<String, MapHandle>,
) -> Result<Object, libbpf_rs::Error> {
    let mut opened = ObjectBuilder::default().open_memory(options.programs.object())?;
    for mut program in opened.progs_mut() {
        let section = program.section().to_string_lossy().into_owned();
        if let Some(hook) = section.strip_prefix("lsm/")
            && OPTIONAL.contains(&hook)
            && !hooks.has(hook)
        {
            program.set_autoload(false);
        }
        let of_other_kernels = if hooks.setattr_has_idmap {
            "aw_setattr"
        } else {
            "aw_setattr_idmap"
        };
        if program.name() == of_other_kernels {
            program.set_autoload(false);
        }
    }
    let namespace = fs::metadata("/proc/1/ns/mnt").map_or(0, |m| m.ino() as u32);
    for mut map in opened.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name == "events" {
            map.set_max_entries(options.ring_bytes)?;
        }
        if name.ends_with(".rodata.host") {
            map.set_initial_value(&namespace.to_ne_bytes())?;
        } else if let Some(old) = inherited.get(&name) {
            map.reuse_fd(old.as_fd())?;
        }
    }
    opened.load()
}

/// What the loading library says, kept instead of printed.
struct Messages;

static SAID: Mutex<String> = Mutex::new(String::new());

impl Messages {
    fn collect() -> Messages {
        if let Ok(mut said) = SAID.lock() {
            said.clear();
        }
        libbpf_rs::set_print(Some((PrintLevel::Warn, |_, text| {
            if let Ok(mut said) = SAID.lock()
                && said.len() < 1 << 16
            {
                said.push('\n');
                said.push_str(text.trim_end());
            }
        })));
        Messages
    }

    fn text(&self) -> String {
        SAID.lock().map(|said| said.clone()).unwrap_or_default()
    }
}

fn object_key(meta: &fs::Metadata) -> Vec<u8> {
    let device = meta.dev();
    let device = rustix::fs::major(device) << 20 | rustix::fs::minor(device);
    let mut key = meta.ino().to_ne_bytes().to_vec();
    key.extend_from_slice(&device.to_ne_bytes());
    key.extend_from_slice(&[0; 4]);
    key
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The folder's name with a word behind it. Names in a BPF file system have no dots.
fn beside(folder: &Path, word: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(word);
    PathBuf::from(name)
}

/// Removes a folder of pins; removing a pinned link detaches its program.
fn remove_pins(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A process and all that descend from it, from `/proc`.
fn descendants(root: u32) -> io::Result<Vec<u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            parents.insert(pid, parent);
        }
    }
    if !parents.contains_key(&root) {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        tree.extend(
            parents
                .iter()
                .filter(|(_, p)| **p == parent)
                .map(|(c, _)| *c),
        );
        next += 1;
    }
    Ok(tree)
}

/// The parent of a process that is there; the name in parentheses may hold anything.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind = stat.iter().rposition(|b| *b == b')')? + 1;
    let text = std::str::from_utf8(stat.get(behind..)?).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}
