//! Questions and answers as lines for a walker of tables that is not ours (`interop/walk.c`).

use std::{fmt::Write as _, fs, net::IpAddr, os::unix::ffi::OsStrExt, path::PathBuf};

use agentwall_action::{Action, ObjectKind, Protocol, Resource};
use agentwall_policy::{By, CompiledTable};

/// Where the lines go, if somebody asked for them: the folder in `POLICY_QUESTIONS`.
pub struct Out(Option<PathBuf>);

impl Out {
    pub fn from_env() -> Out {
        Out(std::env::var_os("POLICY_QUESTIONS").map(PathBuf::from))
    }

    pub fn write(&self, name: &str, table: &CompiledTable, lines: &Lines) {
        let Some(folder) = &self.0 else { return };
        let write = |ending: &str, content: &[u8]| {
            fs::write(folder.join(format!("{name}.{ending}")), content).expect("a file");
        };
        write("awpt", table.bytes());
        write("questions", lines.questions.as_bytes());
        write("answers", lines.answers.as_bytes());
    }
}

#[derive(Debug, Default)]
pub struct Lines {
    questions: String,
    answers: String,
}

impl Lines {
    pub fn add(&mut self, table: &CompiledTable, action: &Action) {
        self.questions.push_str(&question(action));
        self.answers.push_str(&answer(table, action));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn question(action: &Action) -> String {
    let (mut directory, mut protocol, mut port, mut address) = (0, 0, 0, "-".to_owned());
    let (kind, text) = match &action.resource {
        Resource::Path(path) => {
            directory = u8::from(path.kind == ObjectKind::Directory);
            (0, Some(path.as_bytes()))
        }
        Resource::Endpoint(endpoint) => {
            protocol = match endpoint.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            };
            port = endpoint.port;
            address = match endpoint.ip {
                None => address,
                Some(IpAddr::V4(ip)) => hex(&ip.octets()),
                Some(IpAddr::V6(ip)) => hex(&ip.octets()),
            };
            (1, endpoint.host.as_deref().map(str::as_bytes))
        }
        Resource::Host(name) => (2, Some(name.as_bytes())),
        Resource::Unix(path) => (3, Some(path.as_os_str().as_bytes())),
        Resource::Named(name) => (5, Some(name.as_bytes())),
    };
    let text = text.map_or("-".to_owned(), hex);
    let labels: Vec<String> = (action.facts.labels.iter())
        .map(|l| hex(l.as_bytes()))
        .collect();
    let labels = match labels.is_empty() {
        true => "-".to_owned(),
        false => labels.join(","),
    };
    let verb = action.verb as usize;
    format!("{verb}\t{kind}\t{directory}\t{text}\t{protocol}\t{port}\t{address}\t{labels}\n")
}

fn answer(table: &CompiledTable, action: &Action) -> String {
    let Some(answer) = table.answer(action) else {
        return "?\n".to_owned();
    };
    let by = match answer.by {
        By::Rule { layer, rank } => format!("{layer}\t{rank}"),
        By::Default { layer } => format!("{layer}\td"),
    };
    let marks: Vec<String> = answer.marks.iter().map(u32::to_string).collect();
    let marks = match marks.is_empty() {
        true => "-".to_owned(),
        false => marks.join(","),
    };
    format!("{}\t{by}\t{marks}\n", answer.effect as u32)
}
