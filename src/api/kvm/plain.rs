//! Text of a guest's as it is harmless to show: a terminal that it is written to does with it what a sheet of paper does.
//! Sequences that colour, move, rename or ask the terminal are left out, as is every other control but line feed and tab, and what
//! turns the order of text round; what was to be read is there. Nothing can hide text: a sequence that does not end within its line is not one.

/// Bytes that the longest sequence may have; titles and links are no longer.
const LONGEST: usize = 4096;

/// The text without what a terminal would act on.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(acts) {
        shown.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = sequence(rest).unwrap_or_else(|| rest.chars().next().map_or(0, char::len_utf8));
        rest = &rest[length..];
    }
    shown.push_str(rest);
    shown
}

/// Where a text stops being decided.
#[derive(Debug, PartialEq, Eq)]
pub enum Begins {
    Nowhere,
    At(usize),
}

/// Where something begins that would be a sequence if the text went on.
pub fn undecided(text: &str) -> Begins {
    let mut at = 0;
    while let Some(next) = text[at..].find(acts) {
        at += next;
        let rest = &text[at..];
        let length = match sequence(rest) {
            Some(length) => length,
            None if may_begin(rest) => return Begins::At(at),
            None => rest.chars().next().map_or(0, char::len_utf8),
        };
        at += length;
    }
    Begins::Nowhere
}

/// A sequence ends within its line, and is not so long.
fn may_begin(rest: &str) -> bool {
    let introduced = rest.starts_with(|c| matches!(c, '\u{1b}' | '\u{80}'..='\u{9f}'));
    introduced && rest.len() <= LONGEST + 8 && !rest.contains('\n')
}

/// Controls of C0, C1 and DEL, and those that reorder.
fn acts(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t' || is_reordering(c)
}

/// Turns the order of what is read round.
pub fn is_reordering(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes of the control sequence that a text begins with, where it is a whole one (ECMA-48).
fn sequence(text: &str) -> Option<usize> {
    let mut chars = text.char_indices();
    let kind = match chars.next()?.1 {
        '\u{1b}' => chars.next()?.1,
        // The C1 controls are the same in one character.
        c @ '\u{80}'..='\u{9f}' => char::from_u32(c as u32 - 0x40)?,
        _ => return None,
    };
    let body = chars.as_str();
    let before = text.len() - body.len();
    let length = match kind {
        '[' => {
            let parameters = body.find(|c: char| !('\u{20}'..='\u{3f}').contains(&c))?;
            let last = body[parameters..].chars().next()?;
            ('\u{40}'..='\u{7e}').contains(&last).then_some(parameters + 1)?
        }
        // Strings: operating system and device commands, and those that nobody has a use for.
        ']' | 'P' | 'X' | '^' | '_' => string(body)?,
        // A character set.
        '('..='/' => body.chars().next().filter(|c| ('\u{30}'..='\u{7e}').contains(c)).map(char::len_utf8)?,
        '0'..='~' => 0,
        _ => return None,
    };
    (length <= LONGEST).then_some(before + length)
}

/// Bytes up to the end of a string, BEL or ST. No other control is in one, so each text is looked through once.
fn string(body: &str) -> Option<usize> {
    let end = body.find(|c| acts(c) || c == '\n')?;
    match body[end..].chars().next()? {
        '\u{1b}' => body[end + 1..].starts_with('\\').then_some(end + 2),
        closing @ ('\u{7}' | '\u{9c}') => Some(end + closing.len_utf8()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_left_out_and_the_words_stay() {
        for (text, shown) in [
            ("\u{1b}[0;32m  OK  \u{1b}[0m] Reached\r\n", "  OK  ] Reached\n"),
            ("\u{1b}c\u{1b}[?7l\u{1b}[2J\u{1b}[01;01HSeaBIOS", "SeaBIOS"),
            ("\u{1b}]0;rm -rf /\u{7}title", "title"),
            ("\u{1b}]8;;https://evil.example\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}P$q\"p\u{1b}\\asked", "asked"),
            ("\u{9b}31mred\u{9b}m \u{9d}52;c;Zm9v\u{9c}clip", "red clip"),
            ("\u{1b}(B\u{1b}7saved\u{1b}8", "saved"),
            ("bell\u{7} back\u{8}space\u{7f} nul\0", "bell backspace nul"),
            ("tab\tümläut €\n", "tab\tümläut €\n"),
            ("paid \u{202e}05\u{202c} \u{2066}EUR\u{2069}", "paid 05 EUR"),
            ("", ""),
        ] {
            assert_eq!(plain(text), shown, "{text:?}");
        }
    }

    #[test]
    fn nothing_hides_text_behind_a_sequence_that_does_not_end() {
        for (text, shown) in [
            ("\u{1b}]0;all of this\nis to be read", "]0;all of this\nis to be read"),
            ("\u{1b}Phidden\u{1b}[31m until the end", "Phidden until the end"),
            ("\u{1b}[12\nnext", "[12\nnext"),
            ("end\u{1b}", "end"),
            ("end\u{1b}[", "end["),
            ("\u{1b}\u{1b}[1mtwice", "twice"),
        ] {
            assert_eq!(plain(text), shown, "{text:?}");
        }
        let long = format!("\u{1b}]0;{}\u{7}", "x".repeat(LONGEST));
        assert!(plain(&long).len() > LONGEST);
    }

    #[test]
    fn it_takes_time_by_the_length_of_the_text() {
        // Each of these looks for an end that is not there.
        for begin in ["\u{1b}]", "\u{1b}P", "\u{1b}[", "\u{90}", "\u{9b}", "\u{9d}"] {
            let shown = plain(&begin.repeat(200_000));
            assert!(!shown.contains(acts));
        }
    }

    proptest! {
        #[test]
        fn no_control_is_left_whatever_a_guest_writes(text in "([\\x00-\\x9f]|\u{1b}[\\[\\]P(_X^]|.){0,200}") {
            let shown = plain(&text);
            prop_assert!(!shown.contains(acts), "{:?}", shown);
            prop_assert_eq!(shown.matches('\n').count(), text.matches('\n').count());
            prop_assert_eq!(plain(&shown), shown.clone(), "what is plain stays as it is");
        }
    }
}
