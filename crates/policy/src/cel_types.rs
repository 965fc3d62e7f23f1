//! The types of expressions, as far as they are plain from the text.
//!
//! The types of `subject`, `auth.method`, `risk` and the other facts are fixed; those of `args` are not.
//! What compares a text with a number, orders a list or asks a number whether it contains something can
//! never be meant, and would only be found when an action comes by: it is refused when the policy is
//! loaded. What depends on `args` or on a loop's variable is left to evaluation.

use agentwall_action::Verb;
use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr, LiteralValue, SelectExpr, operators as op},
};

/// Something in an expression that is legal and often a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// `args[0]`: the name that the caller gave, not the program.
    ProgramName,
    /// A pattern that is not held at both ends.
    Unanchored(String),
    /// The front of a URL that ends inside the host name.
    OpenUrl(String),
    /// `action` compared with a text that is no action.
    NoAction(String),
}

/// A type, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    Number,
    Text,
    List,
    Map,
    Unknown,
}

impl Type {
    /// With its article, for messages.
    pub const fn describe(self) -> &'static str {
        match self {
            Type::Bool => "true or false",
            Type::Number => "a number",
            Type::Text => "text",
            Type::List => "a list",
            Type::Map => "a mapping",
            Type::Unknown => "anything",
        }
    }

    fn is(self, wanted: &[Type]) -> bool {
        self == Type::Unknown || wanted.contains(&self)
    }
}

/// The type of an expression. `bound` tells the variables of loops, whose types are unknown.
pub(crate) fn type_of(e: &IdedExpr, bound: &[String]) -> Type {
    match &e.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => Type::Bool,
        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)) => {
            Type::Number
        }
        Expr::Literal(LiteralValue::String(_)) => Type::Text,
        Expr::Ident(name) if bound.contains(name) => Type::Unknown,
        Expr::Ident(name) => fact(name),
        Expr::Select(s) if s.test => Type::Bool,
        Expr::Select(s) => field(s, bound),
        Expr::Call(call) => result(call, bound),
        Expr::List(_) => Type::List,
        Expr::Map(_) => Type::Map,
        _ => Type::Unknown,
    }
}

/// The type of a fact.
pub(crate) fn fact(name: &str) -> Type {
    match name {
        "risk" | "time" => Type::Number,
        "subject" | "action" | "resource" => Type::Text,
        "labels" => Type::List,
        "auth" | "session" => Type::Map,
        _ => Type::Unknown,
    }
}

/// A literal text.
pub(crate) fn literal_text(e: &IdedExpr) -> Option<&str> {
    match &e.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn field(select: &SelectExpr, bound: &[String]) -> Type {
    match &select.operand.expr {
        Expr::Ident(base) if bound.contains(base) => Type::Unknown,
        Expr::Ident(base) => member(base, &select.field),
        _ => Type::Unknown,
    }
}

fn member(base: &str, field: &str) -> Type {
    match (base, field) {
        ("session", "interactive") => Type::Bool,
        ("session" | "auth", _) => Type::Text,
        _ => Type::Unknown,
    }
}

fn result(call: &CallExpr, bound: &[String]) -> Type {
    let of = |n: usize| {
        call.args
            .get(n)
            .map_or(Type::Unknown, |a| type_of(a, bound))
    };
    match call.func_name.as_str() {
        op::EQUALS
        | op::NOT_EQUALS
        | op::GREATER_EQUALS
        | op::LESS_EQUALS
        | op::GREATER
        | op::LESS
        | op::LOGICAL_AND
        | op::LOGICAL_OR
        | op::LOGICAL_NOT
        | op::IN
        | "contains"
        | "startsWith"
        | "endsWith"
        | "matches"
        | "bool" => Type::Bool,
        op::ADD => of(0),
        op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO | op::NEGATE => Type::Number,
        "size" | "int" | "uint" | "double" => Type::Number,
        "string" => Type::Text,
        op::CONDITIONAL if of(1) == of(2) => of(1),
        op::INDEX => match (
            call.args.first().map(|a| &a.expr),
            call.args.get(1).and_then(literal_text),
        ) {
            (Some(Expr::Ident(base)), Some(key)) if !bound.contains(base) => member(base, key),
            _ => Type::Unknown,
        },
        _ => Type::Unknown,
    }
}

/// What is wrong with the operands of a call; nothing if it may work.
pub(crate) fn check(call: &CallExpr, bound: &[String]) -> Result<(), String> {
    let of = |e: &IdedExpr| type_of(e, bound);
    let args: Vec<Type> = call.args.iter().map(of).collect();
    let target = call.target.as_deref().map(of);
    let (a, b) = (args.first().copied(), args.get(1).copied());
    let (a, b) = (a.unwrap_or(Type::Unknown), b.unwrap_or(Type::Unknown));
    let differ = a != b && a != Type::Unknown && b != Type::Unknown;
    let needs = |what: &str, wanted: &[Type], found: Type| match found.is(wanted) {
        true => Ok(()),
        false => {
            let names: Vec<&str> = wanted.iter().map(|t| t.describe()).collect();
            Err(format!(
                "{what} needs {}, found {}",
                names.join(" or "),
                found.describe()
            ))
        }
    };
    match call.func_name.as_str() {
        // `null` has no type here, so that anything may be compared with it.
        op::EQUALS | op::NOT_EQUALS if differ => Err(format!(
            "compares {} with {}, which are never equal",
            a.describe(),
            b.describe()
        )),
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
            let ordered = [Type::Number, Type::Text, Type::Bool];
            needs("an order", &ordered, a)?;
            needs("an order", &ordered, b)?;
            match differ {
                true => Err(format!("compares {} with {}", a.describe(), b.describe())),
                false => Ok(()),
            }
        }
        op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT => {
            let name = call.func_name.trim_matches('_');
            args.iter()
                .try_for_each(|t| needs(&format!("'{name}'"), &[Type::Bool], *t))
        }
        op::CONDITIONAL => needs("'?'", &[Type::Bool], a),
        op::ADD if differ => Err(format!("adds {} and {}", a.describe(), b.describe())),
        op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO | op::NEGATE => {
            let name = call.func_name.trim_matches('_');
            args.iter()
                .try_for_each(|t| needs(&format!("'{name}'"), &[Type::Number], *t))
        }
        op::IN if b == Type::Text => Err("'in' looks into a list, found text; use contains".into()),
        op::IN => {
            needs("'in'", &[Type::List, Type::Map], b)?;
            let labels =
                matches!(call.args.get(1).map(|e| &e.expr), Some(Expr::Ident(n)) if n == "labels");
            match labels {
                true => needs("'in labels'", &[Type::Text], a),
                false => Ok(()),
            }
        }
        "contains" | "startsWith" | "endsWith" | "matches" => {
            let name = &call.func_name;
            let (on, what) = match target {
                Some(target) => (target, a),
                None => (a, b),
            };
            let texts: &[Type] = match name.as_str() {
                "contains" => &[Type::Text, Type::List, Type::Map],
                _ => &[Type::Text],
            };
            needs(&format!("'{name}'"), texts, on)?;
            match on {
                Type::Text => needs(&format!("'{name}' of text"), &[Type::Text], what),
                _ => Ok(()),
            }
        }
        "size" => needs(
            "'size'",
            &[Type::Text, Type::List, Type::Map],
            target.unwrap_or(a),
        ),
        _ => Ok(()),
    }
}

/// What is often a mistake about a call. `negated` says that the expression holds where the call does
/// not, so that matching too much only makes it narrower.
pub(crate) fn note(call: &CallExpr, bound: &[String], negated: bool) -> Option<Note> {
    let last = call.args.last()?;
    let text = literal_text(last);
    let is = |e: &IdedExpr, name: &str| matches!(&e.expr, Expr::Ident(n) if n == name);
    match call.func_name.as_str() {
        op::INDEX if is(call.args.first()?, "args") && !bound.iter().any(|b| b == "args") => {
            let zero = matches!(&last.expr, Expr::Literal(LiteralValue::Int(n)) if *n.inner() == 0);
            zero.then_some(Note::ProgramName)
        }
        "matches" if !negated => {
            let text = text?;
            // Flags at the front, such as `(?i)`, are no part of what is matched.
            let flags = text.strip_prefix("(?").and_then(|t| t.split_once(')'));
            let bare = flags.filter(|(f, _)| f.bytes().all(|b| b.is_ascii_lowercase()));
            let bare = bare.map_or(text, |(_, rest)| rest);
            let held = bare.starts_with('^') && bare.ends_with('$');
            (!held).then(|| Note::Unanchored(text.to_owned()))
        }
        "startsWith" if !negated => {
            let (_, host) = text?.split_once("://")?;
            (!host.is_empty() && !host.contains('/'))
                .then(|| Note::OpenUrl(text.unwrap_or_default().to_owned()))
        }
        op::EQUALS | op::NOT_EQUALS => {
            let other = call.args.iter().find_map(literal_text)?;
            let about = call.args.iter().any(|e| is(e, "action"));
            let unknown = other.parse::<Verb>().is_err();
            (about && unknown).then(|| Note::NoAction(other.to_owned()))
        }
        _ => None,
    }
}
