//! Rules for single texts beyond those of names: addresses, paths, schedules.

use super::at::{At, Errors};
use machinery::name;
use serde_json::Value;
use std::net::IpAddr;

/// Upstream's words for what is not an address.
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// An IP address; one with leading zeros is none.
pub(super) fn address(text: &str, at: &At<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        errors.invalid(at, text, NO_ADDRESS);
    }
    parsed
}

/// An address that traffic can be sent to: not unspecified, loopback, link-local.
pub(super) fn reachable_address(text: &str, at: &At<'_>, errors: &mut Errors) {
    let Some(ip) = address(text, at, errors) else { return };
    let multicast_local = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        errors.invalid(at, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast_local {
        errors.invalid(at, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// The name of a signer of certificates: `example.com/name`.
pub(super) fn signer(text: &str, at: &At<'_>, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(at, "");
    }
    let Some((domain, path)) = text.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(at, text, detail);
    };
    errors.texts(at, domain, name::dns1123_subdomain(domain));
    if !domain.contains('.') {
        errors.invalid(at, domain, "should be a domain with at least two segments separated by dots");
    }
    errors.texts(at, path, name::dns1123_subdomain(path));
}

/// A network: `10.0.0.0/8`.
pub(super) fn network(text: &str, at: &At<'_>, errors: &mut Errors) {
    if parse_network(text).is_none() {
        errors.invalid(at, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// A network as its address, the number of bits that count, and whether it is one of IPv6.
pub(super) fn parse_network(text: &str) -> Option<(u128, u8, bool)> {
    let (ip, bits) = text.split_once('/')?;
    let (address, max, v6) = match ip.parse().ok()? {
        IpAddr::V4(v4) => (u32::from(v4).into(), 32, false),
        IpAddr::V6(v6) => (u128::from(v6), 128, true),
    };
    let bits = bits.parse().ok().filter(|bits| *bits <= max)?;
    Some((address, bits, v6))
}

/// A port by number, or by name where `name` rules are wanted too.
pub(super) fn port_or_name(value: &Value, at: &At<'_>, errors: &mut Errors) {
    match value {
        Value::String(text) => errors.texts(at, text, name::port_name(text)),
        _ => port_number(value, at, errors),
    }
}

/// A port between 1 and 65535.
pub(super) fn port_number(value: &Value, at: &At<'_>, errors: &mut Errors) {
    errors.in_range(at, value, 1, 65535);
}

/// A path that stays below where it is used: relative, without `..`.
pub(super) fn local_path(path: &str, at: &At<'_>, errors: &mut Errors) {
    if path.starts_with('/') {
        errors.invalid(at, path, "must be a relative path");
    }
    no_parent(path, at, errors);
}

/// A path without `..`.
pub(super) fn no_parent(path: &str, at: &At<'_>, errors: &mut Errors) {
    if path.split('/').any(|part| part == "..") {
        errors.invalid(at, path, "must not contain '..'");
    }
}

/// A local path that also does not begin with two dots, which the kubelet keeps for itself.
pub(super) fn visible_local_path(path: &str, at: &At<'_>, errors: &mut Errors) {
    local_path(path, at, errors);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        errors.invalid(at, path, "must not start with '..'");
    }
}

/// What is wrong with a schedule in cron's notation, if anything.
pub(super) fn schedule(text: &str) -> Option<String> {
    if let Some(word) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&word)
            || word.starts_with("every ");
        return (!known).then(|| format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds = [
        (0, 59, ""),
        (0, 23, ""),
        (1, 31, ""),
        (1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"),
        (0, 6, "sunmontuewedthufrisat"),
    ];
    fields.iter().zip(bounds).find_map(|(field, bound)| field.split(',').find_map(|part| schedule_part(part, bound)))
}

/// One part of a field of a schedule: `*`, `3`, `1-5`, `*/10`, `MON`.
fn schedule_part(part: &str, (min, max, names): (u32, u32, &str)) -> Option<String> {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|s| s.parse::<u32>().is_err()) {
        return Some(format!("failed to parse int from {part}"));
    }
    if step == Some("0") {
        return Some(format!("step of range should be a positive number: {part}"));
    }
    if matches!(range, "*" | "?") {
        return None;
    }
    let number = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let named = (lower.len() == 3).then(|| names.find(&lower)).flatten().filter(|at| at % 3 == 0);
        named.map_or_else(|| text.parse::<u32>().ok(), |at| Some(at as u32 / 3 + min))
    };
    let (from, to) = range.split_once('-').map_or((range, range), |(from, to)| (from, to));
    match (number(from), number(to)) {
        (Some(from), Some(_)) if from < min => {
            Some(format!("beginning of range ({from}) below minimum ({min}): {part}"))
        }
        (Some(_), Some(to)) if to > max => Some(format!("end of range ({to}) above maximum ({max}): {part}")),
        (Some(from), Some(to)) if from > to => {
            Some(format!("beginning of range ({from}) beyond end of range ({to}): {part}"))
        }
        (Some(_), Some(_)) => None,
        _ => Some(format!("failed to parse int from {part}")),
    }
}

#[cfg(test)]
mod tests {
    use super::schedule;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-6 1,15 JAN-MAR mon", "@hourly", "0 3 * * 0"] {
            assert_eq!(schedule(good), None, "{good}");
        }
        for bad in ["", "often", "60 * * * *", "* * * * 9", "5-1 * * * *", "*/0 * * * *", "@never", "a * * * *"] {
            assert!(schedule(bad).is_some(), "{bad}");
        }
    }
}
