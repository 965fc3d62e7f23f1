//! The engines, each loaded with a rule set and a list of requests, ready to answer by index.
//!
//! Everything that a caller can prepare is prepared: actions, requests and inputs are built before the
//! clock starts, caches are as large as they may be.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agentwall_action::{Action, Effect};
use agentwall_policy::{Compiled, Layer, Policy, Source, Variables, load};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityId, EntityUid, PolicySet,
    RestrictedExpression as Value,
};
use regorus::{CompiledPolicy, languages::rego::compiler::Compiler, rvm::vm::RegoVM};

use super::rules::{Request, Rules, facts, subject};

/// Ours: the compiled policy and the interpreter it was compiled from.
#[derive(Debug)]
pub struct Ours {
    /// The policy.
    pub policy: Arc<Policy>,
    /// What decides.
    pub compiled: Compiled,
    actions: Vec<Action>,
    /// Reading the file; compiling what was read.
    pub took: [Duration; 2],
}

impl Ours {
    /// Reads and compiles; the error says which failed.
    pub fn new(rules: &Rules, requests: &[Request]) -> Result<Ours, String> {
        let text = rules.ours();
        let start = Instant::now();
        let policy = Arc::new(read(&text)?);
        let read = start.elapsed();
        let start = Instant::now();
        let compiled = compile(&policy);
        let took = [read, start.elapsed()];
        Ok(Ours {
            policy,
            compiled,
            actions: requests.iter().map(|r| rules.action(r)).collect(),
            took,
        })
    }

    /// Whether the request is allowed.
    #[inline]
    pub fn decide(&self, request: usize) -> bool {
        self.compiled.verdict(&self.actions[request]).effect == Effect::Allow
    }

    /// The same by the interpreter.
    pub fn interpret(&self, request: usize) -> bool {
        self.policy.decide(&self.actions[request]).effect == Effect::Allow
    }
}

/// Reads a policy.
pub fn read(text: &str) -> Result<Policy, String> {
    let source = Source::new("bench.yaml", text.as_bytes(), Layer::User);
    load(&[source], &Variables::default()).map_err(|e| e.to_string())
}

/// Compiles it for the session of every request.
pub fn compile(policy: &Arc<Policy>) -> Compiled {
    Compiled::new(Arc::clone(policy), &subject(), &facts())
}

/// Cedar with all policies, and with the one that decides.
#[derive(Debug)]
pub struct Cedar {
    all: PolicySet,
    slices: Vec<PolicySet>,
    requests: Vec<cedar_policy::Request>,
    entities: Entities,
    authorizer: Authorizer,
    /// Parsing the policies.
    pub took: Duration,
}

impl Cedar {
    /// Parses the policies.
    pub fn new(rules: &Rules, requests: &[Request]) -> Result<Cedar, String> {
        let text = cedar_text(rules);
        let start = Instant::now();
        let all = cedar_set(&text)?;
        let took = start.elapsed();
        let slices = requests.iter().map(|r| cedar_set(&rules.cedar(r.rule)));
        Ok(Cedar {
            slices: slices.collect::<Result<_, _>>()?,
            requests: requests
                .iter()
                .map(|r| cedar_request(rules, r))
                .collect::<Result<_, _>>()?,
            all,
            entities: Entities::empty(),
            authorizer: Authorizer::new(),
            took,
        })
    }

    /// Asks all policies.
    pub fn decide(&self, request: usize) -> bool {
        self.ask(request, &self.all)
    }

    /// Asks only the policy that the request is about.
    pub fn slice(&self, request: usize) -> bool {
        self.ask(request, &self.slices[request])
    }

    fn ask(&self, request: usize, policies: &PolicySet) -> bool {
        let response =
            self.authorizer
                .is_authorized(&self.requests[request], policies, &self.entities);
        response.decision() == Decision::Allow
    }

    /// Errors of evaluation, which would make the comparison worthless.
    pub fn errors(&self, request: usize) -> usize {
        let response =
            self.authorizer
                .is_authorized(&self.requests[request], &self.all, &self.entities);
        response.diagnostics().errors().count()
    }
}

/// All policies as one text.
pub fn cedar_text(rules: &Rules) -> String {
    (0..rules.count).map(|i| rules.cedar(i)).collect()
}

/// Parses policies.
pub fn cedar_set(text: &str) -> Result<PolicySet, String> {
    text.parse().map_err(|e| format!("Cedar: {e}"))
}

fn cedar_request(rules: &Rules, request: &Request) -> Result<cedar_policy::Request, String> {
    let uid = |kind: &str, id: &str| -> Result<EntityUid, String> {
        let kind = kind.parse().map_err(|e| format!("Cedar: {e}"))?;
        Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
    };
    let attributes = rules.attributes(request).into_iter().map(|(name, value)| {
        let value = match (&value, name) {
            (serde_json::Value::String(ip), "ip") => Value::new_ip(ip),
            (serde_json::Value::String(text), _) => Value::new_string(text.clone()),
            (number, _) => Value::new_long(number.as_i64().unwrap_or_default()),
        };
        (name.to_owned(), value)
    });
    let context = Context::from_pairs(attributes).map_err(|e| format!("Cedar: {e}"))?;
    cedar_policy::Request::new(
        uid("Agent", subject().as_str())?,
        uid("Action", rules.verb())?,
        uid("Object", "it")?,
        context,
        None,
    )
    .map_err(|e| format!("Cedar: {e}"))
}

/// Regorus: its interpreter, and its virtual machine where the module fits into it.
#[derive(Debug)]
pub struct Rego {
    interpreter: regorus::Engine,
    machine: Option<RegoVM>,
    inputs: Vec<regorus::Value>,
    /// Reading and compiling; translating for the machine on top.
    pub took: [Duration; 2],
}

const RULE: &str = "data.bench.allow";

impl Rego {
    /// Parses and compiles the module.
    pub fn new(rules: &Rules, requests: &[Request]) -> Result<Rego, String> {
        regorus::cache::configure(regorus::cache::Config {
            regex: regorus::cache::Config::MAX_CAPACITY,
            glob: regorus::cache::Config::MAX_CAPACITY,
        });
        let files = rules.rego();
        let start = Instant::now();
        let (interpreter, policy) = rego(files)?;
        let read = start.elapsed();
        let machine = rego_machine(&policy)?;
        let took = [read, start.elapsed()];
        let inputs = requests.iter().map(|request| {
            let mut input: serde_json::Map<String, serde_json::Value> = rules
                .attributes(request)
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect();
            input.insert("action".into(), rules.verb().into());
            regorus::Value::from_json_str(&serde_json::Value::from(input).to_string())
                .map_err(|e| format!("Rego: {e}"))
        });
        Ok(Rego {
            interpreter,
            machine,
            inputs: inputs.collect::<Result<_, _>>()?,
            took,
        })
    }

    /// Whether the module fits into the virtual machine.
    pub fn has_machine(&self) -> bool {
        self.machine.is_some()
    }

    /// Asks the interpreter. An error is no answer.
    pub fn interpret(&mut self, request: usize) -> Option<bool> {
        self.interpreter.set_input(self.inputs[request].clone());
        let answer = self.interpreter.eval_rule(RULE.into()).ok()?;
        answer.as_bool().ok().copied()
    }

    /// Asks the virtual machine. An error is no answer, and so is no machine.
    pub fn decide(&mut self, request: usize) -> Option<bool> {
        let machine = self.machine.as_mut()?;
        machine.set_input(self.inputs[request].clone());
        machine.execute().ok()?.as_bool().ok().copied()
    }
}

/// Modules, parsed and compiled.
pub fn rego(files: Vec<String>) -> Result<(regorus::Engine, CompiledPolicy), String> {
    let mut engine = regorus::Engine::new();
    for (number, text) in files.into_iter().enumerate() {
        engine
            .add_policy(format!("bench-{number}.rego"), text)
            .map_err(|e| format!("Rego: {e}"))?;
    }
    let policy = engine
        .compile_with_entrypoint(&RULE.into())
        .map_err(|e| format!("Rego: {e}"))?;
    Ok((engine, policy))
}

/// The virtual machine with the module in it; `None` where it needs more than its 65,535 instructions.
pub fn rego_machine(policy: &CompiledPolicy) -> Result<Option<RegoVM>, String> {
    match Compiler::compile_from_policy(policy, &[RULE]) {
        Ok(program) => {
            let mut machine = RegoVM::new();
            machine.load_program(program);
            Ok(Some(machine))
        }
        Err(error) if error.to_string().contains("max instructions") => Ok(None),
        Err(error) => Err(format!("Rego: {error}")),
    }
}
