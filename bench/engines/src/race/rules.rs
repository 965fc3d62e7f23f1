//! One rule set in three languages, and requests with a known answer.
//!
//! Every tenth rule denies, the others allow; nothing else is allowed. Each language gets the cheapest
//! exact wording an author who knows it would write without an index of their own: Cedar `==` before
//! `like`, Rego `startswith` and `endswith` before `glob.match`. Requests are about 60 bytes long: hits
//! on the first tenth of the rules, the last tenth and anywhere, and misses that nearly match.

use std::{fmt::Write as _, net::IpAddr};

use agentwall_action::{Action, Endpoint, Facts, Protocol, Resource, Subject, Verb};

/// What the rules of a set are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// `/srv/appI/**`.
    Prefix,
    /// `**/*.extI`.
    Suffix,
    /// `**/secretI/*.pem`.
    Floating,
    /// `/srv/appI/**/*.tmp`.
    Both,
    /// `/data/setI/{x,y}/z`.
    Set,
    /// The five kinds of path patterns in turn.
    Paths,
    /// `/srv/{all,appI}/**`: below `/srv/all` every rule matches.
    Overlap,
    /// Host names, wildcards and networks in turn.
    Hosts,
    /// Tool names.
    Tools,
    /// Tool names with a condition on an argument.
    Calls,
}

/// One kind of rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prefix,
    Suffix,
    Floating,
    Both,
    Set,
    Overlap,
    Name,
    Wildcard,
    Network,
    Tool,
    Call,
}

impl Mix {
    /// All of them.
    pub const ALL: [Mix; 10] = [
        Mix::Prefix,
        Mix::Suffix,
        Mix::Floating,
        Mix::Both,
        Mix::Set,
        Mix::Paths,
        Mix::Overlap,
        Mix::Hosts,
        Mix::Tools,
        Mix::Calls,
    ];

    /// Those the peers are measured on.
    pub const PEERS: [Mix; 4] = [Mix::Paths, Mix::Hosts, Mix::Tools, Mix::Calls];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Mix::Prefix => "prefix",
            Mix::Suffix => "suffix",
            Mix::Floating => "floating",
            Mix::Both => "both",
            Mix::Set => "set",
            Mix::Paths => "paths",
            Mix::Overlap => "overlap",
            Mix::Hosts => "hosts",
            Mix::Tools => "tools",
            Mix::Calls => "calls",
        }
    }

    fn kind(self, index: usize) -> Kind {
        const PATHS: [Kind; 5] = [
            Kind::Prefix,
            Kind::Suffix,
            Kind::Floating,
            Kind::Both,
            Kind::Set,
        ];
        const HOSTS: [Kind; 3] = [Kind::Name, Kind::Wildcard, Kind::Network];
        match self {
            Mix::Prefix => Kind::Prefix,
            Mix::Suffix => Kind::Suffix,
            Mix::Floating => Kind::Floating,
            Mix::Both => Kind::Both,
            Mix::Set => Kind::Set,
            Mix::Overlap => Kind::Overlap,
            Mix::Paths => PATHS[index % 5],
            Mix::Hosts => HOSTS[index % 3],
            Mix::Tools => Kind::Tool,
            Mix::Calls => Kind::Call,
        }
    }

    fn verb(self) -> Verb {
        match self {
            Mix::Hosts => Verb::NetConnect,
            Mix::Tools | Mix::Calls => Verb::ToolCall,
            _ => Verb::FileWrite,
        }
    }
}

/// A rule set.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What it is about.
    pub mix: Mix,
    /// How many rules.
    pub count: usize,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The object's text.
    pub text: String,
    /// The address of an endpoint without a name.
    pub ip: Option<IpAddr>,
    /// `args.amount`, of a tool call.
    pub amount: i64,
    /// The rule it is made from, which a perfect slice consists of.
    pub rule: usize,
    /// What has to be answered.
    pub allowed: bool,
}

impl Rules {
    fn denies(index: usize) -> bool {
        index % 10 == 7
    }

    /// The policy in our language.
    pub fn ours(&self) -> String {
        let mut out = String::from("agentwall: 1\nrules:\n");
        for i in 0..self.count {
            let effect = if Self::denies(i) { "deny" } else { "allow" };
            let (resource, when) = match self.mix.kind(i) {
                Kind::Prefix => (format!("/srv/app{i:04}/**"), ""),
                Kind::Suffix => (format!("**/*.ext{i:04}"), ""),
                Kind::Floating => (format!("**/secret{i:04}/*.pem"), ""),
                Kind::Both => (format!("/srv/app{i:04}/**/*.tmp"), ""),
                Kind::Set => (format!("/data/set{i:04}/{{x,y}}/z"), ""),
                Kind::Overlap => (format!("/srv/{{all,app{i:04}}}/**"), ""),
                Kind::Name => (format!("tcp://{}:443", host(i)), ""),
                Kind::Wildcard => (format!("tcp://*.{}:443", zone(i)), ""),
                Kind::Network => (format!("cidr:{}", network(i)), ""),
                Kind::Tool => (tool(i), ""),
                Kind::Call => (tool(i), ", when: args.amount <= 100"),
            };
            let verb = self.mix.verb();
            let _ = writeln!(
                out,
                "- {{id: r{i}, action: {verb}, resource: '{resource}'{when}, effect: {effect}}}"
            );
        }
        out
    }

    /// The Cedar policy of one rule.
    pub fn cedar(&self, i: usize) -> String {
        let effect = if Self::denies(i) { "forbid" } else { "permit" };
        let when = match self.mix.kind(i) {
            Kind::Prefix => format!("context.path like \"/srv/app{i:04}/*\""),
            Kind::Suffix => format!("context.path like \"*.ext{i:04}\""),
            Kind::Floating => {
                format!("context.dir like \"*/secret{i:04}\" && context.name like \"*.pem\"")
            }
            Kind::Both => format!("context.path like \"/srv/app{i:04}/*.tmp\""),
            Kind::Set => format!(
                "context.path == \"/data/set{i:04}/x/z\" || context.path == \"/data/set{i:04}/y/z\""
            ),
            Kind::Overlap => {
                format!(
                    "context.path like \"/srv/app{i:04}/*\" || context.path like \"/srv/all/*\""
                )
            }
            Kind::Name => format!(
                "context has host && context.host == \"{}\" && context.port == 443",
                host(i)
            ),
            Kind::Wildcard => format!(
                "context has host && context.host like \"*.{0}\" && \
                 !(context.host like \"*.*.{0}\") && context.port == 443",
                zone(i)
            ),
            Kind::Network => format!(
                "context has ip && context.ip.isInRange(ip(\"{}\"))",
                network(i)
            ),
            Kind::Tool => format!("context.tool == \"{}\"", tool(i)),
            Kind::Call => format!("context.tool == \"{}\" && context.amount <= 100", tool(i)),
        };
        let verb = self.mix.verb();
        format!("{effect} (principal, action == Action::\"{verb}\", resource) when {{ {when} }};\n")
    }

    /// The Rego modules, all of one package: a file may have a megabyte. `data.bench.allow` is the
    /// answer.
    pub fn rego(&self) -> Vec<String> {
        const RULES: usize = 2_000;
        let verb = self.mix.verb();
        let mut files = Vec::new();
        for i in 0..self.count {
            if i % RULES == 0 {
                files.push("package bench\nimport rego.v1\n".to_owned());
            }
            let Some(out) = files.last_mut() else { break };
            if i == 0 {
                out.push_str(
                    "default allow := false\ndefault forbid := false\n\
                     allow if { permit; not forbid }\n",
                );
            }
            let head = if Self::denies(i) { "forbid" } else { "permit" };
            let body = match self.mix.kind(i) {
                Kind::Prefix => format!("startswith(input.path, \"/srv/app{i:04}/\")"),
                Kind::Suffix => format!("endswith(input.path, \".ext{i:04}\")"),
                Kind::Floating => {
                    format!(
                        "endswith(input.dir, \"/secret{i:04}\"); endswith(input.name, \".pem\")"
                    )
                }
                Kind::Both => format!(
                    "startswith(input.path, \"/srv/app{i:04}/\"); endswith(input.path, \".tmp\")"
                ),
                Kind::Set => {
                    format!("input.path in {{\"/data/set{i:04}/x/z\", \"/data/set{i:04}/y/z\"}}")
                }
                Kind::Overlap => {
                    format!(
                        "strings.any_prefix_match(input.path, [\"/srv/app{i:04}/\", \"/srv/all/\"])"
                    )
                }
                Kind::Name => format!("input.host == \"{}\"; input.port == 443", host(i)),
                Kind::Wildcard => format!(
                    "endswith(input.host, \".{}\"); count(split(input.host, \".\")) == 5; \
                     input.port == 443",
                    zone(i)
                ),
                Kind::Network => {
                    format!("net.cidr_contains(\"{}\", input.ip)", network(i))
                }
                Kind::Tool => format!("input.tool == \"{}\"", tool(i)),
                Kind::Call => format!("input.tool == \"{}\"; input.amount <= 100", tool(i)),
            };
            let _ = writeln!(out, "{head} if {{ input.action == \"{verb}\"; {body} }}");
        }
        files
    }

    /// Requests in an order without a pattern: a quarter early hits, a quarter late ones, a quarter
    /// anywhere, a quarter misses.
    pub fn requests(&self, many: usize) -> Vec<Request> {
        let tenth = (self.count / 10).max(1);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        (0..many)
            .map(|_| {
                let class = random.below(4);
                let rule = match class {
                    0 => random.below(tenth),
                    1 => self.count - 1 - random.below(tenth),
                    _ => random.below(self.count),
                };
                self.request(rule, class == 3, &mut random)
            })
            .collect()
    }

    fn request(&self, i: usize, miss: bool, random: &mut Random) -> Request {
        let deep = ["releases", "current", "handlers", "2026-11", "service", "a"];
        let fill = |random: &mut Random, length: usize| {
            let mut text = String::new();
            while text.len() < length {
                text.push('/');
                text.push_str(deep[random.below(deep.len())]);
            }
            text
        };
        let x = if miss { "x" } else { "" };
        // Where every rule matches, one that denies decides.
        let all = self.mix == Mix::Overlap && random.below(2) == 0;
        let text = match self.mix.kind(i) {
            Kind::Prefix => format!("/srv/app{i:04}{x}{}/main.rs", fill(random, 38)),
            Kind::Suffix => format!("/home/u{}/notes.ext{i:04}{x}", fill(random, 34)),
            Kind::Floating => format!("/home/u{}/secret{i:04}{x}/key.pem", fill(random, 30)),
            Kind::Both => format!("/srv/app{i:04}{}/file.tmp{x}", fill(random, 36)),
            // As long as it gets: a set of literals has no room.
            Kind::Set => format!("/data/set{i:04}/{}/z{x}", ["x", "y"][random.below(2)]),
            Kind::Overlap if !miss && all => format!("/srv/all{}/main.rs", fill(random, 38)),
            Kind::Overlap => format!("/srv/app{i:04}{x}{}/main.rs", fill(random, 38)),
            Kind::Name => format!("{x}{}", host(i)),
            Kind::Wildcard if miss => format!("node.rack.{}", zone(i)),
            Kind::Wildcard => format!("node{}.{}", random.below(100), zone(i)),
            Kind::Network => String::new(),
            Kind::Tool => format!("{}{x}", tool(i)),
            Kind::Call => tool(i),
        };
        let ip = (self.mix.kind(i) == Kind::Network).then(|| {
            let [_, b, c, _] = bytes(i);
            let a = if miss { 11 } else { 10 };
            IpAddr::from([a, b, c, random.below(256) as u8])
        });
        Request {
            text,
            ip,
            amount: if miss { 101 } else { random.below(100) as i64 },
            rule: i,
            allowed: !miss && !Self::denies(i) && !all,
        }
    }

    /// The request as our action.
    pub fn action(&self, request: &Request) -> Action {
        let resource = match self.mix {
            Mix::Tools | Mix::Calls => Resource::Named(request.text.clone()),
            Mix::Hosts => Resource::Endpoint(Endpoint {
                protocol: Protocol::Tcp,
                host: request.ip.is_none().then(|| request.text.clone()),
                ip: request.ip,
                port: 443,
            }),
            _ => Resource::path(&request.text),
        };
        let mut action = Action::new(subject(), self.mix.verb(), resource);
        if matches!(self.mix, Mix::Tools | Mix::Calls) {
            action.facts.args = serde_json::json!({ "amount": request.amount });
        }
        action
    }

    /// The request's attributes for the other engines: name, and text or number.
    pub fn attributes(&self, request: &Request) -> Vec<(&'static str, serde_json::Value)> {
        match (self.mix, request.ip) {
            (Mix::Tools | Mix::Calls, _) => vec![
                ("tool", request.text.as_str().into()),
                ("amount", request.amount.into()),
            ],
            (Mix::Hosts, None) => {
                vec![("host", request.text.as_str().into()), ("port", 443.into())]
            }
            (Mix::Hosts, Some(ip)) => vec![("ip", ip.to_string().into()), ("port", 443.into())],
            _ => {
                let (dir, name) = request.text.rsplit_once('/').unwrap_or_default();
                vec![
                    ("path", request.text.as_str().into()),
                    ("dir", dir.into()),
                    ("name", name.into()),
                ]
            }
        }
    }

    /// The action's name.
    pub fn verb(&self) -> &'static str {
        self.mix.verb().as_str()
    }
}

/// Who asks, in every request.
pub fn subject() -> Subject {
    Subject::agent("bench")
}

/// The facts of the session: none.
pub fn facts() -> Facts {
    Facts::default()
}

fn host(i: usize) -> String {
    format!("api{i:04}.eu-central-1.compute.internal-services.example.com")
}

fn zone(i: usize) -> String {
    format!("team{i:04}.eu-central.example.org")
}

fn tool(i: usize) -> String {
    format!("mcp:warehouse-inventory-service:update_stock_level_{i:04}")
}

fn bytes(i: usize) -> [u8; 4] {
    (i as u32).wrapping_mul(256).to_be_bytes()
}

fn network(i: usize) -> String {
    let [_, b, c, _] = bytes(i);
    format!("10.{b}.{c}.0/24")
}

/// SplitMix64: the same requests in every run.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}
