//! Whatever an expression is, it ends: with a value, a fault or a complaint, within bounds, and never with a crash.

use cel::{Env, Fault, Program, Type, Value};
use proptest::prelude::*;
use serde_json::json;
use std::time::{Duration, Instant};

fn env() -> Env {
    Env::default().variable("object", Type::Dyn).variable("text", Type::String)
}

/// Compiles and evaluates; true when it compiles.
fn run(source: &str) -> bool {
    let object = json!({"a": [1, 2, {"b": "c"}], "m": {"x": null, "y": 1.5}, "t": "2026-01-01T00:00:00Z"});
    let vars = [Value::json(&object), Value::string("héllo")];
    match Program::compile(source, &env()) {
        Ok(program) => {
            let evaluated = program.evaluate(&vars.as_slice(), Program::COST_MAX);
            if let Ok(value) = &evaluated.result {
                let _ = (value.to_json(), value.to_string());
            }
            true
        }
        Err(issues) => {
            assert!(!issues.to_string().is_empty());
            false
        }
    }
}

#[test]
fn deep_and_long() {
    let many = |part: &str, n: usize| part.repeat(n);
    for source in [
        many("(", 10_000),
        many("[", 10_000) + &many("]", 10_000),
        many("-", 50_000) + "1",
        many("!", 50_001) + "true",
        many("{1:", 10_000),
        "1".to_owned() + &many("+1", 40_000),
        "true".to_owned() + &many("&&true", 10_000),
        "object".to_owned() + &many(".a", 40_000),
        "object".to_owned() + &many("[0]", 20_000),
        "true".to_owned() + &many("?true:true", 5_000),
        "text".to_owned() + &many(".trim()", 10_000),
        "x".repeat(200_000),
        "\"".to_owned() + &many("\\u00e9", 10_000) + "\"",
        "[1]".to_owned() + &many(".map(x, [x])", 200),
        "optional.of(1)".to_owned() + &many(".optMap(x, [x])", 40),
        "optional.of([1])".to_owned() + &many(".optMap(x, x + x)", 14),
        "optional.of({'a': 1})".to_owned() + &many(".optMap(x, {'a': x, 'b': x})", 14),
    ] {
        let source = &source;
        // Less stack than any thread of the program has.
        std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(2 << 20);
            small.spawn_scoped(scope, || run(source)).unwrap().join().unwrap();
        });
    }
}

#[test]
fn what_costs_too_much_is_cut() {
    let start = Instant::now();
    for source in [
        "lists.range(1000).map(x, lists.range(1000).map(y, x * y)).size()",
        "lists.range(1000000).map(x, x).size()",
        "lists.range(100000).distinct()",
        "lists.range(3000).map(x, lists.range(3000)).flatten().sort()",
        "lists.range(10000).all(x, lists.range(10000) == lists.range(10000))",
        "[1,2,3,4,5,6,7,8].map(a, [1,2,3,4,5,6,7,8].map(b, [1,2,3,4,5,6,7,8].map(c, [1,2,3,4,5,6,7,8].map(d, [1,2,3,4,5,6,7,8].map(e, [1,2,3,4,5,6,7,8].map(f, a))))))",
    ] {
        let program = Program::compile(source, &env()).unwrap_or_else(|issues| panic!("{issues}"));
        let vars = [Value::Null, Value::string("")];
        let evaluated = program.evaluate(&vars.as_slice(), Program::COST_MAX);
        assert_eq!(evaluated.result.unwrap_err(), Fault::CostLimit, "{source}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// Pieces of expressions, put together at random.
fn piece() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "object",
        "text",
        ".a",
        ".m",
        ".x",
        "[0]",
        "['x']",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "1",
        "2u",
        "1.5",
        "'s'",
        "b'x'",
        "true",
        "null",
        "+",
        "-",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">=",
        "&&",
        "||",
        "!",
        " in ",
        ".all(x, ",
        ".map(x, ",
        ".exists(x, x",
        "has(",
        "size(",
        ".size()",
        "int(",
        "string(",
        "timestamp(",
        "duration(",
        ".matches(",
        ".?a",
        "[?0]",
        "optional.of(",
        ".orValue(",
        ".split(",
        ".format([",
        "quantity(",
        "cidr(",
        "x",
        "Object{",
        "a:",
        ".transformMap(k, v, ",
        "\u{e9}",
        "\"",
        "\\",
    ]);
    prop::collection::vec(words, 1..24).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text(source in ".{0,60}") {
        run(&source);
    }

    #[test]
    fn any_pieces(source in piece()) {
        run(&source);
    }
}
