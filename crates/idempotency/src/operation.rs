//! The name of what a command does.

use std::fmt;

/// The name of an operation, such as `pay`: stored with every key, and part of the fingerprint. It never changes.
///
/// In a constant, a name that cannot be used does not compile:
///
/// ```
/// use payonce_idempotency::Operation;
///
/// const PAY: Operation = Operation::new("pay");
/// ```
///
/// ```compile_fail
/// # use payonce_idempotency::Operation;
/// const VOID: Operation = Operation::new("void");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation(&'static str);

impl Operation {
    /// The operation of keys that are used up without an execution.
    pub const VOID: Self = Self("void");

    /// An operation of the application's.
    ///
    /// # Panics
    /// When the name is empty, or is `void`, which names the layer's own operation.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty(), "an operation needs a name");
        assert!(!matches!(name.as_bytes(), b"void"), "the operation void is the layer's own");
        Self(name)
    }

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operation({:?})", self.0)
    }
}

/// As a stored operation is compared.
impl PartialEq<Operation> for str {
    fn eq(&self, other: &Operation) -> bool {
        self == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::Operation;

    #[test]
    #[should_panic(expected = "the layer's own")]
    fn the_name_of_the_layers_own_operation_is_refused() {
        let _ = Operation::new("void");
    }
}
