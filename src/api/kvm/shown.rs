//! `plain`, of text that comes in pieces: what is shown is the same however it was cut, in the middle of a character or of a control
//! sequence. What may still become a sequence is held back; that is bounded, as sequences are.

use super::plain::{Begins, plain, undecided};

/// What is shown of a guest's bytes.
#[derive(Default)]
pub struct Shown {
    /// Not a whole character yet.
    bytes: Vec<u8>,
    /// Not shown yet.
    text: String,
}

impl Shown {
    /// What is to be shown now that these have come.
    pub fn more(&mut self, bytes: &[u8]) -> String {
        self.bytes.extend_from_slice(bytes);
        let whole = whole_characters(&self.bytes);
        let rest = self.bytes.split_off(whole);
        self.text.push_str(&String::from_utf8_lossy(&self.bytes));
        self.bytes = rest;
        let held = match undecided(&self.text) {
            Begins::Nowhere => String::new(),
            Begins::At(at) => self.text.split_off(at),
        };
        plain(&std::mem::replace(&mut self.text, held))
    }

    /// What is left when nothing more comes.
    pub fn end(&mut self) -> String {
        let mut text = std::mem::take(&mut self.text);
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        plain(&text)
    }
}

/// Bytes before a character at the end that is not whole yet.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let incomplete = last.map_or(0, |chunk| {
        let invalid = chunk.invalid();
        // What is wrong in itself does not wait for more.
        let may_go_on = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if may_go_on { invalid.len() } else { 0 }
    });
    bytes.len() - incomplete
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown_in(pieces: &[&[u8]]) -> String {
        let mut shown = Shown::default();
        let mut text: String = pieces.iter().map(|piece| shown.more(piece)).collect();
        text.push_str(&shown.end());
        text
    }

    #[test]
    fn it_is_shown_as_soon_as_it_is_known_to_be_no_sequence() {
        let mut shown = Shown::default();
        assert_eq!(shown.more(b"login: \xe2\x82"), "login: ");
        assert_eq!(shown.more(b"\xac\x1b[3"), "€");
        assert_eq!(shown.more(b"1mred\r\n\x1b]0;"), "red\n");
        assert_eq!(shown.more(b"title\x07text \xff"), "text \u{fffd}");
        assert_eq!(shown.more(b"\x1b]never ends"), "");
        let held = shown.more(&[b'x'; 8192]);
        assert!(held.len() > 8192, "it is bounded");
        assert_eq!(shown.end(), "");
    }

    proptest! {
        #[test]
        fn it_is_the_same_in_whatever_pieces(
            text in "([\\x00-\\x7f]|\u{1b}[\\[\\]P(_X^]|\u{9b}|\u{9d}|ä|€|.){0,120}",
            wild in proptest::collection::vec(any::<u8>(), 0..40),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(wild);
            let whole = plain(&String::from_utf8_lossy(&bytes));
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(shown_in(&pieces), whole.clone());
            // And byte by byte.
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(shown_in(&pieces), whole);
        }
    }
}
