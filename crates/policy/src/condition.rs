//! Conditions: `when`, `unless` and `cost`, in the Common Expression Language.
//!
//! An expression is checked when the policy is loaded: it parses, it names only known facts, fields
//! and functions, it is not plainly of another type than wanted, and it is bounded in length and
//! nesting. At decision time it is a pure function of the action. Facts that a face does not know
//! are absent, so that reading them is an error of evaluation, which the caller counts in the safe
//! direction. Panics inside the interpreter become such errors, too.
//!
//! Bound names: `subject`, `action`, `resource` (texts, as shown to people); `auth.method`;
//! `session.id`, `.name`, `.workspace`, `.interactive`; `args` (list for `process.exec`, mapping for
//! calls, else absent); `labels` (list of texts); `risk` (0 to 100); `time` (seconds since 1970, UTC,
//! absent when the face has no clock).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use agentwall_action::{Action, Resource, Subject, Verb};
use cel::{
    Context, Env, IdedExpr, Program, Value,
    common::ast::{CallExpr, EntryExpr, Expr, SourceInfo, operators},
};

use crate::{
    cel_types::{self, Note, Type, type_of},
    diagnostic::did_you_mean,
    direct::{Direct, Truth},
    glob::GlobError,
};

/// Longest expression, in bytes.
pub const MAX_EXPRESSION: usize = 4096;
/// Deepest nesting of brackets in an expression.
const MAX_BRACKETS: usize = 24;
/// Deepest syntax tree, which bounds the stack that evaluation needs.
const MAX_DEPTH: usize = 24;
/// Stack of the parser's thread: enough for [`MAX_BRACKETS`] and [`MAX_OPERATORS`] without
/// optimisation, several times over. Only what is used becomes memory.
const PARSER_STACK: usize = 64 << 20;
/// Most operators, dots and brackets of an expression.
const MAX_OPERATORS: usize = 256;
/// Deepest nesting of `all`, `exists`, `map` and `filter`, which bounds the cost of an evaluation.
const MAX_LOOPS: usize = 2;

/// The facts an expression may read.
pub(crate) const FACTS: &[&str] = &[
    "subject", "action", "resource", "auth", "session", "args", "labels", "risk", "time",
];
const AUTH: &[&str] = &["method"];
const SESSION: &[&str] = &["id", "name", "workspace", "interactive"];
const TYPES: &[&str] = &[
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
];
const FUNCTIONS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "dyn",
    "type",
    "has",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
];

/// A checked expression.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    program: Arc<Program>,
    direct: Arc<Direct>,
    uses_args: bool,
    notes: Vec<Note>,
    constant: bool,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// What the expression's value is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    Boolean,
    Number,
}

impl Expression {
    /// Parses and checks an expression. This happens on a thread of its own, because the parser needs
    /// far more stack than a caller may have; what comes out is bounded in depth, so that evaluating
    /// it is safe on any thread.
    pub(crate) fn compile(text: &str, wanted: Wanted) -> Result<Self, GlobError> {
        check_size(text)?;
        let failed = |_| GlobError::new(0, "the expression cannot be parsed");
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(PARSER_STACK)
                .spawn_scoped(scope, || Self::compile_here(text, wanted))
                .map_err(|e| GlobError::new(0, format!("the expression cannot be parsed: {e}")))?
                .join()
                .map_err(failed)?
        })
    }

    fn compile_here(text: &str, wanted: Wanted) -> Result<Self, GlobError> {
        let program = env().compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let message = first.map_or("", |e| e.msg.as_str());
            let column = first.map_or(0, |e| e.pos.1.max(1) as usize - 1);
            let line = first.map_or(1, |e| e.pos.0.max(1) as usize);
            let offset = offset_of(text, line, column);
            GlobError::new(offset, format!("not a CEL expression: {message}"))
        })?;
        let mut check = Check {
            text,
            info: program.source_info(),
            bound: Vec::new(),
            loops: 0,
            depth: 0,
            uses_args: false,
            uses_facts: false,
            negated: false,
            notes: Vec::new(),
        };
        check.walk(program.expression())?;
        let (uses_args, constant, notes) = (check.uses_args, !check.uses_facts, check.notes);
        check_type(program.expression(), wanted)?;
        Ok(Expression {
            text: text.to_owned(),
            direct: Arc::new(Direct::new(program.expression())),
            program: Arc::new(program),
            uses_args,
            notes,
            constant,
        })
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The syntax tree.
    pub(crate) fn syntax(&self) -> &IdedExpr {
        self.program.expression()
    }

    /// Whether it reads `args`.
    pub fn uses_args(&self) -> bool {
        self.uses_args
    }

    /// Whether it reads no fact, so that it is the same for every action.
    pub(crate) fn is_constant(&self) -> bool {
        self.constant
    }

    /// What in it is legal and often a mistake.
    pub(crate) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The truth of the expression; the error says why there is none.
    pub fn test(&self, action: &Action) -> Result<bool, String> {
        match self.run(action)? {
            Value::Bool(b) => Ok(b),
            other => Err(format!("is not true or false but {}", other.type_of())),
        }
    }

    /// The truth of the expression, `None` if evaluating it fails: what [`Expression::test`] says, without
    /// allocating where [`direct`](crate::direct) understands the expression.
    pub(crate) fn truth(&self, action: &Action) -> Option<bool> {
        match self.direct.truth(action) {
            Truth::Yes => Some(true),
            Truth::No => Some(false),
            Truth::Fails => None,
            Truth::Open => self.test(action).ok(),
        }
    }

    /// The truth of the expression as far as the facts of these names say it; `None` where it depends
    /// on another one, or fails.
    pub(crate) fn known(&self, action: &Action, names: &[&str]) -> Option<bool> {
        let run = AssertUnwindSafe(|| known(self.program.expression(), &context(action), names));
        catch_unwind(run).unwrap_or(None)
    }

    /// What the expression always comes to for these verbs, if that can be seen: it reads nothing but
    /// `action` and `risk`, which have few values, and gives the same for all of them.
    pub(crate) fn constant(&self, verbs: &[Verb]) -> Option<Result<bool, String>> {
        let references = self.program.references();
        let reads = |fact: &str| references.has_variable(fact);
        if FACTS
            .iter()
            .any(|f| reads(f) && !matches!(*f, "action" | "risk"))
        {
            return None;
        }
        let verbs = if reads("action") {
            verbs
        } else {
            verbs.get(..1)?
        };
        let highest = if reads("risk") { 100 } else { 0 };
        let mut constant = None;
        for verb in verbs {
            for risk in 0..=highest {
                let resource = Resource::Named(String::new());
                let mut action = Action::new(Subject(String::new()), *verb, resource);
                action.facts.risk = risk;
                let truth = self.test(&action);
                match &constant {
                    None => constant = Some(truth),
                    Some(known) if known.as_ref().ok() == truth.as_ref().ok() => {}
                    Some(_) => return None,
                }
            }
        }
        constant
    }

    /// The number the expression gives: finite and not negative.
    pub fn number(&self, action: &Action) -> Result<f64, String> {
        let number = match self.run(action)? {
            Value::Int(i) => i as f64,
            Value::UInt(u) => u as f64,
            Value::Float(f) => f,
            other => return Err(format!("is not a number but {}", other.type_of())),
        };
        if number.is_finite() && number >= 0.0 {
            Ok(number)
        } else {
            Err(format!("is {number}, not a finite number from 0"))
        }
    }

    fn run(&self, action: &Action) -> Result<Value, String> {
        let run = AssertUnwindSafe(|| {
            self.program
                .execute(&context(action))
                .map_err(|e| e.to_string())
        });
        catch_unwind(run).unwrap_or_else(|_| Err("the evaluation failed".into()))
    }
}

/// One side of `&&` and `||` is enough where it decides: the interpreter, too, lets it absorb what the
/// other side says, be it a failure.
fn known(e: &IdedExpr, context: &Context<'_, '_>, names: &[&str]) -> Option<bool> {
    if let Expr::Call(call) = &e.expr
        && let [left, right] = call.args.as_slice()
        && let Some(absorbing) = match call.func_name.as_str() {
            "_&&_" => Some(false),
            "_||_" => Some(true),
            _ => None,
        }
    {
        let sides = [left, right].map(|side| known(side, context, names));
        return match sides {
            [Some(a), _] if a == absorbing => Some(absorbing),
            [_, Some(b)] if b == absorbing => Some(absorbing),
            [Some(_), Some(_)] => Some(!absorbing),
            _ => None,
        };
    }
    if !reads_only(e, names) {
        return None;
    }
    match Value::resolve(e, context) {
        Ok(Value::Bool(b)) => Some(b),
        _ => None,
    }
}

/// Whether an expression reads no fact but those of these names.
fn reads_only(e: &IdedExpr, names: &[&str]) -> bool {
    let all = |list: &[IdedExpr]| list.iter().all(|x| reads_only(x, names));
    match &e.expr {
        Expr::Unspecified | Expr::Literal(_) => true,
        Expr::Ident(name) => !FACTS.contains(&name.as_str()) || names.contains(&name.as_str()),
        Expr::Select(select) => reads_only(&select.operand, names),
        Expr::Call(call) => {
            let target = call.target.as_deref();
            target.is_none_or(|t| reads_only(t, names)) && all(&call.args)
        }
        Expr::List(list) => all(&list.elements),
        // Rare in conditions, and they bind names: left to the moment of the action.
        Expr::Map(_) | Expr::Struct(_) | Expr::Comprehension(_) => false,
    }
}

fn env() -> &'static Arc<Env> {
    static ENV: OnceLock<Arc<Env>> = OnceLock::new();
    ENV.get_or_init(|| Arc::new(Env::stdlib()))
}

fn context(action: &Action) -> Context<'static, 'static> {
    let facts = &action.facts;
    let mut context = Context::with_env(Arc::clone(env()));
    context.add_variable_from_value("subject", action.subject.as_str());
    context.add_variable_from_value("action", action.verb.as_str());
    context.add_variable_from_value("resource", action.resource.to_string());
    let auth = HashMap::from([("method", Value::from(facts.auth.method.as_str()))]);
    context.add_variable_from_value("auth", auth);
    let session = HashMap::from([
        ("id", Value::from(facts.session.id.as_str())),
        ("name", Value::from(facts.session.name.as_str())),
        ("workspace", Value::from(facts.session.workspace.as_str())),
        ("interactive", Value::from(facts.session.interactive)),
    ]);
    context.add_variable_from_value("session", session);
    if !facts.args.is_null() {
        context.add_variable_from_value("args", value(&facts.args));
    }
    let labels: Vec<Value> = facts.labels.iter().map(|l| l.as_str().into()).collect();
    context.add_variable_from_value("labels", Value::List(Arc::new(labels)));
    context.add_variable_from_value("risk", i64::from(facts.risk));
    if facts.time != 0 {
        context.add_variable_from_value("time", facts.time);
    }
    context
}

fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(u)) => Value::UInt(u),
            (None, None) => n.as_f64().map_or(Value::Null, Value::Float),
        },
        Json::String(s) => s.as_str().into(),
        Json::Array(items) => Value::List(Arc::new(items.iter().map(value).collect())),
        Json::Object(map) => {
            let map: HashMap<String, Value> =
                map.iter().map(|(k, v)| (k.clone(), value(v))).collect();
            map.into()
        }
    }
}

fn check_size(text: &str) -> Result<(), GlobError> {
    if text.trim().is_empty() {
        return Err(GlobError::new(0, "the expression is empty"));
    }
    if text.len() > MAX_EXPRESSION {
        return Err(GlobError::new(
            0,
            format!(
                "the expression has {} bytes, more than {MAX_EXPRESSION}",
                text.len()
            ),
        ));
    }
    // Counts characters inside texts, too: conservative, and free of a second lexer. Every operator
    // may add a level to the syntax tree, which the parser and the interpreter walk recursively.
    let (mut depth, mut run, mut operators) = (0usize, 0usize, 0usize);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        run = match c {
            '!' | '-' => run + 1,
            c if c.is_whitespace() => run,
            _ => 0,
        };
        operators += usize::from("([{.+-*/%&|<>=!?".contains(c));
        if depth > MAX_BRACKETS || run > MAX_BRACKETS {
            return Err(GlobError::new(
                at,
                format!("the expression nests more than {MAX_BRACKETS} deep"),
            ));
        }
        if operators > MAX_OPERATORS {
            return Err(GlobError::new(
                at,
                format!("the expression has more than {MAX_OPERATORS} operators"),
            )
            .suggest("several rules"));
        }
    }
    // `a ? b : c ? d : …` nests without brackets.
    if text.matches('?').count() > MAX_BRACKETS {
        return Err(GlobError::new(0, "the expression has too many '?'"));
    }
    Ok(())
}

fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line - 1)
        .map(str::len)
        .sum();
    let rest = text.get(start..).unwrap_or_default();
    let within = rest
        .char_indices()
        .nth(column)
        .map_or(rest.len(), |(i, _)| i);
    (start + within).min(text.len())
}

struct Check<'a> {
    text: &'a str,
    info: &'a SourceInfo,
    bound: Vec<String>,
    loops: usize,
    depth: usize,
    uses_args: bool,
    uses_facts: bool,
    /// Inside an odd number of `!`.
    negated: bool,
    notes: Vec<Note>,
}

impl Check<'_> {
    fn walk(&mut self, e: &IdedExpr) -> Result<(), GlobError> {
        if self.depth >= MAX_DEPTH {
            return Err(GlobError::new(
                self.offset(e),
                format!("the expression nests more than {MAX_DEPTH} deep"),
            ));
        }
        self.depth += 1;
        let walked = self.walk_inside(e);
        self.depth -= 1;
        walked
    }

    fn walk_inside(&mut self, e: &IdedExpr) -> Result<(), GlobError> {
        match &e.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.ident(e, name),
            Expr::Select(select) => {
                if let Expr::Ident(base) = &select.operand.expr {
                    self.field(e, base, &select.field)?;
                }
                self.walk(&select.operand)
            }
            Expr::Call(call) => {
                let operator = call.func_name.starts_with(['_', '@', '!', '-']);
                if !operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                    return Err(self.unknown(e, "function", &call.func_name, FUNCTIONS));
                }
                let negates = call.func_name == operators::LOGICAL_NOT;
                self.negated ^= negates;
                call.target
                    .iter()
                    .map(AsRef::as_ref)
                    .chain(&call.args)
                    .try_for_each(|a| self.walk(a))?;
                self.negated ^= negates;
                self.call(e, call)
            }
            Expr::List(list) => list.elements.iter().try_for_each(|x| self.walk(x)),
            Expr::Map(map) => map.entries.iter().try_for_each(|x| self.entry(&x.expr)),
            Expr::Struct(s) => Err(self.unknown(e, "type", &s.type_name, &[])),
            Expr::Comprehension(c) => {
                self.walk(&c.iter_range)?;
                self.walk(&c.accu_init)?;
                if self.loops >= MAX_LOOPS {
                    return Err(GlobError::new(
                        self.offset(e),
                        format!("loops nest more than {MAX_LOOPS} deep"),
                    ));
                }
                let before = self.bound.len();
                self.bound.push(c.iter_var.clone());
                self.bound.push(c.accu_var.clone());
                self.bound.extend(c.iter_var2.clone());
                self.loops += 1;
                let inside = [&c.loop_cond, &c.loop_step, &c.result]
                    .into_iter()
                    .try_for_each(|x| self.walk(x));
                self.loops -= 1;
                self.bound.truncate(before);
                inside
            }
        }
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), GlobError> {
        match entry {
            EntryExpr::StructField(f) => self.walk(&f.value),
            EntryExpr::MapEntry(m) => {
                self.walk(&m.key)?;
                self.walk(&m.value)
            }
        }
    }

    fn is_bound(&self, name: &str) -> bool {
        name.starts_with('@') || self.bound.iter().any(|b| b == name)
    }

    fn ident(&mut self, e: &IdedExpr, name: &str) -> Result<(), GlobError> {
        if self.is_bound(name) || TYPES.contains(&name) {
            return Ok(());
        }
        self.uses_args |= name == "args";
        self.uses_facts = true;
        if FACTS.contains(&name) {
            Ok(())
        } else {
            Err(self.unknown(e, "fact", name, FACTS))
        }
    }

    /// The operands of a call: their types, the fields they name, and patterns that can be read.
    fn call(&mut self, e: &IdedExpr, call: &CallExpr) -> Result<(), GlobError> {
        cel_types::check(call, &self.bound)
            .map_err(|message| GlobError::new(self.offset(e), message))?;
        let last = call.args.last().and_then(cel_types::literal_text);
        match call.func_name.as_str() {
            operators::INDEX => {
                let base = call.args.first().map(|a| &a.expr);
                if let (Some(Expr::Ident(base)), Some(key)) = (base, last) {
                    self.field(e, base, key)?;
                }
            }
            "matches" => {
                if let Some(pattern) = last {
                    regex::Regex::new(pattern).map_err(|error| {
                        // The error shows the pattern over several lines; its last one says why.
                        let why = error.to_string();
                        let why = why.lines().last().unwrap_or_default();
                        let why = why.trim_start_matches("error: ");
                        GlobError::new(self.offset(e), format!("not a regular expression: {why}"))
                    })?;
                }
            }
            _ => {}
        }
        self.notes
            .extend(cel_types::note(call, &self.bound, self.negated));
        Ok(())
    }

    fn field(&self, e: &IdedExpr, base: &str, field: &str) -> Result<(), GlobError> {
        let fields = match base {
            _ if self.is_bound(base) => return Ok(()),
            "auth" => AUTH,
            "session" => SESSION,
            "subject" | "action" | "resource" | "labels" | "risk" | "time" => {
                let kind = cel_types::fact(base);
                let message = format!("'{base}' is {} and has no field '{field}'", kind.describe());
                return Err(GlobError::new(self.offset(e), message));
            }
            _ => return Ok(()),
        };
        if fields.contains(&field) {
            return Ok(());
        }
        Err(self.unknown(e, &format!("field of {base}"), field, fields))
    }

    fn unknown(&self, e: &IdedExpr, what: &str, name: &str, known: &[&str]) -> GlobError {
        // The node's own offset may be that of an operator: the name itself is what to point at.
        let from = self.offset(e);
        let offset = self
            .text
            .get(from..)
            .and_then(|t| t.find(name))
            .map(|i| from + i);
        let offset = offset.or_else(|| self.text.find(name)).unwrap_or(from);
        let mut error = GlobError::new(offset, format!("unknown {what} '{name}'"));
        error.suggestion = did_you_mean(name, known);
        error
    }

    fn offset(&self, e: &IdedExpr) -> usize {
        let chars = self
            .info
            .offset_for(e.id)
            .map_or(0, |(start, _)| start as usize);
        self.text.char_indices().nth(chars).map_or(0, |(i, _)| i)
    }
}

/// Refuses what is plainly of another type than wanted. What depends on `args` is left to evaluation.
fn check_type(e: &IdedExpr, wanted: Wanted) -> Result<(), GlobError> {
    let expected = match wanted {
        Wanted::Boolean => Type::Bool,
        Wanted::Number => Type::Number,
    };
    let found = type_of(e, &[]);
    if found == expected || found == Type::Unknown {
        return Ok(());
    }
    let (expected, found) = (expected.describe(), found.describe());
    Err(GlobError::new(
        0,
        format!("the expression must be {expected}, found {found}"),
    ))
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
