//! How long each list of a definition may be.

use super::{Error, Result};

/// Entries of `forwards` of one NIC.
pub const MAX_FORWARDS: usize = 64;
/// Entries of a list of disks or of NICs; a VM has fewer places.
pub const MAX_DEVICES: usize = 64;
/// Cores in one list of a pinning.
pub const MAX_PINNED: usize = 1024;

/// # Errors
/// [`Error::Invalid`] with the list's name and its bound.
pub fn check_length<T>(param: &'static str, list: &[T], max: usize) -> Result<()> {
    if list.len() <= max {
        return Ok(());
    }
    Err(Error::invalid(param, format!("have at most {max} entries, not {}", list.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_its_bound() {
        check_length("forwards", &[0; 64], 64).unwrap();
        let said = check_length("forwards", &[0; 65], 64).unwrap_err().to_string();
        assert_eq!(said, "Invalid parameter: forwards must have at most 64 entries, not 65.");
    }
}
