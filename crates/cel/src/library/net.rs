//! Addresses, networks and URLs.

use super::opaque::{Opaque, of, wrap};
use super::{Cost, Outcome, Run, fault, mismatch};
use crate::fault::Fault;
use crate::value::{Map, Value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const FUNCTIONS: &[(&str, Run, Cost)] = &[
    (
        "ip",
        |args, _| match &args[0] {
            Value::String(text) => parse_ip(text).map_or_else(fault, |address| Ok(wrap(Opaque::Ip(address)))),
            other => match of(other)? {
                Opaque::Cidr(address, _) => Ok(wrap(Opaque::Ip(*address))),
                _ => mismatch(),
            },
        },
        Cost::Convert,
    ),
    (
        "isIP",
        |args, _| match &args[0] {
            Value::String(text) => Ok(Value::Bool(parse_ip(text).is_ok())),
            _ => mismatch(),
        },
        Cost::Text(0, 1.0),
    ),
    (
        "ip.isCanonical",
        |args, _| match &args[0] {
            Value::String(text) => {
                parse_ip(text).map_or_else(fault, |address| Ok(Value::Bool(address.to_string() == **text)))
            }
            _ => mismatch(),
        },
        Cost::Text(0, 2.0),
    ),
    ("family", |args, _| address(args).map(|a| Value::Int(if a.is_ipv4() { 4 } else { 6 })), Cost::One),
    ("isUnspecified", |args, _| address(args).map(|a| Value::Bool(a.is_unspecified())), Cost::One),
    ("isLoopback", |args, _| address(args).map(|a| Value::Bool(a.is_loopback())), Cost::One),
    ("isLinkLocalMulticast", |args, _| address(args).map(|a| Value::Bool(link_local_multicast(a))), Cost::One),
    ("isLinkLocalUnicast", |args, _| address(args).map(|a| Value::Bool(link_local_unicast(a))), Cost::One),
    ("isGlobalUnicast", |args, _| address(args).map(|a| Value::Bool(global_unicast(a))), Cost::One),
    (
        "cidr",
        |args, _| match &args[0] {
            Value::String(text) => parse_cidr(text).map_or_else(fault, |(a, n)| Ok(wrap(Opaque::Cidr(a, n)))),
            _ => mismatch(),
        },
        Cost::Text(0, 1.0),
    ),
    (
        "isCIDR",
        |args, _| match &args[0] {
            Value::String(text) => Ok(Value::Bool(parse_cidr(text).is_ok())),
            _ => mismatch(),
        },
        Cost::Text(0, 1.0),
    ),
    ("prefixLength", |args, _| network(args).map(|(_, len)| Value::Int(i64::from(len))), Cost::One),
    ("masked", |args, _| network(args).map(|(a, n)| wrap(Opaque::Cidr(masked(a, n), n))), Cost::One),
    ("containsIP", contains_ip, Cost::ContainsIp),
    ("containsCIDR", contains_cidr, Cost::ContainsCidr),
    (
        "url",
        |args, _| match &args[0] {
            Value::String(text) => match Url::parse(text) {
                Ok(url) => Ok(wrap(Opaque::Url(url))),
                Err(why) => fault(format!("URL parse error during conversion from string: {why}")),
            },
            _ => mismatch(),
        },
        Cost::Text(0, 1.0),
    ),
    (
        "isURL",
        |args, _| match &args[0] {
            Value::String(text) => Ok(Value::Bool(Url::parse(text).is_ok())),
            _ => mismatch(),
        },
        Cost::One,
    ),
    ("getScheme", |args, _| url(args).map(|url| Value::string(&*url.scheme)), Cost::One),
    ("getHost", |args, _| url(args).map(|url| Value::string(&*url.host)), Cost::One),
    ("getHostname", |args, _| url(args).map(|url| Value::string(url.split_host().0)), Cost::One),
    ("getPort", |args, _| url(args).map(|url| Value::string(url.split_host().1)), Cost::One),
    ("getEscapedPath", |args, _| url(args).map(|url| Value::string(&*url.path)), Cost::One),
    ("getQuery", |args, _| url(args).map(Url::values), Cost::One),
];

fn address(args: &[Value<'_>]) -> Result<IpAddr, Fault> {
    match of(&args[0])? {
        Opaque::Ip(address) => Ok(*address),
        _ => Err(Fault::overload()),
    }
}

fn network(args: &[Value<'_>]) -> Result<(IpAddr, u8), Fault> {
    match of(&args[0])? {
        Opaque::Cidr(address, len) => Ok((*address, *len)),
        _ => Err(Fault::overload()),
    }
}

fn url<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, Fault> {
    match of(&args[0])? {
        Opaque::Url(url) => Ok(url),
        _ => Err(Fault::overload()),
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = |why: &str| {
        let twice = "network address parse error during conversion from string";
        Err(format!("{twice}: {twice}: netip.ParsePrefix({text:?}): {why}"))
    };
    let Some((address, len)) = text.rsplit_once('/') else { return wrong("no '/'") };
    let Ok(address) = address.parse::<IpAddr>() else { return wrong("unable to parse IP") };
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    let digits = len.bytes().all(|b| b.is_ascii_digit()) && (len.len() == 1 || !len.starts_with('0'));
    let max = if address.is_ipv4() { 32 } else { 128 };
    match len.parse::<u8>().ok().filter(|_| digits) {
        Some(len) if len <= max => Ok((address, len)),
        Some(_) => wrong("prefix length out of range"),
        None => wrong("bad bits after slash"),
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

fn masked(address: IpAddr, len: u8) -> IpAddr {
    let (value, width) = bits(address);
    let host = u32::from(width - len);
    let kept = value.checked_shr(host).and_then(|value| value.checked_shl(host)).unwrap_or(0);
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(kept as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(kept)),
    }
}

fn within(address: IpAddr, (network, len): (IpAddr, u8)) -> bool {
    address.is_ipv4() == network.is_ipv4() && masked(address, len) == masked(network, len)
}

fn contains_ip<'a>(args: &[Value<'a>], _: &mut crate::fault::Fuel) -> Outcome<'a> {
    let address = match &args[1] {
        Value::String(text) => parse_ip(text).map_err(Fault::new)?,
        other => address(std::slice::from_ref(other))?,
    };
    network(args).map(|network| Value::Bool(within(address, network)))
}

fn contains_cidr<'a>(args: &[Value<'a>], _: &mut crate::fault::Fuel) -> Outcome<'a> {
    let (address, len) = match &args[1] {
        Value::String(text) => parse_cidr(text).map_err(Fault::new)?,
        other => network(std::slice::from_ref(other))?,
    };
    network(args).map(|network| Value::Bool(len >= network.1 && within(address, network)))
}

fn link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..3] == [224, 0, 0],
        IpAddr::V6(a) => a.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn global_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
    !(broadcast
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || link_local_unicast(address))
}

/// A URL as of a request: absolute, or an absolute path.
#[derive(Clone, Debug)]
pub struct Url {
    pub(crate) text: String,
    scheme: String,
    /// With its port.
    host: String,
    /// Escaped.
    path: String,
    query: String,
}

impl Url {
    /// Parses; the error is Go's.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let fail = |why: &str| Err(format!("parse {text:?}: {why}"));
        if text.is_empty() {
            return fail("empty url");
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return fail("net/url: invalid control character in URL");
        }
        let (scheme, rest) = match split_scheme(text) {
            Ok(split) => split,
            Err(why) => return fail(why),
        };
        let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            return fail("invalid URI for request");
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) if !scheme.is_empty() => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            _ => ("", rest),
        };
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if let Some(why) = bad_host(host).or_else(|| bad_escape(path)) {
            return fail(&why);
        }
        Ok(Url {
            text: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path: escaped(path),
            query: query.to_owned(),
        })
    }

    /// Name (without brackets) and port.
    fn split_host(&self) -> (&str, &str) {
        let (name, port) = match self.host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port),
            _ => (&*self.host, ""),
        };
        (name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port)
    }

    /// The query's values by name.
    fn values<'a>(&self) -> Value<'a> {
        let mut found: Vec<(String, Vec<Value<'a>>)> = Vec::new();
        for part in self.query.split('&').filter(|part| !part.is_empty() && !part.contains(';')) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (Some(name), Some(value)) = (unescaped(name), unescaped(value)) else { continue };
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(Value::string(value)),
                None => found.push((name, vec![Value::string(value)])),
            }
        }
        let entries = found.into_iter().map(|(name, values)| (Value::string(name), Value::list(values))).collect();
        Value::Map(Map::made(entries))
    }
}

/// The scheme, if there is one, and the rest.
fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' => return Ok(("", text)),
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn bad_host(host: &str) -> Option<String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) => (name, port),
            None => return Some("missing ']' in host".to_owned()),
        },
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    let digits = port.strip_prefix(':').unwrap_or("x");
    if !port.is_empty() && !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Some(format!("invalid port {port:?} after host"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    name.chars().find(|c| !allowed(*c)).map(|c| format!("invalid character {:?} in host name", c.to_string()))
}

fn bad_escape(path: &str) -> Option<String> {
    for (at, _) in path.match_indices('%') {
        let digits = path.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        if digits.is_none() {
            let shown: String = path[at..].chars().take(3).collect();
            return Some(format!("invalid URL escape {shown:?}"));
        }
    }
    None
}

/// With what may not stand in a path escaped.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for b in path.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@/%[]".contains(&b) {
            text.push(char::from(b));
        } else {
            text += &format!("%{b:02X}");
        }
    }
    text
}

fn unescaped(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'+' => b' ',
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                (high * 16 + low) as u8
            }
            b => b,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
