//! How much a NIC carries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Bandwidth;

/// How much a NIC carries, in bits per second, 64,000 to 1,000,000,000,000; null for as much as there is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// Shown as it was sent, too.
#[schemars(extend("required" = []))]
pub struct BandwidthBody {
    /// Towards the guest.
    #[schemars(range(min = 64_000_u64, max = 1_000_000_000_000_u64))]
    pub in_bits_per_second: Option<u64>,
    /// From the guest.
    #[schemars(range(min = 64_000_u64, max = 1_000_000_000_000_u64))]
    pub out_bits_per_second: Option<u64>,
}

impl BandwidthBody {
    pub fn into_model(self) -> Bandwidth {
        Bandwidth { inbound: self.in_bits_per_second, outbound: self.out_bits_per_second }
    }

    pub fn of(bandwidth: Bandwidth) -> Option<Self> {
        let Bandwidth { inbound, outbound } = bandwidth;
        let body = Self { in_bits_per_second: inbound, out_bits_per_second: outbound };
        (bandwidth != Bandwidth::default()).then_some(body)
    }
}
