//! Whether a line is a public key of OpenSSH: what is not would be kept by a guest, and open no door.

use base64ct::{Base64, Encoding};

/// What OpenSSH takes today.
const SORTS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// `[OPTIONS] SORT BASE64 [COMMENT]`. What is wrong completes "must …".
pub(super) fn check(key: &str) -> Result<(), String> {
    if key.contains("PRIVATE KEY") {
        return Err(
            "be the public key, the one in the file that ends in .pub; this is a private one, which nobody should have"
                .into(),
        );
    }
    if key.contains("BEGIN SSH2 PUBLIC KEY") {
        return Err("be in the form of OpenSSH; ssh-keygen -i -f FILE makes it so".into());
    }
    if key.chars().any(char::is_control) {
        return Err("be one key in one line, without a line break".into());
    }
    let mut words = key.split_ascii_whitespace().skip_while(|word| !SORTS.contains(word));
    let Some(sort) = words.next() else {
        let why = if key.contains("ssh-dss") { "; OpenSSH takes DSA keys no longer" } else { "" };
        return Err(format!("be a public key of OpenSSH, such as ssh-ed25519 AAAA… me@here{why}"));
    };
    let data = words.next().and_then(|data| Base64::decode_vec(data).ok());
    match data.is_some_and(|data| is_whole(&data, sort)) {
        true => Ok(()),
        false => Err(format!("be a whole public key: what stands behind {sort} is none, or only a part of one")),
    }
}

/// Texts with their lengths before them, to the very end, of which the first is the sort once more.
fn is_whole(mut data: &[u8], sort: &str) -> bool {
    let mut texts = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<4>() {
        let Some((text, rest)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else { return false };
        texts.push(text);
        data = rest;
    }
    data.is_empty()
        && texts.len() > 1
        && texts[0] == sort.as_bytes()
        && (sort != SORTS[0] || texts[1].len() == 32)
        && texts[1..].iter().all(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUcZvKtCd9SuHNJUJ8lwzZEfWrYqWpeSpkZxCJcTxXp";

    #[test]
    fn a_key_is_taken_with_a_comment_and_with_options() {
        for key in [KEY.to_owned(), format!("{KEY} me at home"), format!("no-pty,command=\"ls -l\" {KEY} x")] {
            assert_eq!(check(&key), Ok(()), "{key}");
        }
    }

    #[test]
    fn what_opens_no_door_is_refused_with_what_to_do() {
        for (bad, why) in [
            ("", "be a public key"),
            ("ssh-ed25519", "be a whole public key"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUcZvKtCd9S", "be a whole public key"),
            ("ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIHUcZvKtCd9SuHNJUJ8lwzZEfWrYqWpeSpkZxCJcTxXp", "be a whole public key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "the public key"),
            ("---- BEGIN SSH2 PUBLIC KEY ----", "ssh-keygen -i"),
            ("ssh-dss AAAAB3NzaC1kc3MAAAAA", "DSA"),
            ("ssh-ed25519 AAAA\nssh-ed25519 AAAA", "without a line break"),
        ] {
            let said = check(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }
}
