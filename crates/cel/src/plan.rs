//! From a checked expression to the program that is evaluated: names resolved, functions looked up, constants prepared.

use crate::ast::{Comprehension, Expr, Kind, op};
use crate::check::{Checked, Reference, type_value};
use crate::fault::Fuel;
use crate::issue::{Issue, Issues};
use crate::library::{self, Cost, Function, regex};
use crate::value::{Map, Value};
use ::regex::Regex;
use std::sync::Arc;

/// A node of a program.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A variable of the environment.
    Variable(u32),
    /// A variable of a fold, by its place.
    Local(u32),
    /// A field; `base` where the chain of fields begins at no name, which costs one more.
    Select {
        operand: Box<Node>,
        field: Box<str>,
        base: bool,
    },
    Has {
        operand: Box<Node>,
        field: Box<str>,
    },
    OptionalSelect {
        operand: Box<Node>,
        field: Box<str>,
        base: bool,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
        base: bool,
    },
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    NotStrictlyFalse(Box<Node>),
    Conditional(Box<(Node, Node, Node)>),
    /// The value of an optional, or what stands in for it: `or` and `orValue`.
    Otherwise {
        optional: Box<Node>,
        other: Box<Node>,
        unwrap: bool,
    },
    Call {
        function: &'static Function,
        args: Box<[Node]>,
        cost: Cost,
    },
    /// `matches`, `find` or `findAll` with a pattern that is known.
    Regex(Box<Pattern>),
    List {
        elements: Box<[Node]>,
        optional: Box<[bool]>,
    },
    Map(Box<[(Node, Node, bool)]>),
    Struct {
        name: Arc<str>,
        fields: Box<[(Arc<str>, Node, bool)]>,
    },
    Fold(Box<Fold>),
    Bind {
        value: Box<Node>,
        result: Box<Node>,
    },
}

/// A call with a pattern that is known.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) call: regex::Call,
    pub(crate) text: Node,
    pub(crate) regex: Regex,
    /// Its length in characters.
    pub(crate) len: u64,
    pub(crate) limit: Option<Node>,
}

/// A fold. Its accumulator takes the first free place of the locals, its variables the next ones.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    pub(crate) two: bool,
    pub(crate) init: Node,
    /// Absent when it always goes on.
    pub(crate) condition: Option<Node>,
    pub(crate) step: Step,
    pub(crate) result: Node,
}

/// How a fold goes on. Those that grow a container do it in place.
#[derive(Debug)]
pub(crate) enum Step {
    /// The accumulator becomes this.
    Set(Node),
    /// An element is added, if there is no condition or it holds.
    Append(Option<Node>, Node),
    /// An entry is added likewise: key and value, or a map of one entry.
    Insert(Option<Node>, Option<Node>, Node),
}

/// Makes the program.
pub(crate) fn plan(source: &str, checked: &Checked) -> Result<Node, Issues> {
    let mut planner = Planner { checked, locals: Vec::new() };
    planner.node(&checked.root).map_err(|issue| Issues::new(source, vec![issue]))
}

struct Planner<'c> {
    checked: &'c Checked,
    locals: Vec<String>,
}

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Result<Box<Node>, Issue> {
        self.node(expr).map(Box::new)
    }

    fn node(&mut self, expr: &Expr) -> Result<Node, Issue> {
        match self.checked.reference(expr) {
            Some(Reference::Variable(index)) => return Ok(Node::Variable(*index as u32)),
            Some(Reference::TypeName(ty)) => return Ok(Node::Const(Value::Type(type_value(ty).into()))),
            _ => {}
        }
        Ok(match &expr.kind {
            Kind::Literal(value) => Node::Const(value.clone()),
            Kind::Ident(name) => {
                let at = self.locals.iter().rposition(|local| local == name);
                Node::Local(at.ok_or_else(|| Issue::new(expr.at, "a name without a meaning"))? as u32)
            }
            Kind::Select { operand, field, test } => {
                let (operand, field) = (self.boxed(operand)?, field.as_str().into());
                let base = starts_chain(&operand);
                if *test { Node::Has { operand, field } } else { Node::Select { operand, field, base } }
            }
            Kind::Call { target, args, .. } => self.call(expr, target.as_deref(), args)?,
            Kind::List { elements, optional } => {
                let elements: Box<[Node]> = elements.iter().map(|e| self.node(e)).collect::<Result<_, _>>()?;
                match constants(&elements).filter(|_| !optional.contains(&true)) {
                    Some(items) => Node::Const(Value::list(items)),
                    None => Node::List { elements, optional: optional.as_slice().into() },
                }
            }
            Kind::Map(entries) => {
                let entry = |e: &crate::ast::Entry| Ok((self.node(&e.key)?, self.node(&e.value)?, e.optional));
                let entries: Box<[_]> = entries.iter().map(entry).collect::<Result<_, Issue>>()?;
                constant_map(&entries).unwrap_or(Node::Map(entries))
            }
            Kind::Struct { name, fields } => {
                let field = |f: &crate::ast::Field| Ok((f.name.as_str().into(), self.node(&f.value)?, f.optional));
                let fields = fields.iter().map(field).collect::<Result<_, Issue>>()?;
                Node::Struct { name: name.trim_start_matches('.').into(), fields }
            }
            Kind::Comprehension(fold) => self.fold(fold)?,
        })
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, args: &[Expr]) -> Result<Node, Issue> {
        let Some(Reference::Function { name, member, .. }) = self.checked.reference(expr) else {
            return Err(Issue::new(expr.at, "a call without a function"));
        };
        let mut nodes = Vec::with_capacity(args.len() + 1);
        if let Some(target) = target.filter(|_| *member) {
            nodes.push(self.node(target)?);
        }
        if name == op::OPTIONAL_SELECT {
            return self.optional_select(args);
        }
        for arg in args {
            nodes.push(self.node(arg)?);
        }
        if matches!(nodes.as_slice(), [_, _]) && matches!(&**name, op::AND | op::OR | op::INDEX | op::OPTIONAL_INDEX) {
            let (Some(b), Some(a)) = (nodes.pop(), nodes.pop()) else { unreachable!("two operands") };
            return Ok(match &**name {
                op::AND => Node::And(Box::new((a, b))),
                op::OR => Node::Or(Box::new((a, b))),
                other => {
                    let (optional, base) = (other == op::OPTIONAL_INDEX, starts_chain(&a));
                    Node::Index { operand: a.into(), index: b.into(), optional, base }
                }
            });
        }
        self.function(expr, name, nodes)
    }

    fn optional_select(&mut self, args: &[Expr]) -> Result<Node, Issue> {
        let Kind::Literal(Value::String(field)) = &args[1].kind else {
            return Err(Issue::new(args[1].at, "unsupported optional field selection"));
        };
        let operand = self.boxed(&args[0])?;
        let base = starts_chain(&operand);
        Ok(Node::OptionalSelect { operand, field: (**field).into(), base })
    }

    fn function(&mut self, expr: &Expr, name: &str, mut nodes: Vec<Node>) -> Result<Node, Issue> {
        match (name, nodes.as_slice()) {
            (op::NOT_STRICTLY_FALSE, [_]) => return Ok(Node::NotStrictlyFalse(nodes.remove(0).into())),
            (op::CONDITIONAL, [_, _, _]) => {
                let mut nodes = nodes.into_iter();
                let (Some(a), Some(b), Some(c)) = (nodes.next(), nodes.next(), nodes.next()) else {
                    unreachable!("three operands")
                };
                return Ok(Node::Conditional(Box::new((a, b, c))));
            }
            ("or" | "orValue", [_, _]) => {
                let (optional, other) = (nodes.remove(0).into(), nodes.remove(0).into());
                return Ok(Node::Otherwise { optional, other, unwrap: name == "orValue" });
            }
            ("matches" | "find" | "findAll", [_, Node::Const(Value::String(_)), ..]) => {
                return pattern(expr, name, nodes);
            }
            ("format", [Node::Const(Value::String(template)), items]) => {
                let count = match items {
                    Node::List { elements, .. } => Some(elements.len()),
                    Node::Const(Value::List(items)) => Some(items.len()),
                    _ => None,
                };
                let checked = count.map_or(Ok(()), |count| library::check_template(template, count));
                checked.map_err(|why| Issue::new(expr.at, why))?;
            }
            _ => {}
        }
        let function = library::function(name).ok_or_else(|| unknown(expr, name))?;
        if let Some(value) = folded(expr, function, &nodes)? {
            return Ok(Node::Const(value));
        }
        let cost = self.cost(expr, function, &nodes);
        Ok(Node::Call { function, args: nodes.into(), cost })
    }

    /// What a call costs. Where the types leave open which overload is meant, cel-go charges 1; looking into a list of constants
    /// is free.
    fn cost(&self, expr: &Expr, function: &Function, nodes: &[Node]) -> Cost {
        let open = match self.checked.reference(expr) {
            Some(Reference::Function { overloads, .. }) => overloads.len() > 1,
            _ => false,
        };
        match (function.cost, nodes) {
            (Cost::In, [_, Node::Const(Value::List(_))]) => Cost::Fixed(0),
            (Cost::In | Cost::Compare | Cost::Add | Cost::Convert, _) if open => Cost::One,
            (cost, _) => cost,
        }
    }

    fn fold(&mut self, fold: &Comprehension) -> Result<Node, Issue> {
        let depth = self.locals.len();
        if fold.is_bind() {
            let value = self.boxed(&fold.init)?;
            self.locals.push(fold.accu.clone());
            let result = self.boxed(&fold.result);
            self.locals.truncate(depth);
            return Ok(Node::Bind { value, result: result? });
        }
        let (range, init) = (self.node(&fold.range)?, self.node(&fold.init)?);
        self.locals.push(fold.accu.clone());
        self.locals.push(fold.var.clone());
        self.locals.extend(fold.var2.clone());
        let condition = match &fold.condition.kind {
            Kind::Literal(Value::Bool(true)) => None,
            _ => Some(self.node(&fold.condition)?),
        };
        let step = self.step(fold)?;
        self.locals.truncate(depth + 1);
        let result = self.node(&fold.result)?;
        self.locals.truncate(depth);
        Ok(Node::Fold(Box::new(Fold { range, two: fold.var2.is_some(), init, condition, step, result })))
    }

    fn step(&mut self, fold: &Comprehension) -> Result<Step, Issue> {
        let is_accu = |expr: &Expr| matches!(&expr.kind, Kind::Ident(name) if *name == fold.accu);
        let call = |expr: &'_ Expr| match &expr.kind {
            Kind::Call { function, target: None, args } => Some((function.clone(), args.clone())),
            _ => None,
        };
        let (filter, grow) = match call(&fold.step) {
            Some((name, args)) if name == op::CONDITIONAL && is_accu(&args[2]) => {
                (Some(args[0].clone()), args[1].clone())
            }
            _ => (None, fold.step.clone()),
        };
        let grown = call(&grow).filter(|(_, args)| is_accu(&args[0]));
        match grown {
            Some((name, args)) if name == op::ADD => {
                if let Kind::List { elements, .. } = &args[1].kind
                    && let [element] = elements.as_slice()
                {
                    let filter = filter.map(|filter| self.node(&filter)).transpose()?;
                    return Ok(Step::Append(filter, self.node(element)?));
                }
            }
            Some((name, args)) if name == op::MAP_INSERT => {
                let filter = filter.map(|filter| self.node(&filter)).transpose()?;
                let key = if args.len() == 3 { Some(self.node(&args[1])?) } else { None };
                return Ok(Step::Insert(filter, key, self.node(&args[args.len() - 1])?));
            }
            _ => {}
        }
        self.node(&fold.step).map(Step::Set)
    }
}

/// Whether a chain of fields begins here: what is below is neither a name nor part of the chain.
fn starts_chain(operand: &Node) -> bool {
    use Node::{Conditional, Index, Local, OptionalSelect, Select, Variable};
    !matches!(operand, Variable(_) | Local(_) | Select { .. } | Index { .. } | OptionalSelect { .. } | Conditional(_))
}

/// The result of a conversion of a constant. That of one that fails is told at once.
fn folded(expr: &Expr, function: &Function, nodes: &[Node]) -> Result<Option<Value<'static>>, Issue> {
    let conversion = matches!(
        function.name,
        "bool" | "int" | "uint" | "double" | "string" | "bytes" | "timestamp" | "duration" | "dyn" | "type"
    );
    let [Node::Const(value)] = nodes else { return Ok(None) };
    if !conversion {
        return Ok(None);
    }
    match (function.run)(std::slice::from_ref(value), &mut Fuel::new()) {
        Ok(value) => Ok(Some(value)),
        Err(_) if matches!(function.name, "timestamp" | "duration") && matches!(value, Value::String(_)) => {
            Err(Issue::new(argument_at(expr), format!("invalid {} argument", function.name)))
        }
        Err(fault) => Err(Issue::plain(fault.to_string())),
    }
}

/// Where the first argument in parentheses stands.
fn argument_at(expr: &Expr) -> u32 {
    match &expr.kind {
        Kind::Call { target: None, args, function } if function == "matches" => args[1].at,
        Kind::Call { args, .. } if !args.is_empty() => args[0].at,
        _ => expr.at,
    }
}

fn pattern(expr: &Expr, name: &str, mut nodes: Vec<Node>) -> Result<Node, Issue> {
    let call = match name {
        "matches" => regex::Call::Matches,
        "find" => regex::Call::Find,
        _ => regex::Call::FindAll,
    };
    let limit = (nodes.len() > 2).then(|| nodes.remove(2));
    let text = nodes.remove(0);
    let Some(Node::Const(Value::String(source))) = nodes.pop() else { return Err(unknown(expr, name)) };
    let regex = regex::compile(&source).map_err(|why| match call {
        regex::Call::Matches => Issue::new(argument_at(expr), "invalid matches argument"),
        _ => Issue::plain(why),
    })?;
    let len = crate::value::chars(&source) as u64;
    Ok(Node::Regex(Box::new(Pattern { call, text, regex, len, limit })))
}

/// The values of nodes that are all constant.
fn constants<'n>(nodes: impl IntoIterator<Item = &'n Node>) -> Option<Vec<Value<'static>>> {
    let value = |node: &Node| match node {
        Node::Const(value) => Some(value.clone()),
        _ => None,
    };
    nodes.into_iter().map(value).collect()
}

/// A map of constants; its keys are good ones.
fn constant_map(entries: &[(Node, Node, bool)]) -> Option<Node> {
    if entries.iter().any(|(_, _, optional)| *optional) {
        return None;
    }
    let keys = constants(entries.iter().map(|(key, _, _)| key))?;
    let values = constants(entries.iter().map(|(_, value, _)| value))?;
    let good = |key: &Value<'_>| matches!(key, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::String(_));
    let made = keys.iter().all(good).then(|| keys.into_iter().zip(values).collect());
    Some(Node::Const(Value::Map(Map::made(made?))))
}

fn unknown(expr: &Expr, name: &str) -> Issue {
    Issue::new(expr.at, format!("the function '{name}' is not implemented"))
}
