//! What upstream's CEL says of expressions (`tools/celgen` asks it), and what this one says.

use cel::{Env, Fault, NoSizes, Program, Range, Type, Value};
use serde_json::Value as Json;

fn env() -> Env {
    Env::default()
        .variable("object", Type::Dyn)
        .variable("text", Type::String)
        .variable("texts", Type::list(Type::String))
}

/// What is found to differ.
fn differences(golden: &Json, vars: &[Value<'_>]) -> Vec<String> {
    let text = |field: &str| golden[field].as_str().unwrap_or_default();
    let mut all = Vec::new();
    let mut check = |what: &str, here: &str, upstream: &str| {
        if here != upstream {
            all.push(format!("{what} of {}:\n    here     {here}\n    upstream {upstream}", golden["e"]));
        }
    };
    let program = match Program::compile(text("e"), &env()) {
        Ok(program) => program,
        Err(issues) => {
            check("issues", &issues.to_string(), text("issues"));
            return all;
        }
    };
    if !text("issues").is_empty() {
        check("issues", "", text("issues"));
        return all;
    }
    let cost = Program::estimate(text("e"), &env(), &NoSizes).map_err(|issues| issues.to_string());
    let max = golden["max"].as_u64().unwrap_or(u64::MAX);
    check(
        "estimate",
        &format!("{cost:?}"),
        &format!("Ok({:?})", Range { min: golden["min"].as_u64().unwrap_or(0), max }),
    );
    check("type", &program.result().runtime_name(), text("type"));
    let evaluated = program.evaluate(&vars, Program::COST_MAX);
    match &evaluated.result {
        // Of values that have no text upstream, only the type is recorded.
        Ok(value) if text("value").starts_with("kubernetes.") => check("value", value.type_name(), text("value")),
        Ok(value) => check("value", &value.to_string(), text("value")),
        Err(Fault::CostLimit) => check("fault", "cost limit", text("fault")),
        Err(fault) => check("fault", &fault.to_string(), text("fault")),
    }
    if evaluated.result.is_ok() {
        check("cost", &evaluated.cost.to_string(), &golden["cost"].to_string());
    }
    all
}

#[test]
fn as_upstream() {
    let object: Json = serde_json::from_str(include_str!("../testdata/object.json")).unwrap();
    let list = ["a", "bb", "ccc"].map(Value::string).to_vec();
    let vars = [Value::json(&object), Value::string("some text"), Value::list(list)];
    let mut all = Vec::new();
    let mut count = 0;
    for line in include_str!("../testdata/golden.jsonl").lines() {
        all.extend(differences(&serde_json::from_str(line).unwrap(), &vars));
        count += 1;
    }
    assert!(all.is_empty(), "{} differences in {count} expressions:\n{}", all.len(), all.join("\n"));
}
