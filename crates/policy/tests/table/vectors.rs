//! The vectors in `crates/policy/vectors`: policies, tables, questions and answers.
//!
//! `POLICY_VECTORS=write` writes tables and answers anew; otherwise the answers of the stored tables and
//! of tables compiled now are compared. In both cases the interpreter has to agree.

use std::{fs, path::PathBuf, sync::Arc};

use agentwall_action::{Action, Facts, Resource, Verb};
use agentwall_policy::{By, Compiled, CompiledTable, Layer, Policy, Source, load};
use serde::{Deserialize, Serialize};

use crate::{interpreted, questions, subject, told, variables};

const NAMES: &[&str] = &["paths", "network", "names", "layers", "conditions", "cut"];

/// `vectors/NAME.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The sources, from the uppermost layer on.
    sources: Vec<Named>,
    /// The session it is compiled for; the subject is `agent:a`.
    #[serde(default)]
    interactive: bool,
    /// The most states of an automaton; `null`: as many as the compiler likes.
    #[serde(default)]
    states: Option<usize>,
    /// The ids of the rules of each layer by rank, those of the marks at last.
    #[serde(default)]
    ranks: Vec<Vec<String>>,
    questions: Vec<Question>,
    #[serde(skip)]
    name: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    file: String,
    layer: Layer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The verb.
    action: String,
    /// The object as people write it; a path that ends with `/` is a directory.
    object: String,
    /// The address behind a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(default)]
    answer: Option<Expected>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    effect: String,
    layer: usize,
    /// `null`: the layer's default.
    rank: Option<u32>,
    rule: Option<String>,
    marks: Vec<u32>,
}

/// The files are of hosts whose first byte of a word is the lowest.
fn swapped_if_big(bytes: &[u8]) -> Vec<u8> {
    let words = bytes.as_chunks::<4>().0.iter();
    words
        .flat_map(|w| u32::from_le_bytes(*w).to_ne_bytes())
        .collect()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

pub fn all() -> Vec<Case> {
    let read = |name: &&str| {
        let text = fs::read(folder().join(format!("{name}.json"))).expect("vectors");
        let mut case: Case = serde_json::from_slice(&text).expect("well-formed vectors");
        case.name = (*name).to_owned();
        case
    };
    NAMES.iter().map(read).collect()
}

impl Question {
    fn action(&self, session: &Facts) -> Action {
        let verb: Verb = self.action.parse().expect("a verb");
        let mut resource = Resource::parse(verb.family(), &self.object).expect("an object");
        if let (Resource::Endpoint(endpoint), Some(address)) = (&mut resource, &self.address) {
            endpoint.ip = Some(address.parse().expect("an address"));
        }
        let mut action = Action::new(subject(), verb, resource);
        action.facts = session.clone();
        action.facts.labels = self.labels.iter().cloned().collect();
        action
    }
}

impl Case {
    fn session(&self) -> Facts {
        let mut facts = Facts::default();
        facts.session.interactive = self.interactive;
        facts
    }

    fn policy(&self) -> Arc<Policy> {
        let source = |named: &Named| {
            let text = fs::read(folder().join(&named.file)).expect("a source");
            Source::new(named.file.clone(), text, named.layer)
        };
        let sources: Vec<Source> = self.sources.iter().map(source).collect();
        let policy = load(&sources, &variables());
        Arc::new(policy.unwrap_or_else(|e| panic!("{}: {e}", self.name)))
    }

    fn compiled(&self) -> Compiled {
        Compiled::with_states(self.policy(), &subject(), &self.session(), self.states)
    }

    /// The table as compiled now.
    pub fn table_and_actions(&self) -> (Vec<u8>, Vec<Action>) {
        let session = self.session();
        let actions = self.questions.iter().map(|q| q.action(&session)).collect();
        (self.compiled().table().bytes().to_vec(), actions)
    }
}

#[test]
fn vectors_hold() {
    let write = std::env::var("POLICY_VECTORS").is_ok_and(|v| v == "write");
    let out = questions::Out::from_env();
    for mut case in all() {
        let (compiled, session) = (case.compiled(), case.session());
        let report = compiled.report();
        assert!(report.interpreted.is_empty());
        // With few states parts are cut, and bytes are looked for anywhere.
        let anywhere = report.automata.iter().any(|a| a.walk == "anywhere");
        assert_eq!(case.states.is_some(), anywhere, "{}", case.name);
        let file = folder().join(format!("{}.awpt", case.name));
        if write {
            fs::write(&file, swapped_if_big(compiled.table().bytes())).expect("written");
        }
        // The compiler may come to lay out tables otherwise: what is stored stays right.
        let stored = fs::read(&file).expect("a table");
        let stored = CompiledTable::read(&swapped_if_big(&stored));
        let stored = stored.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let table = CompiledTable::read(compiled.table().bytes()).expect("a table");

        let lists = 0..=table.layers();
        let ids = |list| {
            let rules = (0u32..).map_while(|rank| compiled.ranked(list, rank));
            rules.map(|r| r.id.clone()).collect()
        };
        let ranks: Vec<Vec<String>> = lists.map(ids).collect();
        if write {
            case.ranks.clone_from(&ranks);
        }
        assert_eq!(case.ranks, ranks, "{}", case.name);

        let mut lines = questions::Lines::default();
        for question in &mut case.questions {
            let action = question.action(&session);
            lines.add(&table, &action);
            let answer = table.answer(&action).expect("tables speak about vectors");
            assert_eq!(
                stored.answer(&action).as_ref(),
                Some(&answer),
                "{question:?}"
            );
            let found = told(&compiled, &table, &action).expect("the same");
            assert_eq!(
                found,
                interpreted(compiled.policy(), &action),
                "{question:?}"
            );
            let (layer, rank) = match answer.by {
                By::Rule { layer, rank } => (layer, Some(rank)),
                By::Default { layer } => (layer, None),
            };
            let found = Expected {
                effect: found.0,
                layer,
                rank,
                rule: found.1,
                marks: answer.marks,
            };
            if write {
                question.answer = Some(found);
            } else {
                assert_eq!(
                    question.answer.as_ref(),
                    Some(&found),
                    "{}",
                    question.object
                );
            }
        }
        if write {
            let mut text = serde_json::to_string_pretty(&case).expect("JSON");
            text.push('\n');
            fs::write(folder().join(format!("{}.json", case.name)), text).expect("written");
        }
        out.write(&format!("vectors-{}", case.name), &table, &lines);
    }
}

#[test]
fn vectors_reach_every_rule() {
    for case in all() {
        let answers = || case.questions.iter().filter_map(|q| q.answer.as_ref());
        let (marks, layers) = case.ranks.split_last().expect("a list of marks");
        for id in layers.iter().flatten() {
            let decided = answers().any(|a| a.rule.as_ref() == Some(id));
            // An allow with a condition left, or one under an upper layer that says the same.
            assert!(decided || id.ends_with("-never"), "{}: {id}", case.name);
        }
        for rank in 0..marks.len() as u32 {
            assert!(
                answers().any(|a| a.marks.contains(&rank)),
                "{}: mark {rank}",
                case.name
            );
        }
        assert!(
            answers().any(|a| a.rank.is_none()),
            "{}: no default",
            case.name
        );
    }
}
