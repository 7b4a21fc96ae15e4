//! From at least to at most: sizes and costs.

/// Least and most, of a size or a cost. Arithmetic stops at the largest number, which stands for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

impl Range {
    /// Anything.
    pub const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    /// Exactly this.
    pub const fn fixed(n: u64) -> Range {
        Range { min: n, max: n }
    }

    /// The union of no ranges; of an empty container, 0.
    pub(super) fn none(empty: bool) -> Range {
        Range { min: if empty { 0 } else { u64::MAX }, max: 0 }
    }

    pub(super) fn add(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(super) fn multiply(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Times a factor, rounded up.
    pub(super) fn scale(self, factor: f64) -> Range {
        let scale = |n: u64| (n as f64 * factor).ceil() as u64;
        Range { min: scale(self.min), max: scale(self.max) }
    }

    pub(super) fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}
