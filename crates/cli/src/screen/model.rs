//! What the review on the whole screen knows and does: marks, hunks, filter, and the way to the end.
//!
//! No terminal and no file system here: keys come in ([`Model::key`]), texts come from a [`Texts`], and
//! what is drawn is read from the fields. Nothing is done before the end; the end is a [`Decision`] that
//! a person confirmed after having seen what it comes to, the dropping asked apart.

use std::ops::Range;

use agentwall_cow::{Amendment, FileHunks, Row};

use crate::{cmd::diff::line_text, outlook::Group};

/// Lines of context around a hunk.
const CONTEXT: usize = 3;

/// Columns to which a tab is widened.
const TAB: usize = 4;

/// What is to become of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It stays in the session.
    Leave,
    /// It is committed.
    Accept,
    /// It is dropped.
    Reject,
    /// Some of its hunks are committed.
    Part,
    /// It is committed merged with the edits of the original.
    Merge,
}

/// A key, whatever the terminal calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// A character with Ctrl.
    Ctrl(char),
    /// The arrows and their like.
    Up,
    /// Down.
    Down,
    /// Left.
    Left,
    /// Right.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// The beginning.
    Home,
    /// The end.
    End,
    /// Enter.
    Enter,
    /// Escape.
    Esc,
    /// Tab.
    Tab,
    /// Backspace.
    Backspace,
}

/// How a line of a patch is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A remark.
    Note,
    /// The head of the hunk of this number.
    Head(usize),
    /// In both versions.
    Same,
    /// Goes, with the block of this number.
    Goes(usize),
    /// Comes, with the block of this number.
    Comes(usize),
}

/// A line of a patch: escaped, tabs widened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// How.
    pub look: Look,
    /// The text with its sign.
    pub text: String,
}

/// What a change looks like inside.
#[derive(Debug, Clone)]
pub enum Body {
    /// A text with hunks that can be chosen.
    Hunks(FileHunks),
    /// A patch that is decided as a whole, or why there is none; escaped.
    Lines(Vec<Shown>),
}

/// Where the texts come from.
pub trait Texts {
    /// The inside of a change.
    fn body(&self, index: usize) -> Body;
    /// A change merged with the edits of its original, and the difference between that original and
    /// the merge; or why not, escaped.
    fn merge(&self, index: usize) -> Result<(Amendment, FileHunks), String>;
}

/// A change in the list.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its index in the set.
    pub index: usize,
    /// The letter of its kind.
    pub letter: &'static str,
    /// Its path, escaped.
    pub path: String,
    /// What would become of it.
    pub group: Group,
    /// Lines and sizes.
    pub detail: String,
    /// What else there is to know, escaped.
    pub remarks: Vec<String>,
    /// What is to become of it.
    pub mark: Mark,
    /// Which blocks are chosen.
    pub chosen: Vec<bool>,
    /// Every block is a hunk of its own.
    pub split: bool,
    /// Once it was looked at.
    pub body: Option<Body>,
    /// The merge, while that is what is chosen.
    pub merge: Option<Amendment>,
    lines: Vec<Shown>,
}

impl Item {
    /// An unmarked change.
    pub fn new(index: usize, letter: &'static str, path: String, group: Group) -> Item {
        Item {
            index,
            letter,
            path,
            group,
            detail: String::new(),
            remarks: Vec::new(),
            mark: Mark::Leave,
            chosen: Vec::new(),
            split: false,
            body: None,
            merge: None,
            lines: Vec::new(),
        }
    }

    /// The lines of its patch, if it was looked at.
    pub fn lines(&self) -> &[Shown] {
        &self.lines
    }

    /// The hunks that can be chosen.
    pub fn hunks(&self) -> Vec<Range<usize>> {
        match (&self.body, &self.merge) {
            (Some(Body::Hunks(hunks)), None) => hunks.hunks(self.context()),
            _ => Vec::new(),
        }
    }

    /// How many of the hunks are chosen, whole or in part.
    pub fn chosen_hunks(&self) -> usize {
        let chosen = |hunk: &Range<usize>| hunk.clone().any(|n| self.is_chosen(n));
        self.hunks().iter().filter(|h| chosen(h)).count()
    }

    /// Whether a block is chosen.
    pub fn is_chosen(&self, block: usize) -> bool {
        self.chosen.get(block) == Some(&true)
    }

    fn context(&self) -> usize {
        if self.split { 0 } else { CONTEXT }
    }

    fn load(&mut self, texts: &dyn Texts) {
        if self.body.is_none() {
            let body = texts.body(self.index);
            if let Body::Hunks(hunks) = &body {
                self.chosen = vec![self.mark == Mark::Accept; hunks.blocks().len()];
            }
            self.body = Some(body);
            self.lay_out();
        }
    }

    /// Makes the lines anew.
    fn lay_out(&mut self) {
        self.lines = match &self.body {
            Some(Body::Lines(lines)) => lines.clone(),
            Some(Body::Hunks(hunks)) => {
                let mut lines = Vec::new();
                for (number, hunk) in hunks.hunks(self.context()).iter().enumerate() {
                    lines.push(Shown {
                        look: Look::Head(number),
                        text: hunks.head(hunk, self.context()),
                    });
                    lines.extend(hunks.rows(hunk, self.context()).into_iter().flat_map(rows));
                }
                lines
            }
            None => Vec::new(),
        };
    }

    /// Marks the change as a whole.
    fn set(&mut self, mark: Mark) {
        self.mark = mark;
        if self.merge.take().is_some() {
            self.body = None;
            self.lines.clear();
        }
        self.chosen.fill(mark == Mark::Accept);
    }
}

/// A line of a file, and that it ends without a newline.
fn rows(row: Row<'_>) -> Vec<Shown> {
    let (look, sign, line) = match row {
        Row::Same(_, line) => (Look::Same, ' ', line),
        Row::Goes(block, line) => (Look::Goes(block), '-', line),
        Row::Comes(block, line) => (Look::Comes(block), '+', line),
    };
    let ended = line.strip_suffix(b"\n");
    let mut shown = vec![Shown {
        look,
        text: format!("{sign}{}", widened(&line_text(ended.unwrap_or(line)))),
    }];
    if ended.is_none() {
        shown.push(Shown {
            look: Look::Note,
            text: "\\ No newline at end of file".into(),
        });
    }
    shown
}

/// A line of a patch that is decided as a whole.
pub fn patch_row(line: &[u8]) -> Shown {
    let look = match line.first() {
        Some(b'+') => Look::Comes(usize::MAX),
        Some(b'-') => Look::Goes(usize::MAX),
        Some(b' ') => Look::Same,
        _ => Look::Note,
    };
    Shown {
        look,
        text: widened(&line_text(line)),
    }
}

/// Tabs as spaces.
fn widened(text: &str) -> String {
    text.replace('\t', &" ".repeat(TAB))
}

/// Which part of the screen the keys are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    /// The list of changes.
    List,
    /// The patch.
    Patch,
}

/// What the person is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Marks.
    Marking,
    /// Types a filter or something to find in the patch.
    Typing(Focus),
    /// Reads about the keys.
    Help,
    /// Is asked whether to commit.
    Commit,
    /// Is asked whether to drop.
    Drop,
}

/// What a person decided, by index in the set.
#[derive(Debug, Default)]
pub struct Decision {
    /// As they are.
    pub accept: Vec<usize>,
    /// Content of some hunks, how many these are, and of how many.
    pub parts: Vec<(usize, Vec<u8>, usize, usize)>,
    /// Merged.
    pub merges: Vec<(usize, Amendment)>,
    /// To be dropped.
    pub reject: Vec<usize>,
}

impl Decision {
    /// How many changes are committed, whole or in part.
    pub fn committed(&self) -> usize {
        self.accept.len() + self.parts.len() + self.merges.len()
    }
}

/// How the review goes on after a key.
#[derive(Debug)]
pub enum After {
    /// It does.
    GoOn,
    /// The terminal is somebody else's for a while.
    Suspend,
    /// It ends, and nothing is done.
    Leave,
    /// It ends, and this is done.
    Do(Box<Decision>),
}

/// The review.
#[derive(Debug)]
pub struct Model {
    /// The title, escaped.
    pub title: String,
    /// Every change: by group, deletions first in each.
    pub items: Vec<Item>,
    /// The items that the filter lets through.
    pub visible: Vec<usize>,
    /// The place in `visible`.
    pub cursor: usize,
    /// What the keys are for.
    pub focus: Focus,
    /// What the person is at.
    pub stage: Stage,
    /// Paths with this in them are listed.
    pub filter: String,
    /// What is looked for in the patch.
    pub wanted: String,
    /// The first line of the patch that is shown.
    pub scroll: usize,
    /// The first column of the patch that is shown.
    pub column: usize,
    /// The hunk that is meant.
    pub hunk: usize,
    /// The answer to the last key.
    pub message: String,
    /// Lines of the patch that fit; the drawing says so.
    pub page: usize,
    /// The first line of what a question lists.
    pub asked: usize,
    /// Dropping was refused at the last question.
    keep_rejected: bool,
}

impl Model {
    /// A review of these changes.
    pub fn new(title: String, items: Vec<Item>, texts: &dyn Texts) -> Model {
        let mut model = Model {
            title,
            visible: (0..items.len()).collect(),
            items,
            cursor: 0,
            focus: Focus::List,
            stage: Stage::Marking,
            filter: String::new(),
            wanted: String::new(),
            scroll: 0,
            column: 0,
            hunk: 0,
            message: String::new(),
            page: 10,
            asked: 0,
            keep_rejected: false,
        };
        model.moved(texts);
        model
    }

    /// The change at the cursor.
    pub fn current(&self) -> Option<&Item> {
        self.items.get(*self.visible.get(self.cursor)?)
    }

    fn current_mut(&mut self) -> Option<&mut Item> {
        self.items.get_mut(*self.visible.get(self.cursor)?)
    }

    /// How many changes have this mark.
    pub fn count(&self, mark: Mark) -> usize {
        self.items.iter().filter(|i| i.mark == mark).count()
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key, texts: &dyn Texts) -> After {
        self.message.clear();
        match (self.stage, key) {
            (_, Key::Ctrl('z')) => return After::Suspend,
            (_, Key::Ctrl('c')) => return After::Leave,
            (Stage::Typing(focus), key) => self.typed(focus, key, texts),
            (Stage::Help, _) => self.stage = Stage::Marking,
            (Stage::Commit | Stage::Drop, key) => return self.answered(key),
            (Stage::Marking, key) => {
                let after = self.marking(key, texts);
                // A merge that is taken back shows the hunks again.
                if let Some(item) = self.current_mut() {
                    item.load(texts);
                }
                return after;
            }
        }
        After::GoOn
    }

    fn marking(&mut self, key: Key, texts: &dyn Texts) -> After {
        match key {
            Key::Char('?') => self.stage = Stage::Help,
            Key::Char('/') => {
                self.stage = Stage::Typing(self.focus);
                self.typing().clear();
            }
            Key::Char('a') => self.accept(),
            Key::Char('r') => self.mark(Mark::Reject),
            Key::Char('u') => self.mark(Mark::Leave),
            Key::Char('A') => self.accept_all(),
            Key::Char('m') => self.merge(texts),
            Key::Char('s') => self.split(),
            Key::Char('n') => self.go_to_hunk(true),
            Key::Char('p') => self.go_to_hunk(false),
            Key::Char('c') | Key::Char('q') => return self.ask_or_leave(key),
            Key::Char('Q') => return After::Leave,
            Key::Tab => {
                self.focus = match self.focus {
                    Focus::List => Focus::Patch,
                    Focus::Patch => Focus::List,
                }
            }
            Key::Enter if self.focus == Focus::List => self.focus = Focus::Patch,
            Key::Right if self.focus == Focus::List => self.focus = Focus::Patch,
            Key::Esc if self.focus == Focus::Patch => self.focus = Focus::List,
            Key::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.sift(texts);
            }
            Key::Char(' ') if self.focus == Focus::List => self.next_mark(),
            key if self.focus == Focus::List => self.move_in_list(key, texts),
            Key::Char(' ') => self.toggle_hunk(),
            Key::Left => self.column = self.column.saturating_sub(8),
            Key::Right => self.column = (self.column + 8).min(self.widest()),
            key => self.move_in_patch(key),
        }
        After::GoOn
    }

    fn move_in_list(&mut self, key: Key, texts: &dyn Texts) {
        let last = self.visible.len().saturating_sub(1);
        self.cursor = match key {
            Key::Up | Key::Char('k') => self.cursor.saturating_sub(1),
            Key::Down | Key::Char('j') => (self.cursor + 1).min(last),
            Key::PageUp => self.cursor.saturating_sub(10),
            Key::PageDown => (self.cursor + 10).min(last),
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => last,
            _ => {
                self.message = "? tells the keys".into();
                return;
            }
        };
        self.moved(texts);
    }

    fn move_in_patch(&mut self, key: Key) {
        let last = self.current().map_or(0, |i| i.lines.len());
        let last = last.saturating_sub(self.page.max(1));
        self.scroll = match key {
            Key::Up | Key::Char('k') => self.scroll.saturating_sub(1),
            Key::Down | Key::Char('j') => self.scroll + 1,
            Key::PageUp => self.scroll.saturating_sub(self.page),
            Key::PageDown => self.scroll + self.page,
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => last,
            _ => {
                self.message = "? tells the keys".into();
                return;
            }
        }
        .min(last);
    }

    fn widest(&self) -> usize {
        let lines = self.current().map_or(&[][..], |i| &i.lines);
        lines
            .iter()
            .map(|l| l.text.chars().count())
            .max()
            .unwrap_or(0)
    }

    /// The cursor is on another change.
    fn moved(&mut self, texts: &dyn Texts) {
        (self.scroll, self.column, self.hunk) = (0, 0, 0);
        if let Some(item) = self.current_mut() {
            item.load(texts);
        }
    }

    fn mark(&mut self, mark: Mark) {
        if let Some(item) = self.current_mut() {
            item.set(mark);
        }
    }

    fn accept(&mut self) {
        let Some(item) = self.current_mut() else {
            return;
        };
        match item.group {
            Group::Denied => self.message = "the policy denies it: it cannot be committed".into(),
            Group::Conflict => {
                self.message =
                    "the original changed: m merges, or choose hunks against it with space".into();
            }
            Group::Unknown => {
                self.message =
                    "the session's policy cannot be read: nothing can be accepted".into();
            }
            Group::Committed | Group::Held => self.mark(Mark::Accept),
        }
    }

    /// Everything listed that the policy lets pass and nobody marked yet.
    fn accept_all(&mut self) {
        let mut count = 0;
        for n in &self.visible {
            let item = &mut self.items[*n];
            if item.group == Group::Committed && item.mark == Mark::Leave {
                item.set(Mark::Accept);
                count += 1;
            }
        }
        self.message = format!("{count} accepted; what is held or in conflict wants its own mark");
    }

    fn next_mark(&mut self) {
        match self.current().map(|i| i.mark) {
            Some(Mark::Leave) => {
                self.accept();
                // Where that is not possible the next one comes.
                if self.current().is_some_and(|i| i.mark == Mark::Leave) {
                    self.mark(Mark::Reject);
                }
            }
            Some(Mark::Accept | Mark::Part | Mark::Merge) => self.mark(Mark::Reject),
            Some(Mark::Reject) => self.mark(Mark::Leave),
            None => {}
        }
    }

    fn merge(&mut self, texts: &dyn Texts) {
        let Some(item) = self.current_mut() else {
            return;
        };
        if item.group != Group::Conflict {
            self.message = "only what both sides changed is merged".into();
            return;
        }
        match texts.merge(item.index) {
            Ok((amendment, hunks)) => {
                item.chosen.clear();
                item.body = Some(Body::Hunks(hunks));
                item.merge = Some(amendment);
                item.mark = Mark::Merge;
                item.lay_out();
                self.scroll = 0;
                self.message =
                    "merged: this is what it changes in the original; u takes it back".into();
            }
            Err(why) => self.message = why,
        }
    }

    fn split(&mut self) {
        let Some(item) = self.current_mut().filter(|i| !i.hunks().is_empty()) else {
            self.message = "there are no hunks to split".into();
            return;
        };
        item.split = !item.split;
        item.lay_out();
        self.hunk = 0;
        self.scroll = 0;
    }

    fn go_to_hunk(&mut self, next: bool) {
        let hunks = self.current().map_or(0, |i| i.hunks().len());
        self.hunk = match next {
            true => (self.hunk + 1).min(hunks.saturating_sub(1)),
            false => self.hunk.saturating_sub(1),
        };
        let head = Look::Head(self.hunk);
        let lines = self.current().map_or(&[][..], |i| &i.lines);
        if let Some(at) = lines.iter().position(|l| l.look == head) {
            self.scroll = at;
        }
    }

    fn toggle_hunk(&mut self) {
        let at = self.hunk;
        let Some(item) = self.current_mut() else {
            return;
        };
        if matches!(item.group, Group::Denied | Group::Unknown) {
            return self.accept();
        }
        let hunks = item.hunks();
        let Some(hunk) = hunks.get(at).cloned() else {
            self.message = "it is decided as a whole: a accepts, r rejects".into();
            return;
        };
        let all = hunk.clone().all(|n| item.is_chosen(n));
        for n in hunk {
            if let Some(chosen) = item.chosen.get_mut(n) {
                *chosen = !all;
            }
        }
        let chosen = item.chosen.iter().filter(|c| **c).count();
        item.mark = match chosen {
            0 => Mark::Leave,
            // Over an edited original nothing is accepted as a whole.
            n if n == item.chosen.len() && item.group != Group::Conflict => Mark::Accept,
            _ => Mark::Part,
        };
        self.go_to_hunk(true);
    }

    fn typing(&mut self) -> &mut String {
        match self.focus {
            Focus::List => &mut self.filter,
            Focus::Patch => &mut self.wanted,
        }
    }

    fn typed(&mut self, focus: Focus, key: Key, texts: &dyn Texts) {
        match key {
            Key::Char(c) => self.typing().push(c),
            Key::Backspace => drop(self.typing().pop()),
            Key::Esc => {
                self.typing().clear();
                self.stage = Stage::Marking;
            }
            Key::Enter => {
                self.stage = Stage::Marking;
                if focus == Focus::Patch {
                    self.find();
                }
            }
            _ => {}
        }
        if focus == Focus::List {
            self.sift(texts);
        }
    }

    /// Lists what the filter lets through; small letters mean large ones, too.
    fn sift(&mut self, texts: &dyn Texts) {
        let filter = self.filter.clone();
        let small = !filter.chars().any(char::is_uppercase);
        let passes = |item: &Item| match small {
            true => item.path.to_lowercase().contains(&filter),
            false => item.path.contains(&filter),
        };
        let all = self.items.iter().enumerate();
        self.visible = all.filter(|(_, i)| passes(i)).map(|(n, _)| n).collect();
        self.cursor = 0;
        self.moved(texts);
    }

    /// The next line of the patch with what is wanted.
    fn find(&mut self) {
        let (wanted, from) = (self.wanted.clone(), self.scroll + 1);
        let lines = self.current().map_or(&[][..], |i| &i.lines);
        let is = |n: &usize| lines[*n].text.contains(&wanted);
        let found = (from..lines.len()).chain(0..from.min(lines.len())).find(is);
        match found {
            Some(at) if !wanted.is_empty() => self.scroll = at,
            _ => self.message = "not found in this patch".into(),
        }
    }

    fn ask_or_leave(&mut self, key: Key) -> After {
        let marked = self.items.iter().any(|i| i.mark != Mark::Leave);
        match (marked, key) {
            (false, Key::Char('q')) => return After::Leave,
            (false, _) => {
                self.message = "nothing is marked: a accepts, r rejects, ? tells more".into()
            }
            (true, _) => {
                self.keep_rejected = false;
                self.asked = 0;
                self.stage = match self.decision().committed() {
                    0 => Stage::Drop,
                    _ => Stage::Commit,
                };
            }
        }
        After::GoOn
    }

    fn answered(&mut self, key: Key) -> After {
        match (self.stage, key) {
            (Stage::Commit, Key::Char('y')) if self.count(Mark::Reject) > 0 => {
                self.stage = Stage::Drop;
                self.asked = 0;
            }
            (_, Key::Up | Key::Char('k')) => self.asked = self.asked.saturating_sub(1),
            (_, Key::Down | Key::Char('j')) => self.asked += 1,
            (_, Key::PageUp) => self.asked = self.asked.saturating_sub(10),
            (_, Key::PageDown) => self.asked += 10,
            (Stage::Commit | Stage::Drop, Key::Char('y')) => {
                return After::Do(Box::new(self.decision()));
            }
            (Stage::Drop, Key::Char('n')) => {
                self.keep_rejected = true;
                let decision = self.decision();
                if decision.committed() > 0 {
                    return After::Do(Box::new(decision));
                }
                self.stage = Stage::Marking;
            }
            (_, Key::Esc | Key::Char('n' | 'q')) => self.stage = Stage::Marking,
            _ => self.message = "y or n; Esc goes back".into(),
        }
        After::GoOn
    }

    /// What the marks come to.
    pub fn decision(&self) -> Decision {
        let mut decision = Decision::default();
        for item in &self.items {
            match (item.mark, &item.body, &item.merge) {
                (Mark::Accept, ..) => decision.accept.push(item.index),
                (Mark::Part, Some(Body::Hunks(hunks)), _) => decision.parts.push((
                    item.index,
                    hunks.with(|n| item.is_chosen(n)),
                    item.chosen_hunks(),
                    item.hunks().len(),
                )),
                (Mark::Merge, _, Some(merge)) => decision.merges.push((item.index, merge.clone())),
                (Mark::Reject, ..) if !self.keep_rejected => decision.reject.push(item.index),
                _ => {}
            }
        }
        decision
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(super) mod tests;
