//! Policy tables in the kernel: one for each view, exchanged whole.
//!
//! The outer map has two places for each view; in one is a map of one value, a table with its generation and
//! flags behind it. A new table is a new inner map, filled and frozen before it is put into the other place; then one
//! update of a number makes that place the one that counts. A program notes the place when an operation begins, and asks
//! all its questions there. The old table goes when no program that began with it can be running any more: an update of a
//! map of maps returns only then ([map of maps]).
//!
//! [map of maps]: https://docs.kernel.org/bpf/map_of_maps.html

use std::os::fd::{AsFd, AsRawFd};

use agentwall_policy::CompiledTable;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use crate::abi::{TABLE_FLAGS, TABLE_GENERATION, TABLE_ROOM, TABLE_WORDS};

/// Why a table was not put into the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TablesError {
    /// The policy is too large for the kernel.
    #[error(
        "the compiled policy has {words} words, and the kernel takes {TABLE_ROOM}: shorten the policy, \
         or split it by subject"
    )]
    TooLong {
        /// Its length in 32-bit words.
        words: usize,
    },
    /// There is no such view.
    #[error("there is no view {view}: the map of tables has {views}")]
    NoView {
        /// The one asked for.
        view: u32,
        /// How many there are.
        views: u32,
    },
    /// A map that is not one of tables.
    #[error("expected a map of tables (an array of maps with 4-byte keys), found {found}")]
    NotTables {
        /// Type and size of its keys.
        found: String,
    },
    /// What is in a view is not a table.
    #[error("expected a table of {TABLE_WORDS} words in view {view}, found {found} bytes")]
    NotTable {
        /// The view.
        view: u32,
        /// The size of the value.
        found: usize,
    },
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// Its answer.
        source: libbpf_rs::Error,
    },
}

/// What stands behind a table in its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// The number given when it was installed.
    pub generation: u64,
    /// [`TABLE_AUDIT`](crate::abi::TABLE_AUDIT), [`TABLE_INSIDE`](crate::abi::TABLE_INSIDE).
    pub flags: u32,
}

/// The tables of all views.
#[derive(Debug)]
pub struct Tables {
    outer: MapHandle,
    chosen: Option<MapHandle>,
}

impl Tables {
    /// Takes the map of tables of a loaded object, or a pinned one, and the one that says which of a view's two places
    /// counts. Without it a view has one place: enough for programs that ask one question at a time.
    pub fn new(outer: MapHandle, chosen: Option<MapHandle>) -> Result<Tables, TablesError> {
        if outer.map_type() != MapType::ArrayOfMaps || outer.key_size() != 4 {
            let found = format!("{:?} with {}-byte keys", outer.map_type(), outer.key_size());
            return Err(TablesError::NotTables { found });
        }
        Ok(Tables { outer, chosen })
    }

    /// Puts a table into a view. An operation is asked of the old one or of the new one, never of both; when this
    /// returns, only of the new one.
    pub fn install(
        &self,
        view: u32,
        table: &CompiledTable,
        generation: u64,
        flags: u32,
    ) -> Result<(), TablesError> {
        let words = table.words();
        if words.len() > TABLE_ROOM {
            let words = words.len();
            return Err(TablesError::TooLong { words });
        }
        self.install_words(view, words, generation, flags)
    }

    /// Puts words into a view that nobody checked. For tests of the programs alone: they must end
    /// whatever a table says.
    #[doc(hidden)]
    pub fn install_words(
        &self,
        view: u32,
        words: &[u32],
        generation: u64,
        flags: u32,
    ) -> Result<(), TablesError> {
        self.check(view)?;
        let mut value = vec![0u32; TABLE_WORDS];
        let kept = words.len().min(TABLE_ROOM);
        value[..kept].copy_from_slice(&words[..kept]);
        value[TABLE_GENERATION] = generation as u32;
        value[TABLE_GENERATION + 1] = (generation >> 32) as u32;
        value[TABLE_FLAGS] = flags;

        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let bytes: &[u8] = bytemuck::cast_slice(&value);
        let inner = MapHandle::create(
            MapType::Array,
            Some("table"),
            4,
            bytes.len() as u32,
            1,
            &options,
        )
        .map_err(kernel("cannot create a map for the table"))?;
        inner
            .update(&0u32.to_ne_bytes(), bytes, MapFlags::ANY)
            .map_err(kernel("cannot fill the table's map"))?;
        inner
            .freeze()
            .map_err(kernel("cannot freeze the table's map"))?;
        let fd = inner.as_fd().as_raw_fd();
        let put = |place: u32| {
            self.outer
                .update(&place.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
                .map_err(kernel("cannot put the table into its view"))
        };
        let Some(chosen) = &self.chosen else {
            return put(view);
        };
        let (old, new) = self.places(view)?;
        put(new)?;
        chosen
            .update(&view.to_ne_bytes(), &(new & 1).to_ne_bytes(), MapFlags::ANY)
            .map_err(kernel("cannot make the table the one that counts"))?;
        // It is there already: what this is for is that it returns when nobody asks the old one any more.
        put(new)?;
        self.clear(old)
    }

    /// Takes a view's table away: what is asked there is then not decided.
    pub fn remove(&self, view: u32) -> Result<(), TablesError> {
        self.check(view)?;
        let (one, other) = self.places(view)?;
        self.clear(one)?;
        self.clear(other)
    }

    /// The place of a view that counts, and the other one.
    fn places(&self, view: u32) -> Result<(u32, u32), TablesError> {
        let Some(chosen) = &self.chosen else {
            return Ok((view, view));
        };
        let which = chosen
            .lookup(&view.to_ne_bytes(), MapFlags::ANY)
            .map_err(kernel("cannot read which table counts"))?;
        let which = which.and_then(|w| w.as_slice().try_into().ok());
        let which = which.map_or(0, u32::from_ne_bytes) & 1;
        Ok((2 * view + which, 2 * view + (which ^ 1)))
    }

    fn clear(&self, place: u32) -> Result<(), TablesError> {
        match self.outer.delete(&place.to_ne_bytes()) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(kernel("cannot take the table out of its view")(error))
            }
            _ => Ok(()),
        }
    }

    /// What is in a view, read from the kernel; `None` if nothing is. Copies the whole table.
    pub fn installed(&self, view: u32) -> Result<Option<Installed>, TablesError> {
        self.check(view)?;
        let failed = kernel("cannot read the table's map");
        let (place, _) = self.places(view)?;
        let id = match self.outer.lookup(&place.to_ne_bytes(), MapFlags::ANY) {
            Ok(None) => return Ok(None),
            Ok(Some(id)) => id,
            Err(error) => return Err(failed(error)),
        };
        // A place reads as the number of the map in it.
        let id = id.as_slice().try_into().map_or(0, u32::from_ne_bytes);
        let inner = MapHandle::from_map_id(id).map_err(failed)?;
        let value = inner
            .lookup(&0u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(kernel("cannot read the table"))?
            .unwrap_or_default();
        if value.len() != TABLE_WORDS * 4 {
            let found = value.len();
            return Err(TablesError::NotTable { view, found });
        }
        let word = |i: usize| {
            let bytes = [0, 1, 2, 3].map(|b| value[4 * i + b]);
            u32::from_ne_bytes(bytes)
        };
        let generation = u64::from(word(TABLE_GENERATION + 1)) << 32;
        Ok(Some(Installed {
            generation: generation | u64::from(word(TABLE_GENERATION)),
            flags: word(TABLE_FLAGS),
        }))
    }

    fn check(&self, view: u32) -> Result<(), TablesError> {
        let places = if self.chosen.is_some() { 2 } else { 1 };
        let views = self.outer.max_entries() / places;
        if view >= views {
            return Err(TablesError::NoView { view, views });
        }
        Ok(())
    }
}

fn kernel(step: &'static str) -> impl FnOnce(libbpf_rs::Error) -> TablesError {
    move |source| TablesError::Kernel { step, source }
}
