//! Money.

use serde::Serialize;

/// The expected form of an amount, for error messages.
pub const EXPECTED: &str =
    "a whole number of minor units, 1 to 9007199254740991, without fraction, exponent or quotes";

/// An amount of money in minor units of its currency (100 is 1.00 in a currency with cents):
/// 1 to 2⁵³ − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Amount(i64);

impl Amount {
    /// The largest whole number up to which a double holds every one, so that no JSON client loses
    /// a digit (RFC 8259 §6).
    pub const MAX: u64 = (1 << 53) - 1;

    /// The amount of this many minor units; `None` for zero and for more than [`MAX`](Self::MAX).
    #[must_use]
    pub fn from_minor_units(units: u64) -> Option<Self> {
        (1..=Self::MAX).contains(&units).then(|| i64::try_from(units).ok().map(Self))?
    }

    /// The amount that this JSON is, as it is written: neither `100.0` nor `1e2`.
    #[must_use]
    pub fn from_json(json: &str) -> Option<Self> {
        json.parse().ok().and_then(Self::from_minor_units)
    }

    /// In minor units.
    #[must_use]
    pub fn minor_units(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Amount;

    #[test]
    fn an_amount_is_one_minor_unit_to_what_a_double_can_count() {
        let units = |units| Amount::from_minor_units(units).map(Amount::minor_units);
        assert_eq!(units(0), None);
        assert_eq!(units(1), Some(1));
        assert_eq!(units(9_007_199_254_740_991), Some(9_007_199_254_740_991));
        assert_eq!(units(9_007_199_254_740_992), None);
        assert_eq!(units(u64::MAX), None);
    }
}
