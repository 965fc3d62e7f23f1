//! The terminal of the review: raw mode, the other screen, keys and signals.
//!
//! Whatever ends the review (a key, an error, a panic, a signal) leaves the terminal as it was. Ctrl-Z,
//! and SIGTSTP, give it back while the process waits; a signal that would end the process does so, once
//! the terminal is restored and with nothing done.

use std::{
    io::{self, IsTerminal as _, Stdout, stdin, stdout},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
        terminal::{
            Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
            enable_raw_mode,
        },
    },
};
use rustix::process::{Signal, kill_current_process_group};
use signal_hook::{SigId, consts::signal, flag, low_level};

use super::{
    draw::{Palette, draw},
    model::{After, Decision, Key, Model, Texts},
};
use crate::output::{self, UsageError};

/// How long a signal may wait for an answer.
const TICK: Duration = Duration::from_millis(100);

/// Signals that end the review.
const ENDING: [i32; 4] = [
    signal::SIGTERM,
    signal::SIGHUP,
    signal::SIGINT,
    signal::SIGQUIT,
];

/// Whether there is a terminal for it.
pub fn has_terminal() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    stdin().is_terminal() && stdout().is_terminal() && !dumb
}

/// The error where there is none.
pub fn no_terminal() -> anyhow::Error {
    let text = "the review needs a terminal (standard input and output, TERM not dumb); without one \
                'agentwall diff' shows the changes and 'agentwall commit -- PATHS' commits them";
    UsageError(text.into()).into()
}

/// Shows the review until its end: what was decided, if anything was.
pub fn run(model: &mut Model, texts: &dyn Texts) -> Result<Option<Decision>> {
    let palette = Palette {
        colours: output::colours(),
    };
    let signals = Signals::catch().context("cannot catch signals")?;
    restore_at_panic();
    let mut screen = Screen::enter()?;
    let mut stale = true;
    let ended = loop {
        if std::mem::take(&mut stale) {
            screen.draw(model, palette)?;
        }
        let after = match signals.take() {
            Some(signal::SIGTSTP) => After::Suspend,
            Some(signal::SIGCONT) => {
                // Whoever stopped us may have changed the terminal.
                screen.again()?;
                stale = true;
                After::GoOn
            }
            Some(ending) => break Err(ending),
            None => match next_input()? {
                Input::Key(key) => {
                    stale = true;
                    model.key(key, texts)
                }
                Input::Size => {
                    stale = true;
                    After::GoOn
                }
                Input::Nothing => After::GoOn,
            },
        };
        match after {
            After::GoOn => {}
            After::Suspend => {
                drop(screen);
                // As the terminal itself does it: the whole job waits.
                kill_current_process_group(Signal::STOP).context("cannot wait")?;
                screen = Screen::enter()?;
                stale = true;
            }
            After::Leave => break Ok(None),
            After::Do(decision) => break Ok(Some(*decision)),
        }
    };
    drop(screen);
    drop(signals);
    match ended {
        Ok(decision) => Ok(decision),
        Err(ending) => {
            low_level::emulate_default_handler(ending).context("cannot end")?;
            Ok(None)
        }
    }
}

/// What came of the terminal within a tick.
enum Input {
    Key(Key),
    Size,
    Nothing,
}

fn next_input() -> Result<Input> {
    let ready = match event::poll(TICK) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Input::Nothing),
        other => other.context("cannot read keys")?,
    };
    if !ready {
        return Ok(Input::Nothing);
    }
    Ok(match event::read().context("cannot read keys")? {
        Event::Key(key) if key.kind != KeyEventKind::Release => {
            key_of(key).map_or(Input::Nothing, Input::Key)
        }
        Event::Resize(..) => Input::Size,
        _ => Input::Nothing,
    })
}

fn key_of(key: KeyEvent) -> Option<Key> {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char(c) if ctrl => Key::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab | KeyCode::BackTab => Key::Tab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}

/// The terminal while it is the review's.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    fn enter() -> Result<Screen> {
        take_over().context("cannot use the terminal")?;
        // Not `Terminal::clear`, which asks the terminal where its cursor is: not every one answers.
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        let terminal = terminal.inspect_err(|_| give_back())?;
        Ok(Screen { terminal })
    }

    fn again(&mut self) -> Result<()> {
        take_over().context("cannot use the terminal")?;
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }

    fn draw(&mut self, model: &mut Model, palette: Palette) -> Result<()> {
        let drawn = self.terminal.draw(|frame| draw(frame, model, palette));
        drawn.map(drop).context("cannot draw")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether the terminal is the review's. Leaving the other screen once more would put the cursor where it
/// was before, over the message of a panic.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn take_over() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All), Hide)
        .inspect_err(|_| give_back())
}

/// As far as it goes: there is nobody to tell.
fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// The message of a panic is for the terminal as it was.
fn restore_at_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let then = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            then(info);
        }));
    });
}

/// The last signal that came; handlers go when this goes.
struct Signals {
    last: Arc<AtomicUsize>,
    ids: Vec<SigId>,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        let mut signals = Signals {
            last: Arc::new(AtomicUsize::new(0)),
            ids: Vec::new(),
        };
        for number in ENDING.into_iter().chain([signal::SIGTSTP, signal::SIGCONT]) {
            let value = usize::try_from(number).unwrap_or(0);
            let last = Arc::clone(&signals.last);
            signals.ids.push(flag::register_usize(number, last, value)?);
        }
        Ok(signals)
    }

    fn take(&self) -> Option<i32> {
        match self.last.swap(0, Ordering::SeqCst) {
            0 => None,
            n => i32::try_from(n).ok(),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

#[cfg(test)]
#[path = "terminal_tests.rs"]
mod tests;
