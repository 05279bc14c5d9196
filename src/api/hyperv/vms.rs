//! Handlers about the definitions of VMs: list, find, create, update, delete.

use warp::http::StatusCode;

use super::{
    Shared,
    dto::{self, Vm},
    error::Problem,
};
use crate::{
    api::http::{HttpError, Reply, Request},
    model::{CreateVm, NetworkWish, VmId, VmView},
    service::{Filter, Nics, Redefine},
};

/// With the last figures of what runs.
fn shown(shared: &Shared, view: &VmView) -> Vm {
    let sample = shared.service.sample(view.spec.id).ok().flatten().flatten();
    Vm::of(view, sample.as_ref())
}

fn listed(shared: &Shared, filter: &Filter) -> Reply {
    let page = shared.service.list(filter, None, None);
    Reply::json(StatusCode::OK, &page.vms.iter().map(|view| shown(shared, view)).collect::<Vec<_>>())
}

pub async fn list(shared: Shared, _: Request) -> Result<Reply, Problem> {
    Ok(listed(&shared, &Filter::default()))
}

pub async fn by_name(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let filter = Filter { name_in_any_case: Some(request.param("name").to_owned()), ..Filter::default() };
    Ok(listed(&shared, &filter))
}

pub async fn get(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (_, view) = shared.vm(&request)?;
    Ok(Reply::json(StatusCode::OK, &shown(&shared, &view)))
}

pub async fn create(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: dto::CreateBody = request.json()?;
    let wish = CreateVm { id: request.makes.map(VmId::from), ..body.into_model()? };
    let view = shared.service.create(wish).await?;
    let created = dto::Created { created: view.spec.name.clone(), id: view.spec.id.to_string() };
    Ok(Reply::json(StatusCode::CREATED, &created))
}

pub async fn update(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    let body: dto::UpdateBody = request.json()?;
    let switch = dto::one_switch(body.switch_name, body.switch_id)?;
    let nics = match (switch, body.network_adapters) {
        (Some(_), Some(_)) => {
            return Err(HttpError::invalid("networkAdapters", "not be combined with switchName or switchId").into());
        }
        (Some(switch), None) => Some(Nics::First(dto::card(None, NetworkWish::Switch(switch)))),
        (None, Some(wanted)) => {
            let wishes = wanted.into_iter().enumerate().map(|(index, adapter)| {
                let place = format!("networkAdapters[{index}].");
                adapter.into_model(&place)
            });
            Some(Nics::All(wishes.collect::<Result<_, _>>()?))
        }
        (None, None) => None,
    };
    let iso = body.iso_path.map(|given| given.map(Into::into));
    let wish = Redefine { vcpus: body.vcpu, memory: body.memory_mb, iso, nics };
    let changed = shared.service.redefine(id, wish).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Updated::new(id, view.spec.name.clone(), changed)))
}

pub async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    shared.service.delete(id, None).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::new(id, false)))
}
