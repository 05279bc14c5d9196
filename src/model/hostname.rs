//! The names that VMs have in the DNS of their switch. A VM's name is free text; a label of DNS is not.

use super::{Error, Result, VmId};

/// What a label may have (RFC 1035).
const LABEL: usize = 63;

/// The label of a VM: its name in lower case, with every run of what a label cannot have as one hyphen, and neither at the
/// beginning nor at the end. A name that has nothing else is its default one, `vm-` and the first digits of the id.
pub fn host_label(name: &str, id: VmId) -> String {
    let mut label = String::new();
    for letter in name.chars() {
        if label.len() == LABEL {
            break;
        }
        match letter.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9') => label.push(letter),
            _ if label.is_empty() || label.ends_with('-') => {}
            _ => label.push('-'),
        }
    }
    let label = label.trim_end_matches('-');
    if label.is_empty() { id.default_name() } else { label.to_owned() }
}

/// The domain of a switch: labels with points between them, in lower case.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_domain(domain: &str) -> Result<String> {
    let domain = domain.to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    // With a label of a VM before it, it is to fit into what a resolver can ask for.
    if domain.len() > 180 || !domain.split('.').all(is_label) {
        return Err(Error::invalid("domain", "be a domain of at most 180 letters, digits, '-' and '.', such as lan"));
    }
    // Guests would ask nobody (RFC 6761), or one another (RFC 6762).
    if matches!(domain.rsplit('.').next(), Some("local" | "localhost" | "invalid")) {
        return Err(Error::invalid("domain", "not end in local, localhost or invalid, which guests do not ask for"));
    }
    Ok(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vm_has_a_label() {
        let id = VmId::parse("123e4567-e89b-12d3-a456-426614174000").unwrap();
        for (name, label) in [
            ("web", "web"),
            ("Web 1", "web-1"),
            ("db.prod_eu", "db-prod-eu"),
            ("-- a --", "a"),
            ("größe", "gr-e"),
            ("Größe №1", "gr-e-1"),
            ("ОФИС", "vm-123e4567"),
            ("...", "vm-123e4567"),
            ("10.0.0.1", "10-0-0-1"),
        ] {
            assert_eq!(host_label(name, id), label, "{name}");
        }
        let long = host_label(&format!("{}-x", "a".repeat(62)), id);
        assert_eq!(long, "a".repeat(62), "no hyphen at the end where it is cut");
    }

    #[test]
    fn a_domain_is_one_that_guests_ask_for() {
        assert_eq!(check_domain("Lab.Example.COM"), Ok("lab.example.com".into()));
        for bad in
            ["", ".", "lan.", "a..b", "-a", "a-", "a b", "a\nb", "printer.local", "localhost", "größe", &"a".repeat(64)]
        {
            assert!(check_domain(bad).is_err(), "{bad}");
        }
    }
}
