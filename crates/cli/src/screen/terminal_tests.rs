//! The terminal after a review that panicked: on a terminal of its own, in a process of its own.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use agentwall_cow::{Amendment, FileHunks};

use super::{
    super::model::{Body, Item, Model, Texts},
    run,
};
use crate::outlook::Group;

/// A change whose inside makes the review panic, as soon as somebody looks at it.
struct Panics;

const MESSAGE: &str = "the review fell over";

impl Texts for Panics {
    fn body(&self, index: usize) -> Body {
        assert_eq!(index, 0, "{MESSAGE}");
        Body::Lines(Vec::new())
    }

    fn merge(&self, _: usize) -> Result<(Amendment, FileHunks), String> {
        Err(String::new())
    }
}

#[test]
#[ignore = "run by the_terminal_is_as_before_after_a_panic, on a terminal"]
fn a_review_that_panics() {
    let item = |n: usize| Item::new(n, "M", format!("file-{n}"), Group::Committed);
    let mut model = Model::new("agentwall review".into(), vec![item(0), item(1)], &Panics);
    let _ = run(&mut model, &Panics);
}

#[test]
fn the_terminal_is_as_before_after_a_panic() {
    let exe = std::env::current_exe().unwrap();
    let (_, module) = module_path!().split_once("::").unwrap();
    let line = format!(
        "stty rows 24 cols 80; stty -a; echo begins; timeout --foreground 60 '{}' --exact {module}::a_review_that_panics --ignored --nocapture; \
         echo status=$?; stty -a",
        exe.display()
    );
    let mut child = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1) is installed");
    let mut keys = child.stdin.take().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut shown, mut typed) = (Vec::new(), false);
    let mut buffer = [0; 4096];
    loop {
        let n = out.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        shown.extend_from_slice(&buffer[..n]);
        // Once the list is drawn, the next change is looked at.
        if !typed && String::from_utf8_lossy(&shown).contains("file-1") {
            keys.write_all(b"j").unwrap();
            typed = true;
        }
    }
    child.wait().unwrap();
    let shown = String::from_utf8_lossy(&shown).replace('\r', "");
    let at = |text: &str| {
        shown
            .rfind(text)
            .unwrap_or_else(|| panic!("{text:?} is not in {shown:?}"))
    };
    // Out of the other screen, with a cursor, before anything is said.
    let order = [
        "\u{1b}[?1049h",
        "\u{1b}[?1049l",
        MESSAGE,
        "status=101",
        "speed",
    ];
    let places: Vec<usize> = order.iter().map(|text| at(text)).collect();
    assert!(places.is_sorted(), "{order:?} at {places:?}: {shown:?}");
    assert_eq!(shown.matches(order[1]).count(), 1, "{shown:?}");
    assert!(at("\u{1b}[?25h") > at("\u{1b}[?25l"), "{shown:?}");
    let settings = |text: &str| text.split_once("speed").map(|(_, s)| s.trim().to_owned());
    let (before, after) = shown.split_once("begins").unwrap();
    let (before, after) = (settings(before), settings(after));
    assert!(before.is_some());
    assert_eq!(before, after);
}
