//! Command line of a suite.

use std::path::PathBuf;

/// As which user a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The superuser.
    Root,
    /// The ordinary user [`USER`].
    User,
}

/// The ordinary user; made with `useradd` when it is missing.
pub const USER: &str = "agentwall-test";

impl Who {
    /// `root` or `user`.
    pub fn as_str(self) -> &'static str {
        match self {
            Who::Root => "root",
            Who::User => "user",
        }
    }
}

/// What the caller asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only cases whose name contains one of these; all when empty.
    pub filters: Vec<String>,
    /// No cases whose name contains one of these.
    pub except: Vec<String>,
    /// Print names and stop.
    pub list: bool,
    /// As whom.
    pub who: Vec<Who>,
    /// How many cases at a time.
    pub jobs: usize,
    /// Run attacks without the wall and demand that they work.
    pub no_wall: bool,
    /// Keep the folder of each case and print what it said.
    pub verbose: bool,
    /// The binary under test.
    pub binary: PathBuf,
    /// The kernel's wall instead of the rootless one: the tool that starts a command under it.
    pub kernel: Option<PathBuf>,
    /// The kernel's wall, as its daemon puts it around a command.
    pub daemon: bool,
    /// Attack programs that are compiled already.
    pub kit: Option<PathBuf>,
    /// Compile the attack programs there and stop.
    pub compile: Option<PathBuf>,
}

const HELP: &str =
    "usage: [FILTER…] [--except TEXT] [--list] [--user root|user|both] [--jobs N] [--no-wall] [--kernel TOOL]
       [--daemon] [--kit FOLDER] [--compile FOLDER] [--verbose]
  FILTER      only cases whose name contains it
  --except    no cases whose name contains it; may be repeated
  --list      names, with the source of each idea
  --user      as whom (default both; only `user` when not started as root)
  --jobs      cases at a time (default: three per processor)
  --no-wall   run the attacks without the wall: each must work, or say why it cannot on this host
  --kernel    behind the programs in the kernel, started by TOOL (crates/kernel/examples/govern)
  --daemon    behind the kernel's wall, by its daemon (the suite parity)
  --kit       the attack programs are there, compiled
  --compile   compile those that are older than their source, and stop
  --verbose   print the output of every case and keep its folder
The binary under test is $AGENTWALL_BIN, else target/release/agentwall.";

impl Options {
    /// Of this process; a wrong command line, and a question for help, end it.
    pub fn of_this_run() -> Self {
        Self::parse(std::env::args().skip(1)).unwrap_or_else(|(text, code)| {
            println!("{text}");
            std::process::exit(code)
        })
    }

    /// Reads the command line; `Err` is the text to print, with the exit code.
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, (String, i32)> {
        let root = am_root();
        let both = if root {
            vec![Who::Root, Who::User]
        } else {
            vec![Who::User]
        };
        let mut o = Options {
            filters: Vec::new(),
            except: Vec::new(),
            list: false,
            who: both.clone(),
            jobs: 3 * std::thread::available_parallelism().map_or(2, usize::from), // they mostly wait
            no_wall: false,
            verbose: false,
            binary: binary(),
            kernel: None,
            daemon: false,
            kit: None,
            compile: None,
        };
        let wrong = |m: String| (format!("{m}\n{HELP}"), 2);
        let mut args = args;
        while let Some(arg) = args.next() {
            let (key, inline) = match arg.split_once('=') {
                Some((k, v)) if k.starts_with("--") => (k.to_owned(), Some(v.to_owned())),
                _ => (arg, None),
            };
            let mut value = |what: &str| {
                inline
                    .clone()
                    .or_else(|| args.next())
                    .ok_or_else(|| wrong(format!("{what} needs a value")))
            };
            match key.as_str() {
                "--help" | "-h" => return Err((HELP.to_owned(), 0)),
                "--list" => o.list = true,
                "--no-wall" => o.no_wall = true,
                "--verbose" | "-v" | "--nocapture" => o.verbose = true,
                "--daemon" => o.daemon = true,
                "--except" => o.except.push(value("--except")?),
                "--kit" => o.kit = Some(PathBuf::from(value("--kit")?)),
                "--compile" => o.compile = Some(PathBuf::from(value("--compile")?)),
                "--kernel" => o.kernel = Some(PathBuf::from(value("--kernel")?)),
                "--jobs" | "-j" => {
                    let v = value("--jobs")?;
                    o.jobs = v
                        .parse()
                        .map_err(|_| wrong(format!("--jobs: not a number: {v}")))?;
                }
                "--user" => {
                    o.who = match value("--user")?.as_str() {
                        "root" if root => vec![Who::Root],
                        "root" => {
                            return Err(wrong(
                                "--user root: the suite was not started as root".into(),
                            ));
                        }
                        "user" => vec![Who::User],
                        "both" => both.clone(),
                        v => {
                            return Err(wrong(format!(
                                "--user: expected root, user or both, found '{v}'"
                            )));
                        }
                    }
                }
                k if k.starts_with("--") => return Err(wrong(format!("unknown option {k}"))),
                _ => o.filters.push(key),
            }
        }
        o.jobs = o.jobs.max(1);
        Ok(o)
    }

    /// Whether a case is wanted.
    pub fn wants(&self, name: &str) -> bool {
        let has = |texts: &[String]| texts.iter().any(|t| name.contains(t.as_str()));
        (self.filters.is_empty() || has(&self.filters)) && !has(&self.except)
    }
}

/// Whether the effective user is the superuser.
pub fn am_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn binary() -> PathBuf {
    std::env::var_os("AGENTWALL_BIN").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/release/agentwall"
            ))
        },
        PathBuf::from,
    )
}
