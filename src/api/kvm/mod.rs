//! The KVM dialect: snake_case, errors as `{"error":{"code","message"}}`, mounted at `/` (shared/contract). Only
//! translation: what a request means is decided in `service` and `vm`.

mod addresses;
mod agent;
mod as_sent;
mod bandwidth;
mod bases;
mod change;
mod config;
mod console;
mod content;
mod disk_view;
mod disks;
mod dto;
pub(super) mod error;
mod events;
mod failure;
mod forwards;
mod guest;
mod host;
mod image_bodies;
mod images;
mod info;
mod logs;
mod media;
mod monitoring;
mod network_body;
mod networks;
mod operations;
mod pending;
mod performance;
mod pinning;
mod plain;
mod policy;
mod power;
mod read_only;
mod routes;
mod rows;
mod shown;
mod switch_routes;
mod switches;
mod times;
mod updated;
mod uploads;
mod volumes;
mod whole;
mod words;

/// The bodies of requests and replies. A client in this program has the same.
pub mod bodies {
    pub use crate::api::guest::Encoding;

    pub use super::{
        agent::Agent,
        bandwidth::BandwidthBody,
        change::{Cpu, CpuBody, DiskUpdate, Memory, MemoryBody, RootDisk},
        config::Config,
        disk_view::DiskView,
        disks::{DiskBody, DiskDone, DiskRow},
        dto::{CreateBody, Created, Deleted, Details, Done, Health, RebootBody, StatusBody, StopBody},
        error::ErrorBody,
        events::{EventBody, EventsBody},
        forwards::LeaseFields,
        guest::{ExecBody, ExecDone, FileDone, FreezeBody, Frozen, Thawed, TimeBody, TimeDone},
        host::HostBody,
        image_bodies::{ImageDetails, ImageDone, ImageFields, ImageUpdate, ImportBody, KnownImageFields},
        media::{Iso, IsoBody},
        network_body::{NetworkBody, UserBody},
        networks::{NetworkAdded, NetworkRemoved, NetworkRow, NetworkView},
        operations::OperationBody,
        performance::Performance,
        pinning::CpuPinning,
        policy::{AutostartBody, PolicyBody, PolicyView},
        rows::Listed,
        switches::{Ipv6Body, SwitchBody, SwitchChanged, SwitchDone, SwitchFields, SwitchKindBody, SwitchUpdate},
        updated::Updated,
        uploads::{UploadBody, UploadFields},
        volumes::{VolumeBody, VolumeDone, VolumeFields},
        whole::{Whole, WholeBody},
    };
}

pub use plain::{is_reordering, plain};
pub(super) use routes::routes;
pub use routes::{openapi, table};
pub use shown::Shown;

use std::sync::Arc;

use crate::{
    api::{docs::Docs, http::Request},
    model::{SwitchId, VmId},
    service::Service,
};
use error::Problem;

/// What a handler of this dialect has at hand.
#[derive(Clone)]
pub struct Shared {
    service: Arc<Service>,
    docs: Arc<Docs>,
}

impl AsRef<Docs> for Shared {
    fn as_ref(&self) -> &Docs {
        &self.docs
    }
}

/// The switch that a path names.
fn switch_id(request: &Request) -> Result<SwitchId, Problem> {
    SwitchId::parse(request.param("id")).ok_or(Problem::BadId)
}

/// The VM that a path names. Its syntax is the first thing that is checked (ruling 6).
fn vm_id(request: &Request) -> Result<VmId, Problem> {
    VmId::parse(request.param("id")).ok_or(Problem::BadId)
}

#[cfg(test)]
mod tests {
    use super::{forwards, networks, switches};
    use crate::api::tests::has_examples;

    #[test]
    fn what_is_shown_as_an_example_is_taken() {
        has_examples::<super::network_body::NetworkBody>();
        has_examples::<networks::NetworkUpdate>();
        has_examples::<switches::SwitchBody>();
        has_examples::<forwards::ForwardBody>();
    }
}
