//! Objects: a finite set of resources that stands for all, as far as some patterns can tell.
//!
//! Patterns that are used alike form a [`Group`]. [`Objects::explore`] visits every combination of
//! groups that match some canonical object, with the shortest such object; a label counts here with its
//! built-in places alone, since whether the facts name it is another question (see `query.rs`).
//!
//! Texts (paths, sockets, host names, names) are one search. Endpoints are a product: the name by which
//! the host is known or none, a representative of every set of addresses or none, and one port of every
//! interval that the fitting patterns tell apart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ffi::OsString,
    net::IpAddr,
    ops::ControlFlow,
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    rc::Rc,
};

use agentwall_action::{Endpoint, Facts, ObjectKind, PathResource, Protocol, Resource, VerbFamily};

use super::{
    addresses,
    limits::{Meter, TooLarge},
    product::{Machine, certainly_disjoint},
    universe::Universe,
};
use crate::{
    address::Addresses,
    glob::{Glob, GlobKind},
    nfa::{ByteSet, Nfa, Step},
    pattern::{EndpointPattern, HostPattern, ResourcePattern, UnixPattern},
};

/// How many pairs of positions a comparison of two lines may look at before it says "perhaps".
pub(crate) const PAIRS: usize = 4096;

/// The shapes that objects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Space {
    Path,
    Net,
    Host,
    Named,
    Unix,
}

impl Space {
    pub const ALL: [Space; 5] = [
        Space::Path,
        Space::Net,
        Space::Host,
        Space::Named,
        Space::Unix,
    ];

    /// The shape of the objects of a verb.
    pub fn of(family: VerbFamily) -> Space {
        match family {
            VerbFamily::File | VerbFamily::Process | VerbFamily::Device => Space::Path,
            VerbFamily::Net => Space::Net,
            VerbFamily::Dns => Space::Host,
            VerbFamily::Named => Space::Named,
            VerbFamily::Ipc => Space::Unix,
        }
    }
}

/// Patterns of which it matters only whether one matches.
#[derive(Debug, Default)]
pub(crate) struct Group<'p> {
    pub patterns: Vec<&'p ResourcePattern>,
}

/// Address representatives by the sets they were made for: computing them is the costly part.
pub(crate) type AddressCache = HashMap<Vec<String>, Rc<Vec<IpAddr>>>;

/// What to visit.
#[derive(Debug)]
pub(crate) struct Objects<'o, 'p> {
    pub space: Space,
    pub groups: &'o [Group<'p>],
    /// Of each of these lists a group must match; at most eight lists.
    pub required: &'o [Vec<u32>],
}

/// Looks at one object and the groups that match it, sorted.
pub(crate) type Visit<'v> =
    dyn FnMut(&mut Meter, Resource, &[u32]) -> Result<ControlFlow<()>, TooLarge> + 'v;

/// The globs of a pattern over the texts of a space.
pub(crate) fn text_globs(pattern: &ResourcePattern, space: Space) -> Vec<&Glob> {
    match (space, pattern) {
        (Space::Path, ResourcePattern::Path(glob))
        | (Space::Host, ResourcePattern::Host(glob))
        | (Space::Named, ResourcePattern::Named(glob))
        | (
            Space::Unix,
            ResourcePattern::Unix(UnixPattern::Path(glob) | UnixPattern::Abstract(glob)),
        ) => {
            vec![glob]
        }
        (Space::Path, ResourcePattern::Label(label)) => label.paths.iter().collect(),
        (Space::Unix, ResourcePattern::Label(label)) => {
            label.paths.iter().chain(label.sockets.iter()).collect()
        }
        (
            Space::Net,
            ResourcePattern::Endpoint(EndpointPattern {
                host: HostPattern::Name(glob),
                ..
            }),
        ) => {
            vec![glob]
        }
        _ => Vec::new(),
    }
}

/// Whether the pattern means some objects of the space for reasons that are no text.
pub(crate) fn is_wild(pattern: &ResourcePattern, space: Space) -> bool {
    match pattern {
        ResourcePattern::Any | ResourcePattern::Label(_) => true,
        ResourcePattern::Unix(UnixPattern::Any) => space == Space::Unix,
        ResourcePattern::Addresses(_) => space == Space::Net,
        ResourcePattern::Endpoint(e) => {
            space == Space::Net && !matches!(e.host, HostPattern::Name(_))
        }
        _ => false,
    }
}

impl<'p> Objects<'_, 'p> {
    /// Visits every combination of groups that match some object.
    pub fn explore(
        &self,
        meter: &mut Meter,
        cache: &mut AddressCache,
        visit: &mut Visit<'_>,
    ) -> Result<(), TooLarge> {
        match self.space {
            Space::Net => self.endpoints(meter, cache, visit),
            _ => self.texts(meter, visit),
        }
    }

    fn texts(&self, meter: &mut Meter, visit: &mut Visit<'_>) -> Result<(), TooLarge> {
        let (universe, directories) = match self.space {
            Space::Path => (Universe::path(), true),
            Space::Unix => (Universe::unix(), false),
            Space::Host => (Universe::host(), false),
            Space::Net | Space::Named => (Universe::text(), false),
        };
        let mut machine = Machine::new(universe, directories);
        self.lines(&mut machine, meter)?;
        machine.explore(meter, &mut |meter, cell| {
            let text = || String::from_utf8(cell.text.to_vec()).map_err(|_| TooLarge::States);
            let path = || PathBuf::from(OsString::from_vec(cell.text.to_vec()));
            let resource = match self.space {
                Space::Path => Resource::Path(PathResource {
                    path: path(),
                    kind: match cell.directory {
                        true => ObjectKind::Directory,
                        false => ObjectKind::Unknown,
                    },
                }),
                Space::Unix => Resource::Unix(path()),
                Space::Host => Resource::Host(text()?),
                // The universe holds UTF-8 alone.
                Space::Net | Space::Named => Resource::Named(text()?),
            };
            if self.space != Space::Unix {
                return visit(meter, resource, cell.owners);
            }
            // The line of a path does not know that a name with '@' is none; the pattern does. The
            // mark told the two apart, so that asking it once is enough.
            let owners = self.matching(&resource);
            visit(meter, resource, &owners)
        })
    }

    /// Adds the lines of all groups; those that cannot meet a required group are left out.
    fn lines(&self, machine: &mut Machine, meter: &mut Meter) -> Result<(), TooLarge> {
        let all = Nfa::new(vec![Step::Loop(ByteSet::all())]);
        let lines = |group: &u32| -> Vec<&Nfa> {
            let patterns = &self.groups[*group as usize].patterns;
            let globs = patterns.iter().flat_map(|p| text_globs(p, self.space));
            let any = |p: &&ResourcePattern| matches!(p, ResourcePattern::Unix(UnixPattern::Any));
            let any = patterns.iter().any(any).then_some(&all);
            globs.flat_map(Glob::alternatives).chain(any).collect()
        };
        for (n, required) in self.required.iter().enumerate() {
            required.iter().for_each(|g| machine.require(*g, n as u8));
        }
        let focus: Option<(&Vec<u32>, Vec<&Nfa>)> = (self.required.first())
            .map(|required| (required, required.iter().flat_map(lines).collect()));
        for group in 0..self.groups.len() as u32 {
            for nfa in lines(&group) {
                if let Some((required, focus)) = &focus
                    && !required.contains(&group)
                {
                    meter.pay(focus.len())?;
                    if focus.iter().all(|f| certainly_disjoint(f, nfa, PAIRS)) {
                        continue;
                    }
                }
                machine.add(group, nfa);
            }
        }
        meter.pay(machine.size())
    }

    /// The groups that match an object, by the patterns' own word.
    fn matching(&self, resource: &Resource) -> Vec<u32> {
        let facts = Facts::default();
        (0..self.groups.len() as u32)
            .filter(|g| {
                let patterns = &self.groups[*g as usize].patterns;
                patterns.iter().any(|p| p.matches(resource, &facts))
            })
            .collect()
    }

    fn endpoints(
        &self,
        meter: &mut Meter,
        cache: &mut AddressCache,
        visit: &mut Visit<'_>,
    ) -> Result<(), TooLarge> {
        let mut product = Product::new(self);
        let ips = self.addresses(&product.sets, meter, cache)?;
        for ip in ips.iter() {
            let named = match ip.is_loopback() {
                true => product.localhost.clone(),
                false => Vec::new(),
            };
            if product
                .host(None, Some(*ip), &named, meter, visit)?
                .is_break()
            {
                return Ok(());
            }
        }
        let mut machine = Machine::new(Universe::host(), false);
        for (owner, glob) in product.names.iter().enumerate() {
            glob.alternatives()
                .iter()
                .for_each(|nfa| machine.add(owner as u32, nfa));
        }
        // Names that are bound to loopback are a kind of their own (RFC 6761, section 6.3).
        for text in ["localhost", "**.localhost"] {
            if let Ok(glob) = Glob::new(text, GlobKind::Host) {
                glob.alternatives()
                    .iter()
                    .for_each(|nfa| machine.add(u32::MAX, nfa));
            }
        }
        for (n, required) in self.required.iter().enumerate() {
            if let Some(names) = product.only_names(required) {
                names
                    .iter()
                    .for_each(|owner| machine.require(*owner, n as u8));
            }
        }
        machine.explore(meter, &mut |meter, cell| {
            // A host that is an address is kept as an address.
            if cell.mark != 0 {
                return Ok(ControlFlow::Continue(()));
            }
            let name = String::from_utf8_lossy(cell.text).into_owned();
            let named: Vec<usize> = (cell.owners.iter())
                .filter_map(|o| product.by_name.get(*o as usize))
                .flatten()
                .copied()
                .collect();
            let addresses = std::iter::once(None).chain(ips.iter().map(|ip| Some(*ip)));
            for ip in addresses {
                if product
                    .host(Some(name.clone()), ip, &named, meter, visit)?
                    .is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn addresses(
        &self,
        sets: &BTreeMap<String, Addresses>,
        meter: &mut Meter,
        cache: &mut AddressCache,
    ) -> Result<Rc<Vec<IpAddr>>, TooLarge> {
        let key: Vec<String> = sets.keys().cloned().collect();
        if let Some(known) = cache.get(&key) {
            return Ok(Rc::clone(known));
        }
        let sets: Vec<Addresses> = sets.values().copied().collect();
        let found = Rc::new(addresses::representatives(&sets, meter)?);
        cache.insert(key, Rc::clone(&found));
        Ok(found)
    }
}

/// The parts of endpoint patterns, and which combinations of groups were visited.
struct Product<'o, 'p> {
    objects: &'o Objects<'o, 'p>,
    /// Every endpoint and address pattern with its group.
    patterns: Vec<(u32, &'p ResourcePattern)>,
    /// Those that do not look at the name.
    nameless: Vec<usize>,
    /// Those that look at the name and match `localhost`, as which a loopback address without a name
    /// counts.
    localhost: Vec<usize>,
    /// The distinct name globs, and the patterns that have each.
    names: Vec<&'p Glob>,
    by_name: Vec<Vec<usize>>,
    /// The distinct address sets, by their text.
    sets: BTreeMap<String, Addresses>,
    seen: HashSet<Vec<u32>>,
}

impl<'o, 'p> Product<'o, 'p> {
    fn new(objects: &'o Objects<'o, 'p>) -> Self {
        let mut product = Product {
            objects,
            patterns: Vec::new(),
            nameless: Vec::new(),
            localhost: Vec::new(),
            names: Vec::new(),
            by_name: Vec::new(),
            sets: BTreeMap::new(),
            seen: HashSet::new(),
        };
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (group, pattern) in objects
            .groups
            .iter()
            .enumerate()
            .flat_map(|(n, g)| g.patterns.iter().map(move |p| (n as u32, *p)))
        {
            let at = product.patterns.len();
            let addresses = match pattern {
                ResourcePattern::Addresses(a) => Some(a),
                ResourcePattern::Endpoint(e) => match &e.host {
                    HostPattern::Addresses(a) => Some(a),
                    HostPattern::Any => None,
                    HostPattern::Name(glob) => {
                        let id = *ids.entry(glob.as_str()).or_insert_with(|| {
                            product.names.push(glob);
                            product.by_name.push(Vec::new());
                            product.names.len() - 1
                        });
                        product.by_name[id].push(at);
                        if glob.matches(b"localhost", false) {
                            product.localhost.push(at);
                        }
                        product.patterns.push((group, pattern));
                        continue;
                    }
                },
                _ => continue,
            };
            if let Some(a) = addresses {
                product.sets.insert(a.to_string(), *a);
            }
            product.nameless.push(at);
            product.patterns.push((group, pattern));
        }
        product
    }

    /// The names of these groups, if none of them can match without a name.
    fn only_names(&self, groups: &[u32]) -> Option<Vec<u32>> {
        let nameless = |p: &ResourcePattern| is_wild(p, Space::Net);
        let patterns = || {
            groups
                .iter()
                .flat_map(|g| &self.objects.groups[*g as usize].patterns)
        };
        if patterns().any(|p| nameless(p)) {
            return None;
        }
        let owners = self
            .by_name
            .iter()
            .enumerate()
            .filter(|(_, used)| used.iter().any(|at| groups.contains(&self.patterns[*at].0)));
        Some(owners.map(|(owner, _)| owner as u32).collect())
    }

    /// Visits the ports of one host; `named` are the patterns that match its name.
    fn host(
        &mut self,
        host: Option<String>,
        ip: Option<IpAddr>,
        named: &[usize],
        meter: &mut Meter,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, TooLarge> {
        let facts = Facts::default();
        meter.pay(1 + named.len() + self.nameless.len())?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let endpoint = |port| {
                Resource::Endpoint(Endpoint {
                    protocol,
                    host: host.clone(),
                    ip,
                    port,
                })
            };
            let mut starts = BTreeSet::from([0u16]);
            // What fits at its own first port fits at all its ports.
            let fitting: Vec<usize> = named
                .iter()
                .chain(&self.nameless)
                .copied()
                .filter(|at| match self.patterns[*at].1 {
                    ResourcePattern::Endpoint(e) => {
                        let fits = self.patterns[*at]
                            .1
                            .matches(&endpoint(*e.ports.start()), &facts);
                        if fits {
                            starts.insert(*e.ports.start());
                            starts.extend(e.ports.end().checked_add(1));
                        }
                        fits
                    }
                    pattern => pattern.matches(&endpoint(0), &facts),
                })
                .collect();
            let starts: Vec<u16> = starts.into_iter().collect();
            meter.pay(starts.len() * (1 + fitting.len()))?;
            for (i, start) in starts.iter().enumerate() {
                let end = starts.get(i + 1).map_or(u16::MAX, |next| next - 1);
                let port = port(*start, end);
                let resource = endpoint(port);
                let fits = |at: &&usize| match self.patterns[**at].1 {
                    ResourcePattern::Endpoint(e) => e.ports.contains(&port),
                    _ => true,
                };
                let groups = fitting.iter().filter(fits).map(|at| self.patterns[*at].0);
                let mut groups: Vec<u32> = groups.collect();
                groups.sort_unstable();
                groups.dedup();
                let wanted = |list: &Vec<u32>| groups.iter().any(|g| list.contains(g));
                if !self.objects.required.iter().all(wanted) || !self.seen.insert(groups.clone()) {
                    continue;
                }
                if visit(meter, resource, &groups)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The port of an interval that reads best.
fn port(start: u16, end: u16) -> u16 {
    const KNOWN: [u16; 8] = [443, 80, 22, 53, 8080, 5432, 3000, 50000];
    let known = KNOWN.into_iter().find(|p| (start..=end).contains(p));
    known.unwrap_or_else(|| start.max(1).min(end))
}
