//! Languages against brute force: what the search says and what matching says must be one.

use proptest::prelude::*;

use super::*;

fn paths(globs: &[&str]) -> Language {
    let globs = globs.iter().map(|g| Glob::new(g, GlobKind::Path).unwrap());
    Language::new(GlobKind::Path, globs)
}

fn text(member: Option<Member>) -> Option<String> {
    member.map(|m| {
        let text = String::from_utf8(m.text).unwrap();
        if m.directory {
            format!("{text} (directory)")
        } else {
            text
        }
    })
}

#[test]
fn shortest_members_are_canonical_and_readable() {
    let shortest = |globs: &[&str]| text(paths(globs).shortest(Limits::default()).unwrap());
    assert_eq!(shortest(&["/tmp/*.tmp"]).unwrap(), "/tmp/.tmp");
    assert_eq!(shortest(&["/tmp/**"]).unwrap(), "/tmp (directory)");
    assert_eq!(shortest(&["**"]).unwrap(), "/ (directory)");
    assert_eq!(shortest(&["/**/x"]).unwrap(), "/x");
    assert_eq!(shortest(&["/a/[.]"]), None, "a single dot is no file name");
    assert_eq!(shortest(&["/a/?"]).unwrap(), "/a/a");
    assert_eq!(shortest(&["/a/.?"]).unwrap(), "/a/.a");
    assert_eq!(shortest(&[]), None);
}

#[test]
fn intersections_and_differences_are_exact() {
    let limits = Limits::default();
    let meets = |a: &[&str], b: &[&str]| text(paths(a).meets(&paths(b), limits).unwrap());
    assert_eq!(meets(&["**/*.pem"], &["/home/**"]).unwrap(), "/home/.pem");
    assert_eq!(meets(&["**/a/*.pem"], &["**/b/*.pem"]), None);
    assert_eq!(
        meets(&["**/a/**/*.pem"], &["**/b/**/*.pem"]).unwrap(),
        "/a/b/.pem"
    );
    let beyond = |a: &[&str], b: &[&str]| text(paths(a).beyond(&paths(b), limits).unwrap());
    assert_eq!(beyond(&["/a/*"], &["/a/**"]), None);
    assert_eq!(beyond(&["/a/**"], &["/a/*", "/a"]).unwrap(), "/a/a/a");
    assert_eq!(beyond(&["/a/**"], &["/a/*"]).unwrap(), "/a (directory)");
    assert!(
        paths(&["/x/{a,b}.rs"])
            .is_inside(&paths(&["/x/*.rs"]), limits)
            .unwrap()
    );
    let host = Language::new(GlobKind::Host, [Glob::new("*.a", GlobKind::Host).unwrap()]);
    assert_eq!(paths(&["/a"]).meets(&host, limits).unwrap(), None);
    assert!(paths(&["/a"]).beyond(&host, limits).unwrap().is_some());
}

#[test]
fn hostile_languages_end() {
    let small = Limits {
        states: 2000,
        ..Limits::default()
    };
    let many: Vec<String> = (0..40).map(|i| format!("**/x{i}/**/y{i}/**")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    // One owner: what accepts everything swallows the rest. Against another language it cannot.
    let wide: Vec<String> = (0..40)
        .map(|i| format!("/**/?*[ab]{}", "?".repeat(i)))
        .collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    let answer = paths(&many).beyond(&paths(&wide), small);
    assert!(
        matches!(answer, Ok(Some(_)) | Err(TooLarge::States)),
        "{answer:?}"
    );
    let deep = paths(&[&format!("/*a{}", "?".repeat(60))]);
    let other = paths(&[&format!("/*a{}", "?".repeat(60)), "/**/b"]);
    assert_eq!(deep.beyond(&other, small), Err(TooLarge::States));
}

/// A glob over a tiny alphabet.
fn glob() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a", "b", "*", "?", "**", "[ab]", "[!a]", "a*", "*b", "{a,b}", ".",
    ]);
    prop::collection::vec(part, 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

/// Every canonical path of up to three segments of up to two bytes over `a`, `b` and `.`.
fn universe() -> Vec<(String, bool)> {
    let mut names = Vec::new();
    for x in ["a", "b", "."] {
        names.push(x.to_owned());
        names.extend(["a", "b", "."].map(|y| format!("{x}{y}")));
    }
    names.retain(|n| n != "." && n != "..");
    let mut all = vec!["/".to_owned()];
    let mut level = vec![String::new()];
    for _ in 0..3 {
        level = level
            .iter()
            .flat_map(|p| names.iter().map(move |n| format!("{p}/{n}")))
            .collect();
        all.extend(level.iter().cloned());
    }
    all.into_iter()
        .flat_map(|p| [(p.clone(), false), (p, true)])
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_search_agrees_with_matching(
        a in prop::collection::vec(glob(), 1..3),
        b in prop::collection::vec(glob(), 1..3),
    ) {
        let globs = |texts: &[String]| -> Vec<Glob> {
            texts.iter().filter_map(|t| Glob::new(t, GlobKind::Path).ok()).collect()
        };
        let (a, b) = (globs(&a), globs(&b));
        let has = |globs: &[Glob], m: &Member| globs.iter().any(|g| g.matches(&m.text, m.directory));
        let (left, right) = (Language::new(GlobKind::Path, a.clone()), Language::new(GlobKind::Path, b.clone()));
        let meets = left.meets(&right, Limits::default()).unwrap();
        let beyond = left.beyond(&right, Limits::default()).unwrap();
        if let Some(m) = &meets {
            prop_assert!(has(&a, m) && has(&b, m), "{m:?}");
        }
        if let Some(m) = &beyond {
            prop_assert!(has(&a, m) && !has(&b, m), "{m:?}");
        }
        for (path, directory) in universe() {
            let m = Member { text: path.into_bytes(), directory };
            if has(&a, &m) && has(&b, &m) {
                prop_assert!(meets.as_ref().is_some_and(|w| w.text.len() <= m.text.len()), "{m:?}");
            }
            if has(&a, &m) && !has(&b, &m) {
                prop_assert!(beyond.as_ref().is_some_and(|w| w.text.len() <= m.text.len()), "{m:?}");
            }
        }
        for x in a.iter().flat_map(Glob::alternatives) {
            for y in b.iter().flat_map(Glob::alternatives) {
                if crate::analyse::product::certainly_disjoint(x, y, 10_000) {
                    for (path, directory) in universe() {
                        let both = x.matches(path.as_bytes(), directory) && y.matches(path.as_bytes(), directory);
                        prop_assert!(!both, "{path}");
                    }
                }
            }
        }
    }
}
