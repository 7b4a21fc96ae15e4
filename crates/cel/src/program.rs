//! Compiled expressions.

use crate::check::check;
use crate::env::Env;
use crate::estimate::{Range, Sizes, estimate};
use crate::eval::{Activation, evaluate};
use crate::fault::Fault;
use crate::issue::Issues;
use crate::parse::parse;
use crate::plan::{Node, plan};
use crate::types::Type;
use crate::value::Value;

/// An expression that is ready to be evaluated, any number of times, by any thread.
#[derive(Debug)]
pub struct Program {
    root: Node,
    result: Type,
    variables: Vec<usize>,
}

/// What an evaluation gave, and what it cost.
#[derive(Debug)]
pub struct Evaluated<'a> {
    /// The value, or why there is none.
    pub result: Result<Value<'a>, Fault>,
    /// The cost, whatever the result.
    pub cost: u64,
}

impl Program {
    /// What one evaluation may cost, unless less is left of some budget.
    pub const COST_MAX: u64 = 1_000_000;

    /// Compiles an expression.
    pub fn compile(source: &str, env: &Env) -> Result<Program, Issues> {
        let checked = check(source, parse(source)?, env)?;
        let root = plan(source, &checked)?;
        let (result, variables) = (checked.ty(&checked.root).clone(), checked.variables());
        Ok(Program { root, result, variables })
    }

    /// What one evaluation may cost, by what is known of the sizes of values.
    pub fn estimate(source: &str, env: &Env, sizes: &dyn Sizes) -> Result<Range, Issues> {
        Ok(estimate(&check(source, parse(source)?, env)?, sizes))
    }

    /// Whether the expression refers to the variable of this index in its environment.
    pub fn uses(&self, variable: usize) -> bool {
        self.variables.contains(&variable)
    }

    /// The type of the result.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Evaluates, for at most so much.
    pub fn evaluate<'a>(&'a self, activation: &dyn Activation<'a>, limit: u64) -> Evaluated<'a> {
        let (result, cost) = evaluate(&self.root, activation, limit);
        Evaluated { result, cost }
    }
}
