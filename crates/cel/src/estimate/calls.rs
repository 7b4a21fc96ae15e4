//! What calls may cost, and how large their results may be.

use super::{Argument, Coster, Entries, Range};
use crate::ast::{Expr, Kind, op};
use crate::eval::{LIST_COST, REGEX_FACTOR, STRUCT_COST, TEXT_FACTOR};
use crate::types::Type;
use crate::value::Value;

/// A call of one overload.
pub(super) struct Call<'c, 'e> {
    pub(super) name: &'c str,
    /// The types that the overload declares, the target's first.
    pub(super) declared: &'c [Type],
    pub(super) target: Option<&'c Argument<'e>>,
    pub(super) args: &'c [Argument<'e>],
}

/// Cost and size of the result.
type Price = (Range, Option<Range>);

/// The longest pattern that a named format stands for.
const FORMAT_REGEX_MAX: f64 = 128.0;
/// Functions that only build or read something small.
const NOMINAL: [&str; 37] = [
    "serviceAccount",
    "path",
    "group",
    "resource",
    "subresource",
    "namespace",
    "name",
    "allowed",
    "reason",
    "error",
    "errored",
    "masked",
    "prefixLength",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "sign",
    "asInteger",
    "isInteger",
    "asApproximateFloat",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "add",
    "sub",
    "major",
    "minor",
    "patch",
    "getScheme",
    "getHostname",
    "getHost",
    "getPort",
    "getEscapedPath",
    "getQuery",
];
/// The longest name of a format.
const FORMAT_MAX: u64 = 64;

impl Coster<'_> {
    /// The cost of a call, its arguments' included, and the size of its result.
    pub(super) fn call_cost(&mut self, expr: &Expr, call: &Call<'_, '_>, costs: &[Range]) -> Price {
        let sum = costs.iter().fold(Range::fixed(0), |sum, cost| sum.add(*cost));
        match call.name {
            op::AND | op::OR => {
                let most = costs[0].add(costs[1]);
                return (Range { min: costs[0].min, max: most.max }, None);
            }
            op::CONDITIONAL => return self.conditional(expr, call, costs),
            _ => {}
        }
        let of_list = self.list_call(call);
        let priced = of_list.or_else(|| self.library_call(call)).or_else(|| self.text_call(call));
        let (cost, size) = match priced {
            Some(priced) => priced,
            None if call.name == op::ADD => self.add(expr, call),
            None => (Range::fixed(1), None),
        };
        (cost.add(sum), size)
    }

    fn conditional(&mut self, expr: &Expr, call: &Call<'_, '_>, costs: &[Range]) -> Price {
        let (yes, no) = (&call.args[1], &call.args[2]);
        let entries = Entries::union(self.entries_of(yes.expr), self.entries_of(no.expr));
        self.remember(expr, None, entries);
        let size = self.arg(yes).union(self.arg(no));
        (costs[0].add(costs[1].union(costs[2])), Some(size))
    }

    /// The size of an argument; anything when it is not known.
    fn arg(&self, argument: &Argument<'_>) -> Range {
        argument.size.unwrap_or(Range::UNKNOWN)
    }

    fn target(&self, call: &Call<'_, '_>) -> Option<Range> {
        call.target.map(|target| self.arg(target))
    }

    fn first(&self, call: &Call<'_, '_>) -> Option<Range> {
        call.args.first().map(|arg| self.arg(arg))
    }

    fn add(&mut self, expr: &Expr, call: &Call<'_, '_>) -> Price {
        let [a, b] = call.args else { return (Range::fixed(1), None) };
        let size = self.arg(a).add(self.arg(b));
        match call.declared.first() {
            Some(Type::String | Type::Bytes) => {}
            Some(Type::List(_)) => {}
            _ => return (Range::fixed(1), None),
        }
        let entries = Entries::union(self.entries_of(a.expr), self.entries_of(b.expr));
        self.remember(expr, None, entries);
        match call.declared.first() {
            Some(Type::List(_)) => (Range::fixed(1), Some(size)),
            _ => (size.scale(TEXT_FACTOR), Some(size)),
        }
    }

    /// Lists and sets: calls that make a list, or compare elements with each other.
    fn list_call(&self, call: &Call<'_, '_>) -> Option<Price> {
        let grown = |factor: f64, size: Range| Some((size.scale(factor).add(Range::fixed(1 + LIST_COST)), Some(size)));
        let textual = |ty: Option<&Type>| match ty {
            Some(Type::List(element)) => matches!(**element, Type::String | Type::Bytes),
            _ => false,
        };
        match call.name {
            "sets.contains" | "sets.intersects" | "sets.equivalent" => {
                let [a, b] = call.args else { return None };
                let factor = if call.name == "sets.equivalent" { 2.0 } else { 1.0 };
                Some((self.arg(a).multiply(self.arg(b)).scale(factor).add(Range::fixed(1)), None))
            }
            "slice" => {
                let size = self.target(call)?;
                let (start, end) = (number(&call.args[0], 0), number(&call.args[1], size.max));
                grown(1.0, Range::fixed(end.wrapping_sub(start)))
            }
            "lists.range" => grown(1.0, Range::fixed(number(&call.args[0], u64::MAX))),
            "reverse" => grown(1.0, self.target(call)?),
            "flatten" => {
                let depth = call.args.first().map_or(1, |depth| number(depth, u64::MAX));
                grown(depth as f64, self.target(call)?)
            }
            "distinct" => {
                let size = self.target(call)?;
                grown(2.0, size.multiply(size))
            }
            "sort" | op::SORT_BY_KEYS => {
                let (size, ty) = match call.name {
                    "sort" => (self.target(call)?, call.declared.first()),
                    _ => (self.first(call)?, call.declared.get(1)),
                };
                grown(if textual(ty) { 2.0 + TEXT_FACTOR } else { 2.0 }, size.multiply(size))
            }
            _ => None,
        }
    }

    /// Kubernetes' libraries.
    fn library_call(&self, call: &Call<'_, '_>) -> Option<Price> {
        let cost = match call.name {
            "check" => Range::fixed(350_000),
            "format.named" => Range::fixed(1),
            name if NOMINAL.contains(&name) => Range::fixed(1),
            "fieldSelector" | "labelSelector" => {
                let size = self.first(call)?;
                let requirements = size.scale(0.5).scale((LIST_COST + STRUCT_COST) as f64);
                Range::fixed(LIST_COST).add(size.scale(TEXT_FACTOR)).add(requirements)
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => self.traversal(call)?,
            "url" | "jsonpatch.escapeKey" | "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = self.target(call).or_else(|| self.first(call))?;
                return Some((size.scale(TEXT_FACTOR), Some(size)));
            }
            "replace" => return self.replace(call),
            "split" => {
                let size = self.target(call)?;
                let most = call.args.get(1).map_or(size.max, |limit| number(limit, size.max));
                return Some((size.scale(2.0 * TEXT_FACTOR), Some(Range { min: 0, max: most })));
            }
            "join" => return self.join(call),
            "find" | "findAll" => {
                let size = self.target(call)?;
                let cost = pattern_cost(size, self.first(call)?);
                return Some((cost, Some(Range { min: 0, max: size.max })));
            }
            "ip" if matches!(call.target, Some(target) if target.ty == Type::Opaque("net.CIDR")) => Range::fixed(1),
            "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                self.first(call)?.scale(TEXT_FACTOR)
            }
            "ip.isCanonical" => self.first(call)?.scale(2.0 * TEXT_FACTOR),
            "containsIP" | "containsCIDR" => self.contains_address(call)?,
            "validate" => self.first(call)?.scale(TEXT_FACTOR).scale(FORMAT_REGEX_MAX * REGEX_FACTOR),
            op::EQUALS => self.equal_opaque(call)?,
            _ => return None,
        };
        Some((cost, None))
    }

    fn equal_opaque(&self, call: &Call<'_, '_>) -> Option<Range> {
        let [a, b] = call.args else { return None };
        match &a.ty {
            Type::Opaque(_) if a.ty != b.ty => None,
            Type::Opaque("kubernetes.NamedFormat") => Some(Range { min: 1, max: FORMAT_MAX }.scale(TEXT_FACTOR)),
            Type::Opaque("kubernetes.URL") => {
                let most = b.size.map_or(1, |size| size.max);
                Some(Range { min: 1, max: most }.scale(TEXT_FACTOR))
            }
            Type::Opaque(_) => Some(Range::fixed(1)),
            _ => None,
        }
    }

    fn contains_address(&self, call: &Call<'_, '_>) -> Option<Range> {
        let bytes = Range { min: 4, max: 16 };
        let mut cost = bytes.add(bytes).scale(TEXT_FACTOR);
        if call.name == "containsCIDR" {
            cost = cost.add(bytes.scale(TEXT_FACTOR)).add(Range::fixed(1));
        }
        if call.declared.get(1) == Some(&Type::String) {
            cost = cost.add(self.first(call)?.scale(TEXT_FACTOR));
        }
        Some(cost)
    }

    /// The type and size of a list's elements; none when the target is no list.
    fn element(&self, list: &Argument<'_>) -> Option<(Type, Range)> {
        let element = match &list.ty {
            Type::List(element) => (**element).clone(),
            Type::Map(of) => of.0.clone(),
            Type::Optional(inner) => (**inner).clone(),
            _ => return None,
        };
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".to_owned());
        }
        let size = self.sizes.size(&path, &element).unwrap_or(Range::UNKNOWN);
        Some((element, size))
    }

    fn traversal(&self, call: &Call<'_, '_>) -> Option<Range> {
        let (target, size) = (call.target?, self.target(call)?);
        match self.element(target) {
            Some((Type::String | Type::Bytes, element)) => {
                Some(size.multiply(Range::fixed(1).add(element.scale(TEXT_FACTOR))))
            }
            Some(_) => Some(size.multiply(Range::fixed(1))),
            None if call.name == "includes" => Some(size.multiply(Range::fixed(1))),
            None => Some(size.scale(TEXT_FACTOR)),
        }
    }

    fn replace(&self, call: &Call<'_, '_>) -> Option<Price> {
        let size = self.target(call)?;
        let [old, new, ..] = call.args else { return None };
        let (old, new) = (self.arg(old), self.arg(new));
        let (mut count, mut kept) = (Range::fixed(0), Range::fixed(0));
        if old.min == 0 {
            count.max = size.max.saturating_add(1);
            kept.max = size.max;
        } else if new.max <= old.min {
            kept.max = size.max;
        } else {
            count.max = (size.max as f64 / old.min as f64).ceil() as u64;
        }
        if old.max == 0 {
            count.min = size.min.saturating_add(1);
            kept.min = size.min;
        } else if old.max <= new.min {
            kept.min = size.min;
        } else {
            count.min = (size.min as f64 / old.max as f64).ceil() as u64;
        }
        Some((size.scale(2.0 * TEXT_FACTOR), Some(count.multiply(new).add(kept))))
    }

    fn join(&self, call: &Call<'_, '_>) -> Option<Price> {
        let count = self.target(call)?;
        let mut size = self.element(call.target?).map_or(Range::fixed(0), |(_, element)| count.multiply(element));
        if let Some(separator) = self.first(call) {
            let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
            size = size.add(separator.multiply(between));
        }
        Some((size.scale(TEXT_FACTOR), Some(size)))
    }

    /// The standard functions on text, bytes and lists.
    fn text_call(&self, call: &Call<'_, '_>) -> Option<Price> {
        let textual = |at: usize| matches!(call.declared.get(at), Some(Type::String | Type::Bytes));
        let cost = match (call.name, call.args) {
            ("format", _) => self.target(call)?.scale(TEXT_FACTOR),
            ("bytes", [arg]) if call.declared[0] == Type::String => {
                let size = self.arg(arg);
                let most = size.max.wrapping_mul(4);
                return Some((size.scale(TEXT_FACTOR), Some(Range { min: size.min, max: most })));
            }
            ("string", [arg]) if call.declared[0] == Type::Bytes => {
                let size = self.arg(arg);
                return Some((size.scale(TEXT_FACTOR), Some(Range { min: size.min / 4, max: size.max })));
            }
            ("strings.quote", [arg]) => {
                let size = self.arg(arg);
                let quoted = Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
                return Some((size.scale(TEXT_FACTOR), Some(quoted)));
            }
            ("startsWith" | "endsWith", [arg]) => self.arg(arg).scale(TEXT_FACTOR),
            (op::IN, [_, list]) if matches!(call.declared[1], Type::List(_)) => self.arg(list).scale(1.0),
            ("matches", [pattern]) => pattern_cost(self.target(call)?, self.arg(pattern)),
            ("matches", [text, pattern]) => pattern_cost(self.arg(text), self.arg(pattern)),
            ("contains", [part]) => self.target(call)?.scale(TEXT_FACTOR).multiply(self.arg(part).scale(TEXT_FACTOR)),
            ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) if textual(0) => shorter(self.arg(a), self.arg(b)),
            (op::EQUALS | op::NOT_EQUALS, [a, b]) => shorter(self.arg(a), self.arg(b)),
            _ => return None,
        };
        Some((cost, None))
    }
}

/// A pass over the shorter of two values.
fn shorter(a: Range, b: Range) -> Range {
    let max = a.max.min(b.max);
    Range { min: u64::from(max > 0), max }.scale(TEXT_FACTOR)
}

fn pattern_cost(text: Range, pattern: Range) -> Range {
    text.add(Range::fixed(1)).scale(TEXT_FACTOR).multiply(pattern.scale(REGEX_FACTOR))
}

/// A number that is written out; negative ones count as 0.
fn number(arg: &Argument<'_>, otherwise: u64) -> u64 {
    match &arg.expr.kind {
        Kind::Literal(Value::Int(n)) => u64::try_from(*n).unwrap_or(0),
        _ => otherwise,
    }
}
