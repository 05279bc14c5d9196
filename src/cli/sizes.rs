//! Sizes, cores, rates and times as people write and read them.

use std::time::Duration;

use crate::model::check_label_key;

const UNITS: [(&str, u32); 5] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

/// Bytes: `512M`, `2G`, `2GiB`, `1.5G`.
///
/// # Errors
/// What is no size, in words.
pub fn bytes(text: &str) -> Result<u64, String> {
    let must = || format!("{text:?} is no size; write 512M or 2G");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(must)?;
    let (number, unit) = text.split_at(end);
    let unit = unit.to_ascii_uppercase();
    let bare = unit.strip_suffix("IB").or(unit.strip_suffix('B')).or(unit.strip_suffix('I')).unwrap_or(&unit);
    let (_, shift) = UNITS.iter().find(|(name, _)| *name == bare).ok_or_else(must)?;
    let number: f64 = number.parse().map_err(|_| must())?;
    let bytes = number * (1_u64 << shift) as f64;
    // Beyond 2^53 not every whole number is one.
    if bytes.fract() != 0.0 || bytes > 9e15 { Err(must()) } else { Ok(bytes as u64) }
}

/// # Errors
/// What is no size, or no whole number of MiB.
pub fn mib(text: &str) -> Result<i64, String> {
    whole(text, 20, "MiB")
}

/// # Errors
/// What is no size, or no whole number of GiB.
pub fn gib(text: &str) -> Result<i64, String> {
    whole(text, 30, "GiB")
}

fn whole(text: &str, shift: u32, unit: &str) -> Result<i64, String> {
    let bytes = bytes(text)?;
    if bytes % (1 << shift) == 0 {
        Ok((bytes >> shift) as i64)
    } else {
        Err(format!("{text} is no whole number of {unit}"))
    }
}

/// A number that may be taken away: `500`, `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub Option<i64>);

/// # Errors
/// What is neither.
pub fn number(text: &str) -> Result<Number, String> {
    match text {
        "none" => Ok(Number(None)),
        _ => {
            text.parse().map(|number| Number(Some(number))).map_err(|_| format!("{text:?} is no number, and not none"))
        }
    }
}

/// Bytes per second that may be taken away: `10M`, `none`.
///
/// # Errors
/// What is neither.
pub fn byte_rate(text: &str) -> Result<Number, String> {
    if text == "none" { Ok(Number(None)) } else { bytes(text).map(|bytes| Number(Some(bytes as i64))) }
}

/// Cores of the host, `0-3,8`, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Option<Vec<i64>>);

/// # Errors
/// What is no list of cores.
pub fn cores(text: &str) -> Result<Cores, String> {
    const MOST: i64 = 4096;
    if text == "none" {
        return Ok(Cores(None));
    }
    let must = || format!("{text:?} is no list of cores; write 0-3,8, or none");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (i64, i64) = (first.parse().map_err(|_| must())?, last.parse().map_err(|_| must())?);
        if first > last || last >= MOST {
            return Err(must());
        }
        cores.extend(first..=last);
    }
    Ok(Cores(Some(cores)))
}

/// How long: `90s`, `5m`, `2h`.
///
/// # Errors
/// What is no time, or none.
pub fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.as_secs() > 0 => Ok(time),
        _ => Err(format!("{text:?} is no time; write 90s or 5m")),
    }
}

/// `2G`, `1.5G`, `512M`.
pub fn written_mib(mib: u64) -> String {
    written(mib << 20)
}

pub fn written(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0);
    let Some((name, shift)) = unit else { return format!("{bytes}B") };
    let number = bytes as f64 / (1_u64 << shift) as f64;
    if number.fract() == 0.0 || number >= 100.0 { format!("{number:.0}{name}") } else { format!("{number:.1}{name}") }
}

/// `3d4h`, `4h10m`, `12s`.
pub fn written_seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

/// `0-3,8`
pub fn written_cores(cores: &[i64]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = cores;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(first..).take_while(|(core, next)| *core == next).count();
        let last = rest[run - 1];
        parts.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
        rest = &rest[run..];
    }
    parts.join(",")
}

/// A label as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub key: String,
    pub value: String,
}

/// # Errors
/// For clap.
pub fn label(text: &str) -> Result<Label, String> {
    let must = || format!("a label is KEY=VALUE, such as env=prod, and {text:?} is none");
    let (key, value) = text.split_once('=').ok_or_else(must)?;
    check_label_key(key).map_err(|_| must())?;
    Ok(Label { key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, size) in [
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("2g", 2 << 30),
            ("2GiB", 2 << 30),
            ("1.5G", 3 << 29),
            ("1Ti", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "2", "G", "-2G", "2X", "2 G", "1..5G", "1e3G", "99999999P", "0.3M", "٢G"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!((mib("2G"), gib("1T")), (Ok(2048), Ok(1024)));
        assert_eq!(gib("1.5G"), Err("1.5G is no whole number of GiB".to_owned()));
    }

    #[test]
    fn cores_are_read_and_written_alike() {
        for text in ["0", "0-3", "0-3,8", "1,3,5-6"] {
            assert_eq!(written_cores(&cores(text).unwrap().0.unwrap()), text);
        }
        assert_eq!(cores("none"), Ok(Cores(None)));
        for text in ["", "a", "3-1", "1,", "-1", "0-99999999"] {
            assert!(cores(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [written_mib(2048), written_mib(1536), written_mib(512), written(900)],
            ["2G", "1.5G", "512M", "900B"]
        );
        assert_eq!([12, 72, 15_000, 300_000].map(written_seconds), ["12s", "1m12s", "4h10m", "3d11h"]);
    }
}
