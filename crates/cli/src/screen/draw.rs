//! Drawing the review: a list of changes by outcome, the patch of one, and a line of help.
//!
//! Everything shown was escaped before it came here. Without colours the marks and signs say the same.
//! What does not fit is left out at the end of a line; of the list nothing is left out, it scrolls.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Clear, Paragraph, Wrap},
};

use super::model::{Focus, Item, Look, Mark, Model, Shown, Stage};
use crate::{outlook::Group, output};

/// Below this there is nothing to see.
const LEAST: (u16, u16) = (16, 4);

/// From this width on the list is beside the patch.
const WIDE: u16 = 100;

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    /// Whether there are colours.
    pub colours: bool,
}

impl Palette {
    fn of(self, colour: Color) -> Style {
        match self.colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

/// Draws the review.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model, palette: Palette) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = Paragraph::new("agentwall review: the terminal is too small (q ends)");
        return frame.render_widget(text.wrap(Wrap { trim: true }), area);
    }
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(head(model), top);
    let (left, right) = match (middle.width >= WIDE, middle.height >= 10) {
        (true, _) => {
            let [left, right] =
                Layout::horizontal([Constraint::Percentage(42), Constraint::Min(20)]).areas(middle);
            (left, right)
        }
        (false, true) => {
            let [left, right] =
                Layout::vertical([Constraint::Percentage(40), Constraint::Min(5)]).areas(middle);
            (left, right)
        }
        (false, false) => match model.focus {
            Focus::List => (middle, Rect::ZERO),
            Focus::Patch => (Rect::ZERO, middle),
        },
    };
    if left.area() > 0 {
        list(frame, model, left, palette);
    }
    if right.area() > 0 {
        patch(frame, model, right, palette);
    }
    frame.render_widget(foot(model), bottom);
    match model.stage {
        Stage::Help => help(frame, area),
        Stage::Commit | Stage::Drop => question(frame, model, area, palette),
        Stage::Marking | Stage::Typing(_) => {}
    }
}

fn head(model: &Model) -> Paragraph<'_> {
    let all = output::count(model.items.len(), "change");
    let mut text = format!("{}: {all}", model.title);
    for (mark, word) in [
        (Mark::Accept, "accepted"),
        (Mark::Part, "in part"),
        (Mark::Merge, "merged"),
        (Mark::Reject, "rejected"),
    ] {
        match model.count(mark) {
            0 => {}
            n => text.push_str(&format!(", {n} {word}")),
        }
    }
    Paragraph::new(text).style(Style::new().add_modifier(Modifier::BOLD))
}

fn foot(model: &Model) -> Paragraph<'_> {
    let text = match model.stage {
        Stage::Typing(Focus::List) => format!("list paths with: {}_", model.filter),
        Stage::Typing(Focus::Patch) => format!("find in the patch: {}_", model.wanted),
        _ if !model.message.is_empty() => model.message.clone(),
        _ if model.focus == Focus::Patch => {
            "space hunk  n/p next/previous  s split  a/r/u file  / find  Tab list  c commit  ? help"
                .into()
        }
        _ => {
            "a accept  r reject  u leave  m merge  Enter patch  / filter  c commit  q quit  ? help"
                .into()
        }
    };
    Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM))
}

/// The sign of a mark.
fn sign(mark: Mark, palette: Palette) -> Span<'static> {
    match mark {
        Mark::Leave => Span::raw("[ ]"),
        Mark::Accept => Span::styled("[a]", palette.of(Color::Green)),
        Mark::Part => Span::styled("[~]", palette.of(Color::Green)),
        Mark::Merge => Span::styled("[m]", palette.of(Color::Green)),
        Mark::Reject => Span::styled("[r]", palette.of(Color::Red)),
    }
}

fn list(frame: &mut Frame<'_>, model: &Model, area: Rect, palette: Palette) {
    let mut rows: Vec<Line<'_>> = Vec::new();
    let (mut at, mut last): (usize, Option<Group>) = (0, None);
    for (place, n) in model.visible.iter().enumerate() {
        let item = &model.items[*n];
        if last != Some(item.group) {
            last = Some(item.group);
            let of_group = |n: &&usize| model.items[**n].group == item.group;
            let count = model.visible.iter().filter(of_group).count();
            let style = palette.of(Color::Cyan).add_modifier(Modifier::BOLD);
            let text = format!("{} ({count})", item.group.headline());
            rows.push(Line::styled(text, style));
        }
        if place == model.cursor {
            at = rows.len();
        }
        rows.push(row(item, place == model.cursor, palette));
    }
    if model.visible.is_empty() {
        rows.push(Line::raw(format!(
            "no path has {:?} in it (Esc)",
            model.filter
        )));
    }
    let title = match model.filter.is_empty() {
        true => " changes ".to_owned(),
        false => format!(" changes with {} ", model.filter),
    };
    let block = frame_of(title, model.focus == Focus::List, palette);
    let height = usize::from(block.inner(area).height).max(1);
    // The cursor is in the middle, as far as the list goes.
    let from = at
        .saturating_sub(height / 2)
        .min(rows.len().saturating_sub(height));
    let shown: Vec<Line<'_>> = rows.into_iter().skip(from).take(height).collect();
    frame.render_widget(Paragraph::new(shown).block(block), area);
}

fn row<'a>(item: &'a Item, is_current: bool, palette: Palette) -> Line<'a> {
    let letter = match item.letter {
        "D" => palette.of(Color::Red),
        "A" => palette.of(Color::Green),
        _ => Style::new(),
    };
    let line = Line::from(vec![
        sign(item.mark, palette),
        Span::raw(" "),
        Span::styled(item.letter, letter),
        Span::raw(" "),
        Span::raw(item.path.as_str()),
        Span::raw("  "),
        Span::styled(
            item.detail.as_str(),
            Style::new().add_modifier(Modifier::DIM),
        ),
    ]);
    match is_current {
        true => line.style(palette.chosen()),
        false => line,
    }
}

fn patch(frame: &mut Frame<'_>, model: &mut Model, area: Rect, palette: Palette) {
    let hunks = model.current().map_or(0, |i| i.hunks().len());
    let title = match (model.current(), hunks) {
        (None, _) => String::new(),
        (Some(item), 0) => format!(" {} ", item.path),
        (Some(item), n) => format!(" {}: hunk {} of {n} ", item.path, model.hunk + 1),
    };
    let block = frame_of(title, model.focus == Focus::Patch, palette);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let remarks: Vec<Line<'_>> = model.current().map_or(Vec::new(), |item| {
        let style = palette.of(Color::Yellow);
        item.remarks
            .iter()
            .map(|r| Line::styled(r.clone(), style))
            .collect()
    });
    let most = usize::from(inner.height).saturating_sub(3);
    let count = u16::try_from(remarks.len().min(most)).unwrap_or(0);
    let [above, below] =
        Layout::vertical([Constraint::Length(count), Constraint::Min(0)]).areas(inner);
    frame.render_widget(Paragraph::new(remarks), above);
    model.page = usize::from(below.height).max(1);
    let Some(item) = model.current() else { return };
    let hunk_signs: Vec<&str> = (item.hunks().iter())
        .map(|h| {
            let chosen = h.clone().filter(|n| item.is_chosen(*n)).count();
            match chosen {
                0 => "[ ] ",
                n if n == h.len() => "[a] ",
                _ => "[~] ",
            }
        })
        .collect();
    let window = item.lines().iter().skip(model.scroll).take(model.page);
    let lines: Vec<Line<'_>> = window
        .map(|shown| line(shown, item, model, &hunk_signs, palette))
        .collect();
    frame.render_widget(Paragraph::new(lines), below);
}

fn line(
    shown: &Shown,
    item: &Item,
    model: &Model,
    hunk_signs: &[&str],
    palette: Palette,
) -> Line<'static> {
    let text: String = shown.text.chars().skip(model.column).collect();
    let selectable = !hunk_signs.is_empty();
    let margin = |block: usize| match (selectable, item.is_chosen(block)) {
        (false, _) => "",
        (true, true) => "*",
        (true, false) => " ",
    };
    let plain = if selectable { " " } else { "" };
    let (margin, style) = match shown.look {
        Look::Head(n) => {
            let mark = hunk_signs.get(n).copied().unwrap_or_default();
            let mut style = palette.of(Color::Cyan);
            if selectable && n == model.hunk && model.focus == Focus::Patch {
                style = palette.chosen();
            }
            return Line::styled(format!("{mark}{text}"), style);
        }
        Look::Goes(block) => (margin(block), palette.of(Color::Red)),
        Look::Comes(block) => (margin(block), palette.of(Color::Green)),
        Look::Same => (plain, Style::new()),
        Look::Note => (plain, Style::new().add_modifier(Modifier::DIM)),
    };
    Line::styled(format!("{margin}{text}"), style)
}

fn frame_of(title: String, has_keys: bool, palette: Palette) -> Block<'static> {
    let style = match has_keys {
        true => palette.of(Color::Cyan).add_modifier(Modifier::BOLD),
        false => Style::new().add_modifier(Modifier::DIM),
    };
    Block::new()
        .borders(Borders::TOP)
        .title(title)
        .border_style(style)
}

const HELP: &str = "\
Up Down j k     move           PgUp PgDn g G  further
Enter Tab Esc   list or patch  Left Right     move the patch sideways
a accept        r reject       u leave        space  next mark
A accept all listed that would be committed
n p             next, previous hunk
space           accept this hunk or not (in the patch)
s               every place a hunk of its own, or as before
m               merge with the edits of the original
/               list paths with this; find in the patch
c               what the marks come to, and then commit
q               end; Q Ctrl-C end and do nothing; Ctrl-Z wait

[a] accepted  [~] some hunks  [m] merged  [r] rejected  [ ] left
What is left stays in the session.";

fn help(frame: &mut Frame<'_>, area: Rect) {
    popup(frame, area, " keys ", HELP.lines().map(Line::raw).collect());
}

/// What the marks come to, and the question below it. The list scrolls, nothing is left out of it.
fn question(frame: &mut Frame<'_>, model: &mut Model, area: Rect, palette: Palette) {
    let committing = model.stage == Stage::Commit;
    let wanted = |mark: Mark| match committing {
        true => matches!(mark, Mark::Accept | Mark::Part | Mark::Merge),
        false => mark == Mark::Reject,
    };
    // Deletions before all else.
    let mut listed: Vec<&Item> = model.items.iter().filter(|i| wanted(i.mark)).collect();
    listed.sort_by_key(|i| i.letter != "D");
    let row = |item: &&Item| {
        let how = match item.mark {
            Mark::Part => format!("  {} of {} hunks", item.chosen_hunks(), item.hunks().len()),
            Mark::Merge => "  merged".to_owned(),
            _ => String::new(),
        };
        let text = format!(" {} {}{how}", item.letter, item.path);
        Line::from(vec![sign(item.mark, palette), Span::raw(text)])
    };
    let rows: Vec<Line<'_>> = listed.iter().map(row).collect();
    let count = listed.len();
    let ask = match committing {
        true => {
            let (all, stay) = (model.items.len(), model.count(Mark::Leave));
            format!("Commit {count} of {all}, {stay} stay? y n")
        }
        false => format!("Drop {count}? This cannot be undone. y n"),
    };
    let room = usize::from(area.height).saturating_sub(4).max(1);
    model.asked = model.asked.min(rows.len().saturating_sub(room));
    let more = rows.len() > room;
    let mut shown: Vec<Line<'_>> = rows.into_iter().skip(model.asked).take(room).collect();
    let ask = match more {
        true => format!("{ask}  (Up, Down: all of them)"),
        false => ask,
    };
    shown.push(Line::styled(ask, Style::new().add_modifier(Modifier::BOLD)));
    popup(
        frame,
        area,
        if committing { " commit " } else { " drop " },
        shown,
    );
}

fn popup(frame: &mut Frame<'_>, area: Rect, title: &'static str, lines: Vec<Line<'_>>) {
    let widest = lines.iter().map(Line::width).max().unwrap_or(0).max(20);
    let width = u16::try_from(widest + 4)
        .unwrap_or(u16::MAX)
        .min(area.width);
    let height = u16::try_from(lines.len() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let block = Block::new().borders(Borders::ALL).title(title);
    // A question is the last line: the first ones are what a small terminal lacks.
    let room = usize::from(height.saturating_sub(2));
    let skip = match title {
        " keys " => 0,
        _ => lines.len().saturating_sub(room),
    };
    let shown: Vec<Line<'_>> = lines.into_iter().skip(skip).collect();
    frame.render_widget(Paragraph::new(shown).block(block), place);
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
