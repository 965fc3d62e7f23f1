//! Hostile files: each is wrong, and each would cost a careless reader time, memory or its stack.

#![allow(dead_code)]

/// The name of each, and its bytes. None of them is a policy or a table that loads.
pub fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let rule = "  - { id: a, effect: deny }\n";
    vec![
        ("brackets", "[".repeat(1 << 20).into()),
        ("braces", "{".repeat(1 << 20).into()),
        ("nested lists", "- ".repeat(1 << 20).into()),
        (
            "nested keys",
            (0..2000)
                .map(|i| format!("{}a:\n", " ".repeat(i)))
                .collect::<String>()
                .into(),
        ),
        (
            "one huge line",
            format!("agentwall: 1\nname: {}", "x".repeat(3 << 20)).into(),
        ),
        (
            "a huge key",
            format!("agentwall: 1\n{}: 1", "x".repeat(3 << 20)).into(),
        ),
        ("too large", vec![b'x'; (4 << 20) + 1]),
        (
            "many keys",
            (0..200_000)
                .map(|i| format!("k{i}: 1\n"))
                .collect::<String>()
                .into(),
        ),
        (
            "aliases",
            format!("a: &a [x]\n{}", "b: [*a,*a,*a]\n".repeat(10_000)).into(),
        ),
        (
            "laughs",
            "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n".into(),
        ),
        (
            "unknown keys",
            format!(
                "agentwall: 1\n{}",
                (0..250).map(|i| format!("k{i}: 1\n")).collect::<String>()
            )
            .into(),
        ),
        (
            "same ids",
            format!("agentwall: 1\nrules:\n{}", rule.repeat(5_000)).into(),
        ),
        (
            "bad rules",
            format!(
                "agentwall: 1\nrules:\n{}",
                "  - { id: '', effct: [] }\n".repeat(50_000)
            )
            .into(),
        ),
        (
            "bad in one line",
            format!(
                "agentwall: 1\nrules: [{}]",
                "{id: ' ', effct: x},".repeat(100_000)
            )
            .into(),
        ),
        ("quotes", "\"".repeat(1 << 20).into()),
        ("colons", ": ".repeat(1 << 19).into()),
        ("questions", "? ".repeat(1 << 19).into()),
        (
            "folded",
            format!("agentwall: 1\nname: >\n{}", " a\n".repeat(500_000)).into(),
        ),
        ("comments", "# x\n".repeat(1 << 20).into()),
        ("documents", "---\n".repeat(1 << 19).into()),
        ("tags", "!a ".repeat(1 << 19).into()),
        ("nul", vec![0; 1 << 20]),
        ("not text", vec![0xff; 1 << 20]),
        (
            "patterns",
            format!(
                "agentwall: 1\nrules: [{{id: a, effect: deny, action: file.read, resource: [{}]}}]",
                "\"/{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}\",".repeat(4000)
            )
            .into(),
        ),
        (
            "a million rules",
            format!("agentwall: 1\nrules: [{}]", "{},".repeat(1_000_000)).into(),
        ),
        (
            "a million cases",
            format!("[{}]", "{},".repeat(1_000_000)).into(),
        ),
        (
            "a million short items",
            format!("agentwall: 1\nrules: [{}]", "a,".repeat(1_500_000)).into(),
        ),
        (
            "nested braces",
            one_rule(&format!(
                "resource: \"/{}a{}\"",
                "{".repeat(1000),
                ",b}".repeat(1000)
            )),
        ),
        (
            "wide braces",
            one_rule(&format!(
                "resource: \"/{}\"",
                "{a,b,c,d,e,f,g,h}".repeat(200)
            )),
        ),
        (
            "long alternatives",
            one_rule(&format!(
                "resource: \"/{{{}}}{}\"",
                format!("{},", "x".repeat(400)).repeat(9),
                "{a,b}".repeat(9)
            )),
        ),
        (
            "a regular bomb",
            one_rule("when: \"resource.matches('((a{100}){100}){100}')\""),
        ),
        (
            "a deep condition",
            one_rule(&format!(
                "when: \"{}risk > 1{}\"",
                "(".repeat(2000),
                ")".repeat(2000)
            )),
        ),
        (
            "a long condition",
            one_rule(&format!("when: \"risk > 1{}\"", " || risk > 1".repeat(300))),
        ),
        (
            "nested loops",
            one_rule("when: \"args.all(a, args.all(b, args.all(c, args.all(d, a == d))))\""),
        ),
        (
            "one line of a megabyte",
            one_rule(&format!("reason: {}", "y".repeat(1 << 20))),
        ),
        (
            "one line of combining marks",
            one_rule(&format!("reason: a{}", "\u{301}".repeat(500_000))),
        ),
        (
            "a name in other letters",
            one_rule("hint: { \u{43d}ext: x }"),
        ),
        ("text that turns around", one_rule("reason: a\u{202e}b")),
        ("text that hides", one_rule("reason: a\u{2066}b\u{2069}")),
        ("a mark in the middle", one_rule("reason: a\u{feff}b")),
        ("an escape of a terminal", one_rule("reason: a\u{1b}[2Jb")),
        (
            "keys that differ in quotes",
            "agentwall: 1\n\"agentwall\": 1\n".into(),
        ),
        (
            "keys that differ in escapes",
            "agentwall: 1\n\"agentw\\x61ll\": 1\n".into(),
        ),
        (
            "a merge key",
            "agentwall: 1\n<<: { default: allow }\n".into(),
        ),
        (
            "a key that is a list",
            "agentwall: 1\n? [a, b]\n: c\n".into(),
        ),
        ("an alias of itself", "agentwall: &a [*a]\n".into()),
        (
            "directives",
            format!(
                "{}---\nagentwall: 1",
                "%TAG !a! tag:x,2000:\n".repeat(100_000)
            )
            .into(),
        ),
        (
            "deep texts",
            format!(
                "agentwall: 1\nrules:\n{}",
                (0..3000)
                    .map(|i| format!("{}- |\n", " ".repeat(i % 400)))
                    .collect::<String>()
            )
            .into(),
        ),
        ("carriage returns", "\r".repeat(1 << 20).into()),
        (
            "a number that is too large",
            one_rule(&format!("priority: {}", "9".repeat(100_000))),
        ),
    ]
}

/// A policy of one rule that says this, too.
fn one_rule(text: &str) -> Vec<u8> {
    format!(
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    action: file.read\n    {text}\n"
    )
    .into()
}
