//! One case: a folder with a log or a proof, what it is checked against, and what must come of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// `agentwall_ledger::verify`, and its proof files.
    Ledger,
    /// The program of this crate.
    Tiny,
    /// `crates/ledger/interop/verify.go`.
    Go,
    /// The crates `tlog_tiles` and `signed_note`.
    Tiles,
    /// The crate `ct-merkle`.
    CtMerkle,
}

impl Who {
    pub const ALL: [Who; 5] = [Who::Ledger, Who::Tiny, Who::Go, Who::Tiles, Who::CtMerkle];
}

/// What a case is about, and so who can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The checkpoint's text and signature by the log.
    Note,
    /// Cosignatures by witnesses.
    Witness,
    /// Hash tiles against each other and the root.
    Tiles,
    /// The bytes of entries against the root.
    Entries,
    /// Which files there are.
    Files,
    /// The log against a former checkpoint.
    Former,
    /// The hashes of a proof.
    Proof,
    /// The text of a proof file.
    ProofText,
    /// Which key the log has, and since when.
    Rotation,
}

/// What must come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Verified,
    /// With the file that the tiny verifier must name.
    Refused(&'static str),
    /// By nobody, for a reason.
    Unseen(&'static str),
}

/// A log's folder or a proof.
#[derive(Debug, Clone)]
pub enum Thing {
    Log(PathBuf),
    Proof { file: PathBuf, entry: PathBuf },
}

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    /// What is wrong, for people.
    pub what: &'static str,
    pub layer: Layer,
    pub verdict: Verdict,
    pub thing: Thing,
    pub key: String,
    pub former: Option<PathBuf>,
    /// For a proof, the folder of a log that tells its keys.
    pub rotations: Option<PathBuf>,
    pub witnesses: Vec<String>,
    pub quorum: usize,
    /// A log of more than a thousand entries.
    pub large: bool,
    /// Who accepts the forgery all the same, and why.
    pub lenient: Vec<(Who, &'static str)>,
}

impl Case {
    /// Compares with this former checkpoint.
    pub fn former(&mut self, text: &str) -> &mut Self {
        let folder = match &self.thing {
            Thing::Log(dir) => dir.parent().expect("a parent"),
            Thing::Proof { file, .. } => file.parent().expect("a parent"),
        };
        let path = folder.join("former");
        fs::write(&path, text).expect("written");
        self.former = Some(path);
        self
    }

    pub fn witnesses(&mut self, keys: &[String], quorum: usize) -> &mut Self {
        (self.witnesses, self.quorum) = (keys.to_vec(), quorum);
        self
    }

    pub fn key(&mut self, byte: u8) -> &mut Self {
        self.key = crate::genuine::signer(byte).verifier().to_string();
        self
    }

    pub fn lenient(&mut self, who: Who, why: &'static str) -> &mut Self {
        self.lenient.push((who, why));
        self
    }

    /// Whether the question is one for this verifier at all.
    pub fn concerns(&self, who: Who) -> bool {
        match who {
            Who::Tiny | Who::Go => true,
            // Cosignatures are not among what it looks at in a log's folder or a proof.
            Who::Ledger => self.witnesses.is_empty(),
            // Large logs take these two minutes; `differential.rs` of the ledger has large trees.
            Who::Tiles | Who::CtMerkle if self.large => false,
            Who::Tiles => !matches!(self.layer, Layer::Files | Layer::ProofText | Layer::Rotation),
            Who::CtMerkle => matches!(self.layer, Layer::Entries | Layer::Former | Layer::Proof),
        }
    }

    /// The arguments of the command-line verifiers.
    pub fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.to_str().expect("a plain name").to_owned();
        let mut out = match &self.thing {
            Thing::Log(dir) => vec!["log".to_owned(), text(dir)],
            Thing::Proof { file, entry } => {
                ["proof".to_owned(), text(file), "--entry".to_owned(), text(entry)].to_vec()
            }
        };
        out.extend(["--key".to_owned(), self.key.clone()]);
        if let Some(former) = &self.former {
            out.extend(["--former".to_owned(), text(former)]);
        }
        if let Some(rotations) = &self.rotations {
            out.extend(["--rotations".to_owned(), text(rotations)]);
        }
        for witness in &self.witnesses {
            out.extend(["--witness".to_owned(), witness.clone()]);
        }
        if !self.witnesses.is_empty() {
            out.extend(["--quorum".to_owned(), self.quorum.to_string()]);
        }
        out
    }
}

/// All cases, each in a folder of its own.
pub struct Corpus {
    pub root: PathBuf,
    pub cases: Vec<Case>,
}

impl Corpus {
    /// Where a new case goes.
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.root.join(name);
        fs::create_dir(&folder).unwrap_or_else(|e| panic!("{name}: {e}"));
        folder
    }

    /// A copy of the log in `from`, changed by `forge`.
    pub fn log(
        &mut self,
        name: impl Into<String>,
        what: &'static str,
        layer: Layer,
        verdict: Verdict,
        from: &Path,
        forge: impl FnOnce(&Path),
    ) -> &mut Case {
        let name = name.into();
        let dir = self.folder(&name).join("ledger");
        copy(from, &dir);
        forge(&dir);
        let case = self.add(name, what, layer, verdict, Thing::Log(dir));
        case.large = from.join("tile/entries/004").exists();
        case
    }

    /// A proof file with the entry it is about.
    pub fn proof(
        &mut self,
        name: impl Into<String>,
        what: &'static str,
        layer: Layer,
        verdict: Verdict,
        text: &[u8],
        entry: &[u8],
    ) -> &mut Case {
        let name = name.into();
        let folder = self.folder(&name);
        let (file, path) = (folder.join("entry.tlog-proof"), folder.join("entry"));
        fs::write(&file, text).expect("written");
        fs::write(&path, entry).expect("written");
        self.add(name, what, layer, verdict, Thing::Proof { file, entry: path })
    }

    fn add(
        &mut self,
        name: String,
        what: &'static str,
        layer: Layer,
        verdict: Verdict,
        thing: Thing,
    ) -> &mut Case {
        self.cases.push(Case {
            name,
            what,
            layer,
            verdict,
            thing,
            key: crate::genuine::signer(1).verifier().to_string(),
            former: None,
            rotations: None,
            witnesses: Vec::new(),
            quorum: 0,
            large: false,
            lenient: Vec::new(),
        });
        self.cases.last_mut().expect("just added")
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for item in fs::read_dir(from).expect("a folder") {
        let item = item.expect("an item");
        let target = to.join(item.file_name());
        match item.file_type().expect("a type").is_dir() {
            true => copy(&item.path(), &target),
            false => drop(fs::copy(item.path(), target).expect("copied")),
        }
    }
}
