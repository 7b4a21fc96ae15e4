//! From tokens to expressions: recursive descent with a bound on depth and size.

use crate::ast::{ACCU, Comprehension, Entry, Expr, Field, Kind, op};
use crate::issue::{Issue, Issues};
use crate::macros;
use crate::token::{Tok, Token, tokens};
use crate::value::Value;

/// Height of a tree beyond which an expression is refused, as cel-go's. It bounds the stack that checking and evaluating take.
const DEPTH_MAX: u16 = 250;
/// Nesting of brackets beyond which it is refused; it bounds the stack that parsing takes.
const NEST_MAX: u16 = 150;
/// Longest expression, in bytes; cel-go counts as many code points.
const SIZE_MAX: usize = 100_000;
/// Most nodes of one expression, those of expanded macros among them (`optMap` copies its target).
const NODES_MAX: usize = 100_000;

const OPERAND: &str = "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Words that no variable may have as its name.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// An expression and how many nodes it has.
pub(crate) struct Parsed {
    pub(crate) root: Expr,
    pub(crate) nodes: usize,
}

/// Parses an expression.
pub(crate) fn parse(source: &str) -> Result<Parsed, Issues> {
    let mut issues = Vec::new();
    match parse_inner(source, &mut issues) {
        Ok(parsed) if issues.is_empty() => Ok(parsed),
        Ok(_) => Err(Issues::new(source, issues)),
        Err(issue) => {
            issues.push(issue);
            Err(Issues::new(source, issues))
        }
    }
}

fn parse_inner(source: &str, issues: &mut Vec<Issue>) -> Result<Parsed, Issue> {
    if source.len() > SIZE_MAX {
        let why = format!("expression code point size exceeds limit: size: {}, limit {SIZE_MAX}", source.len());
        return Err(Issue::new(0, why));
    }
    let tokens = tokens(source, issues);
    let mut parser = Parser { source, tokens, next: 0, depth: 0, build: Build::default() };
    let root = parser.expr()?;
    if parser.peek() != &Tok::End {
        return Err(parser.unexpected("expecting <EOF>", |tok| tok == &Tok::End));
    }
    Ok(Parsed { root, nodes: parser.build.heights.len() })
}

/// Makes nodes: gives ids, bounds height and number.
#[derive(Default)]
pub(crate) struct Build {
    heights: Vec<u16>,
}

impl Build {
    pub(crate) fn node(&mut self, at: u32, kind: Kind) -> Result<Expr, Issue> {
        let mut height = 0;
        for_children(&kind, &mut |child: &Expr| height = height.max(self.heights[child.id as usize]));
        if height >= DEPTH_MAX {
            return Err(Issue::new(at, format!("expression recursion limit exceeded: {DEPTH_MAX}")));
        }
        if self.heights.len() >= NODES_MAX {
            return Err(Issue::new(at, "expression has too many nodes"));
        }
        let id = self.heights.len() as u32;
        self.heights.push(height + 1);
        Ok(Expr { id, at, kind })
    }

    pub(crate) fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Result<Expr, Issue> {
        self.node(at, Kind::Call { function: function.to_owned(), target: None, args })
    }

    pub(crate) fn member_call(
        &mut self,
        at: u32,
        function: &str,
        target: Expr,
        args: Vec<Expr>,
    ) -> Result<Expr, Issue> {
        self.node(at, Kind::Call { function: function.to_owned(), target: Some(Box::new(target)), args })
    }

    pub(crate) fn literal(&mut self, at: u32, value: Value<'static>) -> Result<Expr, Issue> {
        self.node(at, Kind::Literal(value))
    }

    pub(crate) fn ident(&mut self, at: u32, name: &str) -> Result<Expr, Issue> {
        self.node(at, Kind::Ident(name.to_owned()))
    }

    pub(crate) fn accu(&mut self, at: u32) -> Result<Expr, Issue> {
        self.ident(at, ACCU)
    }

    pub(crate) fn list(&mut self, at: u32, elements: Vec<Expr>) -> Result<Expr, Issue> {
        let optional = vec![false; elements.len()];
        self.node(at, Kind::List { elements, optional })
    }

    /// The same tree with ids of its own.
    pub(crate) fn copy(&mut self, expr: &Expr) -> Result<Expr, Issue> {
        let mut kind = expr.kind.clone();
        let mut failure = None;
        for_children_mut(&mut kind, &mut |child: &mut Expr| match self.copy(child) {
            Ok(copied) => *child = copied,
            Err(issue) => failure = Some(issue),
        });
        match failure {
            Some(issue) => Err(issue),
            None => self.node(expr.at, kind),
        }
    }
}

/// Visits the nodes right below.
pub(crate) fn for_children<'e>(kind: &'e Kind, visit: &mut dyn FnMut(&'e Expr)) {
    match kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => visit(operand),
        Kind::Call { target, args, .. } => {
            target.iter().for_each(|target| visit(target));
            args.iter().for_each(visit);
        }
        Kind::List { elements, .. } => elements.iter().for_each(visit),
        Kind::Map(entries) => entries.iter().for_each(|entry| {
            visit(&entry.key);
            visit(&entry.value);
        }),
        Kind::Struct { fields, .. } => fields.iter().for_each(|field| visit(&field.value)),
        Kind::Comprehension(fold) => {
            let Comprehension { range, init, condition, step, result, .. } = &**fold;
            [range, init, condition, step, result].into_iter().for_each(visit);
        }
    }
}

fn for_children_mut(kind: &mut Kind, visit: &mut dyn FnMut(&mut Expr)) {
    match kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => visit(operand),
        Kind::Call { target, args, .. } => {
            target.iter_mut().for_each(|target| visit(target));
            args.iter_mut().for_each(visit);
        }
        Kind::List { elements, .. } => elements.iter_mut().for_each(visit),
        Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
            visit(&mut entry.key);
            visit(&mut entry.value);
        }),
        Kind::Struct { fields, .. } => fields.iter_mut().for_each(|field| visit(&mut field.value)),
        Kind::Comprehension(fold) => {
            let Comprehension { range, init, condition, step, result, .. } = &mut **fold;
            [range, init, condition, step, result].into_iter().for_each(visit);
        }
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token>,
    next: usize,
    depth: u16,
    build: Build,
}

/// How tightly a binary operator binds; those of one number from the left.
fn binary(tok: &Tok) -> Option<(u8, &'static str)> {
    Some(match tok {
        Tok::Sign("||") => (1, op::OR),
        Tok::Sign("&&") => (2, op::AND),
        Tok::Sign("<") => (3, "_<_"),
        Tok::Sign("<=") => (3, "_<=_"),
        Tok::Sign(">") => (3, "_>_"),
        Tok::Sign(">=") => (3, "_>=_"),
        Tok::Sign("==") => (3, op::EQUALS),
        Tok::Sign("!=") => (3, op::NOT_EQUALS),
        Tok::Ident(word) if word == "in" => (3, op::IN),
        Tok::Sign("+") => (4, op::ADD),
        Tok::Sign("-") => (4, "_-_"),
        Tok::Sign("*") => (5, "_*_"),
        Tok::Sign("/") => (5, "_/_"),
        Tok::Sign("%") => (5, "_%_"),
        _ => return None,
    })
}

impl Parser<'_> {
    fn peek(&self) -> &Tok {
        &self.tokens[self.next].kind
    }

    fn at(&self) -> u32 {
        self.tokens[self.next].at
    }

    fn text(&self) -> &str {
        let token = &self.tokens[self.next];
        if token.kind == Tok::End { "<EOF>" } else { &self.source[token.at as usize..token.end as usize] }
    }

    fn syntax(&self, what: impl std::fmt::Display) -> Issue {
        Issue::new(self.at(), format!("Syntax error: {what}"))
    }

    /// A token that may not stand here: one too many when the next one fits.
    fn unexpected(&self, expecting: &str, fits: fn(&Tok) -> bool) -> Issue {
        let last = self.tokens.len() - 1;
        let extraneous = self.next < last && fits(&self.tokens[self.next + 1].kind);
        let what = if extraneous { "extraneous" } else { "mismatched" };
        self.syntax(format!("{what} input '{}' {expecting}", self.text()))
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.next].clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn eat(&mut self, sign: &'static str) -> bool {
        let found = self.peek() == &Tok::Sign(sign);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<u32, Issue> {
        let at = self.at();
        if self.eat(sign) {
            return Ok(at);
        }
        // One that is left out, when what stands here may follow it.
        let follows = if sign == ":" { begins_operand(self.peek()) } else { self.peek() == &Tok::End };
        if follows {
            return Err(self.syntax(format!("missing '{sign}' at '{}'", self.text())));
        }
        Err(self.unexpected(&format!("expecting '{sign}'"), |_| false))
    }

    /// The end of a list of things with commas between them.
    fn close(&mut self, sign: &'static str) -> Result<(), Issue> {
        if self.eat(sign) {
            return Ok(());
        }
        Err(self.unexpected(&format!("expecting {{'{sign}', ','}}"), |_| false))
    }

    /// Goes one level deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Issue>) -> Result<T, Issue> {
        if self.depth >= NEST_MAX {
            return Err(Issue::new(self.at(), format!("expression recursion limit exceeded: {NEST_MAX}")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn expr(&mut self) -> Result<Expr, Issue> {
        self.deeper(|p| {
            let condition = p.binary(1)?;
            let at = p.at();
            if !p.eat("?") {
                return Ok(condition);
            }
            let yes = p.binary(1)?;
            p.expect(":")?;
            let no = p.expr()?;
            p.build.call(at, op::CONDITIONAL, vec![condition, yes, no])
        })
    }

    /// Operators that bind at least as tightly as `level`.
    fn binary(&mut self, level: u8) -> Result<Expr, Issue> {
        let mut left = self.unary()?;
        while let Some((binds, function)) = binary(self.peek()) {
            if binds < level {
                break;
            }
            if binds <= 2 {
                left = self.logic(left, binds, function)?;
                continue;
            }
            let at = self.advance().at;
            let right = self.binary(binds + 1)?;
            left = self.build.call(at, function, vec![left, right])?;
        }
        Ok(left)
    }

    /// A chain of one logical operator, as a balanced tree.
    fn logic(&mut self, first: Expr, binds: u8, function: &str) -> Result<Expr, Issue> {
        let (mut terms, mut signs) = (vec![first], Vec::new());
        while binary(self.peek()) == Some((binds, if binds == 1 { op::OR } else { op::AND })) {
            signs.push(self.advance().at);
            terms.push(self.binary(binds + 1)?);
        }
        self.balance(function, &mut terms.into_iter(), &signs)
    }

    fn balance(&mut self, function: &str, terms: &mut std::vec::IntoIter<Expr>, signs: &[u32]) -> Result<Expr, Issue> {
        if signs.is_empty() {
            return terms.next().ok_or_else(|| self.syntax("missing operand"));
        }
        let middle = signs.len() / 2;
        let left = self.balance(function, terms, &signs[..middle])?;
        let right = self.balance(function, terms, &signs[middle + 1..])?;
        self.build.call(signs[middle], function, vec![left, right])
    }

    fn unary(&mut self) -> Result<Expr, Issue> {
        let at = self.at();
        for (sign, function) in [("!", op::NOT), ("-", op::NEGATE)] {
            let mut count = 0;
            while self.peek() == &Tok::Sign(sign) && (count > 0 || !self.signed_number()) {
                self.advance();
                count += 1;
            }
            if count > 0 {
                let operand = self.member()?;
                // An even number of them cancels out.
                return if count % 2 == 0 { Ok(operand) } else { self.build.call(at, function, vec![operand]) };
            }
        }
        self.member()
    }

    /// Whether a minus sign belongs to the number that follows it.
    fn signed_number(&self) -> bool {
        let following = self.tokens.get(self.next + 1).map(|token| &token.kind);
        self.peek() == &Tok::Sign("-") && matches!(following, Some(Tok::Int(_) | Tok::Double(_)))
    }

    fn member(&mut self) -> Result<Expr, Issue> {
        let mut operand = self.primary()?;
        loop {
            let at = self.at();
            if self.eat(".") {
                operand = self.field(at, operand)?;
            } else if self.eat("[") {
                let optional = self.eat("?");
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { op::OPTIONAL_INDEX } else { op::INDEX };
                operand = self.build.call(at, function, vec![operand, index])?;
            } else if self.peek() == &Tok::Sign("{") {
                let Some(name) = qualified(&operand) else { return Ok(operand) };
                operand = self.structure(name)?;
            } else {
                return Ok(operand);
            }
        }
    }

    /// What follows a dot.
    fn field(&mut self, at: u32, operand: Expr) -> Result<Expr, Issue> {
        let optional = self.eat("?");
        let (name, quoted) = match self.peek().clone() {
            Tok::Ident(name) if !matches!(&*name, "in" | "true" | "false" | "null") => (name, false),
            Tok::Quoted(name) => (name, true),
            _ => return Err(self.syntax("no viable alternative at input '.'")),
        };
        self.advance();
        if optional {
            let literal = self.build.literal(at, Value::string(name))?;
            return self.build.call(at, op::OPTIONAL_SELECT, vec![operand, literal]);
        }
        let open = self.at();
        if !quoted && self.eat("(") {
            let args = self.args()?;
            return macros::expand(&mut self.build, open, &name, Some(operand), args);
        }
        self.build.node(at, Kind::Select { operand: Box::new(operand), field: name, test: false })
    }

    fn args(&mut self) -> Result<Vec<Expr>, Issue> {
        let mut args = Vec::new();
        if self.eat(")") {
            return Ok(args);
        }
        if self.peek() == &Tok::End {
            let operand = OPERAND.replacen("'(', ", "'(', ')', ", 1);
            return Err(self.unexpected(&operand, begins_operand));
        }
        loop {
            args.push(self.expr()?);
            if !self.eat(",") {
                self.close(")")?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Issue> {
        let at = self.at();
        if self.eat("(") {
            let inner = self.expr()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.eat("[") {
            return self.list(at);
        }
        if self.eat("{") {
            return self.map(at);
        }
        let dot = self.eat(".");
        match self.peek().clone() {
            Tok::Ident(name) if dot || !matches!(&*name, "in" | "true" | "false" | "null") => self.name(dot, name),
            _ if dot => Err(self.syntax("no viable alternative at input '.'")),
            _ => self.literal(at),
        }
    }

    fn name(&mut self, dot: bool, name: String) -> Result<Expr, Issue> {
        let at = self.advance().at;
        if RESERVED.contains(&&*name) {
            return Err(Issue::new(at, format!("reserved identifier: {name}")));
        }
        let full = if dot { format!(".{name}") } else { name };
        let open = self.at();
        if self.eat("(") {
            let args = self.args()?;
            return macros::expand(&mut self.build, open, &full, None, args);
        }
        self.build.ident(at, &full)
    }

    fn literal(&mut self, at: u32) -> Result<Expr, Issue> {
        let negative = self.signed_number() && self.eat("-");
        let sign = if negative { "-" } else { "" };
        let value = match self.peek() {
            Tok::Int(text) => integer(sign, text).map(Value::Int).ok_or("invalid int literal"),
            Tok::Uint(text) => unsigned(text).map(Value::Uint).ok_or("invalid uint literal"),
            Tok::Double(text) => {
                let parsed = format!("{sign}{text}").parse::<f64>().ok().filter(|f| f.is_finite());
                parsed.map(Value::Double).ok_or("invalid double literal")
            }
            Tok::String(text) => Ok(Value::string(text.clone())),
            Tok::Bytes(bytes) => Ok(Value::Bytes(bytes.as_slice().into())),
            Tok::Ident(word) if word == "true" => Ok(Value::Bool(true)),
            Tok::Ident(word) if word == "false" => Ok(Value::Bool(false)),
            Tok::Ident(word) if word == "null" => Ok(Value::Null),
            _ => return Err(self.unexpected(OPERAND, begins_operand)),
        };
        self.advance();
        let value = value.map_err(|why| Issue::new(at, why))?;
        self.build.literal(at, value)
    }

    fn list(&mut self, at: u32) -> Result<Expr, Issue> {
        let (mut elements, mut optional) = (Vec::new(), Vec::new());
        while !self.eat("]") {
            optional.push(self.eat("?"));
            elements.push(self.expr()?);
            if !self.eat(",") {
                self.close("]")?;
                break;
            }
        }
        self.build.node(at, Kind::List { elements, optional })
    }

    fn map(&mut self, at: u32) -> Result<Expr, Issue> {
        let mut entries = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.eat(",") {
                self.close("}")?;
                break;
            }
        }
        self.build.node(at, Kind::Map(entries))
    }

    /// `Name{field: value}`; the name is read already.
    fn structure(&mut self, name: String) -> Result<Expr, Issue> {
        let at = self.expect("{")?;
        let mut fields = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let field_at = self.at();
            let field = match self.peek().clone() {
                Tok::Ident(name) | Tok::Quoted(name) => name,
                _ => return Err(self.syntax(format!("mismatched input '{}' expecting IDENTIFIER", self.text()))),
            };
            self.advance();
            self.expect(":")?;
            let value = self.expr()?;
            fields.push(Field { at: field_at, name: field, value, optional });
            if !self.eat(",") {
                self.close("}")?;
                break;
            }
        }
        self.build.node(at, Kind::Struct { name, fields })
    }
}

/// Whether an operand can begin with it.
fn begins_operand(tok: &Tok) -> bool {
    match tok {
        Tok::Sign(sign) => matches!(*sign, "[" | "{" | "(" | "." | "-" | "!"),
        Tok::End | Tok::Quoted(_) => false,
        Tok::Ident(word) => word != "in",
        _ => true,
    }
}

/// `a.b.c` of names only.
pub(crate) fn qualified(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", qualified(operand)?)),
        _ => None,
    }
}

fn integer(sign: &str, text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(&format!("{sign}{digits}"), 16).ok(),
        None => format!("{sign}{text}").parse().ok(),
    }
}

fn unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
