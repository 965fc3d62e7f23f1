//! One plane: all rules that speak about one kind of object, as parts, atoms and candidates.
//!
//! A *part* is something that is found in an object without asking rules: a text part, a range of
//! ports or addresses, a label. An *atom* is a pattern as a conjunction of parts. A rule of the plane
//! has atoms of which one must match, and atoms of which none may. Each atom hangs on the one of its
//! parts that the fewest atoms share, so that an object leads to few candidates however many rules
//! there are.

use std::{collections::HashMap, net::IpAddr, ops::RangeInclusive};

use agentwall_action::{Protocol, VerbFamily};

use crate::{
    address::Addresses,
    glob::Glob,
    nfa::Nfa,
    pattern::{EndpointPattern, HostPattern, LabelPattern, ResourcePattern, UnixPattern},
    rule::Rule,
};

use super::parts::{ByteSets, Code, TextPart, split};

/// The kinds of objects that are decided apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Path,
    Endpoint,
    Host,
    /// Unix sockets with a path.
    Socket,
    /// Abstract Unix sockets.
    Abstract,
    Named,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] = [
        Kind::Path,
        Kind::Endpoint,
        Kind::Host,
        Kind::Socket,
        Kind::Abstract,
        Kind::Named,
    ];

    /// Whether verbs of the family act on objects of this kind.
    pub(crate) fn is_of(self, family: VerbFamily) -> bool {
        match family {
            VerbFamily::File | VerbFamily::Process | VerbFamily::Device => self == Kind::Path,
            VerbFamily::Net => self == Kind::Endpoint,
            VerbFamily::Dns => self == Kind::Host,
            VerbFamily::Ipc => matches!(self, Kind::Socket | Kind::Abstract),
            VerbFamily::Named => self == Kind::Named,
        }
    }
}

pub(crate) type PartId = u32;
pub(crate) type AtomId = u32;

/// The part that every object has.
pub(crate) const ANY: PartId = 0;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Any,
    Text(TextPart),
    Port(Protocol, RangeInclusive<u16>),
    Address(AddressKey),
    Label(String),
}

/// [`Addresses`] by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AddressKey {
    Network(crate::address::Network),
    Set(&'static str),
}

impl From<&Addresses> for AddressKey {
    fn from(addresses: &Addresses) -> Self {
        match addresses {
            Addresses::Network(n) => AddressKey::Network(*n),
            Addresses::Set(set) => AddressKey::Set(set.name),
        }
    }
}

/// A conjunction of parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Atom {
    /// At least one; [`ANY`] alone where nothing is asked.
    pub parts: Vec<PartId>,
    pub min_slashes: u32,
    /// The pattern that decides where the parts say only "perhaps".
    pub line: Option<u32>,
    /// The same pattern, for when parts have to be cut.
    pub source: Option<u32>,
}

/// A rule's place in a plane.
#[derive(Debug)]
pub(crate) struct Member {
    pub positive: Vec<AtomId>,
    pub negative: Vec<AtomId>,
}

/// What is collected about a plane.
#[derive(Debug)]
pub(crate) struct Plane {
    pub kind: Kind,
    pub parts: Vec<Part>,
    pub atoms: Vec<Atom>,
    /// Patterns as codes.
    pub lines: Vec<Vec<Code>>,
    part_index: HashMap<Part, PartId>,
    atom_index: HashMap<Atom, AtomId>,
    line_index: HashMap<Vec<Code>, u32>,
}

impl Plane {
    pub(crate) fn new(kind: Kind) -> Plane {
        let mut plane = Plane {
            kind,
            parts: Vec::new(),
            atoms: Vec::new(),
            lines: Vec::new(),
            part_index: HashMap::new(),
            atom_index: HashMap::new(),
            line_index: HashMap::new(),
        };
        plane.part(Part::Any);
        plane
    }

    pub(crate) fn part(&mut self, part: Part) -> PartId {
        let next = self.parts.len() as u32;
        let parts = &mut self.parts;
        *self.part_index.entry(part).or_insert_with_key(|part| {
            parts.push(part.clone());
            next
        })
    }

    /// The rule's atoms; `None` if it matches no object of this kind.
    pub(crate) fn member(&mut self, rule: &Rule, sets: &mut ByteSets) -> Option<Member> {
        let list = &rule.resource;
        let mut negative = Vec::new();
        for pattern in &list.negative {
            if *pattern == ResourcePattern::Any {
                return None;
            }
            self.pattern(pattern, sets, &mut negative);
        }
        let mut positive = Vec::new();
        if list.positive.is_empty() {
            self.pattern(&ResourcePattern::Any, sets, &mut positive);
        }
        for pattern in &list.positive {
            self.pattern(pattern, sets, &mut positive);
        }
        positive.sort_unstable();
        positive.dedup();
        (!positive.is_empty()).then_some(Member { positive, negative })
    }

    fn pattern(&mut self, pattern: &ResourcePattern, sets: &mut ByteSets, out: &mut Vec<AtomId>) {
        match (pattern, self.kind) {
            (ResourcePattern::Any, _)
            | (ResourcePattern::Unix(UnixPattern::Any), Kind::Socket | Kind::Abstract) => {
                out.push(self.conjunction(Vec::new()));
            }
            (ResourcePattern::Label(label), _) => self.label(label, sets, out),
            (ResourcePattern::Path(glob), Kind::Path)
            | (ResourcePattern::Unix(UnixPattern::Path(glob)), Kind::Socket)
            | (ResourcePattern::Unix(UnixPattern::Abstract(glob)), Kind::Abstract)
            | (ResourcePattern::Host(glob), Kind::Host)
            | (ResourcePattern::Named(glob), Kind::Named) => self.glob(glob, &[], sets, out),
            (ResourcePattern::Endpoint(endpoint), Kind::Endpoint) => {
                self.endpoint(endpoint, sets, out);
            }
            (ResourcePattern::Addresses(addresses), Kind::Endpoint) => {
                let part = self.part(Part::Address(addresses.into()));
                out.push(self.conjunction(vec![part]));
            }
            _ => {}
        }
    }

    fn label(&mut self, label: &LabelPattern, sets: &mut ByteSets, out: &mut Vec<AtomId>) {
        let given = self.part(Part::Label(label.name.clone()));
        out.push(self.conjunction(vec![given]));
        if matches!(self.kind, Kind::Path | Kind::Socket | Kind::Abstract) {
            for glob in label.paths.iter() {
                self.glob(glob, &[], sets, out);
            }
        }
        if matches!(self.kind, Kind::Socket | Kind::Abstract) {
            for glob in label.sockets.iter() {
                self.glob(glob, &[], sets, out);
            }
        }
    }

    fn endpoint(&mut self, e: &EndpointPattern, sets: &mut ByteSets, out: &mut Vec<AtomId>) {
        let port = self.part(Part::Port(e.protocol, e.ports.clone()));
        match &e.host {
            HostPattern::Any => out.push(self.conjunction(vec![port])),
            HostPattern::Name(glob) => self.glob(glob, &[port], sets, out),
            HostPattern::Addresses(a) => {
                let address = self.part(Part::Address(a.into()));
                out.push(self.conjunction(vec![port, address]));
            }
        }
    }

    /// One atom for each alternative.
    fn glob(&mut self, glob: &Glob, with: &[PartId], sets: &mut ByteSets, out: &mut Vec<AtomId>) {
        let kind = self.kind;
        // An abstract name begins with '@': what begins with '/' is not for it.
        let path = |nfa: &&Nfa| nfa.literal().first() == Some(&b'/') || nfa.floats();
        let fits = |nfa: &&Nfa| kind != Kind::Abstract || !path(nfa);
        for nfa in glob.alternatives().iter().filter(fits) {
            out.push(self.text(nfa, with, sets));
        }
    }

    fn text(&mut self, nfa: &Nfa, with: &[PartId], sets: &mut ByteSets) -> AtomId {
        let atom = split(nfa, sets);
        let codes = sets.line(nfa);
        let next = self.lines.len() as u32;
        let lines = &mut self.lines;
        let line = *self.line_index.entry(codes).or_insert_with_key(|codes| {
            lines.push(codes.clone());
            next
        });
        let mut parts = with.to_vec();
        for part in atom.parts {
            parts.push(self.part(Part::Text(part)));
        }
        // A glob that matches every text still asks that there is one: of an endpoint the name may
        // be unknown.
        let wants_text = parts.len() == with.len() && self.kind == Kind::Endpoint;
        self.add(Atom {
            parts,
            min_slashes: atom.min_slashes,
            line: (atom.inexact || wants_text).then_some(line),
            source: Some(line),
        })
    }

    fn conjunction(&mut self, parts: Vec<PartId>) -> AtomId {
        self.add(Atom {
            parts,
            min_slashes: 0,
            line: None,
            source: None,
        })
    }

    fn add(&mut self, mut atom: Atom) -> AtomId {
        atom.parts.sort_unstable();
        atom.parts.dedup();
        if atom.parts.is_empty() {
            atom.parts.push(ANY);
        }
        let next = self.atoms.len() as u32;
        let atoms = &mut self.atoms;
        *self.atom_index.entry(atom).or_insert_with_key(|atom| {
            atoms.push(atom.clone());
            next
        })
    }

    /// Exchanges text parts for others that say less; the atoms that had them ask their line.
    pub(crate) fn cut(&mut self, instead: Vec<(PartId, Vec<TextPart>)>) {
        let instead: HashMap<PartId, Vec<PartId>> = instead
            .into_iter()
            .map(|(part, left)| {
                let left = left.into_iter().map(|p| self.part(Part::Text(p)));
                (part, left.collect())
            })
            .collect();
        for atom in &mut self.atoms {
            if !atom.parts.iter().any(|p| instead.contains_key(p)) {
                continue;
            }
            let parts = std::mem::take(&mut atom.parts).into_iter();
            let left = parts.flat_map(|p| instead.get(&p).cloned().unwrap_or_else(|| vec![p]));
            atom.parts = left.collect();
            atom.parts.sort_unstable();
            atom.parts.dedup();
            if atom.parts.is_empty() {
                atom.parts.push(ANY);
            }
            atom.line = atom.source;
        }
    }

    /// The part that each atom hangs on.
    pub(crate) fn handles(&self) -> Vec<PartId> {
        let mut shared = vec![0usize; self.parts.len()];
        for part in self.atoms.iter().flat_map(|a| &a.parts) {
            shared[*part as usize] += 1;
        }
        let rarest = |atom: &Atom| {
            let parts = atom.parts.iter().copied();
            parts.min_by_key(|p| shared[*p as usize]).unwrap_or(ANY)
        };
        self.atoms.iter().map(rarest).collect()
    }
}

/// The addresses a part stands for, besides those wrapped in others: networks of the part itself.
pub(crate) fn networks(key: AddressKey) -> Vec<crate::address::Network> {
    match key {
        AddressKey::Network(n) => vec![n],
        AddressKey::Set(name) => crate::address::set_networks(name),
    }
}

/// Whether the range of the network is of IPv4.
pub(crate) fn is_v4(network: &crate::address::Network) -> bool {
    matches!(network.address(), IpAddr::V4(_))
}
