//! The estimated cost of an expression: what it may cost at least and at most, before any value is seen.
//!
//! The rules are those of cel-go and Kubernetes: they decide which rules a custom resource may have, so that any difference would
//! refuse what upstream takes or the other way round. `tools/celgen` records upstream's estimates for the tests.

mod calls;
mod range;

pub use range::Range;

use crate::ast::{Comprehension, Expr, Kind, op};
use crate::check::{Checked, Reference};
use crate::eval::{LIST_COST, MAP_COST, STRUCT_COST};
use crate::types::Type;
use crate::value::{Value, chars};
use std::collections::HashMap;

/// Who knows how large values can be.
pub trait Sizes {
    /// The size of what stands at a path below a variable: fields by name, `@items`, `@keys` and `@values`. None when nothing is
    /// known. An empty path stands for any value of the type.
    fn size(&self, path: &[String], ty: &Type) -> Option<Range>;
}

/// Nothing is known of any size.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSizes;

impl Sizes for NoSizes {
    fn size(&self, _: &[String], _: &Type) -> Option<Range> {
        None
    }
}

/// Estimates the cost of a checked expression.
pub(crate) fn estimate(checked: &Checked, sizes: &dyn Sizes) -> Range {
    let mut coster = Coster {
        checked,
        sizes,
        paths: HashMap::new(),
        locals: Vec::new(),
        known: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(&checked.root)
}

/// The sizes of the keys and values of a container.
#[derive(Clone, Copy, Debug)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Entries>, b: Option<Entries>) -> Option<Entries> {
        let (a, b) = (a?, b?);
        Some(Entries { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// A variable of a fold.
#[derive(Clone)]
struct Local {
    name: String,
    path: Vec<String>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// An argument of a call: what is known of it.
struct Argument<'e> {
    expr: &'e Expr,
    ty: Type,
    path: Vec<String>,
    size: Option<Range>,
}

struct Coster<'c> {
    checked: &'c Checked,
    sizes: &'c dyn Sizes,
    paths: HashMap<u32, Vec<String>>,
    locals: Vec<Local>,
    known: HashMap<u32, Range>,
    entries: HashMap<u32, Entries>,
}

const NAME_COST: Range = Range::fixed(1);

impl Coster<'_> {
    fn cost(&mut self, expr: &Expr) -> Range {
        match &expr.kind {
            Kind::Literal(_) => Range::fixed(0),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                NAME_COST
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => self.select(expr, operand, field),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List { elements, .. } => self.list(expr, elements),
            Kind::Map(entries) => self.map(expr, entries),
            Kind::Struct { fields, .. } => {
                fields.iter().map(|field| self.cost(&field.value)).fold(Range::fixed(STRUCT_COST), Range::add)
            }
            Kind::Comprehension(fold) if fold.is_bind() => self.bind(expr, fold),
            Kind::Comprehension(fold) => self.fold(expr, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str) -> Range {
        // A variable whose name has dots is one name.
        if matches!(self.checked.reference(expr), Some(Reference::Variable(_))) {
            self.paths.insert(expr.id, crate::parse::qualified(expr).into_iter().collect());
            return NAME_COST;
        }
        let below = self.cost(operand);
        let structured = matches!(self.checked.ty(operand), Type::Map(_) | Type::Object(_));
        let mut path = self.path(operand);
        path.push(field.to_owned());
        self.paths.insert(expr.id, path);
        if structured { below.add(NAME_COST) } else { below }
    }

    fn list(&mut self, expr: &Expr, elements: &[Expr]) -> Range {
        let (mut sum, mut size) = (Range::fixed(LIST_COST), Range::none(elements.is_empty()));
        for element in elements {
            sum = sum.add(self.cost(element));
            size = size.union(self.size_of(element));
        }
        self.entries.insert(expr.id, Entries { list: true, key: Range::fixed(1), value: size });
        sum
    }

    fn map(&mut self, expr: &Expr, entries: &[crate::ast::Entry]) -> Range {
        let none = Range::none(entries.is_empty());
        let (mut sum, mut key, mut value) = (Range::fixed(MAP_COST), none, none);
        for entry in entries {
            sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
            key = key.union(self.size_of(&entry.key));
            value = value.union(self.size_of(&entry.value));
        }
        self.entries.insert(expr.id, Entries { list: false, key, value });
        sum
    }

    fn bind(&mut self, expr: &Expr, fold: &Comprehension) -> Range {
        let sum = self.cost(&fold.range).add(self.cost(&fold.init));
        self.push_bound(&fold.accu, &fold.init);
        let sum = sum.add(self.cost(&fold.result));
        let (size, entries) = (self.maybe_size(&fold.result), self.entries_of(&fold.result));
        self.locals.pop();
        self.remember(expr, size, entries);
        sum
    }

    fn fold(&mut self, expr: &Expr, fold: &Comprehension) -> Range {
        let mut sum = self.cost(&fold.range).add(self.cost(&fold.init));
        let depth = self.locals.len();
        self.push_bound(&fold.accu, &fold.init);
        match &fold.var2 {
            Some(var2) => {
                self.push_iterated(&fold.var, &fold.range, Iterated::Key);
                self.push_iterated(var2, &fold.range, Iterated::Value);
            }
            None => self.push_iterated(&fold.var, &fold.range, Iterated::Single),
        }
        let each = self.cost(&fold.condition).add(self.cost(&fold.step));
        self.locals.truncate(depth + 1);
        sum = sum.add(self.cost(&fold.result));
        self.locals.truncate(depth);
        let count = self.size_of(&fold.range);
        let (size, entries) = match &fold.init.kind {
            Kind::Literal(_) => (self.maybe_size(&fold.init), None),
            Kind::List { .. } | Kind::Map(_) => (Some(count), self.entries_of(&fold.step)),
            _ => (None, None),
        };
        self.remember(expr, size, entries);
        sum.add(count.multiply(each))
    }

    fn push_bound(&mut self, name: &str, value: &Expr) {
        let local = Local {
            name: name.to_owned(),
            path: self.path(value),
            size: self.maybe_size(value),
            entries: self.entries_of(value),
        };
        self.locals.push(local);
    }

    fn push_iterated(&mut self, name: &str, range: &Expr, what: Iterated) {
        let entries = self.entries_of(range);
        let list = entries.map_or_else(|| matches!(self.checked.ty(range), Type::List(_)), |entries| entries.list);
        let (below, value) = match (what, list) {
            (Iterated::Key, true) => ("@indices", false),
            (Iterated::Value | Iterated::Single, true) => ("@items", true),
            (Iterated::Key | Iterated::Single, false) => ("@keys", false),
            (Iterated::Value, false) => ("@values", true),
        };
        let size = entries.map(|entries| if value { entries.value } else { entries.key });
        let mut path = self.path(range);
        path.push(below.to_owned());
        self.locals.push(Local { name: name.to_owned(), path, size, entries: None });
    }

    fn remember(&mut self, expr: &Expr, size: Option<Range>, entries: Option<Entries>) {
        if let Some(size) = size {
            self.known.insert(expr.id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(expr.id, entries);
        }
    }

    fn path(&self, expr: &Expr) -> Vec<String> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }

    fn size_of(&mut self, expr: &Expr) -> Range {
        self.maybe_size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn maybe_size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.known.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = written_size(expr) {
            return Some(size);
        }
        let ty = self.checked.ty(expr);
        if let Some(size) = self.sizes.size(&self.path(expr), ty) {
            self.known.insert(expr.id, size);
            return Some(size);
        }
        if ty.is_scalar() {
            return Some(Range::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn argument<'e>(&mut self, expr: &'e Expr) -> Argument<'e> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|first| first == crate::ast::ACCU) {
            path.clear();
        }
        Argument { expr, ty: self.checked.ty(expr).clone(), path, size: self.maybe_size(expr) }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Range {
        if function == "dyn" && args.len() == 1 {
            let cost = self.cost(&args[0]);
            let (size, entries) = (self.maybe_size(&args[0]), self.entries_of(&args[0]));
            self.remember(expr, size, entries);
            return cost.add(Range::fixed(1));
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let arguments: Vec<Argument<'_>> = args.iter().map(|arg| self.argument(arg)).collect();
        let Some(Reference::Function { name, member, overloads }) = self.checked.reference(expr).cloned() else {
            return Range::fixed(0);
        };
        let target = target.filter(|_| member);
        let before = target.map_or(Range::fixed(0), |target| self.cost(target));
        let target = target.map(|target| self.argument(target));
        let (mut total, mut size): (Option<Range>, Option<Range>) = (None, None);
        for overload in overloads {
            let call = calls::Call { name: &name, declared: &overload.args, target: target.as_ref(), args: &arguments };
            let (cost, result) = self.call_cost(expr, &call, &costs);
            total = Some(total.map_or(cost, |total| total.union(cost)));
            size = match (size, result) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if matches!(&*name, op::INDEX) {
                let list = matches!(overload.args.first(), Some(Type::List(_)));
                let mut path = self.path(&args[0]);
                path.push(if list { "@items" } else { "@values" }.to_owned());
                self.paths.insert(expr.id, path);
                size = self.entries_of(&args[0]).map(|entries| entries.value);
            }
            if size.is_none() {
                size = self.maybe_size(expr);
            }
        }
        self.remember(expr, size, None);
        before.add(total.unwrap_or(Range::fixed(0)))
    }
}

enum Iterated {
    Key,
    Value,
    Single,
}

/// The size of what is written out.
fn written_size(expr: &Expr) -> Option<Range> {
    Some(Range::fixed(match &expr.kind {
        Kind::Literal(Value::String(text)) => chars(text) as u64,
        Kind::Literal(Value::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List { elements, .. } => elements.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    }))
}
