//! Texts in three languages: YAML, Cedar, and our patterns.

/// A YAML scalar: a JSON string is one, with the control characters escaped that JSON leaves.
pub fn yaml(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

/// Our pattern that means exactly this text.
pub fn ours(text: &str) -> String {
    agentwall_policy::glob_escape(text.as_bytes())
}

/// A Cedar string literal with its quotes.
pub fn cedar(text: &str) -> String {
    format!("\"{}\"", escaped(text, false))
}

/// A Cedar string literal for the right side of `like`: `None` is `*`, a text is itself.
pub fn cedar_pattern<'a>(pieces: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut out = String::from("\"");
    for piece in pieces {
        match piece {
            None => out.push('*'),
            Some(text) => out.push_str(&escaped(text, true)),
        }
    }
    out.push('"');
    out
}

fn escaped(text: &str, pattern: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '*' if pattern => out.push_str("\\*"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}
