//! The vocabulary: texts for a person, resources as a person writes them, actions in JSON.

use agentwall_action::{Action, Resource, Subject, Verb, VerbFamily, escape_bytes, escape_text};

use crate::input::{assert_json, assert_shown, parts};

/// Two texts. What is shown has nothing in it that moves the cursor or reorders text, and two texts
/// that differ look different.
pub fn escape(data: &[u8]) {
    let parts = parts(data);
    let shown = escape_bytes(parts[0]);
    assert_shown(&shown);
    assert!(!shown.contains('\n'));
    if let Ok(text) = std::str::from_utf8(parts[0]) {
        assert_eq!(escape_text(text), shown);
    }
    if let Some(other) = parts.get(1) {
        assert_eq!(escape_bytes(other) == shown, *other == parts[0]);
    }
}

/// A resource as a person writes it, for every family: canonical, shown safely, read back from JSON.
pub fn resource(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for verb in [
        Verb::FileRead,
        Verb::ProcessExec,
        Verb::NetConnect,
        Verb::DnsResolve,
        Verb::IpcConnect,
        Verb::ToolCall,
    ] {
        let resource = match Resource::parse(verb.family(), text) {
            Ok(resource) => resource,
            Err(error) => {
                assert_shown(&error.to_string());
                continue;
            }
        };
        let shown = resource.to_string();
        assert_shown(&shown);
        assert_json(&Action::new(Subject::agent("a"), verb, resource.clone()));
        // Escapes are for people; other texts read back. What is a directory is not shown, and the
        // root always reads back as one.
        let plain = !shown.contains('\\') && !shown.ends_with('/');
        if plain && verb.family() != VerbFamily::Named {
            let again = Resource::parse(verb.family(), &shown).expect("canonical");
            assert_eq!(again.to_string(), shown, "{text:?}");
            assert!(
                again == resource || text.ends_with('/') || text.ends_with('.'),
                "{text:?}"
            );
        }
        if let Resource::Path(path) = &resource {
            let path = path.path.to_str().expect("the text was UTF-8");
            assert!(path.starts_with('/') && !path.contains("//"));
            assert!(!path.split('/').any(|part| part == "." || part == ".."));
        }
    }
}
