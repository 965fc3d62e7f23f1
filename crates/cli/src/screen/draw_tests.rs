//! What is on the screen, at several sizes.

use ratatui::{Terminal, backend::TestBackend};

use super::super::model::{
    Key,
    tests::{Fake, fake, model, types},
};
use super::*;

fn screen(model: &mut Model, (width, height): (u16, u16), colours: bool) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(frame, model, Palette { colours }))
        .unwrap();
    terminal.backend().clone()
}

fn text(model: &mut Model, size: (u16, u16)) -> String {
    screen(model, size, false).to_string().replace('"', "")
}

#[test]
fn eighty_by_twenty_four_has_the_list_the_patch_and_the_help() {
    let texts = fake();
    let mut m = model(&texts);
    types(&mut m, &texts, ">\t ");
    let shown = text(&mut m, (80, 24));
    let expected = "\
agentwall review k3f9: 6 changes, 1 in part                                     
 changes ───────────────────────────────────────────────────────────────────────
would be committed (3)                                                          
[ ] D gone.txt                                                                  
[~] M src/text.rs                                                               
[ ] A src/new.rs                                                                
held: name it, or use --held (1)                                                
[ ] A ci/Build.yaml                                                             
denied, never committed (1)                                                     
[ ] A hooks/evil                                                                
 src/text.rs: hunk 2 of 2 ──────────────────────────────────────────────────────
[ ] @@ -6,9 +6,9 @@                                                             
  6                                                                             
  7                                                                             
  8                                                                             
 -9                                                                             
 +nine                                                                          
  10                                                                            
 -11                                                                            
 +eleven                                                                        
  12                                                                            
  13                                                                            
  14                                                                            
space hunk  n/p next/previous  s split  a/r/u file  / find  Tab list  c commit  
";
    assert_eq!(shown, expected, "{shown}");
}

#[test]
fn a_question_lists_deletions_first_and_can_be_scrolled_to_its_end() {
    let texts = Fake::default();
    let items = (0..40)
        .map(|n| {
            let letter = if n % 2 == 0 { "A" } else { "D" };
            Item::new(n, letter, format!("file-{n:02}"), Group::Committed)
        })
        .collect();
    let mut m = Model::new("review".into(), items, &texts);
    types(&mut m, &texts, "Ac");
    let first = text(&mut m, (60, 16));
    assert!(first.contains("Commit 40 of 40, 0 stay? y n"), "{first}");
    assert!(first.contains("[a] D file-01"), "{first}");
    assert!(!first.contains("[a] A file-00"), "{first}");
    let mut seen = first;
    for _ in 0..40 {
        m.key(Key::Down, &texts);
        seen.push_str(&text(&mut m, (60, 16)));
    }
    for n in 0..40 {
        assert!(seen.contains(&format!("file-{n:02}")), "{n}");
    }
}

#[test]
fn every_size_is_drawn() {
    let texts = fake();
    for keys in ["", ">\t ", "?", "Ac", "/src", ">>>>>", "rc"] {
        for width in [1u16, 2, 15, 16, 20, 40, 79, 80, 99, 100, 200] {
            for height in [1u16, 2, 3, 4, 5, 9, 10, 11, 12, 24, 60] {
                let mut m = model(&texts);
                types(&mut m, &texts, keys);
                text(&mut m, (width, height));
            }
        }
    }
    let mut m = model(&texts);
    assert!(text(&mut m, (20, 3)).contains("small"));
    // A small one shows what has the keys.
    let list = text(&mut m, (30, 8));
    assert!(list.contains("gone.txt") && !list.contains("@@"), "{list}");
    types(&mut m, &texts, ">\t");
    let patch = text(&mut m, (30, 8));
    assert!(patch.contains("@@ -1,4 +1,4 @@"), "{patch}");
}

#[test]
fn without_colours_there_are_none() {
    let texts = fake();
    for (colours, any) in [(false, false), (true, true)] {
        let mut m = model(&texts);
        types(&mut m, &texts, ">\t ");
        let backend = screen(&mut m, (80, 24), colours);
        let coloured = |c: &ratatui::buffer::Cell| c.fg != Color::Reset || c.bg != Color::Reset;
        assert_eq!(backend.buffer().content().iter().any(coloured), any);
    }
}

#[test]
fn hostile_text_stays_in_its_place() {
    let texts = Fake(
        [(
            1,
            (
                "a\n",
                "\x1b[2J\x1b]0;title\x07\u{202e}evil\u{2066}\u{200b}\r\n\tb\u{9b}31m\u{feff}\n",
            ),
        )]
        .into(),
    );
    let path = agentwall_action::escape_text("x\x1b[31m\u{202e}\nname");
    let items = vec![Item::new(1, "M", path, Group::Committed)];
    let mut m = Model::new("review".into(), items, &texts);
    types(&mut m, &texts, "\t");
    let backend = screen(&mut m, (90, 20), true);
    let all: String = (backend.buffer().content().iter())
        .map(ratatui::buffer::Cell::symbol)
        .collect();
    let bad = all.chars().find(|c| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    });
    assert_eq!(bad, None, "{all}");
    for text in [
        "\\u{1b}[2J",
        "\\u{202e}evil",
        "+    b\\u{9b}31m",
        "x\\u{1b}[31m",
    ] {
        assert!(all.contains(text), "{text}: {all}");
    }
}
