//! Reads `cases.txt`: groups of cases, each with the rules it is played under. tests/README.md has the form.

/// What must come of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// It has its effect.
    Done,
    /// It has none.
    Refused,
    /// It has none, and the rule of this name asked a person.
    Asked(String),
}

/// How its effect is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The program said this text.
    Said(String),
    /// This shell text, run on the host afterwards, ends with status 0.
    Host(String),
    /// A server on the host heard this text.
    Heard(String),
}

/// One thing that a program does.
#[derive(Debug, Clone)]
pub struct Case {
    /// Unique in its group.
    pub name: String,
    /// Shell text.
    pub what: String,
    /// How its effect is known.
    pub effect: Effect,
    /// What `agentwall run` makes of it.
    pub run: Expected,
    /// What `agentwall daemon exec` makes of it.
    pub daemon: Expected,
}

/// Cases that are played in one session.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Unique.
    pub name: String,
    /// Of its policy.
    pub default: String,
    /// Items of a YAML list.
    pub rules: String,
    /// Shell text that makes the objects, on the host.
    pub before: String,
    /// In the order in which they are played.
    pub cases: Vec<Case>,
}

/// Reads the table; the error says the line.
pub fn read(text: &str) -> Result<Vec<Group>, String> {
    let mut groups: Vec<Group> = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| format!("line {}: {why}: '{line}'", at + 1);
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut block = Vec::new();
        while let Some((_, l)) = lines.next_if(|(_, l)| l.starts_with("  ")) {
            block.push(l);
        }
        if word == "group" {
            groups.push(Group {
                name: rest.to_owned(),
                default: "deny".to_owned(),
                ..Group::default()
            });
            continue;
        }
        let group = groups.last_mut().ok_or_else(|| wrong("no group yet"))?;
        match word {
            "default" => group.default = rest.to_owned(),
            "rules" => group.rules = block.join("\n"),
            "before" => group.before = block.join("\n"),
            "case" => {
                let case = case(rest, &block).map_err(|e| wrong(&e))?;
                if group.cases.iter().any(|c| c.name == case.name) {
                    return Err(wrong("the name is used already"));
                }
                group.cases.push(case);
            }
            _ => return Err(wrong("expected group, default, rules, before or case")),
        }
    }
    Ok(groups)
}

fn case(name: &str, block: &[&str]) -> Result<Case, String> {
    let field = |key: &str| {
        block.iter().find_map(|l| {
            let (word, rest) = l.trim_start().split_once(' ')?;
            (word == key).then(|| rest.to_owned())
        })
    };
    let effects = [
        field("said").map(Effect::Said),
        field("host").map(Effect::Host),
        field("heard").map(Effect::Heard),
    ];
    let mut effects = effects.into_iter().flatten();
    let (Some(effect), None) = (effects.next(), effects.next()) else {
        return Err("expected one of said, host, heard".to_owned());
    };
    let both = field("expect");
    let of = |key: &str| {
        let text = both.clone().or_else(|| field(key));
        let text =
            text.ok_or_else(|| format!("expected 'expect', or 'run' and 'daemon' ({key})"))?;
        expected(&text)
    };
    let ((run, one), (daemon, other)) = (of("run")?, of("daemon")?);
    if run != daemon && one.or(other).is_none() {
        return Err("the two differ, and nothing says why".to_owned());
    }
    Ok(Case {
        name: name.to_owned(),
        what: field("do").ok_or("expected 'do'")?,
        effect,
        run,
        daemon,
    })
}

/// An expectation, and the reason behind a colon.
fn expected(text: &str) -> Result<(Expected, Option<String>), String> {
    let (said, why) = match text.split_once(": ") {
        Some((said, why)) => (said, Some(why.to_owned())),
        None => (text, None),
    };
    let expected = match said.split_once(' ') {
        None if said == "done" => Expected::Done,
        None if said == "refused" => Expected::Refused,
        Some(("asked", rule)) => Expected::Asked(rule.to_owned()),
        _ => {
            return Err(format!(
                "expected done, refused or asked RULE, found '{said}'"
            ));
        }
    };
    Ok((expected, why))
}
