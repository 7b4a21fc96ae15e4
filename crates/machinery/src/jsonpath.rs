//! JSONPath as printer columns, selectable fields and scale paths of custom resources write it: `.spec.ports[0].name`,
//! `.status.conditions[?(@.type=="Ready")].status`, `.metadata.annotations.example\.com/x`, `['a','b']`, `[*]`, `..name`.

use serde_json::Value;

/// Steps of one path at most.
const STEPS_MAX: usize = 64;
/// Values looked at in one search at most.
const VISITED_MAX: usize = 100_000;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Box<[Step]>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(Box<str>),
    /// One of several names.
    Union(Box<[Box<str>]>),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// The value itself and all below it.
    Recursive,
    Filter(Box<Filter>),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    path: JsonPath,
    /// None: there only has to be a value.
    comparison: Option<(Operator, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path without its braces; what is wrong when it is none.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let mut parser = Parser { text, at: 0 };
        let steps = parser.steps()?;
        if parser.at < text.len() {
            return Err(format!("unexpected {:?} in the path {text:?}", &text[parser.at..]));
        }
        Ok(JsonPath(steps.into()))
    }

    /// The values it leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.apply(value, &mut next);
                if next.len() > VISITED_MAX {
                    break;
                }
            }
            found = next;
        }
        found
    }

    /// The first value it leads to.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.find(value).first().copied()
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) {
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => out.extend(map.get(&**name)),
            (Step::Union(names), Value::Object(map)) => out.extend(names.iter().filter_map(|name| map.get(&**name))),
            (Step::Index(index), Value::Array(list)) => {
                out.extend(resolve(*index, list.len()).and_then(|at| list.get(at)))
            }
            (Step::Slice(from, to), Value::Array(list)) => {
                let bound = |bound: &Option<i64>, open: usize| {
                    bound.map_or(open, |n| resolve(n, list.len()).unwrap_or(0).min(list.len()))
                };
                let (from, to) = (bound(from, 0), bound(to, list.len()));
                out.extend(list.iter().take(to).skip(from));
            }
            (Step::All, Value::Array(list)) => out.extend(list),
            (Step::All, Value::Object(map)) => out.extend(map.values()),
            (Step::Recursive, _) => descend(value, out),
            (Step::Filter(filter), Value::Array(list)) => out.extend(list.iter().filter(|item| filter.holds(item))),
            _ => {}
        }
    }
}

fn resolve(index: i64, len: usize) -> Option<usize> {
    let len = i64::try_from(len).ok()?;
    usize::try_from(if index < 0 { index + len } else { index }).ok()
}

fn descend<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() > VISITED_MAX {
        return;
    }
    out.push(value);
    match value {
        Value::Array(list) => list.iter().for_each(|item| descend(item, out)),
        Value::Object(map) => map.values().for_each(|item| descend(item, out)),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let found = self.path.first(item);
        let Some((operator, wanted)) = &self.comparison else { return found.is_some() };
        let Some(found) = found else { return false };
        let order = match (found, wanted) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (a, b) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        };
        let Some(order) = order else { return *operator == Operator::NotEqual };
        match operator {
            Operator::Equal => order.is_eq(),
            Operator::NotEqual => order.is_ne(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        if !self.rest().starts_with(['.', '[', '$', '@']) {
            return Err(format!("the path {:?} does not begin with a dot", self.text));
        }
        let _ = self.eat("$") || self.eat("@");
        loop {
            if steps.len() > STEPS_MAX {
                return Err(format!("the path {:?} has too many steps", self.text));
            }
            if self.eat("..") {
                steps.push(Step::Recursive);
                if !self.rest().starts_with('[') {
                    steps.push(self.named());
                }
            } else if self.eat(".") {
                // A dot alone is the value itself, and one before brackets says nothing.
                if !(self.rest().is_empty() || self.rest().starts_with('[')) {
                    steps.push(self.named());
                }
            } else if self.eat("[") {
                steps.push(self.brackets()?);
            } else {
                return Ok(steps);
            }
        }
    }

    fn named(&mut self) -> Step {
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        let mut end = self.rest().len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' | ')' | '=' | '!' | '<' | '>' | ' ' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.at += end;
        if name == "*" { Step::All } else { Step::Field(name.into()) }
    }

    fn brackets(&mut self) -> Result<Step, String> {
        let step = if self.eat("?(") {
            Step::Filter(Box::new(self.filter()?))
        } else if self.eat("*") {
            Step::All
        } else if self.rest().starts_with(['\'', '"']) {
            let mut names = vec![self.quoted()?];
            while self.eat(",") {
                self.blanks();
                names.push(self.quoted()?);
            }
            Step::Union(names.into())
        } else {
            self.numbers()?
        };
        if self.eat("]") { Ok(step) } else { Err(format!("unterminated brackets in the path {:?}", self.text)) }
    }

    fn numbers(&mut self) -> Result<Step, String> {
        let end = self.rest().find(']').unwrap_or(self.rest().len());
        let inner = &self.rest()[..end];
        self.at += end;
        let number = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("{text:?} is no index"));
        let open = |text: &str| if text.trim().is_empty() { Ok(None) } else { number(text).map(Some) };
        match inner.split_once(':') {
            Some((from, to)) => Ok(Step::Slice(open(from)?, open(to)?)),
            None => number(inner).map(Step::Index),
        }
    }

    fn quoted(&mut self) -> Result<Box<str>, String> {
        let bad = || format!("unterminated quotes in the path {:?}", self.text);
        let quote = self.rest().chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(bad)?;
        let inner = &self.rest()[1..];
        let end = inner.find(quote).ok_or_else(bad)?;
        self.at += end + 2;
        Ok(inner[..end].into())
    }

    fn filter(&mut self) -> Result<Filter, String> {
        self.blanks();
        let path = JsonPath(self.steps()?.into());
        self.blanks();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let operator = operators.into_iter().find(|(token, _)| self.eat(token)).map(|(_, operator)| operator);
        self.blanks();
        let comparison = match operator {
            None => None,
            Some(operator) => Some((operator, self.literal()?)),
        };
        self.blanks();
        if self.eat(")") {
            Ok(Filter { path, comparison })
        } else {
            Err(format!("unterminated filter in the path {:?}", self.text))
        }
    }

    fn literal(&mut self) -> Result<Value, String> {
        if self.rest().starts_with(['\'', '"']) {
            return self.quoted().map(|text| Value::String(text.into()));
        }
        let end = self.rest().find([')', ' ']).unwrap_or(self.rest().len());
        let word = &self.rest()[..end];
        self.at += end;
        serde_json::from_str(word).map_err(|_| format!("{word:?} is no value to compare with"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_paths_lead_to() {
        let object = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "spec": {"list": [{"n": 1, "t": "A"}, {"n": 2, "t": "B"}], "m": {"k": 1}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (path, expected) in [
            (".spec.m.k", json!([1])),
            (".spec.list[0].n", json!([1])),
            (".spec.list[-1].n", json!([2])),
            (".spec.list[*].n", json!([1, 2])),
            (".spec.list[0:1].n", json!([1])),
            (".spec.list[?(@.t==\"B\")].n", json!([2])),
            (".spec.list[?(@.n>1)].t", json!(["B"])),
            (".status.conditions[?(@.type == 'Ready')].status", json!(["True"])),
            (r".metadata.annotations.a\.b/c", json!(["x"])),
            (".metadata.annotations['a.b/c']", json!(["x"])),
            (".spec['m'].k", json!([1])),
            ("..k", json!([1])),
            (".spec.none.at.all", json!([])),
            (".spec.list[9]", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect::<Value>();
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(JsonPath::parse(".").unwrap().first(&json!(3)), Some(&json!(3)));
        for bad in ["", "spec", ".a[", ".a[x]", ".a['b]", ".a[?(@.b==c)]", ".a[?(@.b", ".a)"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
