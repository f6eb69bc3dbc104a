//! Currencies.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A currency of ISO 4217 that counts in minor units. So not gold (`XAU`), nor drawing rights (`XDR`),
/// nor the codes for tests and for none: of these nobody could say what an amount of 100 is. Nor those that
/// were withdrawn, as far as the table knows: nobody can pay in them any more. Payments that were created
/// before that can still be read and refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// The currency of this alphabetic code, in upper case as the standard has it.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        let currency = iso_currency::Currency::from_code(code)?;
        // The table takes VES for succeeded by VED; the standard has both, as two codes of one money.
        let withdrawn =
            currency.is_superseded().is_some() && currency != iso_currency::Currency::VES;
        (currency.exponent().is_some() && !withdrawn).then_some(Self(currency))
    }

    /// Its alphabetic code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }
}

/// The number of digits after the point in amounts of a currency, including withdrawn ones; `None` where the
/// code is unknown or has no minor units.
#[must_use]
pub fn exponent(code: &str) -> Option<u32> {
    iso_currency::Currency::from_code(code)?.exponent().map(u32::from)
}

impl FromStr for Currency {
    type Err = &'static str;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        Self::from_code(code).ok_or("expected the code of a currency (ISO 4217) in upper case")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// Every currency that a payment may name.
pub(crate) fn all() -> impl Iterator<Item = Currency> {
    let letters = || 'A'..='Z';
    let pairs = letters().flat_map(move |a| letters().map(move |b| [a, b]));
    let codes = pairs.flat_map(move |[a, b]| letters().map(move |c| String::from_iter([a, b, c])));
    codes.filter_map(|code| Currency::from_code(&code))
}

#[cfg(test)]
mod tests {
    use super::Currency;

    #[test]
    fn a_currency_is_a_code_of_iso_4217_with_minor_units() {
        for code in ["USD", "EUR", "JPY", "KWD", "CLF", "XOF", "SLE", "VED", "VES", "XCG", "ZWG"] {
            assert_eq!(Currency::from_code(code).map(Currency::code), Some(code));
        }
        for code in
            ["usd", "Usd", "US", "USDT", "", " USD", "840", "ABC", "XXX", "XTS", "XAU", "XDR"]
        {
            assert_eq!(Currency::from_code(code), None, "{code}");
        }
        for withdrawn in ["HRK", "BGN", "CUC", "SLL", "ZWL", "ANG", "DEM"] {
            assert_eq!(Currency::from_code(withdrawn), None, "{withdrawn}");
        }
    }
}
