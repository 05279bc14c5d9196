//! Where the body of a request ends. It follows what is read; hyper is what decodes it. Where the two could differ the
//! end counts as lost.

/// How a body is delimited, and how far it has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunk),
}

/// What comes next in a chunked body (RFC 9112, 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    Size {
        size: u64,
        digits: bool,
    },
    /// Up to the end of the line.
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    Trailer {
        empty: bool,
    },
    TrailerLf {
        empty: bool,
    },
    Over,
    Lost,
}

impl Framing {
    pub const CHUNKED: Self = Self::Chunked(Chunk::START);

    /// How many of these bytes belong to the body.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                taken
            }
            Self::Chunked(chunk) => {
                let mut at = 0;
                while let Some(byte) = bytes.get(at) {
                    match chunk {
                        Chunk::Over | Chunk::Lost => break,
                        Chunk::Data(left) => {
                            let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                            at += taken;
                            *left -= taken as u64;
                            if *left == 0 {
                                *chunk = Chunk::DataCr;
                            }
                        }
                        _ => {
                            *chunk = chunk.after(*byte);
                            at += 1;
                        }
                    }
                }
                at
            }
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Over))
    }

    /// It is not framed as it should be: hyper will say so.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Chunked(Chunk::Lost))
    }
}

impl Chunk {
    const START: Self = Self::Size { size: 0, digits: false };

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                let longer = size.checked_mul(16).and_then(|size| size.checked_add(digit));
                longer.map_or(Self::Lost, |size| Self::Size { size, digits: true })
            }
            (Self::Size { size, digits: true }, b'\r') | (Self::Extension { size }, b'\r') => Self::SizeLf { size },
            (Self::Size { size, digits: true }, b';' | b' ' | b'\t') => Self::Extension { size },
            (Self::Extension { .. }, b'\n') => Self::Lost,
            (Self::Extension { size }, _) => Self::Extension { size },
            (Self::SizeLf { size: 0 }, b'\n') => Self::Trailer { empty: true },
            (Self::SizeLf { size }, b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::START,
            (Self::Trailer { empty }, b'\r') => Self::TrailerLf { empty },
            (Self::Trailer { .. }, b'\n') => Self::Lost,
            (Self::Trailer { .. }, _) => Self::Trailer { empty: false },
            (Self::TrailerLf { empty: true }, b'\n') => Self::Over,
            (Self::TrailerLf { empty: false }, b'\n') => Self::Trailer { empty: true },
            _ => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece and byte by byte: how much of it is body, and whether that is all.
    fn read(mut framing: impl FnMut() -> Framing, text: &[u8]) -> (usize, bool, bool) {
        let mut whole = framing();
        let taken = whole.take(text);
        let (mut bytewise, mut sum) = (framing(), 0);
        for byte in text {
            sum += bytewise.take(&[*byte]);
        }
        assert_eq!((taken, &whole), (sum, &bytewise), "{}", String::from_utf8_lossy(text));
        (taken, whole.is_over(), whole.is_lost())
    }

    #[test]
    fn a_length_is_counted_down() {
        assert_eq!(read(|| Framing::Length(3), b"abcGET"), (3, true, false));
        assert_eq!(read(|| Framing::Length(9), b"abc"), (3, false, false));
    }

    #[test]
    fn a_chunked_body_ends_after_its_trailers() {
        for (text, next) in [
            ("0\r\n\r\n", "GET / HTTP/1.1"),
            ("5\r\nhello\r\n0\r\n\r\n", "GET"),
            ("5;name=\"a\"\r\nhello\r\n00\r\nx: y\r\nz:\r\n\r\n", "0\r\n"),
            ("A \r\n0123\r\n6789\r\n0\r\n\r\n", ""),
        ] {
            let all = format!("{text}{next}");
            assert_eq!(read(|| Framing::CHUNKED, all.as_bytes()), (text.len(), true, false), "{text:?}");
        }
        assert_eq!(read(|| Framing::CHUNKED, b"5\r\nhel"), (6, false, false));
    }

    #[test]
    fn a_body_that_is_not_framed_as_it_should_be_has_no_end() {
        for text in
            ["\r\n", "x\r\n", "5\nhello", "5\r\nhelloX", "fffffffffffffffff\r\n", "5;a\nb", "0\r\nx\n\r\n", "-1\r\n"]
        {
            assert!(read(|| Framing::CHUNKED, text.as_bytes()).2, "{text:?}");
        }
    }
}
