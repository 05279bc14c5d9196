//! Handlers about the definitions of VMs: list, find, create, update, delete.

use std::borrow::Cow;

use serde::Deserialize;
use warp::http::StatusCode;

use super::{
    Shared,
    dto::{self, Vm},
    error::Problem,
};
use crate::{
    api::{
        events::wait_time,
        http::{HttpError, Reply, Request, listing},
        labels,
    },
    model::{CreateVm, Error, MetadataWish, Role, VmId, VmView},
    service::{Awaited, Filter, Nics, Redefine},
};

/// With the last figures of what runs.
fn shown(shared: &Shared, view: &VmView) -> Vm {
    let sample = shared.service.sample(view.spec.id).ok().flatten().flatten();
    let switch_name = view.spec.nics.first().map(|nic| match nic.switch() {
        Some(id) => shared.service.switch(id).map(|view| view.switch.name).unwrap_or_default(),
        None => String::new(),
    });
    Vm::of(view, sample.as_ref(), switch_name)
}

fn listed(shared: Shared, role: Role, filter: Filter) -> Reply {
    listing::array(move |page| {
        let page = shared.service.list(&filter, page, Some(listing::PAGE));
        (page.vms.into_iter().map(|view| shown(&shared, &view.shown_to(role))).collect(), page.next)
    })
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let labels = labels::wanted(&request)?;
    Ok(listed(shared, request.caller.role, Filter { labels, ..Filter::default() }))
}

pub async fn by_name(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let filter = Filter { name_in_any_case: Some(request.param("name").to_owned()), ..Filter::default() };
    Ok(listed(shared, request.caller.role, filter))
}

pub async fn get(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    let (view, role) = (view.shown_to(request.caller.role), request.caller.role);
    let query: WaitQuery = request.query()?;
    let Some(awaited) = query.wait else {
        return match query.timeout {
            None => Ok(Reply::json(StatusCode::OK, &shown(&shared, &view))),
            Some(_) => Err(HttpError::invalid("timeout", "be given with wait").into()),
        };
    };
    let time = wait_time(query.timeout)?;
    let (view, reached) = shared.service.wait_for(id, awaited.into(), time).await?;
    Ok(Reply::json(StatusCode::OK, &shown(&shared, &view.shown_to(role)).waited(reached)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    wait: Option<Wait>,
    timeout: Option<i64>,
}

/// What somebody waits for.
#[derive(Clone, Copy, Deserialize)]
enum Wait {
    Running,
    Off,
    Agent,
    #[serde(rename = "IP")]
    Ip,
}

impl From<Wait> for Awaited {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Running => Self::Running,
            Wait::Off => Self::Stopped,
            Wait::Agent => Self::Agent,
            Wait::Ip => Self::Ip,
        }
    }
}

pub async fn create(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: dto::CreateBody = request.json()?;
    let wish = CreateVm { id: request.makes.map(VmId::from), ..body.into_model()? };
    let view = shared.service.create(wish).await.map_err(of_the_one_adapter)?;
    let created = dto::Created { created: view.spec.name.clone(), id: view.spec.id.to_string() };
    Ok(Reply::json(StatusCode::CREATED, &created))
}

/// The same about the fields of the body itself: a create has no list of adapters whose first one could be meant.
fn of_the_one_adapter(error: Error) -> Error {
    let bare = |param: Cow<'static, str>| match param.strip_prefix("networks[0].") {
        Some(field) => Cow::from(field.to_owned()),
        None => param,
    };
    match error {
        Error::Invalid { param, must } => Error::Invalid { param: bare(param), must },
        Error::AmbiguousSwitch { param, name, ids } => Error::AmbiguousSwitch { param: bare(param), name, ids },
        other => other,
    }
}

pub async fn update(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let body: dto::UpdateBody = request.json()?;
    if body.id.is_some_and(|given| VmId::parse_guid(&given) != Some(id)) {
        return Err(Error::Fixed { param: "Id".into(), is: id.to_string() }.into());
    }
    let network = dto::network(body.switch_name, body.switch_id)?;
    let nics = match (network, body.network_adapters) {
        (Some(_), Some(_)) => {
            return Err(HttpError::invalid("networkAdapters", "not be combined with switchName or switchId").into());
        }
        (Some(network), None) => Some(Nics::First(dto::nic(None, network))),
        (None, Some(wanted)) => {
            let wishes = wanted.into_iter().enumerate().map(|(index, adapter)| {
                adapter.into_model().map_err(|error| error.within(&format!("networkAdapters[{index}].")))
            });
            Some(Nics::All(wishes.collect::<Result<_, _>>()?))
        }
        (None, None) => None,
    };
    let wish = Redefine {
        name: body.name,
        vcpus: body.vcpu,
        memory: body.memory_mb,
        disk_size: body.disk_gb,
        disk_folder: body.disk_path.map(Into::into),
        iso: body.iso_path.map(|given| given.filter(|path| !path.is_empty()).map(Into::into)),
        nics,
        metadata: MetadataWish {
            labels: body.labels,
            add_labels: body.add_labels,
            remove_labels: body.remove_labels,
            description: body.notes.map(Some),
            protected: body.protected,
        },
    };
    let changed = shared.service.redefine(id, wish).await?;
    let name = shared.service.view(id)?.spec.name.clone();
    Ok(Reply::json(StatusCode::OK, &dto::Updated::new(id, name, changed)))
}

pub async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    shared.service.delete(id, None).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::new(id, false)))
}
