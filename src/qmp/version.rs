//! Which QEMU is at the other end, as its greeting says.

use std::fmt;

/// What the greeting says about the QEMU at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuVersion {
    /// 10 of 10.0.2.
    pub major: u32,
    /// 0 of 10.0.2.
    pub minor: u32,
    /// 2 of 10.0.2.
    pub micro: u32,
    /// The distributor's own version, often empty.
    pub package: String,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}
