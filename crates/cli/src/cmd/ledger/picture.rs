//! The picture of a session: one lane for each kind of thing, time from left to right, nothing loaded from
//! anywhere and no script. What stands in entries is untrusted text and only ever character data.

use super::timeline::{Event, Lane, Story, Tone, since};

/// Pixels.
const WIDTH: f64 = 1200.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 40.0;
const LANE: f64 = 48.0;
/// So many parts of the time are told below.
const TICKS: i64 = 6;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.lane{stroke:#ddd}.tick{stroke:#eee}\
    .plain{fill:#4a7db8}.attention{fill:#d69e1b}.refused{fill:#c23b3b}circle,rect.run{fill-opacity:.75}\
    @media(prefers-color-scheme:dark){text{fill:#ccc}.lane{stroke:#444}.tick{stroke:#333}}";

/// The picture alone.
pub fn svg(story: &Story) -> String {
    let height = TOP + LANE * Lane::ALL.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"sans-serif\">\n<title>{}</title>\n<style>{STYLE}</style>\n",
        plain(&format!("{} {}", story.session, story.agent))
    );
    let span = story.length_ms.max(1);
    for tick in 0..=TICKS {
        let ms = span * tick / TICKS;
        let x = across(ms, span);
        svg.push_str(&format!(
            "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            height - 30.0,
            height - 10.0,
            since(ms),
        ));
    }
    for (number, lane) in Lane::ALL.into_iter().enumerate() {
        let y = TOP + LANE * (number as f64 + 0.5);
        let count = story.counts.get(lane.name()).copied().unwrap_or(0);
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} {count}</text>\
             <line class=\"lane\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n",
            LEFT - 12.0,
            y + 4.0,
            lane.name(),
            WIDTH - RIGHT,
        ));
        // What needs a person's eyes is drawn last, and so on top.
        for tone in [Tone::Plain, Tone::Attention, Tone::Refused] {
            let here = |e: &&Event| e.lane == lane && e.tone == tone;
            for event in story.events.iter().filter(here) {
                svg.push_str(&mark(event, y, span));
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn mark(event: &Event, y: f64, span: i64) -> String {
    let (from, to) = (across(event.at_ms, span), across(event.until_ms, span));
    let class = tone(event.tone);
    let shape = match event.times {
        1 => format!("<circle class=\"{class}\" cx=\"{from:.1}\" cy=\"{y:.1}\" r=\"6\">"),
        _ => format!(
            "<rect class=\"run {class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" rx=\"6\">",
            from - 6.0,
            y - 6.0,
            to - from + 12.0,
        ),
    };
    let end = match event.times {
        1 => "</circle>",
        _ => "</rect>",
    };
    format!("{shape}<title>{}</title>{end}\n", plain(&told(event)))
}

/// A page: the picture, and below it the story.
pub fn page(story: &Story) -> String {
    let title = plain(&format!("{} {}", story.session, story.agent));
    let mut rows = String::new();
    for event in &story.events {
        let again = match event.times {
            1 => String::new(),
            n => format!(" ({n} times, until {})", since(event.until_ms)),
        };
        rows.push_str(&format!(
            "<tr class=\"{}\"><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}{again}</td></tr>\n",
            tone(event.tone),
            event.index,
            since(event.at_ms),
            event.lane.name(),
            plain(&event.what),
            plain(&event.text),
        ));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\n\
         <style>body{{font:15px system-ui,sans-serif;margin:2em auto;max-width:1240px;padding:0 1em}}\
         table{{border-collapse:collapse;width:100%}}td{{padding:.2em .6em;vertical-align:top}}\
         td:last-child{{overflow-wrap:anywhere;font-family:ui-monospace,monospace;font-size:13px}}\
         tr.refused td:nth-child(4){{color:#c23b3b}}tr.attention td:nth-child(4){{color:#b07f0d}}\
         td:first-child,td:nth-child(2){{text-align:right;white-space:nowrap}}</style></head>\n\
         <body><h1>{title}</h1>\n<p>{}, {} from {}. {}</p>\n{}<table>\n{rows}</table></body></html>\n",
        plain(&story.workspace),
        since(story.length_ms).trim_start_matches('+'),
        plain(&story.began),
        plain(
            story
                .ended
                .as_deref()
                .unwrap_or("It goes on, or its end was not recorded.")
        ),
        svg(story),
    )
}

fn told(event: &Event) -> String {
    format!("{} {} {}", since(event.at_ms), event.what, event.text)
}

const fn tone(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "plain",
        Tone::Attention => "attention",
        Tone::Refused => "refused",
    }
}

fn across(ms: i64, span: i64) -> f64 {
    // A clock that was set back is drawn at the edge.
    let part = (ms as f64 / span as f64).clamp(0.0, 1.0);
    LEFT + 8.0 + part * (WIDTH - LEFT - RIGHT - 16.0)
}

/// Text as character data of HTML and of XML 1.0, which takes no control characters at all.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn text_of_an_agent_is_never_markup() {
        let text = "</title><script>alert(1)</script>&\"'\u{1b}[0m\u{0}";
        let event = Event {
            index: 0,
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            at_ms: -5,
            until_ms: 70_000,
            times: 3,
            lane: Lane::Programs,
            tone: Tone::Refused,
            what: text.to_owned(),
            text: text.to_owned(),
        };
        let story = Story {
            session: text.to_owned(),
            agent: text.to_owned(),
            workspace: text.to_owned(),
            began: text.to_owned(),
            length_ms: 0,
            ended: Some(text.to_owned()),
            counts: BTreeMap::from([("programs", 3)]),
            events: vec![event.clone(), Event { times: 1, ..event }],
        };
        let page = page(&story);
        assert!(
            !page.contains("<script") && !page.contains(['\u{1b}', '\u{0}']),
            "{page}"
        );
        assert_eq!(
            page.matches("&lt;script&gt;").count(),
            page.matches("alert(1)").count()
        );
        assert_eq!(
            page.matches("<title>").count(),
            page.matches("</title>").count()
        );
        assert!(page.contains("programs 3"));
    }
}
