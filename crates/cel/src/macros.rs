//! Macros: calls that become folds before anything is checked.

use crate::ast::{ACCU, Comprehension, Expr, Kind, op};
use crate::issue::Issue;
use crate::parse::Build;
use crate::value::Value;

/// A call, or what it stands for when its name and number of arguments are those of a macro.
pub(crate) fn expand(
    build: &mut Build,
    at: u32,
    name: &str,
    target: Option<Expr>,
    args: Vec<Expr>,
) -> Result<Expr, Issue> {
    match (target, name, args.len()) {
        (None, "has", 1) => has(build, args),
        (Some(target), "all" | "exists" | "exists_one", 2 | 3) | (Some(target), "existsOne", 3) => {
            quantifier(build, at, name, target, args)
        }
        (Some(target), "filter", 2) => filter(build, at, target, args),
        (Some(target), "map", 2 | 3) | (Some(target), "transformList", 3 | 4) => {
            let vars = if name == "map" { 1 } else { 2 };
            transform_list(build, at, target, args, vars)
        }
        (Some(target), "transformMap", 3 | 4) => transform_map(build, at, target, args, true),
        (Some(target), "transformMapEntry", 3 | 4) => transform_map(build, at, target, args, false),
        (Some(target), "optMap" | "optFlatMap", 2) => opt_map(build, at, name, target, args),
        (Some(target), "sortBy", 2) => sort_by(build, at, target, args),
        (target, _, _) => build.node(at, Kind::Call { function: name.to_owned(), target: target.map(Box::new), args }),
    }
}

fn has(build: &mut Build, mut args: Vec<Expr>) -> Result<Expr, Issue> {
    let arg = args.remove(0);
    match arg.kind {
        Kind::Select { operand, field, test: false } => build.node(arg.at, Kind::Select { operand, field, test: true }),
        _ => Err(Issue::new(arg.at, "invalid argument to has() macro")),
    }
}

/// Names of the variables of a fold: the first arguments, which must be plain names.
fn variables(args: &mut Vec<Expr>, count: usize) -> Result<(String, Option<String>), Issue> {
    let mut names: Vec<String> = Vec::new();
    for arg in args.drain(..count) {
        let name = match arg.kind {
            Kind::Ident(name) if !name.starts_with('.') => name,
            _ if count == 2 => return Err(Issue::new(arg.at, "argument must be a simple name")),
            _ => return Err(Issue::new(arg.at, "argument must be a simple name")),
        };
        if name == ACCU || name == "__result__" {
            return Err(Issue::new(arg.at, "iteration variable overwrites accumulator variable"));
        }
        if names.contains(&name) {
            return Err(Issue::new(arg.at, format!("duplicate variable name: {name}")));
        }
        names.push(name);
    }
    let mut names = names.into_iter();
    Ok((names.next().unwrap_or_default(), names.next()))
}

/// What a fold starts with, when it goes on, and how.
struct Fold {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

fn fold(
    build: &mut Build,
    at: u32,
    (var, var2): (String, Option<String>),
    range: Expr,
    fold: Fold,
) -> Result<Expr, Issue> {
    let Fold { init, condition, step, result } = fold;
    let accu = ACCU.to_owned();
    let comprehension = Comprehension { var, var2, range, accu, init, condition, step, result };
    build.node(at, Kind::Comprehension(Box::new(comprehension)))
}

fn quantifier(build: &mut Build, at: u32, name: &str, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Issue> {
    let vars = args.len() - 1;
    let vars = variables(&mut args, vars)?;
    let predicate = args.remove(0);
    let accu = build.accu(at)?;
    let body = match name {
        "all" => Fold {
            init: build.literal(at, Value::Bool(true))?,
            condition: build.call(at, op::NOT_STRICTLY_FALSE, vec![accu])?,
            step: {
                let accu = build.accu(at)?;
                build.call(at, op::AND, vec![accu, predicate])?
            },
            result: build.accu(at)?,
        },
        "exists" => Fold {
            init: build.literal(at, Value::Bool(false))?,
            condition: {
                let not = build.call(at, op::NOT, vec![accu])?;
                build.call(at, op::NOT_STRICTLY_FALSE, vec![not])?
            },
            step: {
                let accu = build.accu(at)?;
                build.call(at, op::OR, vec![accu, predicate])?
            },
            result: build.accu(at)?,
        },
        _ => Fold {
            init: build.literal(at, Value::Int(0))?,
            condition: build.literal(at, Value::Bool(true))?,
            step: {
                let one = build.literal(at, Value::Int(1))?;
                let more = build.call(at, op::ADD, vec![accu, one])?;
                let accu = build.accu(at)?;
                build.call(at, op::CONDITIONAL, vec![predicate, more, accu])?
            },
            result: {
                let (accu, one) = (build.accu(at)?, build.literal(at, Value::Int(1))?);
                build.call(at, op::EQUALS, vec![accu, one])?
            },
        },
    };
    fold(build, at, vars, target, body)
}

/// `accu + [element]`, under a condition where there is one.
fn append(build: &mut Build, at: u32, element: Expr, filter: Option<Expr>) -> Result<Fold, Issue> {
    let (accu, list) = (build.accu(at)?, build.list(at, vec![element])?);
    let step = build.call(at, op::ADD, vec![accu, list])?;
    let init = build.list(at, Vec::new())?;
    gather(build, at, init, step, filter)
}

fn gather(build: &mut Build, at: u32, init: Expr, step: Expr, filter: Option<Expr>) -> Result<Fold, Issue> {
    let step = match filter {
        Some(filter) => {
            let accu = build.accu(at)?;
            build.call(at, op::CONDITIONAL, vec![filter, step, accu])?
        }
        None => step,
    };
    Ok(Fold { init, condition: build.literal(at, Value::Bool(true))?, step, result: build.accu(at)? })
}

fn filter(build: &mut Build, at: u32, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Issue> {
    let (var, none) = variables(&mut args, 1)?;
    let element = build.ident(at, &var)?;
    let body = append(build, at, element, Some(args.remove(0)))?;
    fold(build, at, (var, none), target, body)
}

fn transform_list(build: &mut Build, at: u32, target: Expr, mut args: Vec<Expr>, count: usize) -> Result<Expr, Issue> {
    let vars = variables(&mut args, count)?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    let body = append(build, at, args.remove(0), filter)?;
    fold(build, at, vars, target, body)
}

fn transform_map(build: &mut Build, at: u32, target: Expr, mut args: Vec<Expr>, keyed: bool) -> Result<Expr, Issue> {
    let vars = variables(&mut args, 2)?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    let mut operands = vec![build.accu(at)?];
    if keyed {
        operands.push(build.ident(at, &vars.0)?);
    }
    operands.push(args.remove(0));
    let step = build.call(at, op::MAP_INSERT, operands)?;
    let init = build.node(at, Kind::Map(Vec::new()))?;
    let body = gather(build, at, init, step, filter)?;
    fold(build, at, vars, target, body)
}

/// A fold over nothing that gives a value a name.
fn bind(build: &mut Build, at: u32, name: String, value: Expr, result: Expr) -> Result<Expr, Issue> {
    let comprehension = Comprehension {
        var: "#unused".to_owned(),
        var2: None,
        range: build.list(at, Vec::new())?,
        init: value,
        condition: build.literal(at, Value::Bool(false))?,
        step: build.ident(at, &name)?,
        accu: name,
        result,
    };
    build.node(at, Kind::Comprehension(Box::new(comprehension)))
}

fn opt_map(build: &mut Build, at: u32, name: &str, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Issue> {
    let var = match &args[0].kind {
        Kind::Ident(var) => var.clone(),
        _ => return Err(Issue::new(args[0].at, format!("{name}() variable name must be a simple identifier"))),
    };
    let copied = build.copy(&target)?;
    let present = build.member_call(at, "hasValue", target, Vec::new())?;
    let value = build.member_call(at, "value", copied, Vec::new())?;
    let mut mapped = bind(build, at, var, value, args.remove(1))?;
    if name == "optMap" {
        mapped = build.call(at, "optional.of", vec![mapped])?;
    }
    let none = build.call(at, "optional.none", Vec::new())?;
    build.call(at, op::CONDITIONAL, vec![present, mapped, none])
}

/// Sorts a list by what an expression says of each element.
fn sort_by(build: &mut Build, at: u32, target: Expr, args: Vec<Expr>) -> Result<Expr, Issue> {
    let var = "@__sortBy_input__";
    let range = build.ident(at, var)?;
    let keys = transform_list(build, at, range, args, 1)?;
    let list = build.ident(at, var)?;
    let sorted = build.member_call(at, op::SORT_BY_KEYS, list, vec![keys])?;
    bind(build, at, var.to_owned(), target, sorted)
}
