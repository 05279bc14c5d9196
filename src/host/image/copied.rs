//! How much of an image is copied, for those who look at it meanwhile: what qemu-img says of itself, in bytes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a copy has done, and that there are.
#[derive(Debug, Default)]
pub struct Copied {
    done: AtomicU64,
    total: AtomicU64,
}

impl Copied {
    /// Done, and in all; none where nothing is copied.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let total = self.total.load(Ordering::Relaxed);
        (total > 0).then(|| (self.done.load(Ordering::Relaxed).min(total), total))
    }

    /// Whatever there is in all.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// There is so much to copy.
    pub fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// So much of it is done.
    pub fn is_at(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// What `qemu-img -p` has written since its last line began: the newest part that is whole counts.
    pub(super) fn hear(&self, line: &[u8]) {
        if let Some(hundredths) = hundredths(line) {
            let total = u128::from(self.total.load(Ordering::Relaxed));
            let done = total * u128::from(hundredths.min(10_000)) / 10_000;
            self.done.store(u64::try_from(done).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Of `    (12.34/100%)`, in hundredths of a percent.
fn hundredths(line: &[u8]) -> Option<u64> {
    let text = str::from_utf8(line).ok()?;
    let (before, _) = text.rsplit_once("/100%)")?;
    let (_, number) = before.rsplit_once('(')?;
    let (whole, part) = number.split_once('.')?;
    (part.len() == 2).then_some(whole.parse::<u64>().ok()?.checked_mul(100)? + part.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_img_says_is_bytes_of_what_there_is() {
        let copied = Copied::default();
        assert_eq!(copied.bytes(), None);
        copied.begin(1 << 40);
        for (line, done) in [
            ("", 0),
            ("    (0.00/100%)\r", 0),
            ("    (25.00/100%)\r    (50.00/100%)\r", 1 << 39),
            ("    (75.0", 1 << 39),
            ("    (75.00/100%)\r    (76.", 3 << 38),
            ("no number (x/100%)", 3 << 38),
            ("    (100.00/100%)\r\n", 1 << 40),
        ] {
            copied.hear(line.as_bytes());
            assert_eq!(copied.bytes(), Some((done, 1 << 40)), "{line:?}");
        }
    }
}
