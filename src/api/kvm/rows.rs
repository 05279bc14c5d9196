//! The list of VMs: its lines, which of them a client wants, with which fields and in which order.

use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr, sync::Arc};

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use warp::http::StatusCode;

use super::{Shared, error::Problem, info::ranged};
use crate::{
    api::{
        http::{HttpError, QueryParam, Reply, Request, listing},
        labels::{self, LABEL},
    },
    model::{GuestCpu, Status, VmId, VmView},
    service::{Addresses, Filter},
};

const MAX_PAGE: i64 = 10_000;

const TOKEN: &str = "^[0-9]{1,19}[.][0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";
const SOME_FIELDS: &str = "^(id|vm_id|name|status|vcpus|cpu|memory|profile|addresses|uptime|labels)(,(id|vm_id|name|status|vcpus|cpu|memory|profile|addresses|uptime|labels))*$";

pub const QUERY: &[QueryParam] = &[
    QueryParam::one_of(
        "status",
        &["stopped", "crashed", "starting", "running", "paused", "stopping", "rebooting", "unresponsive"],
        "Only VMs with this status.",
    ),
    QueryParam::text("name", "Only VMs with exactly this name."),
    LABEL,
    QueryParam::form(
        "fields",
        SOME_FIELDS,
        "Only these fields of each line, with commas between them, such as `id,name,addresses`.",
    ),
    QueryParam::one_of(
        "sort",
        &["name", "status", "vcpus", "memory", "uptime", "-name", "-status", "-vcpus", "-memory", "-uptime"],
        "By this, with `-` the other way round, instead of by age. With `limit` those that come first; there are no further pages.",
    ),
    QueryParam::whole("limit", 1, MAX_PAGE, "At most so many; the Link header leads to the next page."),
    QueryParam::form("page_token", TOKEN, "Where the page begins, as a Link header gave it."),
];

/// One line of the list: all of this, or with `fields` those alone.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(transform = requires_nothing)]
pub struct Listed {
    pub id: String,
    pub vm_id: String,
    pub name: String,
    pub status: Status,
    pub vcpus: u32,
    /// The CPU that its guest sees; null for the richest that the accelerator offers.
    pub cpu: Option<GuestCpu>,
    /// MiB.
    pub memory: u64,
    pub profile: String,
    /// What the DHCP of its switches has given it, and what its guest has told in the last seconds; a list asks no guest.
    pub addresses: Vec<IpAddr>,
    /// Seconds since it was started.
    pub uptime: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

const FIELDS: [&str; 11] =
    ["id", "vm_id", "name", "status", "vcpus", "cpu", "memory", "profile", "addresses", "uptime", "labels"];

/// Which fields there are is the client's to say.
fn requires_nothing(schema: &mut Schema) {
    schema.remove("required");
}

impl Listed {
    fn of(view: &VmView, known: &Addresses) -> Self {
        let (spec, id) = (&view.spec, view.spec.id.to_string());
        Self {
            vm_id: id.clone(),
            id,
            name: spec.name.clone(),
            status: view.status,
            vcpus: spec.vcpus,
            cpu: spec.cpu.clone(),
            memory: spec.memory,
            profile: spec.machine.profile.clone(),
            addresses: spec.nics.iter().flat_map(|nic| known.of(nic)).collect(),
            uptime: view.uptime(),
            labels: spec.metadata.labels.clone(),
        }
    }
}

/// A line with the fields that somebody wants.
struct Line {
    row: Listed,
    /// All where none is named.
    fields: Arc<[String]>,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.fields.is_empty() {
            return self.row.serialize(serializer);
        }
        let row = &self.row;
        let mut map = serializer.serialize_map(None)?;
        for field in &*self.fields {
            match field.as_str() {
                "id" => map.serialize_entry(field, &row.id)?,
                "vm_id" => map.serialize_entry(field, &row.vm_id)?,
                "name" => map.serialize_entry(field, &row.name)?,
                "status" => map.serialize_entry(field, &row.status)?,
                "vcpus" => map.serialize_entry(field, &row.vcpus)?,
                "cpu" => map.serialize_entry(field, &row.cpu)?,
                "memory" => map.serialize_entry(field, &row.memory)?,
                "profile" => map.serialize_entry(field, &row.profile)?,
                "addresses" => map.serialize_entry(field, &row.addresses)?,
                "uptime" => map.serialize_entry(field, &row.uptime)?,
                "labels" => map.serialize_entry(field, &row.labels)?,
                _ => {}
            }
        }
        map.end()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    status: Option<Status>,
    name: Option<String>,
    label: Option<String>,
    fields: Option<String>,
    sort: Option<Sort>,
    limit: Option<i64>,
    page_token: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
enum Sort {
    #[serde(rename = "name")]
    Name,
    #[serde(rename = "status")]
    Status,
    #[serde(rename = "vcpus")]
    Vcpus,
    #[serde(rename = "memory")]
    Memory,
    #[serde(rename = "uptime")]
    Uptime,
    #[serde(rename = "-name")]
    NameDown,
    #[serde(rename = "-status")]
    StatusDown,
    #[serde(rename = "-vcpus")]
    VcpusDown,
    #[serde(rename = "-memory")]
    MemoryDown,
    #[serde(rename = "-uptime")]
    UptimeDown,
}

impl Sort {
    /// Equal ones stay by age.
    fn compare(self, one: &VmView, other: &VmView) -> Ordering {
        match self {
            Self::Name => one.spec.name.cmp(&other.spec.name),
            Self::Status => one.status.as_str().cmp(other.status.as_str()),
            Self::Vcpus => one.spec.vcpus.cmp(&other.spec.vcpus),
            Self::Memory => one.spec.memory.cmp(&other.spec.memory),
            Self::Uptime => one.uptime().cmp(&other.uptime()),
            Self::NameDown => Self::Name.compare(other, one),
            Self::StatusDown => Self::Status.compare(other, one),
            Self::VcpusDown => Self::Vcpus.compare(other, one),
            Self::MemoryDown => Self::Memory.compare(other, one),
            Self::UptimeDown => Self::Uptime.compare(other, one),
        }
    }
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let query: ListQuery = request.query()?;
    let limit = query.limit.map(|limit| ranged("limit", limit, MAX_PAGE)).transpose()?;
    let after = query.page_token.as_deref().map(read_token).transpose()?;
    let labels = labels::read(query.label.as_deref())?;
    let fields = query.fields.as_deref().map(read_fields).transpose()?.unwrap_or_default();
    let filter = Filter { status: query.status, name: query.name.clone(), labels, ..Filter::default() };
    if let Some(sort) = query.sort {
        if after.is_some() {
            return Err(HttpError::invalid("page_token", "not be combined with sort").into());
        }
        let mut views = shared.service.list(&filter, None, None).vms;
        views.sort_by(|one, other| sort.compare(one, other));
        views.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
        return Ok(Reply::json(StatusCode::OK, &lines(&shared, &views, &fields)));
    }
    let Some(limit) = limit else {
        return Ok(listing::array(move |page: Option<(u64, VmId)>| {
            let page = shared.service.list(&filter, page.or(after), Some(listing::PAGE));
            (lines(&shared, &page.vms, &fields), page.next)
        }));
    };
    let page = shared.service.list(&filter, after, Some(limit as usize));
    let reply = Reply::json(StatusCode::OK, &lines(&shared, &page.vms, &fields));
    let Some((created_at, id)) = page.next else { return Ok(reply) };
    let mut next = form_urlencoded::Serializer::new(String::new());
    next.append_pair("page_token", &format!("{created_at}.{id}"));
    next.extend_pairs(query.limit.map(|limit| ("limit", limit.to_string())));
    next.extend_pairs(query.status.map(|status| ("status", status.as_str())));
    next.extend_pairs(query.name.map(|name| ("name", name)));
    next.extend_pairs(query.label.map(|label| ("label", label)));
    next.extend_pairs(query.fields.map(|fields| ("fields", fields)));
    Ok(reply.next_page(&format!("/vms?{}", next.finish())))
}

fn lines(shared: &Shared, views: &[VmView], fields: &Arc<[String]>) -> Vec<Line> {
    let known = shared.service.known_addresses(views);
    views.iter().map(|view| Line { row: Listed::of(view, &known), fields: fields.clone() }).collect()
}

fn read_token(token: &str) -> Result<(u64, VmId), HttpError> {
    let parts = token.split_once('.').and_then(|(age, id)| Some((age.parse().ok()?, VmId::parse(id)?)));
    parts.ok_or_else(|| HttpError::invalid("page_token", "be one that a list gave in its Link header"))
}

fn read_fields(text: &str) -> Result<Arc<[String]>, HttpError> {
    let mut fields: Vec<String> = Vec::new();
    for field in text.split(',') {
        if !FIELDS.contains(&field) {
            let must = format!("name fields of a line ({}), and {field:?} is none", FIELDS.join(", "));
            return Err(HttpError::invalid("fields", must));
        }
        if !fields.iter().any(|named| named == field) {
            fields.push(field.to_owned());
        }
    }
    Ok(fields.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_line_can_be_wanted_alone() {
        let row = Listed {
            id: "i".into(),
            vm_id: "i".into(),
            name: "n".into(),
            status: Status::Running,
            vcpus: 1,
            cpu: None,
            memory: 2,
            profile: "q35".into(),
            addresses: Vec::new(),
            uptime: None,
            labels: BTreeMap::new(),
        };
        let whole = serde_json::to_value(&row).unwrap();
        let names: Vec<&String> = whole.as_object().unwrap().keys().collect();
        let mut known = FIELDS;
        known.sort_unstable();
        assert_eq!(names, known);
        let all: Arc<[String]> = FIELDS.map(str::to_owned).into();
        assert_eq!(serde_json::to_value(Line { row, fields: all }).unwrap(), whole);
    }
}
