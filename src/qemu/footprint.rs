//! How much memory a QEMU may come to use: a bound that is never met in good health, and that nobody gets beyond who has taken
//! it over.

use super::Accelerator;

const MIB: u64 = 1 << 20;
/// For QEMU itself: its code, queues, caches of images' tables, threads, and pages of images that the kernel keeps for it.
const ITS_OWN: u64 = 1024 * MIB;
/// What an emulating QEMU translates it keeps, up to this.
const TRANSLATIONS: u64 = 1024 * MIB;

/// What carries a NIC on the user-mode network beside QEMU has 20 to 30 MiB, and the buffers of its connections.
const CARRIER: u64 = 64 * MIB;

/// Bytes, for a guest with so many MiB and so many NICs that are carried beside QEMU. An eighth more is for tables that grow with it.
pub fn memory_bound(memory: u64, carried: usize, accelerator: Accelerator) -> u64 {
    let guest = memory.saturating_mul(MIB);
    let translations = if accelerator == Accelerator::Tcg { TRANSLATIONS } else { 0 };
    guest.saturating_add(guest / 8).saturating_add(ITS_OWN + translations + CARRIER * carried as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_grows_with_the_guest_and_is_never_small() {
        assert_eq!(memory_bound(64, 0, Accelerator::Kvm), (64 + 8 + 1024) * MIB);
        assert_eq!(memory_bound(64, 2, Accelerator::Kvm), (64 + 8 + 1024 + 128) * MIB);
        assert_eq!(memory_bound(8192, 0, Accelerator::Tcg), (8192 + 1024 + 2048) * MIB);
        assert_eq!(memory_bound(u64::MAX, 0, Accelerator::Tcg), u64::MAX);
    }
}
