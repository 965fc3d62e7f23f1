//! `policy fmt`: one layout, every comment kept, the meaning never changed.

#![allow(clippy::unwrap_used)]

mod support;

use agentwall_policy::{FileKind, FormatError, file_kind, format, load, templates};
use proptest::prelude::*;
use support::{source, variables};

#[track_caller]
fn laid_out(text: &str) -> String {
    format(&source("p.yaml", text), FileKind::Policy, &variables())
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[track_caller]
fn check(text: &str) -> String {
    let once = laid_out(text);
    assert_eq!(laid_out(&once), once, "twice is once:\n{text}");
    let digest = |t: &str| {
        let policy = load(&[source("p.yaml", t)], &variables()).unwrap();
        policy.digest().to_owned()
    };
    assert_eq!(digest(text), digest(&once), "{text}\n{once}");
    for comment in text.lines().filter_map(|l| l.split_once("#c")) {
        let comment = format!("c{}", comment.1.trim_end());
        assert!(once.contains(&comment), "lost {comment:?}:\n{text}\n{once}");
    }
    once
}

#[test]
fn the_layout_of_an_untidy_policy() {
    let text = "# first\nagentwall:   1\n\n\n\ndefault:     deny   #why\nrules:\n-   id:   a\n    \
        action:    [ file.read,file.write ]\n    # inside\n    resource:  '/a/**'\n    effect: deny\n\n\n\n\
        #between\n-   {id: b,effect: allow,action: process.exec,when: 'args[1] == \"push\"'}\n# last";
    let wanted = "\
# first
agentwall: 1

default: deny # why
rules:
  - id: a
    action: [file.read, file.write]
    # inside
    resource: '/a/**'
    effect: deny

  # between
  - { id: b, effect: allow, action: process.exec, when: 'args[1] == \"push\"' }
# last
";
    assert_eq!(check(text), wanted);
}

#[test]
fn the_templates_and_the_example_keep_their_meaning() {
    for template in templates() {
        assert_eq!(check(template.text), template.text, "{}", template.name);
        let table = source("t.yaml", template.table);
        assert_eq!(file_kind(&table), FileKind::Table);
        let out = format(&table, FileKind::Table, &variables()).unwrap();
        assert_eq!(out, template.table, "{}", template.name);
    }
    check(include_str!("language-example.yaml"));
}

#[test]
fn what_does_not_load_is_not_laid_out() {
    for text in [
        "",
        "agentwall: 2",
        "agentwall: 1\nrules: [",
        "a: &b c",
        "\u{0}",
    ] {
        let error = format(&source("p.yaml", text), FileKind::Policy, &variables()).unwrap_err();
        assert!(matches!(error, FormatError::Load(_)), "{text}: {error}");
    }
    let error = format(&source("t.yaml", "- x"), FileKind::Table, &variables()).unwrap_err();
    assert!(error.to_string().contains("t.yaml:1:3"), "{error}");
    assert_eq!(file_kind(&source("x", "[")), FileKind::Policy);
}

#[test]
fn odd_but_legal_files_keep_their_meaning() {
    for text in [
        "\u{feff}agentwall: 1\n",
        "agentwall: 1\r\nname: x\r\n",
        "%YAML 1.2\n---\nagentwall: 1\n...\n",
        "---\nagentwall: 1",
        "agentwall: 1\nname: >-\n  folded\n  text\n\n  more\ndescription: |+\n  kept\n\n\n",
        "agentwall: 1\nname: | #c1\n  \"quoted\" # text\n  more\n#c2\ndescription: >2-\n   deep\n",
        "agentwall: 1\nname: |\n\n  late\n\n\n  x\n\n#c1\ndescription: |-\n  a\n    b\n",
        "agentwall: 1\nrules:\n- id: a\n  effect: deny\n  reason: >-\n\n      a\n\n        deeper\n      b\n  tests:\n    match:\n    - |- #c1\n      file.read /x\n    - >\n      file.read\n      /y\n    #c2\n  #c3\n",
        "agentwall: 1\nname: >-\n  blank \n    deep\n",
        "agentwall: 1\nname: >\n : ",
        "agentwall: 1\nname: \"a\n  b\n\n  c\"\ndescription: 'd\n  e''f'\n",
        "agentwall: 1\nname: ü #c1\ndescription: \"日本 #no\" #c2\nrules: [{id: a, effect: deny, reason: 'é'}] #c3\n",
        "agentwall: 1\nname: 'it''s'\ndescription: \"a\\tb\\u00e4\\\"\"\n",
        "agentwall: 1\nname: \"it's\"\ndescription: 'say \"x\"'\n",
        "agentwall: 1\nname: a\n  b\n  c\n",
        "\"agentwall\": 1\n? name\n: x\n",
        "{agentwall: 1, name: x, rules: [{id: a, effect: deny}]}",
        "agentwall: 1 #c1\n#c2\nrules: #c3\n#c4\n - #c5\n  id: a #c6\n  #c7\n  effect: deny\n #c8\n#c9\n",
        "agentwall: 1\nrules: [ #c1\n {id: a, #c2\n effect: deny}, #c3\n] #c4\n",
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    when: >\n      risk > 3 &&\n      risk < 9\n",
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    reason: a # b#c\n    resource: [\"/a # no comment\"]\n    action: file.read\n",
    ] {
        check(text);
    }
}

/// Rules in any layout a person may type.
fn rule(n: usize) -> impl Strategy<Value = String> {
    let blank = prop::sample::select(vec!["", " ", "   "]);
    let comment = prop::sample::select(vec!["", "  #c one", " #c  two: x", " #c'\"[{"]);
    let quote = prop::sample::select(vec!["", "'", "\""]);
    let list = prop::bool::ANY;
    let flow = prop::bool::ANY;
    let gap = prop::sample::select(vec!["", "\n", "\n\n\n", "#c gap\n", "   #c deep gap\n\n"]);
    let long = prop::sample::select(vec![1usize, 3, 12]);
    (blank, comment, quote, list, flow, gap, long).prop_map(
        move |(b, c, q, list, flow, gap, long)| {
            let member = |i: usize| format!("{q}/a{i}/x{n}/**{q}");
            let members: Vec<String> = (0..long).map(member).collect();
            let resource = match (list, flow) {
                (true, _) if flow => format!("[{b}{}{b}]", members.join(&format!(",{b}"))),
                (true, _) => {
                    let items = members.iter().map(|m| format!("\n    -{b} {m}{c}"));
                    items.collect()
                }
                _ => members[0].clone(),
            };
            match flow && n.is_multiple_of(2) {
                true => format!(
                    "{gap}  - {{{b}id: r{n}{b},{b}effect: deny, action: file.read, resource: {resource}{b}}}{c}\n"
                ),
                false => format!(
                    "{gap}  -{b} id:{b} r{n}{c}\n   {b} effect: deny{c}\n   {b} action:{b} file.read\n   \
                     {b} resource: {}\n",
                    resource.replace("\n    ", &format!("\n     {b}"))
                ),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_layout_becomes_the_one_layout(rules in (1usize..6).prop_flat_map(|n| (0..n).map(rule).collect::<Vec<_>>())) {
        let text = format!("agentwall: 1\n#c top\nrules:\n{}#c end\n", rules.concat());
        // What the generator writes must load; otherwise the test says nothing.
        check(&text);
    }

    #[test]
    fn yaml_like_text_is_laid_out_without_a_change_or_refused(text in "agentwall: 1\n(name: |description: |rules:\n|  - id: [a-c]\n|    effect: deny\n|    reason: |\\[|\\]|\\{|\\}|, |\"|'|\\||>|#c|  |\n|: |[a-z]|- |~|\\\\){0,30}") {
        if let Ok(once) = format(&source("p.yaml", text.as_str()), FileKind::Policy, &variables()) {
            prop_assert_eq!(laid_out(&once), once);
        }
    }
}
