//! The Hyper-V dialect: PascalCase in answers, errors as `{"error","detail"}`, mounted at `/hyperv` and at the root of a
//! listener of its own (shared/contract). Only translation: what a request means is decided in `service` and `vm`.

mod adapters;
mod addresses;
mod console;
mod dto;
pub(super) mod error;
mod events;
mod forwards;
mod guest;
mod info;
mod operations;
mod power;
mod routes;
mod state;
mod switches;
mod vlans;
mod vms;

pub(super) use routes::routes;
pub use routes::{openapi, table};

use std::sync::Arc;

use crate::{
    api::{docs::Docs, http::Request},
    model::{SwitchId, VmId, VmView},
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

impl Shared {
    /// The VM that a path names. A malformed id is the id of no VM (ruling 29).
    fn vm(&self, request: &Request) -> Result<(VmId, VmView), Problem> {
        let id = VmId::parse_guid(request.param("id")).ok_or(Problem::NoVm)?;
        Ok((id, self.service.view(id)?))
    }

    /// The switch that a path names, which is there.
    fn switch(&self, request: &Request) -> Result<SwitchId, Problem> {
        let id = SwitchId::parse_guid(request.param("id")).ok_or(Problem::NoSwitch)?;
        self.service.switch(id)?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::{adapters, forwards, switches};
    use crate::api::tests::has_examples;

    #[test]
    fn what_is_shown_as_an_example_is_taken() {
        has_examples::<adapters::AddBody>();
        has_examples::<adapters::ChangeBody>();
        has_examples::<switches::CreateBody>();
        has_examples::<forwards::ForwardBody>();
    }
}
