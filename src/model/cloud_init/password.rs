//! The password of a guest's user: what is kept of it, and given to the guest, is its hash.

use base64ct::{Base64ShaCrypt, Encoding};
use sha_crypt::{PasswordHash, PasswordHasher, PasswordVerifier, ShaCrypt};

use crate::model::{Error, Result};

/// What cloud-init takes for hashes; anything else it would set as a password of these very letters.
const HASHES: [&str; 5] = ["$6$", "$5$", "$1$", "$2a$", "$2y$"];
/// Bytes, which are the 16 letters that sha512-crypt looks at.
const SALT: usize = 12;

pub(super) fn check(password: &str) -> Result<()> {
    let invalid = |must: &str| Err(Error::invalid("cloud_init.password", must));
    if !password.starts_with('$') {
        return match password.chars().any(char::is_control) {
            true => invalid("hold no control characters"),
            false => Ok(()),
        };
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "./$=,".contains(c);
    let is_hash = HASHES.iter().any(|sort| password.starts_with(sort)) && password.chars().all(fits);
    match is_hash && password[1..].split('$').filter(|field| !field.is_empty()).count() >= 3 {
        true => Ok(()),
        false => invalid(
            "be a hash that cloud-init knows where it begins with $: $6$ (mkpasswd -m sha-512), $5$, $2y$, $2a$ or $1$; $y$ is none",
        ),
    }
}

/// As it is kept: a hash, or one that it is already. Takes some milliseconds.
pub fn hashed(password: &str) -> String {
    if password.starts_with('$') {
        return password.to_owned();
    }
    let mut salt = [0; SALT];
    // A hash with a salt that is known is still one.
    if getrandom::fill(&mut salt).is_err() {
        salt.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..SALT]);
    }
    match ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), &salt) {
        Ok(hash) => hash.to_string(),
        // What no password has; it locks the user out instead of letting anybody in.
        Err(_) => format!("$6${}$", Base64ShaCrypt::encode_string(&salt)),
    }
}

/// Whether it is the password of this hash, or the hash itself.
pub(super) fn is_of(password: &str, hash: &str) -> bool {
    if password.starts_with('$') {
        return password == hash;
    }
    let hash = PasswordHash::new(hash.to_owned());
    hash.is_ok_and(|hash| ShaCrypt::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_as_a_hash_with_a_salt_of_its_own() {
        let (one, other) = (hashed("pass word"), hashed("pass word"));
        assert_ne!(one, other);
        for hash in [&one, &other] {
            assert!(hash.starts_with("$6$"), "{hash}");
            check(hash).unwrap();
            assert!(is_of("pass word", hash) && !is_of("password", hash));
            assert_eq!(hashed(hash), **hash);
        }
    }

    #[test]
    fn the_hash_is_the_one_that_other_programs_make() {
        // openssl passwd -6 -salt saltstring 'Hello world!'
        let known =
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
        check(known).unwrap();
        assert!(is_of("Hello world!", known) && is_of(known, known) && !is_of("Hello", known));
    }

    #[test]
    fn a_hash_that_cloud_init_would_set_as_letters_is_refused() {
        for bad in ["$y$j9T$salt$hash", "$6$", "$6$salt", "$x", "$6$a b$c", "tab\there"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for good in ["secret", "mit Leerzeichen: ä", "$2y$10$abcdefghijklmnopqrstuv"] {
            check(good).unwrap();
        }
    }
}
