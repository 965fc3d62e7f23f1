//! From the syntax tree to what is understood of it.

use std::sync::OnceLock;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, operators as op},
};

use super::{MAX_LOOPS, Node, Order, Pattern};

pub(super) fn compile(e: &IdedExpr, bound: &mut Vec<String>) -> Node {
    match &e.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(b) => Node::Bool(*b.inner()),
            LiteralValue::Int(i) => Node::Int(*i.inner()),
            LiteralValue::UInt(u) => Node::UInt(*u.inner()),
            LiteralValue::Double(d) => Node::Double(*d.inner()),
            LiteralValue::String(s) => Node::Text(s.inner().to_owned()),
            LiteralValue::Null => Node::Null,
            LiteralValue::Bytes(_) => Node::Open,
        },
        Expr::Ident(name) => ident(name, bound),
        Expr::Select(select) => {
            let base = match &select.operand.expr {
                Expr::Ident(name) if !bound.contains(name) => name.as_str(),
                _ => "",
            };
            match (base, select.field.as_str(), select.test) {
                ("auth", "method", false) => Node::Method,
                ("session", "id", false) => Node::SessionId,
                ("session", "name", false) => Node::SessionName,
                ("session", "workspace", false) => Node::Workspace,
                ("session", "interactive", false) => Node::Interactive,
                ("auth" | "session", _, true) => Node::Bool(true),
                (_, field, test) => {
                    let operand = Box::new(compile(&select.operand, bound));
                    match test {
                        true => Node::Has(operand, field.to_owned()),
                        false => Node::Field(operand, field.to_owned()),
                    }
                }
            }
        }
        Expr::List(list) if list.optional_indices.is_empty() => {
            let elements = list.elements.iter().map(|e| compile(e, bound));
            let elements: Vec<Node> = elements.collect();
            match elements.iter().all(Node::is_literal) {
                true => Node::List(elements),
                false => Node::Open,
            }
        }
        Expr::Call(call) => self::call(call, bound),
        Expr::Comprehension(loop_) => quantifier(loop_, bound).unwrap_or(Node::Open),
        _ => Node::Open,
    }
}

fn ident(name: &str, bound: &[String]) -> Node {
    if let Some(depth) = bound.iter().rposition(|b| b == name) {
        return Node::Bound(depth);
    }
    match name {
        "subject" => Node::Subject,
        "action" => Node::Verb,
        "resource" => Node::Resource,
        "args" => Node::Args,
        "labels" => Node::Labels,
        "risk" => Node::Risk,
        "time" => Node::Time,
        _ => Node::Open,
    }
}

fn call(call: &CallExpr, bound: &mut Vec<String>) -> Node {
    let target = call.target.as_deref();
    let operands = target.into_iter().chain(&call.args);
    let mut nodes: Vec<Node> = operands.map(|a| compile(a, bound)).collect();
    let name = call.func_name.as_str();
    if let (true, "matches", [_, Node::Text(pattern)]) = (target.is_some(), name, nodes.as_slice())
    {
        let pattern = Pattern {
            text: pattern.clone(),
            regex: OnceLock::new(),
        };
        return Node::Matches(Box::new(nodes.swap_remove(0)), pattern);
    }
    let nodes = match <[Node; 2]>::try_from(nodes) {
        Ok(pair) => {
            let pair = Box::new(pair);
            return match (target.is_some(), name) {
                (false, op::LOGICAL_AND) => Node::And(pair),
                (false, op::LOGICAL_OR) => Node::Or(pair),
                (false, op::EQUALS) => Node::Equals(pair),
                (false, op::NOT_EQUALS) => Node::Differs(pair),
                (false, op::LESS) => Node::Compare(Order::Less, pair),
                (false, op::LESS_EQUALS) => Node::Compare(Order::LessEquals, pair),
                (false, op::GREATER) => Node::Compare(Order::Greater, pair),
                (false, op::GREATER_EQUALS) => Node::Compare(Order::GreaterEquals, pair),
                (false, op::IN) => Node::In(pair),
                (false, op::ADD) => Node::Add(pair),
                (false, op::SUBSTRACT) => Node::Subtract(pair),
                (false, op::INDEX) => {
                    let [base, index] = *pair;
                    Node::Index(Box::new(base), Box::new(index))
                }
                (true, "startsWith") => Node::StartsWith(pair),
                (true, "endsWith") => Node::EndsWith(pair),
                (true, "contains") => Node::Contains(pair),
                _ => Node::Open,
            };
        }
        Err(nodes) => nodes,
    };
    let nodes = match <[Node; 1]>::try_from(nodes) {
        Ok([one]) => {
            return match (target.is_some(), name) {
                (false, op::LOGICAL_NOT) => Node::Not(Box::new(one)),
                (_, "size") => Node::Size(Box::new(one)),
                _ => Node::Open,
            };
        }
        Err(nodes) => nodes,
    };
    match (<[Node; 3]>::try_from(nodes), name) {
        (Ok(three), op::CONDITIONAL) if target.is_none() => Node::If(Box::new(three)),
        _ => Node::Open,
    }
}

/// `list.exists(x, …)` and `list.all(x, …)`, as the parser writes them out.
fn quantifier(e: &ComprehensionExpr, bound: &mut Vec<String>) -> Option<Node> {
    let is_accu = |x: &IdedExpr| matches!(&x.expr, Expr::Ident(name) if *name == e.accu_var);
    let Expr::Literal(LiteralValue::Boolean(init)) = &e.accu_init.expr else {
        return None;
    };
    let Expr::Call(step) = &e.loop_step.expr else {
        return None;
    };
    let one = match step.func_name.as_str() {
        op::LOGICAL_OR if !*init.inner() => true,
        op::LOGICAL_AND if *init.inner() => false,
        _ => return None,
    };
    let [first, body] = step.args.as_slice() else {
        return None;
    };
    let plain = is_accu(first) && is_accu(&e.result) && e.iter_var2.is_none();
    let depth = bound.len();
    if !plain || depth == MAX_LOOPS || e.iter_var == e.accu_var {
        return None;
    }
    let list = compile(&e.iter_range, bound);
    bound.push(e.iter_var.clone());
    let body = compile(body, bound);
    bound.pop();
    Some(Node::Any(one, depth, Box::new([list, body])))
}

impl Node {
    const fn is_literal(&self) -> bool {
        matches!(
            self,
            Node::Bool(_)
                | Node::Int(_)
                | Node::UInt(_)
                | Node::Double(_)
                | Node::Null
                | Node::Text(_)
        )
    }
}
