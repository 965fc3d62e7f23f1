//! The layout of a file: its nodes written again, with the comments where they belong.
//!
//! Libraries that keep comments were tried: they do not read all that a policy may be, and change
//! folded texts. The subset of a policy (mappings, lists, scalars; no anchors, tags, documents) is
//! small enough for one pass over its nodes, whose places the reader knows.
//!
//! The rules: two spaces a level; lists inside their key's level; at most one blank line; a collection
//! in brackets stays so while it fits into [`LINE_WIDTH`] and holds no comment, else it becomes lines;
//! scalars on one line stay to the letter. A comment on a line of its own stands before what follows
//! it, at that level; one behind something stays behind it.
//!
//! Whether the outcome means the same is for [`format`](crate::format()) to compare, not to assume.

use std::collections::HashMap;

use agentwall_action::escape_text;

use crate::yaml::{Key, Kind, Node, Place};

/// Longest line that a collection in brackets may fill, in characters.
pub const LINE_WIDTH: usize = 110;

/// Writes the file again. `text` has line feeds alone at its line ends. Also gives the text of every
/// comment, in order.
pub(crate) fn layout(text: &str, root: &Node) -> (String, Vec<String>) {
    let mut leaves = Vec::new();
    let mut source = Text::new(text);
    source.leaves(root, &mut leaves);
    let (comments, closers) = source.comments(&leaves);
    let texts = comments.iter().map(|c| c.text.clone()).collect();
    let mut writer = Writer {
        source,
        leaves,
        leaf: 0,
        closers,
        comments,
        comment: 0,
        out: String::with_capacity(text.len() + text.len() / 8),
        tight: true,
    };
    match writer.inline(root, 0) {
        // A file in brackets that are empty, or one scalar.
        Some(text) if count(root) < 2 => {
            writer.lead(writer.source.offset(root.place), 0, false);
            writer.finish(&text, root, 0);
        }
        _ => writer.block(root, 0, false),
    }
    writer.own_lines(usize::MAX, 0, 0);
    (writer.out, texts)
}

/// A comment and where it belongs.
#[derive(Debug)]
struct Comment {
    /// Without `#` and the blanks around it.
    text: String,
    /// Where it begins, as a byte of the file.
    at: usize,
    column: usize,
    line: usize,
    /// The start of the scalar it stands behind; nothing for one on a line of its own.
    behind: Option<usize>,
}

/// The file as it was written.
struct Text<'a> {
    text: &'a str,
    /// The start of each line, as a byte and as a character.
    lines: Vec<(usize, usize)>,
    /// The byte of each character; empty when all characters are one byte.
    bytes: Vec<usize>,
    ascii: bool,
    /// Where the header of each text in `|` or `>` is, by the place of its first line.
    headers: HashMap<Place, usize>,
}

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Self {
        let mut lines = vec![(0, 0)];
        let mut bytes = Vec::new();
        let ascii = text.is_ascii();
        for (n, (at, c)) in text.char_indices().enumerate() {
            if c == '\n' {
                lines.push((at + 1, n + 1));
            }
            if !ascii {
                bytes.push(at);
            }
        }
        Text {
            text,
            lines,
            bytes,
            ascii,
            headers: HashMap::new(),
        }
    }

    /// The byte at a place. In constant time: one line may hold the whole file.
    fn offset(&self, place: Place) -> usize {
        let line = self.lines.get(place.line.saturating_sub(1));
        let at = line.map_or(self.text.len(), |(_, n)| n + place.column.saturating_sub(1));
        if self.ascii {
            return at.min(self.text.len());
        }
        self.bytes.get(at).copied().unwrap_or(self.text.len())
    }

    /// A line by its number from 1, without its end.
    fn line(&self, number: usize) -> &'a str {
        let start = |n: usize| self.lines.get(n).map(|(byte, _)| *byte);
        let Some(from) = number.checked_sub(1).and_then(start) else {
            return "";
        };
        let to = start(number).map_or(self.text.len(), |next| next - 1);
        self.text.get(from..to).unwrap_or_default()
    }

    /// The number of the line a byte stands in.
    fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|(start, _)| *start <= at)
    }

    /// Where a node begins: a text in `|` or `>` at its header.
    fn start(&self, place: Place) -> usize {
        let header = self.headers.get(&place).copied();
        header.unwrap_or_else(|| self.offset(place))
    }

    fn is_blank(&self, number: usize) -> bool {
        number > 0 && self.line(number).trim().is_empty()
    }

    /// Where each scalar and key begins and ends, in the order of the file.
    fn leaves(&mut self, node: &Node, leaves: &mut Vec<(usize, usize)>) {
        match &node.kind {
            Kind::Scalar(text, _) => {
                if node.block {
                    let before = leaves.last().map_or(0, |(_, end)| *end);
                    self.headers.insert(node.place, self.header(before));
                }
                leaves.push(self.span(node.place, text));
            }
            Kind::Sequence(items) => items.iter().for_each(|i| self.leaves(i, leaves)),
            Kind::Mapping(entries) => {
                for (key, value) in entries {
                    leaves.push(self.span(key.place, &key.text));
                    self.leaves(value, leaves);
                }
            }
        }
    }

    /// The `|` or `>` that follows a byte: before it stand blanks, indicators and comments alone.
    fn header(&self, from: usize) -> usize {
        let mut comment = false;
        for (at, byte) in self.text.bytes().enumerate().skip(from) {
            match byte {
                b'#' => comment = true,
                b'\n' => comment = false,
                b'|' | b'>' if !comment => return at,
                _ => {}
            }
        }
        self.text.len()
    }

    /// Where a scalar begins and ends.
    fn span(&self, place: Place, text: &str) -> (usize, usize) {
        if let Some(header) = self.headers.get(&place) {
            return (*header, self.block_end(*header));
        }
        let start = self.offset(place);
        let raw = &self.text[start..];
        let length = match raw.as_bytes().first() {
            Some(b'"') => quoted(raw, '"'),
            Some(b'\'') => quoted(raw, '\''),
            _ => unfolded(raw, text),
        };
        (start, start + length)
    }

    /// The content lines below a header, and the indent they share.
    fn block_lines(&self, header: usize) -> (Vec<&'a str>, usize) {
        let header = self.line_of(header);
        let indent_of = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let mut indent = None;
        let mut lines = Vec::new();
        for number in header + 1..=self.lines.len() {
            let line = self.line(number);
            let blank = line.trim_matches(' ').is_empty();
            if !blank && indent_of(line) < *indent.get_or_insert(indent_of(line).max(1)) {
                break;
            }
            lines.push(line);
        }
        while lines.last().is_some_and(|l| l.trim_matches(' ').is_empty()) {
            lines.pop();
        }
        (lines, indent.unwrap_or(0))
    }

    fn block_end(&self, header: usize) -> usize {
        let last = self.line_of(header) + self.block_lines(header).0.len();
        self.lines.get(last).map_or(self.text.len(), |(at, _)| *at)
    }

    /// The comments, and where each bracket is closed: what stands between scalars.
    fn comments(&self, leaves: &[(usize, usize)]) -> (Vec<Comment>, HashMap<usize, usize>) {
        let (mut comments, mut closers, mut open) = (Vec::new(), HashMap::new(), Vec::new());
        let bytes = self.text.as_bytes();
        let mut leaf = leaves.iter().peekable();
        let mut last = None;
        // Whether something that a comment can stand behind was on this line.
        let mut content = false;
        let (mut at, mut line) = (0, 1);
        while at < bytes.len() {
            while let Some((start, end)) = leaf.next_if(|(start, _)| *start <= at) {
                if *end > at {
                    // The header of a text in `|` may carry a comment of its own.
                    if matches!(bytes[at], b'|' | b'>') {
                        let head = self.text[at..].split('\n').next().unwrap_or_default();
                        let blank = head.find([' ', '\t']).unwrap_or(head.len());
                        if let Some(hash) = head[blank..].find('#') {
                            let (comment, _) = self.comment(at + blank + hash, line, Some(*start));
                            comments.push(comment);
                        }
                    }
                    line += self.text[at..*end].matches('\n').count();
                    content = !self.text[..*end].ends_with('\n');
                    at = *end;
                }
                if end > start {
                    last = Some(*start);
                }
            }
            let Some(&byte) = bytes.get(at) else { break };
            match byte {
                b'\n' => {
                    line += 1;
                    content = false;
                }
                b'[' | b'{' => open.push(at),
                b']' | b'}' => {
                    closers.extend(open.pop().map(|start| (start, at)));
                    content = true;
                }
                b'#' if at == 0 || bytes[at - 1].is_ascii_whitespace() => {
                    let (comment, end) = self.comment(at, line, last.filter(|_| content));
                    comments.push(comment);
                    at = end;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        (comments, closers)
    }

    fn comment(&self, at: usize, line: usize, behind: Option<usize>) -> (Comment, usize) {
        let raw = self.text[at..].split('\n').next().unwrap_or_default();
        let start = self.lines.get(line - 1).map_or(0, |(at, _)| *at);
        let comment = Comment {
            text: raw.strip_prefix('#').unwrap_or(raw).trim().to_owned(),
            at,
            column: self.text.get(start..at).unwrap_or_default().chars().count() + 1,
            line,
            behind,
        };
        (comment, at + raw.len())
    }
}

/// The length of a quoted scalar.
fn quoted(raw: &str, quote: char) -> usize {
    let mut chars = raw.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quote == '"' => {
                chars.next();
            }
            c if c == quote && quote == '\'' && chars.peek().is_some_and(|(_, c)| *c == '\'') => {
                chars.next();
            }
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    raw.len()
}

/// The length of a scalar without quotes: its text, however its lines are folded.
fn unfolded(raw: &str, text: &str) -> usize {
    let mut chars = raw.char_indices();
    let mut end = 0;
    for wanted in text.chars().filter(|c| !c.is_whitespace()) {
        match chars.find(|(_, c)| !c.is_whitespace()) {
            Some((at, c)) if c == wanted => end = at + c.len_utf8(),
            _ => return end,
        }
    }
    end
}

struct Writer<'a> {
    source: Text<'a>,
    /// Where the scalars begin and end, in order, and how many of them are written.
    leaves: Vec<(usize, usize)>,
    leaf: usize,
    closers: HashMap<usize, usize>,
    comments: Vec<Comment>,
    /// The first comment that is not written.
    comment: usize,
    out: String,
    /// No blank line goes here: above is a key, the start of the file, or a text that would keep it.
    tight: bool,
}

impl Writer<'_> {
    /// Writes a collection as lines. `begun` says that its first line has been begun, by `- `.
    fn block(&mut self, node: &Node, indent: usize, begun: bool) {
        match &node.kind {
            Kind::Sequence(items) => {
                for (n, item) in items.iter().enumerate() {
                    self.item(item, indent, begun && n == 0);
                }
            }
            Kind::Mapping(entries) => {
                for (n, (key, value)) in entries.iter().enumerate() {
                    self.entry(key, value, indent, begun && n == 0);
                }
            }
            Kind::Scalar(..) => {}
        }
        // Comments that end the collection stay inside: those before the bracket, or as deep as it.
        match self.bracket(node) {
            Some(end) => self.own_lines(end, 0, indent),
            None => self.own_lines(self.next_leaf(), node.place.column, indent),
        }
    }

    fn item(&mut self, node: &Node, indent: usize, begun: bool) {
        self.lead(self.front(node, indent + 2), indent, begun);
        self.out.push_str("- ");
        match self.inline(node, indent + 2) {
            Some(text) => self.finish(&text, node, indent),
            None => self.block(node, indent + 2, true),
        }
    }

    fn entry(&mut self, key: &Key, value: &Node, indent: usize, begun: bool) {
        self.lead(self.entry_front(key, value, indent), indent, begun);
        let name = self.key(key);
        self.leaf += 1;
        self.out.push_str(&name);
        self.out.push(':');
        match self.inline(value, self.used(indent, &name)) {
            Some(text) => {
                if !text.is_empty() {
                    self.out.push(' ');
                }
                self.finish(&text, value, indent);
            }
            None => {
                self.trailing();
                self.tight = true;
                self.block(value, indent + 2, false);
            }
        }
    }

    /// What stands above an item: comments before `until`, and a blank line if there is one.
    fn lead(&mut self, until: usize, indent: usize, begun: bool) {
        if begun {
            return;
        }
        let blank = self.blank_above_leaf();
        self.own_lines(until, 0, indent);
        self.line(indent, blank);
    }

    /// Ends the line of a value, with the comment behind it.
    fn finish(&mut self, text: &str, value: &Node, indent: usize) {
        let (head, body) = match text.split_once('\n') {
            Some((head, body)) => (head, Some(body)),
            None => (text, None),
        };
        self.out.push_str(head);
        self.leaf += count(value);
        self.trailing();
        let Some(body) = body else { return };
        for line in body.split('\n') {
            if !line.is_empty() {
                self.out.extend(std::iter::repeat_n(' ', indent + 2));
                self.out.push_str(line);
            }
            self.out.push('\n');
        }
        self.tight = body.ends_with('\n');
    }

    /// The comment behind what was written, and the end of the line.
    fn trailing(&mut self) {
        let next = self.next_leaf();
        let comment = self.comments.get(self.comment);
        if let Some(comment) = comment.filter(|c| c.behind.is_some() && c.at < next) {
            self.out.push(' ');
            comment.write(&mut self.out);
            self.comment += 1;
        }
        self.out.push('\n');
        self.tight = false;
    }

    /// Writes the comments before a byte of the file as lines of their own, as long as they stand in
    /// a column or further to the right.
    fn own_lines(&mut self, until: usize, column: usize, indent: usize) {
        while let Some(comment) = self.comments.get(self.comment) {
            if comment.at >= until || comment.column < column {
                break;
            }
            let blank = comment.behind.is_none() && self.source.is_blank(comment.line - 1);
            self.line(indent, blank);
            self.comments[self.comment].write(&mut self.out);
            self.out.push('\n');
            self.comment += 1;
        }
    }

    /// Begins a line.
    fn line(&mut self, indent: usize, blank: bool) {
        if blank && !self.tight {
            self.out.push('\n');
        }
        self.tight = false;
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    fn next_leaf(&self) -> usize {
        self.leaves
            .get(self.leaf)
            .map_or(usize::MAX, |(start, _)| *start)
    }

    /// Whether a blank line stands above the next scalar, which begins its line.
    fn blank_above_leaf(&self) -> bool {
        let Some((start, _)) = self.leaves.get(self.leaf) else {
            return false;
        };
        let line = self.source.line_of(*start);
        let before = self.leaf.checked_sub(1).and_then(|n| self.leaves.get(n));
        let first = before.is_none_or(|(_, end)| self.source.line_of(end.saturating_sub(1)) < line);
        first && line > 1 && self.source.is_blank(line - 1)
    }

    /// Up to which byte comments go above an item that begins with this node.
    fn front(&self, node: &Node, indent: usize) -> usize {
        if self.inline(node, indent).is_none() {
            match &node.kind {
                Kind::Sequence(items) => {
                    if let Some(first) = items.first() {
                        return self.front(first, indent + 2);
                    }
                }
                Kind::Mapping(entries) => {
                    if let Some((key, value)) = entries.first() {
                        return self.entry_front(key, value, indent);
                    }
                }
                Kind::Scalar(..) => {}
            }
        }
        self.source.start(first(node))
    }

    fn entry_front(&self, key: &Key, value: &Node, indent: usize) -> usize {
        let place = match self.inline(value, self.used(indent, &self.key(key))) {
            Some(text) if !text.is_empty() && !text.contains('\n') => first(value),
            _ => key.place,
        };
        self.source.offset(place)
    }

    /// The column a value begins at.
    fn used(&self, indent: usize, key: &str) -> usize {
        indent + key.chars().count() + 2
    }

    /// A node as it stands behind a key or `- `: a scalar always, a collection if it stood in
    /// brackets, fits and holds no comment. A text in `|` has its lines after the first.
    fn inline(&self, node: &Node, used: usize) -> Option<String> {
        match &node.kind {
            Kind::Scalar(text, _) => Some(self.scalar(node.place, text)),
            Kind::Sequence(items) if items.is_empty() => Some("[]".into()),
            Kind::Mapping(entries) if entries.is_empty() => Some("{}".into()),
            _ => {
                let (start, end) = (self.source.offset(node.place), self.bracket(node)?);
                let after = self.comments.partition_point(|c| c.at < start);
                if self.comments.get(after).is_some_and(|c| c.at < end) {
                    return None;
                }
                let mut text = String::new();
                self.flow(node, LINE_WIDTH.saturating_sub(used), &mut text)?;
                Some(text)
            }
        }
    }

    /// Where the bracket of a collection is closed, if it has one.
    fn bracket(&self, node: &Node) -> Option<usize> {
        self.closers.get(&self.source.offset(node.place)).copied()
    }

    /// Writes a node in brackets; nothing if it is wider than it may be.
    fn flow(&self, node: &Node, width: usize, out: &mut String) -> Option<()> {
        match &node.kind {
            Kind::Scalar(text, _) => match self.scalar(node.place, text) {
                text if text.contains('\n') => out.push_str(&double(text_of(node))),
                text if text.is_empty() => out.push_str("null"),
                text => out.push_str(&text),
            },
            Kind::Sequence(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    out.push_str(if n > 0 { ", " } else { "" });
                    self.flow(item, width, out)?;
                }
                out.push(']');
            }
            Kind::Mapping(entries) if entries.is_empty() => out.push_str("{}"),
            Kind::Mapping(entries) => {
                for (n, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if n > 0 { ", " } else { "{ " });
                    out.push_str(&self.key(key));
                    out.push_str(": ");
                    self.flow(value, width, out)?;
                }
                out.push_str(" }");
            }
        }
        // Bytes are at least as many as characters: what is refused early is too wide for sure.
        let fits = out.len() <= width || out.chars().count() <= width;
        fits.then_some(())
    }

    fn key(&self, key: &Key) -> String {
        match self.scalar(key.place, &key.text) {
            text if text.is_empty() || text.contains('\n') => double(&key.text),
            text => text,
        }
    }

    /// A scalar as it was written, if that is one line; else by what it says.
    fn scalar(&self, place: Place, text: &str) -> String {
        let (start, end) = self.source.span(place, text);
        let raw = &self.source.text[start..end];
        match raw.as_bytes().first() {
            _ if self.source.headers.contains_key(&place) => {
                let lines = match raw.starts_with('|') {
                    true => literal(text),
                    false => self.folded(start, text),
                };
                lines.unwrap_or_else(|| double(text))
            }
            _ if !raw.contains('\n') => raw.to_owned(),
            Some(b'"' | b'\'') => double(text),
            _ if !text.contains('\n') => text.to_owned(),
            _ => double(text),
        }
    }

    /// A text in `>` with its lines as they are; nothing where its header states an indent.
    fn folded(&self, start: usize, text: &str) -> Option<String> {
        let (body, ends, mark) = chomped(text)?;
        let header = self.source.text[start..].split(['\n', ' ', '\t']).next()?;
        if body.is_empty() || header.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (lines, indent) = self.source.block_lines(start);
        let mut out = format!(">{mark}");
        for line in lines {
            out.push('\n');
            // Blanks at the end of a line count where the next one is indented.
            out.push_str(line.get(indent..).unwrap_or_default());
        }
        out.extend(std::iter::repeat_n('\n', ends.saturating_sub(1)));
        Some(out)
    }
}

impl Comment {
    fn write(&self, out: &mut String) {
        out.push('#');
        if !self.text.is_empty() && !self.text.starts_with(['#', '!']) {
            out.push(' ');
        }
        out.push_str(&self.text);
    }
}

/// The place of the first scalar of a node, or of the node when it has none.
fn first(node: &Node) -> Place {
    match &node.kind {
        Kind::Sequence(items) => items.first().map_or(node.place, first),
        Kind::Mapping(entries) => entries.first().map_or(node.place, |(key, _)| key.place),
        Kind::Scalar(..) => node.place,
    }
}

/// How many scalars a node has, keys among them.
fn count(node: &Node) -> usize {
    match &node.kind {
        Kind::Scalar(..) => 1,
        Kind::Sequence(items) => items.iter().map(count).sum(),
        Kind::Mapping(entries) => entries.iter().map(|(_, value)| 1 + count(value)).sum(),
    }
}

fn text_of(node: &Node) -> &str {
    match &node.kind {
        Kind::Scalar(text, _) => text,
        _ => "",
    }
}

/// A text without the line ends at its end, how many they are, and the mark for that.
fn chomped(text: &str) -> Option<(&str, usize, &'static str)> {
    let body = text.trim_end_matches('\n');
    let ends = text.len() - body.len();
    let mark = match ends {
        0 => "-",
        1 => "",
        _ => "+",
    };
    (!body.is_empty()).then_some((body, ends, mark))
}

/// A text as a literal block; nothing where it would need a stated indent.
fn literal(text: &str) -> Option<String> {
    let (body, ends, mark) = chomped(text)?;
    if body.starts_with([' ', '\t', '\n']) {
        return None;
    }
    let mut out = format!("|{mark}\n{body}");
    out.extend(std::iter::repeat_n('\n', ends.saturating_sub(1)));
    Some(out)
}

/// A text in double quotes, on one line.
fn double(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let mut buffer = [0; 4];
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if !escape_text(c.encode_utf8(&mut buffer)).starts_with(c) => {
                out.push_str(&format!("\\U{:08x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
