//! The text of entries: leaves, openings and the files beside the log. Whatever is there, what is read is the
//! genuine record or the leaf.

use std::{fs, path::PathBuf, sync::OnceLock};

use agentwall_ledger::{
    Entry, Log, LogOptions, Reader, Record, Signer, TextFolders,
    entry::{Mask, Opening, commitment::leaf},
};
use ed25519_dalek::SigningKey;

use crate::tree;

/// A log of a few entries, and where its text is.
struct Template {
    root: PathBuf,
    records: Vec<Vec<u8>>,
    leaves: Vec<Vec<u8>>,
    /// All opened fields of the first entry.
    openings: Vec<Opening>,
}

fn folders(root: &std::path::Path) -> TextFolders {
    TextFolders {
        values: root.join("values"),
        subjects: root.join("subjects"),
    }
}

impl Template {
    fn reader(&self) -> Reader {
        let reader = Reader::open(&self.root.join("ledger")).expect("a log");
        reader.with_text(folders(&self.root))
    }
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let root = tree::folder("ledger-text");
        let signer = Signer::new("agentwall.example/fuzz", SigningKey::from_bytes(&[7; 32]));
        let options = LogOptions {
            text: Some(folders(&root)),
            ..LogOptions::default()
        };
        let log = Log::open_with(&root.join("ledger"), signer.expect("a name"), options);
        let log = log.expect("opened");
        let record = |seq| {
            let path = format!("/home/u/{seq}");
            let rule = Some("keys".to_owned());
            Entry::now("s", seq, Record::Mask(Mask { path, rule })).to_bytes()
        };
        let records: Vec<Vec<u8>> = (0..3).map(record).collect();
        for record in &records {
            log.append(record).expect("logged");
        }
        log.close().expect("closed");
        let mut template = Template {
            root,
            records,
            leaves: Vec::new(),
            openings: Vec::new(),
        };
        let reader = template.reader();
        template.leaves = (0..3).map(|n| reader.entry(n).expect("an entry")).collect();
        let openings = reader.openings(0, |_| true).expect("readable");
        template.openings = openings.expect("there");
        template
    })
}

/// Entries in the form of the tree, opened fields, and files of texts.
pub fn text(data: &[u8]) {
    let template = template();
    if let Ok(entry) = Entry::from_bytes(data) {
        if matches!(entry.record, Record::Committed(_)) {
            assert_eq!(entry.to_bytes(), data, "a leaf has one spelling");
            let seed = agentwall_ledger::entry::Seed::new([1; 32]);
            assert!(leaf(data, &seed).is_none(), "a leaf has no leaf");
        }
        let seed = agentwall_ledger::entry::Seed::new([1; 32]);
        if let Some(leaf) = leaf(data, &seed) {
            assert!(Entry::from_bytes(&leaf).is_ok());
            for opening in Opening::of(data, &seed, |_| true) {
                assert_eq!(opening.check(&leaf), Ok(()));
                let value = format!("{}x", opening.value);
                assert!(Opening { value, ..opening }.check(&leaf).is_err());
            }
        }
    }
    if let Ok(openings) = serde_json::from_slice::<Vec<Opening>>(data) {
        for opening in openings {
            // Salts are read in one spelling: what opens the entry is what was made for it.
            if opening.check(&template.leaves[0]).is_ok() {
                assert!(template.openings.contains(&opening));
            }
        }
    }
    let values = template.root.join("values/000");
    fs::write(values, data).expect("written");
    let reader = template.reader();
    for ((n, record), leaf) in (0..).zip(&template.records).zip(&template.leaves) {
        let told = reader.told(n).expect("an entry");
        match told.restored {
            true => assert_eq!(told.bytes, *record),
            false => {
                assert_eq!(told.bytes, *leaf);
                assert!(told.withheld().is_some());
            }
        }
    }
}
