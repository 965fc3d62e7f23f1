//! A case: an attack that must have no effect, a neighbour that must work, and how to tell.

use crate::{options::Who, world::World};

/// What must hold after the attack (or the neighbour) for the case to pass.
#[derive(Debug, Clone)]
pub enum Check {
    /// The world's secret is nowhere in the output of the session.
    NoSecret,
    /// The attack's own program did not report an effect.
    NoEffect,
    /// No canary server outside heard from this case, other than on its permitted port.
    NoTraffic,
    /// The kernel outside answered no ICMP echo.
    NoEcho,
    /// The section's output contains the text (placeholders allowed).
    Says(String),
    /// The section's output does not contain the text.
    Silent(String),
    /// A server outside heard the text.
    Heard(String),
    /// No server outside heard the text.
    Unheard(String),
    /// The section's script ended with status 0.
    Succeeds,
    /// Anything else, seen from the host.
    Host(fn(&World, &Outcome) -> Result<(), String>),
}

/// Whether the attack works on this host without the wall; `--no-wall` holds the case to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    /// It works.
    Works,
    /// It works for the superuser only: why.
    RootOnly(&'static str),
    /// It depends on the host: on what.
    Maybe(&'static str),
    /// It cannot work here: why.
    Cannot(&'static str),
    /// It would harm the host: why.
    Unsafe(&'static str),
}

/// Actor or check on the host.
pub type HostFn = fn(&World) -> Result<(), String>;
/// Check on the host after the session.
pub type AfterFn = fn(&World, &Outcome) -> Result<(), String>;

/// One named case. Texts may contain the placeholders of [`World::fill`].
#[derive(Debug, Clone)]
pub struct Case {
    /// `theme/what`.
    pub name: String,
    /// Where the idea comes from.
    pub source: &'static str,
    /// Rules put before the base policy's, as YAML list items.
    pub rules: String,
    /// A whole policy instead of base and `rules`.
    pub policy: Option<String>,
    /// Shell text that tries the forbidden thing.
    pub attack: String,
    /// What must hold after it.
    pub blocked: Vec<Check>,
    /// Shell text that does the permitted neighbour.
    pub neighbour: String,
    /// What must hold after it.
    pub allowed: Vec<Check>,
    /// Prepares the world.
    pub setup: Option<HostFn>,
    /// Acts on the host while the session runs.
    pub beside: Option<HostFn>,
    /// Looks at the host once the session is over (commits, for example).
    pub after: Option<AfterFn>,
    /// A command line put in front of `agentwall run …`.
    pub wrapper: String,
    /// The wall's binary is this copy inside the world.
    pub binary: Option<&'static str>,
    /// Without the wall.
    pub native: Native,
    /// Run as this user only, and why.
    pub only: Option<(Who, &'static str)>,
    /// Needs the private network namespace, hence root.
    pub net: bool,
    /// Starts a process outside that the attack aims at.
    pub victim: bool,
    /// The neighbour goes first (the attack ends the session).
    pub neighbour_first: bool,
    /// The host folder is meant to change (the case commits), so it is not compared.
    pub changes_host: bool,
    /// The session may end badly.
    pub may_die: bool,
    /// Known not to be closed: why.
    pub open: Option<&'static str>,
    /// It makes no sense behind the kernel's wall: why.
    pub not_in_kernel: Option<&'static str>,
    /// Seconds the session may take.
    pub limit: u64,
}

impl Case {
    /// A case with nothing in it yet.
    pub fn new(name: impl Into<String>, source: &'static str) -> Self {
        Case {
            name: name.into(),
            source,
            rules: String::new(),
            policy: None,
            attack: String::new(),
            blocked: Vec::new(),
            neighbour: String::new(),
            allowed: Vec::new(),
            setup: None,
            beside: None,
            after: None,
            wrapper: String::new(),
            binary: None,
            native: Native::Works,
            only: None,
            net: false,
            victim: false,
            neighbour_first: false,
            changes_host: false,
            may_die: false,
            open: None,
            not_in_kernel: None,
            limit: 40,
        }
    }

    /// The attack and what must hold after it (that the host is unchanged is always checked).
    pub fn attack(
        mut self,
        script: impl Into<String>,
        blocked: impl IntoIterator<Item = Check>,
    ) -> Self {
        self.attack = script.into();
        self.blocked.extend(blocked);
        self
    }

    /// The neighbour and what must hold after it.
    pub fn neighbour(
        mut self,
        script: impl Into<String>,
        allowed: impl IntoIterator<Item = Check>,
    ) -> Self {
        self.neighbour = script.into();
        self.allowed.extend(allowed);
        self
    }

    /// Adds rules.
    pub fn rules(mut self, yaml: impl Into<String>) -> Self {
        self.rules += &yaml.into();
        self
    }

    /// Changes any other field.
    pub fn with(mut self, change: impl FnOnce(&mut Case)) -> Self {
        change(&mut self);
        self
    }

    /// Says what the attack does without the wall.
    pub fn native(mut self, native: Native) -> Self {
        self.native = native;
        self
    }
}

/// What one section of the session's script said.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Whether it began at all.
    pub ran: bool,
    /// Standard output and error.
    pub text: String,
    /// The status, when it came to its end.
    pub status: Option<i32>,
}

/// What a session left.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// All standard output.
    pub stdout: String,
    /// All standard error.
    pub stderr: String,
    /// The exit status; 128 + n for a signal.
    pub status: i32,
    /// It had to be killed.
    pub timed_out: bool,
    /// The attack's part.
    pub attack: Section,
    /// The neighbour's part.
    pub neighbour: Section,
}

/// How one case went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// Blocked and allowed as they should be.
    Passed,
    /// Why not.
    Failed(String),
    /// Not run: why.
    Skipped(String),
    /// Known not to be closed, and found so.
    Open(String),
}

/// Shorthand for [`Check::Says`].
pub fn says(text: impl Into<String>) -> Check {
    Check::Says(text.into())
}

/// Marks of the sections in the session's output.
pub(crate) const ATTACK: &str = "@@attack";
pub(crate) const NEIGHBOUR: &str = "@@neighbour";
pub(crate) const STATUS: &str = "@@status=";

impl Outcome {
    /// Takes the sections out of the output.
    pub fn split(mut self) -> Self {
        self.attack = section(&self.stdout, ATTACK);
        self.neighbour = section(&self.stdout, NEIGHBOUR);
        self
    }

    /// Everything that was said.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

fn section(text: &str, mark: &str) -> Section {
    let Some(start) = text.find(&format!("{mark}\n")) else {
        return Section::default();
    };
    let rest = &text[start + mark.len() + 1..];
    let end = rest.find(STATUS);
    let status = end.and_then(|e| rest[e + STATUS.len()..].lines().next()?.trim().parse().ok());
    let body = rest.split("\n@@").next().unwrap_or(rest);
    let body = if body.starts_with("@@") { "" } else { body };
    Section {
        ran: true,
        text: body.to_owned(),
        status,
    }
}

impl Check {
    /// `Err` says what was found instead.
    pub fn judge(&self, world: &World, whole: &Outcome, part: &Section) -> Result<(), String> {
        let need = |ok: bool, why: String| if ok { Ok(()) } else { Err(why) };
        match self {
            Check::NoSecret => need(
                !whole.all().contains(&world.secret),
                "the secret was read".into(),
            ),
            Check::NoEffect => {
                let line = part.text.lines().find(|l| l.contains("EFFECT"));
                need(
                    line.is_none(),
                    format!("effect: {}", line.unwrap_or_default()),
                )
            }
            Check::NoTraffic => match world.foreign_traffic() {
                None => Ok(()),
                Some(what) => Err(format!("traffic outside: {what}")),
            },
            Check::NoEcho => need(
                world.echoes() == world.echoes_before,
                "an ICMP echo was answered outside".into(),
            ),
            Check::Says(t) => {
                let t = world.fill(t);
                need(
                    part.text.contains(&t),
                    format!("expected '{t}', found '{}'", brief(&part.text)),
                )
            }
            Check::Silent(t) => {
                let t = world.fill(t);
                need(
                    !part.text.contains(&t),
                    format!("'{t}' was said: '{}'", brief(&part.text)),
                )
            }
            Check::Heard(t) => {
                let t = world.fill(t);
                need(
                    world.heard(&t),
                    format!(
                        "no server heard '{t}'; the section said '{}'",
                        brief(&part.text)
                    ),
                )
            }
            Check::Unheard(t) => {
                let t = world.fill(t);
                need(!world.heard(&t), format!("a server outside heard '{t}'"))
            }
            Check::Succeeds => need(
                part.status == Some(0),
                format!("status {:?}: '{}'", part.status, brief(&part.text)),
            ),
            Check::Host(f) => f(world, whole),
        }
    }
}

/// One line, at most 300 characters, safe on a terminal.
pub fn brief(text: &str) -> String {
    let mut s: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { '|' } else { c })
        .collect();
    if s.chars().count() > 300 {
        s = s.chars().take(300).collect::<String>() + "…";
    }
    s
}
