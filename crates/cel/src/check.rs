//! The static type checker: what every node means and what type it has.

use crate::ast::{Comprehension, Expr, Kind, op};
use crate::declare::{Overload, overloads};
use crate::env::Env;
use crate::issue::{Issue, Issues};
use crate::parse::{Parsed, qualified};
use crate::types::Type;
use crate::value::Value;

/// What a name or call stands for.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    /// A variable of the environment.
    Variable(usize),
    /// A variable of a fold.
    Local,
    /// A type by its name.
    TypeName(Type),
    /// A function by its full name, and the overloads that fit.
    Function { name: String, member: bool, overloads: Vec<&'static Overload> },
}

/// An expression with what the checker found out.
pub(crate) struct Checked {
    pub(crate) root: Expr,
    types: Vec<Type>,
    references: Vec<Option<Reference>>,
}

impl Checked {
    pub(crate) fn ty(&self, expr: &Expr) -> &Type {
        &self.types[expr.id as usize]
    }

    /// The variables that the expression refers to, by index.
    pub(crate) fn variables(&self) -> Vec<usize> {
        let mut all: Vec<usize> = self
            .references
            .iter()
            .flatten()
            .filter_map(|reference| match reference {
                Reference::Variable(index) => Some(*index),
                _ => None,
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn reference(&self, expr: &Expr) -> Option<&Reference> {
        self.references[expr.id as usize].as_ref()
    }
}

/// Issues reported at most.
const ISSUES_MAX: usize = 100;

/// Checks an expression.
pub(crate) fn check(source: &str, parsed: Parsed, env: &Env) -> Result<Checked, Issues> {
    let Parsed { root, nodes } = parsed;
    let mut checker = Checker {
        env,
        scopes: Vec::new(),
        params: Vec::new(),
        types: vec![Type::Dyn; nodes],
        references: vec![None; nodes],
        issues: Vec::new(),
        formatting: 0,
    };
    checker.expr(&root);
    if !checker.issues.is_empty() {
        return Err(Issues::new(source, checker.issues));
    }
    let types = checker.types.iter().map(|ty| checker.final_type(ty)).collect();
    Ok(Checked { root, types, references: checker.references })
}

struct Checker<'e> {
    env: &'e Env,
    /// Variables of the folds around.
    scopes: Vec<(String, Type)>,
    /// What the type parameters made so far stand for.
    params: Vec<Option<Type>>,
    types: Vec<Type>,
    references: Vec<Option<Reference>>,
    issues: Vec<Issue>,
    /// Within the arguments of `format`, where elements may differ in type.
    formatting: u16,
}

impl Checker<'_> {
    fn report(&mut self, at: u32, message: String) -> Type {
        if self.issues.len() < ISSUES_MAX {
            self.issues.push(Issue::new(at, message));
        }
        Type::Error
    }

    fn expr(&mut self, expr: &Expr) -> Type {
        let ty = match &expr.kind {
            Kind::Literal(value) => literal(value),
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List { elements, optional } => {
                let ty = self.gather(elements.iter().zip(optional.iter().copied()));
                Type::list(ty)
            }
            Kind::Map(entries) => {
                let key = self.gather(entries.iter().map(|entry| (&entry.key, false)));
                // A container is no key; its type is not kept, so that types do not double with each level.
                let key = if matches!(key, Type::List(_) | Type::Map(_)) { Type::Dyn } else { key };
                let value = self.gather(entries.iter().map(|entry| (&entry.value, entry.optional)));
                Type::map(key, value)
            }
            Kind::Struct { name, fields } => self.structure(expr, name, fields),
            Kind::Comprehension(fold) => self.fold(fold),
        };
        self.types[expr.id as usize] = ty.clone();
        ty
    }

    fn ident(&mut self, expr: &Expr, name: &str) -> Type {
        match self.lookup(name) {
            Some((reference, ty)) => {
                self.references[expr.id as usize] = Some(reference);
                ty
            }
            None => {
                let name = name.trim_start_matches('.');
                self.report(expr.at, format!("undeclared reference to '{name}' (in container '')"))
            }
        }
    }

    fn lookup(&self, name: &str) -> Option<(Reference, Type)> {
        let global = name.strip_prefix('.');
        if global.is_none()
            && let Some((_, ty)) = self.scopes.iter().rev().find(|(known, _)| known == name)
        {
            return Some((Reference::Local, ty.clone()));
        }
        let name = global.unwrap_or(name);
        if let Some((index, ty)) = self.env.declared(name) {
            return Some((Reference::Variable(index), ty.clone()));
        }
        let ty = type_named(name)?;
        Some((Reference::TypeName(ty.clone()), Type::Type(ty.into())))
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        if !test && let Some((reference, ty)) = qualified(expr).and_then(|name| self.dotted(&name)) {
            self.references[expr.id as usize] = Some(reference);
            return ty;
        }
        let of = self.expr(operand);
        let ty = self.field_type(expr.at, &of, field);
        if test { Type::Bool } else { ty }
    }

    /// A variable whose name has dots.
    fn dotted(&self, name: &str) -> Option<(Reference, Type)> {
        let first = name.split('.').next().unwrap_or_default();
        if self.scopes.iter().any(|(known, _)| known == first) {
            return None;
        }
        let (index, ty) = self.env.declared(name.strip_prefix('.').unwrap_or(name))?;
        Some((Reference::Variable(index), ty.clone()))
    }

    fn field_type(&mut self, at: u32, of: &Type, field: &str) -> Type {
        match self.resolve(of) {
            Type::Dyn | Type::Param(_) => Type::Dyn,
            Type::Error => Type::Error,
            Type::Map(of) => of.1.clone(),
            Type::Object(name) => match self.env.structs().field(&name, field) {
                Some(ty) => ty,
                None => self.report(at, format!("undefined field '{field}'")),
            },
            Type::Optional(inner) => {
                let ty = self.field_type(at, &inner, field);
                wrap(ty)
            }
            other => {
                let other = self.final_type(&other);
                self.report(at, format!("type '{other}' does not support field selection"))
            }
        }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        if function == op::OPTIONAL_SELECT {
            return self.optional_select(expr, args);
        }
        if let Some(target) = target {
            let full = qualified(target).map(|prefix| format!("{}.{function}", prefix.trim_start_matches('.')));
            if let Some(full) = full.filter(|full| self.is_function(full, target)) {
                let types: Vec<Type> = args.iter().map(|arg| self.expr(arg)).collect();
                return self.resolve_call(expr, &full, false, &types);
            }
            let mut types = vec![self.expr(target)];
            self.formatting += u16::from(function == "format");
            types.extend(args.iter().map(|arg| self.expr(arg)));
            self.formatting -= u16::from(function == "format");
            return self.resolve_call(expr, function, true, &types);
        }
        let types: Vec<Type> = args.iter().map(|arg| self.expr(arg)).collect();
        if matches!(function, op::AND | op::OR) {
            args.iter().zip(&types).for_each(|(arg, ty)| self.require(arg.at, &Type::Bool, ty));
            let types = vec![Type::Bool; types.len()];
            return self.resolve_call(expr, function, false, &types);
        }
        self.resolve_call(expr, function.trim_start_matches('.'), false, &types)
    }

    /// Whether `a.b` is one function's name and `a` no variable.
    fn is_function(&self, full: &str, target: &Expr) -> bool {
        let first = full.split('.').next().unwrap_or_default();
        let shadowed = matches!(&target.kind, Kind::Ident(_)) && self.scopes.iter().any(|(known, _)| known == first);
        !shadowed && overloads(full).is_some_and(|all| all.iter().any(|overload| !overload.member))
    }

    fn optional_select(&mut self, expr: &Expr, args: &[Expr]) -> Type {
        let of = self.expr(&args[0]);
        self.expr(&args[1]);
        let Kind::Literal(Value::String(field)) = &args[1].kind else { return Type::Error };
        self.references[expr.id as usize] = Some(Reference::Function {
            name: op::OPTIONAL_SELECT.to_owned(),
            member: false,
            overloads: overloads(op::OPTIONAL_SELECT).unwrap_or_default().iter().collect(),
        });
        let ty = self.field_type(expr.at, &of, field);
        wrap(ty)
    }

    fn resolve_call(&mut self, expr: &Expr, name: &str, member: bool, args: &[Type]) -> Type {
        let Some(all) = overloads(name) else {
            return self.report(expr.at, format!("undeclared reference to '{name}' (in container '')"));
        };
        let (mut fitting, mut result) = (Vec::new(), None);
        for overload in all.iter().filter(|o| o.member == member && o.args.len() == args.len()) {
            let before = self.params.clone();
            let base = self.params.len() as u32;
            self.params.extend((0..overload.params).map(|_| None));
            let fits = overload.args.iter().zip(args).all(|(to, from)| self.assign(&shift(to, base), from));
            if !fits {
                self.params = before;
                continue;
            }
            fitting.push(overload);
            let ty = self.substitute(&shift(&overload.result, base), 0);
            result = match result {
                None => Some(ty),
                Some(known) if known == ty => Some(known),
                Some(_) => Some(Type::Dyn),
            };
        }
        let Some(result) = result else {
            return self.no_overload(expr.at, name, member, args);
        };
        let name = name.to_owned();
        self.references[expr.id as usize] = Some(Reference::Function { name, member, overloads: fitting });
        result
    }

    fn no_overload(&mut self, at: u32, name: &str, member: bool, args: &[Type]) -> Type {
        if args.contains(&Type::Error) {
            return Type::Error;
        }
        let shown: Vec<String> = args.iter().map(|ty| self.final_type(ty).to_string()).collect();
        let signature = match shown.split_first() {
            Some((target, rest)) if member => format!("{target}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.report(at, format!("found no matching overload for '{name}' applied to '{signature}'"))
    }

    /// The common type of elements; different ones are an error.
    fn gather<'x>(&mut self, elements: impl Iterator<Item = (&'x Expr, bool)>) -> Type {
        let mut common: Option<Type> = None;
        for (element, optional) in elements {
            let mut ty = self.expr(element);
            if optional {
                ty = match self.resolve(&ty) {
                    Type::Optional(inner) => (*inner).clone(),
                    Type::Dyn | Type::Error => Type::Dyn,
                    other => {
                        let found = self.final_type(&other);
                        self.report(element.at, format!("expected type 'optional_type({found})' but found '{found}'"))
                    }
                };
            }
            common = Some(match common {
                None => ty,
                Some(known) => self.join(element.at, known, &ty),
            });
        }
        common.unwrap_or_else(|| self.fresh())
    }

    fn join(&mut self, at: u32, known: Type, ty: &Type) -> Type {
        if self.assign(&known, ty) {
            return if self.resolve(ty).is_dyn() { Type::Dyn } else { known };
        }
        if self.formatting > 0 {
            return Type::Dyn;
        }
        let (known, ty) = (self.final_type(&known), self.final_type(ty));
        self.report(at, format!("expected type '{known}' but found '{ty}'"));
        Type::Dyn
    }

    fn structure(&mut self, expr: &Expr, name: &str, fields: &[crate::ast::Field]) -> Type {
        let name = name.trim_start_matches('.');
        if !self.env.structs().is_object(name) {
            fields.iter().for_each(|field| drop(self.expr(&field.value)));
            return self.report(expr.at, format!("undeclared reference to '{name}' (in container '')"));
        }
        for field in fields {
            let mut ty = self.expr(&field.value);
            if field.optional
                && let Type::Optional(inner) = self.resolve(&ty)
            {
                ty = (*inner).clone();
            }
            match self.env.structs().field(name, &field.name) {
                None => drop(self.report(field.at, format!("undefined field '{}'", field.name))),
                Some(expected) if !self.assign(&expected, &ty) => {
                    let (expected, ty) = (self.final_type(&expected), self.final_type(&ty));
                    let what =
                        format!("expected type of field '{}' is '{expected}' but provided type is '{ty}'", field.name);
                    self.report(field.at, what);
                }
                Some(_) => {}
            }
        }
        Type::object(name)
    }

    fn fold(&mut self, fold: &Comprehension) -> Type {
        let range = self.expr(&fold.range);
        let init = self.expr(&fold.init);
        let (first, second) = match self.resolve(&range) {
            Type::List(element) if fold.var2.is_some() => (Type::Int, (*element).clone()),
            Type::List(element) => ((*element).clone(), Type::Dyn),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => (Type::Dyn, Type::Dyn),
            other => {
                let shown = self.final_type(&other);
                let what = format!(
                    "expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                (self.report(fold.range.at, what), Type::Error)
            }
        };
        let depth = self.scopes.len();
        self.scopes.push((fold.accu.clone(), init.clone()));
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let condition = self.expr(&fold.condition);
        self.require(fold.condition.at, &Type::Bool, &condition);
        let step = self.expr(&fold.step);
        self.require(fold.step.at, &init, &step);
        self.scopes.truncate(depth + 1);
        let result = self.expr(&fold.result);
        self.scopes.truncate(depth);
        self.substitute(&result, 0)
    }

    fn require(&mut self, at: u32, expected: &Type, ty: &Type) {
        if !self.assign(expected, ty) {
            let (expected, ty) = (self.final_type(expected), self.final_type(ty));
            self.report(at, format!("expected type '{expected}' but found '{ty}'"));
        }
    }

    fn fresh(&mut self) -> Type {
        self.params.push(None);
        Type::Param(self.params.len() as u32 - 1)
    }

    /// What a parameter stands for, at the top.
    fn resolve(&self, ty: &Type) -> Type {
        let mut ty = ty;
        while let Type::Param(n) = ty {
            match &self.params[*n as usize] {
                Some(bound) => ty = bound,
                None => break,
            }
        }
        ty.clone()
    }

    /// The type with all that is known put in. Types nest as deep as expressions do; what is deeper is `dyn`.
    fn substitute(&self, ty: &Type, depth: u16) -> Type {
        if depth > 64 {
            return Type::Dyn;
        }
        match self.resolve(ty) {
            Type::List(inner) => Type::list(self.substitute(&inner, depth + 1)),
            Type::Optional(inner) => Type::optional(self.substitute(&inner, depth + 1)),
            Type::Type(inner) => Type::Type(self.substitute(&inner, depth + 1).into()),
            Type::Map(of) => Type::map(self.substitute(&of.0, depth + 1), self.substitute(&of.1, depth + 1)),
            other => other,
        }
    }

    /// Likewise, and what stays open is `dyn`.
    fn final_type(&self, ty: &Type) -> Type {
        close(self.substitute(ty, 0))
    }

    /// Whether a value of type `from` may stand where `to` is expected; binds parameters.
    fn assign(&mut self, to: &Type, from: &Type) -> bool {
        match (self.resolve(to), self.resolve(from)) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (Type::Param(n), other) | (other, Type::Param(n)) => {
                if self.occurs(n, &other, 0) {
                    return false;
                }
                self.params[n as usize] = Some(other);
                true
            }
            (a, b) if a.is_dyn() || b.is_dyn() => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assign(&a, &b),
            (Type::Map(a), Type::Map(b)) => self.assign(&a.0, &b.0) && self.assign(&a.1, &b.1),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::Null, other) | (other, Type::Null) => {
                matches!(other, Type::Null | Type::Object(_) | Type::Timestamp | Type::Duration)
            }
            (a, b) => a == b,
        }
    }

    /// Whether a parameter is part of a type, which then cannot stand for it.
    fn occurs(&self, n: u32, ty: &Type, depth: u16) -> bool {
        match self.resolve(ty) {
            _ if depth > 64 => true,
            Type::Param(other) => other == n,
            Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => self.occurs(n, &inner, depth + 1),
            Type::Map(of) => self.occurs(n, &of.0, depth + 1) || self.occurs(n, &of.1, depth + 1),
            _ => false,
        }
    }
}

fn wrap(ty: Type) -> Type {
    match ty {
        Type::Optional(_) | Type::Error => ty,
        ty => Type::optional(ty),
    }
}

/// Parameters of a declaration, numbered as those of this expression.
fn shift(ty: &Type, base: u32) -> Type {
    match ty {
        Type::Param(n) => Type::Param(n + base),
        Type::List(inner) => Type::list(shift(inner, base)),
        Type::Optional(inner) => Type::optional(shift(inner, base)),
        Type::Type(inner) => Type::Type(shift(inner, base).into()),
        Type::Map(of) => Type::map(shift(&of.0, base), shift(&of.1, base)),
        other => other.clone(),
    }
}

fn close(ty: Type) -> Type {
    match ty {
        Type::Param(_) => Type::Dyn,
        Type::List(inner) => Type::list(close((*inner).clone())),
        Type::Optional(inner) => Type::optional(close((*inner).clone())),
        Type::Type(inner) => Type::Type(close((*inner).clone()).into()),
        Type::Map(of) => Type::map(close(of.0.clone()), close(of.1.clone())),
        other => other,
    }
}

fn literal(value: &Value<'_>) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        _ => Type::Dyn,
    }
}

fn type_named(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "type" => Type::Type(Type::Dyn.into()),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "kubernetes.Quantity" => Type::Opaque("kubernetes.Quantity"),
        "kubernetes.URL" => Type::Opaque("kubernetes.URL"),
        "kubernetes.Semver" => Type::Opaque("kubernetes.Semver"),
        _ => return None,
    })
}

/// The name by which a type is known while evaluating.
pub(crate) fn type_value(ty: &Type) -> String {
    match ty {
        Type::List(_) => "list".to_owned(),
        Type::Map(_) => "map".to_owned(),
        Type::Optional(_) => "optional_type".to_owned(),
        Type::Type(_) => "type".to_owned(),
        other => other.runtime_name(),
    }
}
