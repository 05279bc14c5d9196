//! Names that people give: of VMs, switches and NICs. Which characters they may have, and when two of them are
//! the same. What must be quoted somewhere (QEMU's `-name`, a URL) is quoted there.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::{Error, Result};

/// Characters in a name.
const MAX_NAME: usize = 64;

/// Beside letters, digits and their marks.
const SIGNS: &str = "._-()+@: ";

/// 1 to 64 letters and digits of any script with their combining marks (an accent, a vowel sign of Hindi or Thai), and
/// `. _ - ( ) + @ :` and spaces between them.
///
/// The rest is refused, because names are read in process lists, log lines and URLs and typed into shells: control
/// characters, what cannot be seen or turns the order of the text round, other kinds of space, and the signs that
/// separate or quote there, such as `/ , = " ' \ * ? ; & | < > $ #`. They are kept as they were given.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_name(name: &str) -> Result<String> {
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err(Error::invalid("name", format!("have 1 to {MAX_NAME} characters")));
    }
    let mut before = None;
    for c in name.chars() {
        // A mark, and a joiner, belongs to the letter before it.
        let hangs_on = |before: Option<char>| before.is_some_and(|c| is_letter(c) || is_combining_mark(c));
        let fits = is_letter(c) || SIGNS.contains(c) || ((is_combining_mark(c) || is_joiner(c)) && hangs_on(before));
        if !fits || (before.is_none() && c == ' ') {
            return Err(refused(c));
        }
        before = Some(if is_joiner(c) { 'x' } else { c });
    }
    if name.ends_with(' ') { Err(refused(' ')) } else { Ok(name.to_owned()) }
}

fn is_letter(c: char) -> bool {
    c.is_alphanumeric()
}

/// Without a width, between letters of Persian and Hindi: they decide which forms the letters take.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

fn refused(c: char) -> Error {
    let must = "consist of letters, digits, '.', '_', '-', '(', ')', '+', '@', ':' and spaces between them";
    match c {
        ' ' => Error::invalid("name", must),
        _ if c.is_control() || c.is_whitespace() || is_combining_mark(c) || is_joiner(c) || is_invisible(c) => {
            Error::invalid("name", format!("{must}, without U+{:04X} in that place", c as u32))
        }
        _ => Error::invalid("name", format!("{must}, without '{c}'")),
    }
}

/// Format characters that a message would be spoilt by.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Whether two names are the same to a reader: without regard to case (ruling 31), in every script, and to whether `é` is
/// one character or an `e` with its accent.
pub fn same_name(one: &str, other: &str) -> bool {
    // Up and down again: `ς` and `σ` are both `Σ`. And composed last: changing the case may take a letter apart.
    let fold = |text: &str| {
        text.nfc()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect::<String>()
            .nfc()
            .collect::<String>()
    };
    fold(one) == fold(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_language_are_names() {
        let fine = [
            "web 1",
            "ci_runner-3.local",
            "größe",
            "re\u{301}sume\u{301}",
            "हिन्दी सर्वर",
            "เครื่องที่ ๑",
            "می\u{200c}خواهم",
            "क\u{94d}\u{200d}ष",
            "db (copy) +1 @lab:2",
            "サーバー",
            "x",
        ];
        for name in fine {
            assert_eq!(check_name(name).unwrap(), name);
        }
        assert!(check_name(&"é".repeat(64)).is_ok());
    }

    #[test]
    fn what_would_mislead_a_reader_or_a_shell_is_refused() {
        let refused = [
            "",
            " x",
            "x ",
            "a\nb",
            "a\tb",
            "a,b",
            "a=b",
            "../etc",
            "a\"b",
            "a'b",
            "a\\b",
            "a;b",
            "a*",
            "<b>",
            "a\u{a0}b",
            "a\u{202e}b",
            "a\u{200b}b",
            "\u{301}a",
            "a \u{301}",
            "\u{200d}a",
            "a\u{feff}",
            "a\0",
        ];
        for name in refused {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&"x".repeat(65)).is_err());
        let said = |name| check_name(name).unwrap_err().to_string();
        assert!(said("a/b").ends_with("without '/'."), "{}", said("a/b"));
        assert!(said("a\u{202e}b").ends_with("without U+202E in that place."), "{}", said("a\u{202e}b"));
    }

    #[test]
    fn names_are_the_same_in_any_case_of_any_script() {
        let pairs = [("LAN", "lan"), ("GRÖSSE 1", "größe 1"), ("ΟΔΟΣ", "οδος"), ("ОФИС", "офис"), ("", "")];
        for (one, other) in
            pairs.into_iter().chain([("Caf\u{e9}", "CAFE\u{301}"), ("\u{1e9b}\u{323}", "\u{1e9b}\u{323}")])
        {
            assert!(same_name(one, other), "{one} {other}");
        }
        assert!(!same_name("LAN", "LAN2") && !same_name("LAN", "WLAN") && !same_name("a", "á"));
    }
}
