//! Where a run begins: with nothing, in an earlier session's own layers (`--on`), or with a copy of
//! them (`--from`).
//!
//! An earlier session is taken only when its layers can mean what they meant: it has ended, nothing of
//! it was cut off (or that is finished now), its folders are there, the originals are the same
//! directories, and their base can be read. Its lock is held from then on. A changed tree that the new
//! run's policy would not put a copy layer over is refused: the agent would see the originals there.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use agentwall_cow::{FileId, Layer, Manifest, Timestamp, copy_layer};
use agentwall_wall::{LayerPaths, create_layers, plan::Writes};
use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    args::layers::Beginning,
    cmd::commit::finish_cut_off,
    policies,
    prepare::Prepared,
    session::{Outcome, Session},
    state::{State, shown},
};

/// How a run goes on from an earlier session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is the same session.
    On,
    /// It has a copy of the layers.
    From,
}

/// An earlier session, ended, whole and locked.
#[derive(Debug)]
pub struct Earlier {
    /// How it is used.
    pub how: How,
    /// The session.
    pub session: Session,
    /// Its lock.
    pub lock: File,
}

impl Earlier {
    /// The session that the command line names, if it names one.
    ///
    /// # Errors
    /// It cannot be used; the message says why and what to do.
    pub fn find(asked: &Beginning, workspace: Option<&Path>) -> Result<Option<Earlier>> {
        let (how, selector, what) = match (&asked.on, &asked.from) {
            (Some(on), _) => (How::On, on, "cannot go on in it"),
            (None, Some(from)) => (How::From, from, "cannot begin with a copy of it"),
            (None, None) => return Ok(None),
        };
        let state = State::open()?;
        let session = Session::resolve(&state, Some(selector))?;
        let (mut session, lock) = session.hold(&state).context(what)?;
        finish_cut_off(&state, &mut session)?;
        check(&session, workspace).context(what)?;
        Ok(Some(Earlier { how, session, lock }))
    }
}

/// Whether the session's layers mean what they meant.
fn check(session: &Session, workspace: Option<&Path>) -> Result<()> {
    let (id, record) = (session.id(), &session.record);
    if let Some(asked) = workspace {
        let asked = policies::workspace(Some(asked))?;
        if asked != record.workspace {
            bail!(
                "session {id} is of the workspace {}, not of {}; leave --workspace out, or begin a \
                 new session",
                shown(&record.workspace),
                shown(&asked)
            );
        }
    }
    if record.outcome == Outcome::Discarded {
        bail!(
            "the changes of session {id} were discarded; begin a new session, or 'agentwall rollback' \
             to one of its checkpoints first"
        );
    }
    for layer in &record.layers {
        for dir in [&layer.upper, &layer.work] {
            if !dir.is_dir() {
                bail!(
                    "the copies of session {id} are gone: {} is not there; begin a new session",
                    shown(dir)
                );
            }
        }
        if layer.is_moot() {
            continue;
        }
        let now = Layer::begin(&layer.root, "", "", layer.base)
            .with_context(|| format!("cannot look at {}; put it back", shown(&layer.root)))?;
        if layer.root_id.is_some() && now.root_id != layer.root_id {
            bail!(
                "{} is another folder than when session {id} began; move the original back, or begin \
                 a new session",
                shown(&layer.root)
            );
        }
        Manifest::of(layer).map(drop)?;
    }
    Ok(())
}

/// The copy layers of a run.
#[derive(Debug)]
pub struct Ground {
    /// Over which trees, and where.
    pub mounts: Vec<LayerPaths>,
    places: Vec<Place>,
}

/// One layer of the session's record.
#[derive(Debug)]
enum Place {
    /// It goes on: base and manifest stay.
    Known(Layer),
    /// It begins now.
    Fresh(LayerPaths),
}

impl Ground {
    /// Makes the layers that the view needs, or finds them in the earlier session.
    ///
    /// # Errors
    /// A tree with changes would not have a layer, or a folder cannot be made or copied.
    pub fn lay(
        session: &Session,
        prepared: &Prepared,
        earlier: Option<&Earlier>,
    ) -> Result<Ground> {
        let view = &prepared.view;
        let isolated = view
            .nodes
            .iter()
            .filter(|n| n.placement.writes == Writes::Isolated);
        let roots: Vec<&Path> = isolated.map(|n| n.path.as_path()).collect();
        let place = |root: &Path| {
            let mut outside = prepared.layers_outside.iter();
            match outside.find(|(tree, _)| tree == root) {
                Some((_, folder)) => folder.join(session.id()),
                None => session.layers_dir(),
            }
        };
        let mut ground = Ground {
            mounts: Vec::new(),
            places: Vec::new(),
        };
        let layers = earlier.map_or(&[][..], |e| &e.session.record.layers);
        for (index, layer) in layers.iter().enumerate() {
            let seen = roots.contains(&layer.root.as_path());
            if !seen && !layer.is_untouched() {
                bail!(
                    "session {} changed {}, and this policy does not isolate it, so the agent would \
                     not see the changes; use the policy of that run, or commit or discard them first",
                    earlier.map_or("", |e| e.session.id()),
                    shown(&layer.root)
                );
            }
            let on = earlier.is_some_and(|e| e.how == How::On);
            let paths = match on {
                true => paths_of(layer),
                false if !seen || layer.is_blank() => continue,
                false => {
                    let folder = place(&layer.root).join(format!("c{index}"));
                    std::fs::create_dir_all(folder.join("work"))
                        .with_context(|| format!("cannot make {}", shown(&folder)))?;
                    LayerPaths {
                        root: layer.root.clone(),
                        upper: folder.join("upper"),
                        work: folder.join("work"),
                        surface: layer.surface,
                    }
                }
            };
            let known = match (on, seen && layer.is_blank()) {
                (true, true) => Place::Fresh(paths.clone()),
                (true, false) => Place::Known(layer.clone()),
                (false, _) => {
                    let copied = copy_layer(layer, &paths.upper, &paths.work);
                    Place::Known(copied.map_err(|e| anyhow!("cannot copy the layer: {e}"))?.0)
                }
            };
            ground.places.push(known);
            if seen {
                ground.mounts.push(paths);
            }
        }
        ground.add(session, prepared, &roots, place)?;
        Ok(ground)
    }

    /// Layers for the trees that have none.
    fn add(
        &mut self,
        session: &Session,
        prepared: &Prepared,
        roots: &[&Path],
        place: impl Fn(&Path) -> PathBuf,
    ) -> Result<()> {
        let mut view = prepared.view.clone();
        view.nodes
            .retain(|n| !self.mounts.iter().any(|l| l.root == n.path));
        for root in roots
            .iter()
            .filter(|r| view.nodes.iter().any(|n| n.path == **r))
        {
            for place in &self.places {
                let Place::Known(layer) = place else { continue };
                let Ok(rel) = root.strip_prefix(&layer.root) else {
                    continue;
                };
                if layer.upper.join(rel).symlink_metadata().is_ok() {
                    bail!(
                        "session {} changed something below {}, and this policy puts a copy layer of \
                         its own there, which would hide it; use the policy of that run, or commit or \
                         discard the changes first",
                        session.id(),
                        shown(root)
                    );
                }
            }
        }
        // An earlier run of the same session has the plain numbers.
        let taken = |n: &usize| {
            roots
                .iter()
                .any(|r| place(r).join(format!("r{n}")).exists())
        };
        let run = (1..).find(|n| !taken(n)).unwrap_or(0);
        let first = self.places.is_empty();
        let fresh = create_layers(&view, |root| match first {
            true => place(root),
            false => place(root).join(format!("r{run}")),
        })
        .with_context(|| format!("cannot make copy layers for {}", session.id()))?;
        self.places
            .extend(fresh.iter().map(|l| Place::Fresh(l.clone())));
        self.mounts.extend(fresh);
        Ok(())
    }

    /// The session's layers, and those among them that begin at `base`.
    ///
    /// # Errors
    /// An isolated folder cannot be looked at.
    pub fn layers(&self, base: Timestamp) -> Result<(Vec<Layer>, Vec<Layer>)> {
        let (mut all, mut fresh) = (Vec::new(), Vec::new());
        for place in &self.places {
            all.push(match place {
                Place::Known(layer) => layer.clone(),
                Place::Fresh(l) => {
                    let layer = begun(l, base)
                        .with_context(|| format!("cannot look at {}", shown(&l.root)))?;
                    fresh.push(layer.clone());
                    layer
                }
            });
        }
        Ok((all, fresh))
    }
}

/// A folder that somebody removed since the view was planned has an identity that none has: whatever comes
/// in its place is another one.
fn begun(paths: &LayerPaths, base: Timestamp) -> io::Result<Layer> {
    match Layer::begin(&paths.root, &paths.upper, &paths.work, base) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Layer {
            root: paths.root.clone(),
            upper: paths.upper.clone(),
            work: paths.work.clone(),
            base,
            root_id: Some(FileId { dev: 0, ino: 0 }),
            surface: paths.surface,
        }),
        Ok(layer) => Ok(Layer {
            surface: paths.surface,
            ..layer
        }),
        other => other,
    }
}

fn paths_of(layer: &Layer) -> LayerPaths {
    LayerPaths {
        root: layer.root.clone(),
        upper: layer.upper.clone(),
        work: layer.work.clone(),
        surface: layer.surface,
    }
}
