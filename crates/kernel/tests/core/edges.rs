//! Edges: texts and lines of all lengths, more than fits, no table, and words that are none.

use agentwall_action::{Action, Facts, ObjectKind, Resource, Subject, Verb};
use agentwall_kernel::{
    abi::{Asked, NONE, Question, TABLE_ROOM, kind},
    tables::TablesError,
};
use agentwall_policy::{CompiledTable, Layer, Source, load};

use crate::{
    asked::{Core, question, with_text},
    parity::{compare, compiled, meant, variables},
};

/// Lengths around everything that is done eight, 32, 64 or 4096 bytes at a time.
const LENGTHS: &[usize] = &[
    1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 511, 512, 513, 1023,
    1024, 2048, 4087, 4088, 4089, 4094, 4095,
];

fn table(rules: &[&str], states: Option<usize>) -> CompiledTable {
    let rules: String = (0..)
        .zip(rules)
        .map(|(i, resource)| {
            let effect = ["deny", "allow", "ask"][i % 3];
            format!("- {{id: r{i}, action: '*', resource: '{resource}', effect: {effect}}}\n")
        })
        .collect();
    let text = format!("agentwall: 1\nrules:\n{rules}");
    let policy = load(&[Source::new("p.yaml", text, Layer::User)], &variables());
    let policy = policy.unwrap_or_else(|e| panic!("{e}"));
    compiled(policy, &Facts::default(), states)
}

fn read(path: String, kind: ObjectKind) -> Action {
    let mut resource = Resource::path(path);
    if let Resource::Path(p) = &mut resource {
        p.kind = kind;
    }
    Action::new(Subject("agent:a".into()), Verb::FileRead, resource)
}

/// Paths of a length: one segment, short and long ones, with what rules look for at the end or before.
fn paths(length: usize) -> Vec<String> {
    let filled = |unit: &str| {
        let mut path: String = unit.chars().cycle().take(length).collect();
        if path.len() > 1 && path.ends_with('/') {
            path.replace_range(path.len() - 1.., "a");
        }
        path
    };
    let mut all = vec![
        filled("/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        filled("/a"),
        filled("/srv/data/aab/baab"),
        filled("/srv/secret-place/of/aabbaabbaab"),
        format!("/{}", "b".repeat(length - 1)),
    ];
    for path in all.clone() {
        for end in [
            ".pem",
            "/secret",
            "/aabbaabbaabbaabb.tmp",
            "/x.tmp",
            "b",
            "/secret-place",
        ] {
            if length > end.len() + 1 {
                let path = format!("{}{end}", &path[..length - end.len()]);
                if !path.contains("//") {
                    all.push(path);
                }
            }
        }
    }
    all
}

const RULES: &[&str] = &[
    "**/*.pem",
    "/srv/**",
    "**/secret*/**",
    "/a/**/*.tmp",
    "**/aabbaabbaabbaabb.tmp",
    "/srv/data/aab/**/x.tmp",
    "**/*ab*ba*b",
    "/{srv,a}/*/*a*/**/b*",
    "**/a/a/a",
    "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa*",
];

pub fn texts_of_all_lengths() {
    let core = Core::load().expect("the core loads");
    let kinds = [ObjectKind::File, ObjectKind::Directory];
    let paths: Vec<String> = LENGTHS.iter().flat_map(|l| paths(*l)).collect();
    let actions: Vec<Action> = paths
        .iter()
        .flat_map(|p| kinds.map(|k| read(p.clone(), k)))
        .collect();
    for states in [None, Some(3), Some(24)] {
        let table = table(RULES, states);
        let decided = compare(&core, &table, &actions).unwrap_or_else(|e| panic!("{e}"));
        // Of a path of many equal segments more is found than fits, here and there alike.
        assert!(
            decided > actions.len() * 3 / 4,
            "{decided} of {}",
            actions.len()
        );
    }
    // Nothing at all is a text as well, where a face may have one.
    let table = table(&["*", "a"], None);
    let nothing = Action::new(
        Subject("agent:a".into()),
        Verb::ToolCall,
        Resource::Named("".into()),
    );
    assert_eq!(compare(&core, &table, &[nothing]), Ok(1));
}

pub fn texts_anywhere_in_the_buffer() {
    let core = Core::load().expect("the core loads");
    let table = table(RULES, None);
    core.tables.install(0, &table, 1, 0).expect("installed");
    for path in LENGTHS.iter().flat_map(|l| paths(*l)) {
        let room = 4096 - path.len();
        let starts = [0, 1, 3, 7, 8, 100, room / 2, room]
            .into_iter()
            .filter(|s| *s <= room);
        let question = Question {
            verb: Verb::FileRead as u32,
            kind: kind::PATH,
            ..Question::default()
        };
        let asked: Vec<Asked> = starts
            .map(|s| with_text(question, path.as_bytes(), Some(s)))
            .collect();
        let answers = core.ask(0, &asked);
        let first = meant(answers[0].verdict);
        assert_ne!(first.effect, NONE);
        for answer in &answers {
            let start = answer.question.start;
            assert_eq!(meant(answer.verdict), first, "{path} at {start}");
        }
    }
    // What reaches beyond the buffer is no text.
    let mut beyond = with_text(Question::default(), b"/srv/x", None);
    beyond.question.len += 1;
    let answer = core.ask(0, &[beyond])[0].verdict;
    assert_eq!((answer.effect, answer.full), (NONE, 1));
}

/// Patterns that automata only narrow down, with lines of one word of states and of many.
pub fn lines_of_all_lengths() {
    let core = Core::load().expect("the core loads");
    let mut decided = 0;
    for n in [1, 10, 29, 30, 31, 32, 60, 100, 250] {
        let letters: String = "abca".chars().cycle().take(n).collect();
        let spread = letters.split("").collect::<Vec<_>>().join("*");
        let asks: String = "?b".repeat(n);
        let rules = [
            format!("/{asks}/**/x*y"),
            format!("/**/{spread}"),
            format!("/q/**/*{letters}*/**"),
            format!("**/*a*{letters}*c/**/{letters}*"),
        ];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let table = table(&rules, Some(3));
        let mut actions = Vec::new();
        for length in [40, 65, 130, 700, 4000] {
            for unit in ["abca", "ab", "ab/abca/", "xaybzcqa", "/q/x"] {
                let middle: String = unit.chars().cycle().take(length).collect();
                for path in [
                    format!("/{middle}a"),
                    format!("/q/{middle}{letters}"),
                    format!("/{}/{middle}/xzzy", "ab".repeat(n)),
                    format!("/a{letters}c/{middle}/{letters}b"),
                ] {
                    let path = path.replace("//", "/");
                    if path.len() <= 4095 {
                        actions.push(read(path.clone(), ObjectKind::Directory));
                        actions.push(read(path, ObjectKind::File));
                    }
                }
            }
        }
        decided += compare(&core, &table, &actions).unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    println!("{decided} questions to lines");
    assert!(decided > 1000);
}

pub fn too_much_is_not_decided() {
    let core = Core::load().expect("the core loads");
    let rules: Vec<String> = (0..40).map(|i| format!("**/dir{i:02}/**")).collect();
    let mut rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    rules.insert(1, "/**");
    let table = table(&rules, None);
    let path = |n: usize| {
        let path: String = (0..n).map(|i| format!("/dir{i:02}")).collect();
        read(format!("{path}/x"), ObjectKind::File)
    };
    let few = path(10);
    assert_eq!(compare(&core, &table, std::slice::from_ref(&few)), Ok(1));
    let many = path(40);
    assert!(table.answer(&many).is_none(), "more than fits");
    let asked = question(&many).expect("canonical");
    let answer = core.ask(0, &[asked])[0].verdict;
    assert_eq!((answer.effect, answer.full, answer.marks), (NONE, 1, 0));
}

/// Every program of the wall has the core in it, and a slow machine has to load them all.
pub fn verification_stays_cheap() {
    const MOST: u32 = 80_000;
    let core = Core::load().expect("the core loads");
    let id = core.id();
    let program = libbpf_rs::query::ProgInfoIter::default().find(|p| p.id == id);
    let steps = program.expect("the program").verified_insns;
    println!("the verifier went through {steps} instructions");
    assert!((1..MOST).contains(&steps), "{steps} instructions verified");
}

pub fn no_table_is_no_answer() {
    let core = Core::load().expect("the core loads");
    let table = table(&["/**"], None);
    let asked = question(&read("/x".into(), ObjectKind::File)).expect("canonical");
    let answers = |view| {
        core.fill(&[asked]);
        core.run(view, 1, 1);
        core.read(0)
    };
    assert_eq!(answers(1).count, 0);
    core.tables
        .install(1, &table, 7 << 32 | 5, 3)
        .expect("installed");
    let installed = core.tables.installed(1).expect("readable").expect("there");
    assert_eq!((installed.generation, installed.flags), (7 << 32 | 5, 3));
    let answer = answers(1);
    assert_eq!((answer.count, answer.generation), (1, 7 << 32 | 5));
    assert_ne!(answer.verdict.effect, NONE);
    assert_eq!(answers(0).count, 0, "another view has none");
    core.tables.remove(1).expect("removed");
    core.tables
        .remove(1)
        .expect("nothing to remove is no error");
    assert_eq!(answers(1).count, 0);
    assert_eq!(core.tables.installed(1).expect("readable"), None);
    let wrong = core.tables.install(99, &table, 1, 0);
    assert!(
        matches!(wrong, Err(TablesError::NoView { view: 99, views: 8 })),
        "{wrong:?}"
    );
}

/// Any words: the program ends, and every question has been asked.
pub fn words_that_are_no_table_end() {
    let core = Core::load().expect("the core loads");
    // Xorshift (G. Marsaglia, "Xorshift RNGs", 2003): the same words in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    let honest = table(RULES, Some(3));
    let questions: Vec<Asked> = [1, 9, 64, 100, 4095]
        .iter()
        .flat_map(|l| paths(*l))
        .map(|p| question(&read(p, ObjectKind::Directory)).expect("canonical"))
        .collect();
    for round in 0..60 {
        let words = match round % 3 {
            // Small numbers are offsets that lead on, also in rings.
            0 => (0..TABLE_ROOM).map(|_| next() % 4096).collect::<Vec<u32>>(),
            1 => (0..TABLE_ROOM).map(|_| next()).collect(),
            _ => {
                let mut words = honest.words().to_vec();
                for _ in 0..1 + round {
                    let at = next() as usize % words.len();
                    words[at] = match next() % 3 {
                        0 => next(),
                        1 => next() % honest.words().len() as u32,
                        _ => words[at] ^ 1 << (next() % 32),
                    };
                }
                words
            }
        };
        core.tables
            .install_words(0, &words, round, 0)
            .expect("installed");
        for answer in core.ask(0, &questions) {
            assert_eq!(answer.generation, round);
        }
    }
}

pub fn too_long_tables_are_refused() {
    let core = Core::load().expect("the core loads");
    let table = table(&["/**"], None);
    // Byte sets that nobody names, up to just beyond what the kernel takes.
    let grown = |words: usize| {
        let mut long = table.words().to_vec();
        let sets = long[3] as usize;
        long.resize(words - (words - sets) % 8, 0);
        long[2] = long.len() as u32;
        CompiledTable::read(bytemuck::cast_slice(&long)).expect("a table")
    };
    core.tables
        .install(0, &grown(TABLE_ROOM), 1, 0)
        .expect("it just fits");
    let long = core.tables.install(0, &grown(TABLE_ROOM + 8), 2, 0);
    assert!(
        matches!(long, Err(TablesError::TooLong { words }) if words > TABLE_ROOM),
        "{long:?}"
    );
    let installed = core.tables.installed(0).expect("readable").expect("there");
    assert_eq!(installed.generation, 1, "the old one stays");
}
