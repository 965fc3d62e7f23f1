use proptest::prelude::*;

use super::*;

fn path(pattern: &str) -> Glob {
    Glob::new(pattern, GlobKind::Path).unwrap_or_else(|e| panic!("{pattern}: {e}"))
}

fn hit(pattern: &str, text: &str) -> bool {
    path(pattern).matches(text.as_bytes(), false)
}

#[test]
fn path_patterns() {
    let yes = [
        ("/tmp/**/*.tmp", "/tmp/a/b.tmp"),
        ("/tmp/**/*.tmp", "/tmp/b.tmp"),
        ("/tmp/**/*.tmp", "/tmp/a/b/c/d.tmp"),
        ("/a/*", "/a/.hidden"),
        ("/a/**", "/a/b"),
        ("/a/**", "/a/b/c"),
        ("/**", "/a"),
        ("**", "/"),
        ("**/x", "/x"),
        ("**/x", "/a/b/x"),
        ("**/x/**", "/x/y"),
        ("/a/**/b/**/c", "/a/b/c"),
        ("/a/**/b/**/c", "/a/1/2/b/3/c"),
        ("/a/**/**/b", "/a/b"),
        ("/a**z", "/a/b/z"),
        ("/a/b?", "/a/bc"),
        ("/[a-c]x", "/bx"),
        ("/[!a-c]x", "/dx"),
        ("/[a-]", "/-"),
        ("/{a,b/{c,d}}/x", "/b/d/x"),
        ("/{a,}x", "/x"),
        ("/\\*", "/*"),
        ("/\\x41\\u{42}", "/AB"),
        ("/a,b", "/a,b"),
        ("/", "/"),
    ];
    for (pattern, text) in yes {
        assert!(hit(pattern, text), "{pattern} should match {text}");
    }
    let no = [
        ("/tmp/**/*.tmp", "/tmp/b.tmpx"),
        ("/tmp/**/*.tmp", "/tmpb.tmp"),
        ("/tmp/**/*.tmp", "/etc/b.tmp"),
        ("/a/*", "/a/b/c"),
        ("/a/*", "/a"),
        ("/a/**", "/a"),
        ("/a/**", "/ab"),
        ("**/x", "/ax"),
        ("**/x", "/x/y"),
        ("/a/b?", "/a/b/"),
        ("/a?b", "/a/b"),
        ("/a[!x]b", "/a/b"),
        ("/[a-c]x", "/dx"),
        ("/\\*", "/x"),
        ("/**", "/"),
    ];
    for (pattern, text) in no {
        assert!(!hit(pattern, text), "{pattern} should not match {text}");
    }
    assert!(path("/a/**").matches(b"/a", true));
    assert!(path("/**").matches(b"/", true));
    assert!(path("/a/*/**").matches(b"/a/b", true));
    assert!(!path("/a/*").matches(b"/a", true));
    assert!(path("/a/*").matches(b"/a/\xff\xfe", false));
}

#[test]
fn host_and_name_patterns() {
    let host = |p: &str, t: &str| {
        let glob = Glob::new(p, GlobKind::Host).unwrap();
        glob.matches(t.as_bytes(), false)
    };
    assert!(host("*.example.org", "a.example.org"));
    assert!(!host("*.example.org", "a.b.example.org"));
    assert!(!host("*.example.org", "example.org"));
    assert!(host("**.example.org", "a.b.example.org"));
    assert!(!host("**.example.org", "example.org"));
    assert!(host("{**.,}example.org", "example.org"));
    assert!(!host("*.example.org", "example.org.evil"));
    let text = |p: &str, t: &str| {
        let glob = Glob::new(p, GlobKind::Text).unwrap();
        glob.matches(t.as_bytes(), false)
    };
    assert!(text("capability:transfer:*", "capability:transfer:eu"));
    assert!(!text("capability:transfer:*", "capability:transfer:eu:x"));
    assert!(text("capability:**", "capability:transfer:eu"));
    assert!(text(
        "https://*.example.org/**",
        "https://a.example.org/x/y"
    ));
    assert!(!text(
        "https://*.example.org/**",
        "https://evil/.example.org/x"
    ));
}

#[test]
fn bad_patterns_say_where_and_what_instead() {
    let cases = [
        ("", 0, "empty"),
        ("/a[", 2, "not closed"),
        ("/a[b", 2, "not closed"),
        ("/a[]", 2, "empty class"),
        ("/a[z-a]", 4, "wrong way round"),
        ("/a[^b]", 3, "'[!'"),
        ("/a[/]", 3, "cannot hold"),
        ("/a[ä]", 3, "single bytes"),
        ("/a{b", 2, "not closed"),
        ("/a{}", 2, "empty braces"),
        ("/a}", 2, "without"),
        ("/a]", 2, "without"),
        ("/a\\", 2, "backslash"),
        ("/a\\q", 2, "unknown escape"),
        ("/a\\x4", 2, "hexadecimal"),
        ("/a***", 2, "3 stars"),
        ("/a/", 0, "do not end"),
        ("/a//b", 0, "no '//'"),
        ("/a/../b", 0, "no '.' and '..'"),
        ("/a/./b", 0, "no '.' and '..'"),
        ("*.pem", 0, "never match"),
        ("a/b", 0, "begins with"),
        ("/\\u{+41}", 1, "needs a code point"),
        ("/\\u{}", 1, "needs a code point"),
        ("/\\u{d800}", 1, "needs a code point"),
        ("/\\u{110000}", 1, "needs a code point"),
        ("{/a,b}", 0, "begins with"),
    ];
    for (pattern, offset, message) in cases {
        let error = Glob::new(pattern, GlobKind::Path).unwrap_err();
        assert_eq!(error.offset, offset, "{pattern}: {error}");
        assert!(error.message.contains(message), "{pattern}: {error}");
    }
}

#[test]
fn explosions_are_refused_and_matching_is_not_exponential() {
    assert!(Glob::new(&format!("/{}", "{a,b}".repeat(10)), GlobKind::Path).is_ok());
    for pattern in [
        format!("/{}", "{a,b}".repeat(11)),
        format!("/{}", "{a,b,c,d,e,f,g,h}".repeat(100)),
        format!("/{}x{}", "{".repeat(40), "}".repeat(40)),
        format!("/{}", "a".repeat(5000)),
        format!("/{{{}}}{}", "a,".repeat(900), "b".repeat(2000)),
    ] {
        assert!(Glob::new(&pattern, GlobKind::Path).is_err());
    }
    let start = std::time::Instant::now();
    let hard = Glob::new(&format!("/{}b", "**a*c".repeat(600)), GlobKind::Path).unwrap();
    assert!(!hard.matches(&[b"/".as_slice(), &b"ac".repeat(2000)].concat(), false));
    assert!(start.elapsed().as_secs() < 20);
}

/// The specification, by naive backtracking over the pattern text (no classes, no escapes).
fn oracle(p: &[u8], t: &[u8]) -> bool {
    match p {
        [] => t.is_empty(),
        b"/**" => t.len() >= 2 && t[0] == b'/',
        [b'/', b'*', b'*', b'/', rest @ ..] => {
            !t.is_empty()
                && t[0] == b'/'
                && (oracle(rest, &t[1..])
                    || (1..t.len()).any(|i| t[i] == b'/' && oracle(rest, &t[i + 1..])))
        }
        [b'*', b'*', rest @ ..] => (0..=t.len()).any(|i| oracle(rest, &t[i..])),
        [b'*', rest @ ..] => {
            (0..=t.len()).any(|i| !t[..i].contains(&b'/') && oracle(rest, &t[i..]))
        }
        [b'?', rest @ ..] => !t.is_empty() && t[0] != b'/' && oracle(rest, &t[1..]),
        [c, rest @ ..] => t.first() == Some(c) && oracle(rest, &t[1..]),
    }
}

/// Expands the first brace group without nesting.
fn braces(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find('{') else {
        return vec![pattern.to_owned()];
    };
    let close = open + pattern[open..].find('}').unwrap();
    pattern[open + 1..close]
        .split(',')
        .flat_map(|o| braces(&format!("{}{o}{}", &pattern[..open], &pattern[close + 1..])))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn agrees_with_the_naive_matcher(
        segments in prop::collection::vec("(\\*\\*|[ab?]{0,2}\\*?[ab]{1,2}|\\*|\\{a,b\\}\\*?|a\\*\\*b)", 1..5),
        texts in prop::collection::vec("(/[ab.]{1,3}){1,5}", 8),
    ) {
        let mut segments = segments;
        segments.dedup_by(|a, b| a == "**" && b == "**");
        let pattern = format!("/{}", segments.join("/"));
        let glob = Glob::new(&pattern, GlobKind::Path).unwrap();
        for text in texts {
            let expected = braces(&pattern).iter().any(|p| oracle(p.as_bytes(), text.as_bytes()));
            prop_assert_eq!(glob.matches(text.as_bytes(), false), expected, "{} {}", pattern, text);
        }
    }

    #[test]
    fn any_text_is_a_pattern_or_an_error(text in "\\PC{0,40}", input in prop::collection::vec(any::<u8>(), 0..40)) {
        for kind in [GlobKind::Path, GlobKind::Host, GlobKind::Text, GlobKind::Verb] {
            if let Ok(glob) = Glob::new(&text, kind) {
                glob.matches(&input, true);
            }
        }
    }

    #[test]
    fn an_escaped_name_matches_exactly_itself(
        name in prop::collection::vec(any::<u8>().prop_filter("not in a name", |b| *b != b'/' && *b != 0), 1..30),
        other in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        prop_assume!(name != b"." && name != b"..");
        let bytes = [b"/".as_slice(), &name].concat();
        let glob = Glob::new(&glob_escape(&bytes), GlobKind::Path).unwrap();
        prop_assert!(glob.matches(&bytes, false));
        let other = [b"/".as_slice(), &other].concat();
        prop_assert_eq!(glob.matches(&other, false), other == bytes);
    }
}
