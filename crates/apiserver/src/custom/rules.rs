//! `x-kubernetes-validations`: the rules of custom resources, compiled with the types of their schema and evaluated on objects.
//!
//! A rule sees its value as `self`, and what it was as `oldSelf`. What rules may cost is limited twice, as upstream does it: by an
//! estimate when the definition is written, and by a budget for each object.

use cel::{Decl, DeclTypes, Env, Evaluated, Fault, ObjectDecl, Program, Range, Shape, Sizes, Type, Value};
use machinery::field::{ErrorKind, FieldError, Path};
use machinery::structural::{Hook, Kind, Node, Place, Structural};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::sync::Arc;

/// Largest request, in bytes: no value is larger.
const REQUEST_MAX: u64 = 3 * 1024 * 1024;
/// What all rules of one object may cost.
const BUDGET: u64 = 10_000_000;
/// Longest message of a `messageExpression`, in bytes.
const MESSAGE_MAX: usize = 5 * 1024;
/// Longest name of an object.
const NAME_MAX: u64 = 253;
/// The places of the variables in the environment.
const OLD_SELF: usize = 1;

/// The rules of a schema, by the node they are about.
pub(crate) struct Rules {
    nodes: HashMap<usize, Compiled>,
}

/// The rules of one node.
pub(crate) struct Compiled {
    /// The type of its values; none when expressions cannot see them.
    decl: Option<Decl>,
    pub(crate) rules: Vec<Rule>,
    /// How often a value of the node fits into a request.
    pub(crate) cardinality_max: u64,
}

/// One rule.
pub(crate) struct Rule {
    source: String,
    message: String,
    reason: String,
    field_path: String,
    optional_old: bool,
    pub(crate) program: Result<Program, String>,
    pub(crate) message_program: Option<Result<Program, String>>,
    /// The estimated cost of the rule and of its message.
    pub(crate) cost: u64,
    pub(crate) message_cost: u64,
}

impl Rules {
    /// Compiles the rules of a schema.
    pub(crate) fn compile(schema: &Structural) -> Rules {
        let mut rules = Rules { nodes: HashMap::new() };
        rules.gather(schema.root(), true);
        rules
    }

    fn gather(&mut self, node: Node<'_>, root: bool) {
        if !node.validations().is_empty() && !self.nodes.contains_key(&node.index()) {
            self.nodes.insert(node.index(), Compiled::of(node, root || node.is_embedded()));
        }
        for (_, property) in node.properties() {
            self.gather(property, false);
        }
        for below in [node.additional(), node.items()].into_iter().flatten() {
            self.gather(below, false);
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn of(&self, node: Node<'_>) -> Option<&Compiled> {
        self.nodes.get(&node.index())
    }

    /// What the rules say about an object; `old` is what it was. What was wrong before and has not changed is let pass, and told
    /// by the second list.
    pub(crate) fn evaluate(
        &self,
        schema: &Structural,
        object: &Json,
        old: Option<&Json>,
    ) -> (Vec<FieldError>, Vec<FieldError>) {
        let mut checker = Checker { rules: self, left: BUDGET, ended: false, let_pass: Vec::new() };
        (schema.evaluate(object, old, &mut checker), checker.let_pass)
    }
}

impl Compiled {
    fn of(node: Node<'_>, root: bool) -> Compiled {
        let declared = declare(node, root, "self");
        let least = declared.as_ref().map_or(2, |(_, least)| *least);
        let decl = declared.map(|(decl, _)| decl);
        let rules = node.validations().iter().map(|rule| Rule::compile(rule, decl.as_ref())).collect();
        Compiled { decl, rules, cardinality_max: REQUEST_MAX / (least + 1) }
    }
}

impl Rule {
    fn compile(rule: &Json, decl: Option<&Decl>) -> Rule {
        let text = |field: &str| rule[field].as_str().unwrap_or_default().to_owned();
        let optional_old = rule["optionalOldSelf"].as_bool().unwrap_or(false);
        let mut made = Rule {
            source: text("rule"),
            message: text("message").trim().to_owned(),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old,
            program: Err("unable to convert structural schema to CEL declarations".to_owned()),
            message_program: None,
            cost: 0,
            message_cost: 0,
        };
        let Some(decl) = decl else { return made };
        let ty = decl.ty();
        let old = if optional_old { Type::optional(ty.clone()) } else { ty.clone() };
        let types = Arc::new(DeclTypes::of([decl]));
        let env = Env::default().types(types).variable("self", ty).variable("oldSelf", old);
        let (program, cost) = compile(&made.source, &env, decl, &Type::Bool, "");
        (made.program, made.cost) = (program, cost);
        let expression = text("messageExpression");
        if !expression.is_empty() && made.program.is_ok() {
            let (program, cost) = compile(&expression, &env, decl, &Type::String, "messageExpression ");
            (made.message_program, made.message_cost) = (Some(program), cost);
        }
        made
    }

    /// Whether it is about a change.
    pub(crate) fn uses_old(&self) -> bool {
        self.program.as_ref().is_ok_and(|program| program.uses(OLD_SELF))
    }

    /// As messages show it.
    fn shown(&self) -> &str {
        if self.message.is_empty() { self.source.trim() } else { &self.message }
    }
}

/// A program and its estimated cost. What is wrong is told with what it is about.
fn compile(source: &str, env: &Env, decl: &Decl, wanted: &Type, what: &str) -> (Result<Program, String>, u64) {
    let program = match Program::compile(source, env) {
        Ok(program) if program.result() == wanted => program,
        Ok(_) if what.is_empty() => return (Err("cel expression must evaluate to a bool".to_owned()), 0),
        Ok(_) => return (Err("messageExpression must evaluate to a string".to_owned()), 0),
        Err(issues) if issues.is_instantiation() && what.is_empty() => {
            return (Err(format!("program instantiation failed: {issues}")), 0);
        }
        Err(issues) => return (Err(format!("{what}compilation failed: {issues}")), 0),
    };
    let cost = Program::estimate(source, env, &DeclSizes(decl)).map_or(u64::MAX, |cost| cost.max);
    (Ok(program), cost)
}

/// The sizes that a schema allows.
struct DeclSizes<'d>(&'d Decl);

impl Sizes for DeclSizes<'_> {
    fn size(&self, path: &[String], _: &Type) -> Option<Range> {
        let mut at = self.0;
        let key = Decl { shape: Shape::String, size_max: Some(0) };
        for name in path.get(1..)? {
            at = match (&at.shape, name.as_str()) {
                (Shape::List(element), "@items" | "@values") | (Shape::Map(element), "@items" | "@values") => element,
                (Shape::Map(_), "@keys") => &key,
                (Shape::Object(object), name) => object.member(name)?,
                _ => return None,
            };
        }
        (!path.is_empty()).then(|| Range { min: 0, max: at.size_max.unwrap_or(0) })
    }
}

/// The type of the objects of a schema, under a name.
pub(crate) fn declare_root(schema: &Structural, name: &str) -> Option<Decl> {
    declare(schema.root(), true, name).map(|(decl, _)| decl)
}

/// The type of the values of a node and how short they can be in JSON; none when expressions cannot see them.
fn declare(node: Node<'_>, root: bool, name: &str) -> Option<(Decl, u64)> {
    let sized = |shape: Shape, size_max: u64, least: u64| Some((Decl { shape, size_max: Some(size_max) }, least));
    if node.is_int_or_string() {
        return sized(Shape::IntOrString, node.max_size().map_or(REQUEST_MAX - 2, |max| max.saturating_mul(4)), 1);
    }
    match node.kind() {
        Kind::Boolean => sized(Shape::Bool, 0, 4),
        Kind::Integer => sized(Shape::Int, 0, 1),
        Kind::Number => sized(Shape::Double, 0, 1),
        Kind::String => Some(declare_string(node)),
        Kind::Array => {
            let items = node.items()?;
            let (element, least) = declare(items, items.is_embedded(), &format!("{name}.@idx"))?;
            let most = node.max_size().unwrap_or((REQUEST_MAX - 2) / (least + 1));
            sized(Shape::List(Box::new(element)), most, 2)
        }
        Kind::Object => match node.additional() {
            Some(values) => {
                let (value, least) = declare(values, values.is_embedded(), &format!("{name}.@elem"))?;
                let most = node.max_size().unwrap_or((REQUEST_MAX - 2) / (least + 6));
                sized(Shape::Map(Box::new(value)), most, 2)
            }
            None => Some(declare_object(node, root, name)),
        },
        Kind::Any => None,
    }
}

fn declare_string(node: Node<'_>) -> (Decl, u64) {
    let (shape, most, least) = match node.format() {
        Some("byte") => (Shape::Bytes, node.max_size().unwrap_or(REQUEST_MAX - 2), 2),
        Some("duration") => (Shape::Duration, 32, 3),
        Some("date") => (Shape::Date, 12, 12),
        Some("date-time" | "datetime") => (Shape::Timestamp, 32, 21),
        _ => {
            let longest = node.enumeration().iter().filter_map(Json::as_str).map(str::len).max();
            let most = match (node.max_size(), longest) {
                (Some(max), _) => max.saturating_mul(4),
                (None, Some(longest)) => longest as u64,
                (None, None) => REQUEST_MAX - 2,
            };
            (Shape::String, most, 2)
        }
    };
    (Decl { shape, size_max: Some(most) }, least)
}

fn declare_object(node: Node<'_>, root: bool, name: &str) -> (Decl, u64) {
    let mut least = 2;
    let mut fields: Vec<(String, Decl)> = Vec::new();
    let required: Vec<&str> = node.required().collect();
    for (field, property) in node.properties() {
        if root && matches!(field, "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let Some((decl, own)) = declare(property, property.is_embedded(), &format!("{name}.{field}")) else { continue };
        if required.contains(&field) && property.default().is_none() {
            least += field.len() as u64 + own + 4;
        }
        fields.push((field.to_owned(), decl));
    }
    if root {
        let text = |most: u64| Decl { shape: Shape::String, size_max: Some(most) };
        let names = [("name".to_owned(), text(NAME_MAX * 4)), ("generateName".to_owned(), text((NAME_MAX - 1) * 4))];
        let metadata = Shape::Object(Arc::new(ObjectDecl::new(format!("{name}.metadata"), names)));
        fields.push(("metadata".to_owned(), Decl { shape: metadata, size_max: Some(0) }));
        fields.extend(["apiVersion", "kind"].map(|field| (field.to_owned(), text(REQUEST_MAX - 2))));
    }
    let object = Shape::Object(Arc::new(ObjectDecl::new(name, fields)));
    (Decl { shape: object, size_max: Some(0) }, least)
}

/// Evaluates rules within one budget.
struct Checker<'r> {
    rules: &'r Rules,
    left: u64,
    /// No further rule is evaluated.
    ended: bool,
    /// What is wrong as it was before.
    let_pass: Vec<FieldError>,
}

impl Hook for Checker<'_> {
    fn check(&mut self, node: Node<'_>, place: Place<'_>, path: &Path) -> Vec<FieldError> {
        let good = !self.ended && !place.value.is_null();
        let Some(compiled) = self.rules.of(node).filter(|_| good) else { return Vec::new() };
        let kind = node.kind().as_str();
        let mut errors = Vec::new();
        for rule in &compiled.rules {
            let error = self.rule(rule, compiled, place, path, kind);
            errors.extend(error);
            if self.ended {
                break;
            }
        }
        errors
    }
}

impl Checker<'_> {
    fn pay(&mut self, cost: u64) -> bool {
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => self.ended = true,
        }
        !self.ended
    }

    fn rule(
        &mut self,
        rule: &Rule,
        compiled: &Compiled,
        place: Place<'_>,
        path: &Path,
        kind: &str,
    ) -> Option<FieldError> {
        let value = place.value;
        let invalid = |why: String| Some(FieldError::invalid(path, kind, why));
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => return invalid(format!("rule compile error: {why}")),
        };
        let old = place.old.filter(|old| !old.is_null());
        if program.uses(OLD_SELF) && old.is_none() && !rule.optional_old {
            return None;
        }
        let vars = variables(rule, compiled.decl.as_ref(), value, old);
        let Evaluated { result, cost } = program.evaluate(&vars.as_slice(), Program::COST_MAX);
        if !self.pay(cost) {
            return invalid(
                "validation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned(),
            );
        }
        let shown = rule.shown();
        match result {
            Ok(Value::Bool(true)) => None,
            Ok(_) => {
                let failure = self.failure(rule, &vars, value, path, kind);
                let told = program.uses(OLD_SELF) || !place.is_unchanged();
                if !told {
                    self.let_pass.push(failure.clone());
                }
                told.then_some(failure)
            }
            Err(Fault::CostLimit) => {
                self.ended = true;
                let fault = Fault::CostLimit;
                invalid(format!(
                    "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                ))
            }
            Err(Fault::Overload) => invalid(format!(
                "'no such overload': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
            )),
            Err(fault) => invalid(format!("{fault} evaluating rule: {shown}")),
        }
    }

    /// The error of a rule that does not hold.
    fn failure(&mut self, rule: &Rule, vars: &[Value<'_>], value: &Json, path: &Path, kind: &str) -> FieldError {
        let path = if rule.field_path.is_empty() { path.clone() } else { below(path, &rule.field_path) };
        let mut detail = None;
        if let Some(Ok(program)) = &rule.message_program {
            let Evaluated { result, cost } = program.evaluate(&vars, Program::COST_MAX);
            if !self.pay(cost) {
                let why = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
                return FieldError::invalid(&path, kind, why);
            }
            if let Ok(Value::String(text)) = result {
                let text = text.trim();
                let good = !text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains(['\n', '\r']);
                detail = good.then(|| text.to_owned());
            }
        }
        let detail = detail.unwrap_or_else(|| match &*rule.message {
            "" => format!("failed rule: {}", rule.shown()),
            message => message.to_owned(),
        });
        // Values of objects and lists are not repeated.
        let value = (!value.is_object() && !value.is_array()).then(|| value.clone());
        let (kind, value, detail) = match &*rule.reason {
            "FieldValueForbidden" => (ErrorKind::Forbidden, None, detail),
            "FieldValueRequired" => (ErrorKind::Required, None, detail),
            "FieldValueDuplicate" => (ErrorKind::Duplicate, value, String::new()),
            _ => (ErrorKind::Invalid, value, detail),
        };
        FieldError { kind, path, value, detail }
    }
}

/// Whether an error keeps rules from being evaluated.
pub(crate) fn blocks(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Required | ErrorKind::TooLong | ErrorKind::TooMany | ErrorKind::TypeInvalid)
}

/// What is told when rules are not evaluated.
pub(crate) fn unchecked() -> FieldError {
    let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    FieldError::invalid(&Path::default(), Json::Null, why)
}

/// `self` and `oldSelf`.
fn variables<'a>(rule: &Rule, decl: Option<&'a Decl>, value: &'a Json, old: Option<&'a Json>) -> [Value<'a>; 2] {
    let old = old.map(|old| Value::typed(old, decl));
    let old = match rule.optional_old {
        true => Value::Optional(old.map(Arc::new)),
        false => old.unwrap_or(Value::Null),
    };
    [Value::typed(value, decl), old]
}

/// A path below another: `.spec.foo`, `['a key'].bar`.
fn below(path: &Path, relative: &str) -> Path {
    let (mut at, mut rest) = (path.clone(), relative);
    while !rest.is_empty() {
        if let Some((key, after)) = rest.strip_prefix("['").and_then(|rest| rest.split_once("']")) {
            at = at.key(key);
            rest = after;
            continue;
        }
        let named = rest.strip_prefix('.').unwrap_or(rest);
        let end = named.find(['.', '[']).unwrap_or(named.len());
        at = at.child(&named[..end]);
        rest = &named[end.max(usize::from(end == 0))..];
    }
    at
}

/// What one rule may be estimated to cost, and all of a definition.
const RULE_COST_MAX: u64 = 10_000_000;
const DEFINITION_COST_MAX: u64 = 100_000_000;

/// What is wrong with the rules of a definition. `before` is what it was: rules that were there stay accepted.
pub(crate) fn verify(definition: &Json, before: Option<&Json>) -> Vec<FieldError> {
    let versions = |definition: &Json| definition["spec"]["versions"].as_array().cloned().unwrap_or_default();
    let schema = |version: &Json| version["schema"]["openAPIV3Schema"].clone();
    let all = versions(definition);
    // Versions of one schema are looked at as one, as upstream does.
    let same = all.windows(2).all(|pair| schema(&pair[0]) == schema(&pair[1]));
    let known: Vec<Json> = before.map(versions).unwrap_or_default().iter().map(schema).collect();
    let mut errors = Vec::new();
    for (at, version) in all.iter().enumerate().take(if same { 1 } else { all.len() }) {
        let schema = schema(version);
        if !schema.is_object() || known.contains(&schema) {
            continue;
        }
        let spec = Path::new("spec");
        let path = if same { spec.child("validation") } else { spec.child("versions").index(at).child("schema") };
        let structural = Structural::compile(&schema);
        let mut verifier =
            Verifier { rules: Rules::compile(&structural), total: 0, expensive: Vec::new(), errors: Vec::new() };
        let path = path.child("openAPIV3Schema");
        verifier.walk(structural.root(), &path, Some(1), None);
        verifier.conclude(&path);
        errors.append(&mut verifier.errors);
    }
    errors
}

struct Verifier {
    rules: Rules,
    total: u64,
    /// Rules that cost at least a hundredth of what a definition may.
    expensive: Vec<(u64, Path)>,
    errors: Vec<FieldError>,
}

impl Verifier {
    /// `count`: how often values of the node can occur, when that is bounded; `loose`: where old values can no longer be told.
    fn walk(&mut self, node: Node<'_>, path: &Path, count: Option<u64>, loose: Option<&Path>) {
        self.node(node, path, count, loose);
        let bounded = |size: Option<u64>| count.zip(size).map(|(count, size)| count.saturating_mul(size));
        for (name, property) in node.properties() {
            let count = if node.additional().is_some() { bounded(node.max_size()) } else { count };
            self.walk(property, &path.child("properties").key(name), count, loose);
        }
        if let Some(values) = node.additional() {
            self.walk(values, &path.child("additionalProperties"), bounded(node.max_size()), loose);
        }
        if let Some(items) = node.items() {
            let below = path.child("items");
            let keyed = node.list_type() == Some(machinery::schema::ListType::Map);
            let loose = loose.or(if keyed { None } else { Some(path) });
            self.walk(items, &below, bounded(node.max_size()), loose);
        }
    }

    fn node(&mut self, node: Node<'_>, path: &Path, count: Option<u64>, loose: Option<&Path>) {
        let Some(compiled) = self.rules.nodes.get(&node.index()) else { return };
        let count = count.unwrap_or(compiled.cardinality_max);
        for (at, rule) in compiled.rules.iter().enumerate().filter(|(_, rule)| !rule.source.trim().is_empty()) {
            let path = path.child("x-kubernetes-validations").index(at);
            let source = &node.validations()[at];
            if let Err(why) = &rule.program {
                self.errors.push(FieldError::invalid(&path.child("rule"), source.clone(), why.clone()));
                continue;
            }
            if let Some(Err(why)) = &rule.message_program {
                self.errors.push(FieldError::invalid(&path.child("messageExpression"), source.clone(), why.clone()));
            }
            for (cost, field, what) in [
                (rule.cost.saturating_mul(count), "rule", "estimated rule cost"),
                (rule.message_cost, "messageExpression", "estimated messageExpression cost"),
            ] {
                if cost > RULE_COST_MAX {
                    self.errors.push(FieldError::forbidden(&path.child(field), exceeds(what, cost, RULE_COST_MAX)));
                }
                if cost >= DEFINITION_COST_MAX / 100 {
                    self.expensive.push((cost, path.child(field)));
                }
                self.total = self.total.saturating_add(cost);
            }
            if rule.uses_old() {
                if let Some(loose) = loose {
                    let why =
                        format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {loose}");
                    self.errors.push(FieldError::invalid(&path.child("rule"), rule.source.clone(), why));
                }
            } else if source.get("optionalOldSelf").is_some() {
                let why = "may not be set if oldSelf is not used in rule";
                self.errors.push(FieldError::invalid(&path.child("optionalOldSelf"), rule.optional_old, why));
            }
        }
    }

    fn conclude(&mut self, path: &Path) {
        if self.total <= DEFINITION_COST_MAX {
            return;
        }
        self.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, path) in self.expensive.iter().take(4) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.push(FieldError::forbidden(path, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        self.errors.push(FieldError::forbidden(path, exceeds(what, self.total, DEFINITION_COST_MAX)));
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let times = cost as f64 / limit as f64;
    let factor = match times {
        times if times > 100.0 => "more than 100x".to_owned(),
        times if times < 1.5 => format!("{times:.6}x"),
        times => format!("{times:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
