//! Asking the decision core: actions as questions, many in one run.

use std::{net::IpAddr, os::fd::AsFd};

use agentwall_action::{Action, ObjectKind, Protocol, Resource};
use agentwall_kernel::{
    abi::{ASKED, AskArgs, Asked, Question, TEXT_ROOM, Times, kind},
    object,
    tables::Tables,
};
use bytemuck::Zeroable;
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder, ProgramInput};

/// A loaded core with maps of its own.
#[derive(Debug)]
pub struct Core {
    object: Object,
    pub tables: Tables,
    asked: MapHandle,
}

/// Whether loading failed for want of privilege, and not for a defect.
pub fn is_privilege(error: &libbpf_rs::Error) -> bool {
    error.kind() == libbpf_rs::ErrorKind::PermissionDenied
}

impl Core {
    pub fn load() -> Result<Core, libbpf_rs::Error> {
        let object = ObjectBuilder::default().open_memory(object::CORE)?.load()?;
        let map = |name: &str| {
            let map = object.maps().find(|m| m.name() == name);
            MapHandle::try_from(&map.expect("a map of the object"))
        };
        let tables = Tables::new(map("tables")?, None).expect("a map of tables");
        let asked = map("asked")?;
        Ok(Core {
            object,
            tables,
            asked,
        })
    }

    /// Puts questions into the map; at most [`ASKED`].
    pub fn fill(&self, questions: &[Asked]) {
        assert!(questions.len() <= ASKED);
        for (i, question) in questions.iter().enumerate() {
            let key = u32::try_from(i).expect("a small number").to_ne_bytes();
            let value = bytemuck::bytes_of(question);
            self.asked
                .update(&key, value, MapFlags::ANY)
                .expect("a place");
        }
    }

    /// Runs the program once; how many questions it asked.
    pub fn run(&self, view: u32, questions: usize, times: u32) -> u32 {
        let questions = u32::try_from(questions).expect("a small number");
        let mut args = AskArgs {
            view,
            questions,
            times,
        };
        let program = self.object.progs_mut().find(|p| p.name() == "ask_all");
        let input = ProgramInput {
            context_in: Some(bytemuck::bytes_of_mut(&mut args)),
            ..ProgramInput::default()
        };
        let output = program
            .expect("a program")
            .test_run(input)
            .expect("it runs");
        output.return_value
    }

    /// Takes what was measured since the last time.
    #[allow(dead_code)] // The benchmark asks, tests do not.
    pub fn times(&self) -> Box<Times> {
        let key = 0u32.to_ne_bytes();
        let map = self
            .object
            .maps()
            .find(|m| m.name() == "times")
            .expect("a map");
        let value = map
            .lookup(&key, MapFlags::ANY)
            .expect("readable")
            .expect("a place");
        let nothing = vec![0; value.len()];
        map.update(&key, &nothing, MapFlags::ANY).expect("writable");
        Box::new(bytemuck::pod_read_unaligned(&value))
    }

    /// The kernel's number of the program; 0 if it has none.
    pub fn id(&self) -> u32 {
        let program = self.object.progs().find(|p| p.name() == "ask_all");
        let id = program.map(|p| libbpf_rs::Program::id_from_fd(p.as_fd()));
        id.and_then(Result::ok).unwrap_or(0)
    }

    /// One question with its answer.
    pub fn read(&self, i: usize) -> Asked {
        let key = u32::try_from(i).expect("a small number").to_ne_bytes();
        let value = self.asked.lookup(&key, MapFlags::ANY).expect("readable");
        bytemuck::pod_read_unaligned(&value.expect("a place"))
    }

    /// Asks every question once.
    pub fn ask(&self, view: u32, questions: &[Asked]) -> Vec<Asked> {
        let mut answers = Vec::with_capacity(questions.len());
        for some in questions.chunks(ASKED) {
            self.fill(some);
            self.run(view, some.len(), some.len() as u32);
            let read = (0..some.len()).map(|i| self.read(i));
            answers.extend(read.inspect(|a| assert_eq!(a.count, 1, "it was asked")));
        }
        answers
    }
}

/// A question with a text that begins at `start`, or ends at the end of the buffer.
pub fn with_text(mut question: Question, text: &[u8], start: Option<usize>) -> Asked {
    let mut asked = Asked::zeroed();
    let start = start.unwrap_or(TEXT_ROOM - text.len());
    // What is around a text must not matter.
    asked.text.fill(b'/');
    asked.text[start..start + text.len()].copy_from_slice(text);
    question.has_text = 1;
    question.start = start as u32;
    question.len = text.len() as u32;
    asked.question = question;
    asked
}

/// An action as a hook would ask about it; `None` for objects that are not canonical, which no hook makes.
pub fn question(action: &Action) -> Option<Asked> {
    let mut question = Question {
        verb: action.verb as u32,
        ..Question::default()
    };
    let text = match &action.resource {
        Resource::Path(path) => {
            question.kind = kind::PATH;
            question.directory = u32::from(path.kind == ObjectKind::Directory);
            Some(path.as_bytes())
        }
        Resource::Endpoint(endpoint) => {
            question.kind = kind::ENDPOINT;
            question.protocol = match endpoint.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            };
            question.port = endpoint.port.into();
            match endpoint.ip {
                None => {}
                Some(IpAddr::V4(ip)) => {
                    question.address_len = 4;
                    question.address[..4].copy_from_slice(&ip.octets());
                }
                Some(IpAddr::V6(ip)) => {
                    question.address_len = 16;
                    question.address = ip.octets();
                }
            }
            endpoint.host.as_deref().map(str::as_bytes)
        }
        Resource::Host(name) => {
            question.kind = kind::HOST;
            Some(name.as_bytes())
        }
        Resource::Unix(path) => {
            let bytes = path.as_os_str().as_encoded_bytes();
            question.kind = match bytes.first() {
                Some(b'@') => kind::ABSTRACT,
                Some(b'/') => kind::SOCKET,
                _ => return None,
            };
            Some(bytes)
        }
        Resource::Named(name) => {
            question.kind = kind::NAME;
            Some(name.as_bytes())
        }
    };
    match text {
        Some(text) if question.kind == kind::PATH && text.first() != Some(&b'/') => None,
        Some(text) => Some(with_text(question, text, None)),
        None => {
            let mut asked = Asked::zeroed();
            asked.text.fill(b'/');
            asked.question = question;
            Some(asked)
        }
    }
}
