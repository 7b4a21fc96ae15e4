//! sys

pub mod authorities;
pub mod netlink;
pub mod netns;
