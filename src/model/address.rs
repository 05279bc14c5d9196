//! Who says that a VM has an address.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// The DHCP of its switch has given it out, and it was taken.
    Dhcp,
    /// The guest's agent tells it.
    Agent,
    /// The guest has sent from it; of a NIC that has none assigned.
    Seen,
}
