//! IPv4 address ranges.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network such as `10.42.0.0/24`; its host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// A range that is not written as `address/length`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.42.0.0/24")]
pub struct ParseCidrError(String);

impl Cidr {
    /// The network that `address` is in, by prefix length (0–32).
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Cidr {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Cidr { base: address.to_bits() & mask(prefix), prefix }
    }

    /// The network address.
    pub fn address(self) -> Ipv4Addr {
        self.base.into()
    }

    /// The prefix length, 0–32.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask.
    pub fn mask(self) -> Ipv4Addr {
        mask(self.prefix).into()
    }

    /// Whether an address is inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    /// Whether two ranges share an address.
    pub fn overlaps(self, other: Cidr) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }

    /// How many addresses there are.
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The address at an offset from the network address; wraps inside the range.
    pub fn nth(self, offset: u64) -> Ipv4Addr {
        (self.base + (offset % self.size()) as u32).into()
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseCidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        match prefix.parse() {
            Ok(prefix) if prefix <= 32 => Ok(Cidr::new(address, prefix)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, canonical, size) in [
            ("10.42.0.7/24", Some("10.42.0.0/24"), 256),
            ("0.0.0.0/0", Some("0.0.0.0/0"), 1 << 32),
            ("1.2.3.4/32", Some("1.2.3.4/32"), 1),
            ("1.2.3.4/33", None, 0),
            ("1.2.3.4", None, 0),
            ("fd00::/64", None, 0),
        ] {
            let parsed = text.parse::<Cidr>().ok();
            assert_eq!(parsed.map(|cidr| cidr.to_string()).as_deref(), canonical, "{text}");
            assert_eq!(parsed.map_or(0, Cidr::size), size, "{text}");
        }
        let (pods, node) = (cidr("10.42.0.0/16"), cidr("10.42.3.0/24"));
        assert!(pods.overlaps(node) && node.overlaps(pods));
        assert!(!node.overlaps(cidr("10.42.4.0/24")));
        assert!(node.contains("10.42.3.255".parse().unwrap()));
        assert_eq!(node.nth(1), Ipv4Addr::new(10, 42, 3, 1));
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }
}
