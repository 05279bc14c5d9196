//! A VM as a client has it whole: the body and handler of its update. Clients that hold a definition (Terraform's, Ansible's)
//! send it back as it is to be, and compare what they read with what they sent (`as_sent`).

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{
    Shared,
    as_sent::Written,
    config::Config,
    disks::DiskBody,
    dto::Details,
    error::Problem,
    network_body::{self, NetworkBody},
    pinning::CpuPinning,
    policy::{AutostartBody, PolicyBody},
    read_only, vm_id,
};
use crate::{
    api::http::{Reply, Request, given},
    model::{
        Applied, CloneMode, CloudInit, Error, GuestCpu, IoLimits, MAX_DEVICES, MAX_LABELS, MetadataWish, OnIoError,
        RestartPolicy,
    },
    service::Define,
};

/// The wanted definition of a VM, or any part of it. What is equal stays; what can be changed is changed, live or at the next start; what
/// cannot be changed and differs is a 409 that names it, with nothing changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "name": "web", "vcpus": 4, "memory": 2048, "labels": { "env": "prod" } }))]
#[schemars(example = serde_json::json!({ "add_labels": { "env": "prod" }, "remove_labels": ["tier"] }))]
#[schemars(transform = read_only::describe)]
pub struct WholeBody {
    /// As in a create; a running QEMU bears it from the next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// Fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// 1 to 255, at most `max_vcpus` where the VM was created with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub vcpus: Option<i64>,
    /// Fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<i64>,
    /// MiB, at most `max_memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16))]
    pub memory: Option<i64>,
    /// MiB; fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<i64>,
    /// GiB, of the root disk; it only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub disk_size: Option<i64>,
    /// Fixed; any path of the same image is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub base_image: Option<String>,
    /// Fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<CloneMode>,
    /// Replaced whole; null removes it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<CpuPinning>")]
    pub cpu_pinning: Option<Option<CpuPinning>>,
    /// From the next start on. Replaced whole; null for the richest that the accelerator offers.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GuestCpu>")]
    pub cpu: Option<Option<GuestCpu>>,
    /// Of the root disk; replaced whole, null removes them.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<IoLimits>")]
    pub io_limits: Option<Option<IoLimits>>,
    /// All disks beside a root disk that was made, in their order. They grow, their limits change, and further ones are added; none goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_DEVICES))]
    pub disks: Option<Vec<DiskBody>>,
    /// All NICs, in their order. Their ports change, and further ones are added; none goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_DEVICES))]
    pub networks: Option<Vec<NetworkBody>>,
    /// An ISO image for its CD drive; null takes it out.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub iso: Option<Option<String>>,
    /// What its guest's cloud-init is given, from its next start on; replaced whole, but for what is `withheld`; null for nothing.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<CloudInit>")]
    pub cloud_init: Option<Option<CloudInit>>,
    /// Of the creation alone: it starts and stops nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
    /// `never`, `on-failure`, `always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Null: never given up.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub max_restarts: Option<Option<i64>>,
    /// Null: no.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<AutostartBody>")]
    pub autostart: Option<Option<AutostartBody>>,
    /// `pause`, `retry`, `report`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_io_error: Option<OnIoError>,
    /// Replaced whole; null removes them.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, String>>", extend("maxProperties" = MAX_LABELS))]
    pub labels: Option<Option<BTreeMap<String, String>>>,
    /// Labels that it is to have beside those that there are, also those that others set at the same time. Not together with `labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = MAX_LABELS))]
    pub add_labels: Option<BTreeMap<String, String>>,
    /// Keys of labels that it is to lose; the others stay. Not together with `labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_LABELS))]
    pub remove_labels: Option<Vec<String>>,
    /// At most 1,024 characters; null removes it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub description: Option<Option<String>>,
    /// Neither a deletion, nor a forced stop, nor the removal of a disk is done; null leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

/// A VM after its update.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Whole {
    #[serde(flatten)]
    pub config: Config,
    /// Always `updated`.
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub applied: Applied,
}

impl WholeBody {
    /// `written` is the same as its client wrote it.
    fn into_model(self, written: &Written) -> Result<Define, Error> {
        let words = written.words(self.start);
        let policy = PolicyBody {
            restart_policy: self.restart_policy,
            max_restarts: self.max_restarts,
            autostart: self.autostart,
            on_io_error: self.on_io_error,
        };
        Ok(Define {
            name: self.name,
            profile: self.profile,
            vcpus: self.vcpus,
            max_vcpus: self.max_vcpus,
            memory: self.memory,
            max_memory: self.max_memory,
            disk_size: self.disk_size,
            base_image: self.base_image.map(Into::into),
            clone: self.clone,
            cpu_pinning: self.cpu_pinning.map(|given| given.map(CpuPinning::into_model).transpose()).transpose()?,
            cpu: self.cpu,
            io_limits: self.io_limits,
            disks: self.disks.map(DiskBody::all_into_model).transpose()?,
            networks: self.networks.map(network_body::into_model).transpose()?,
            policy: policy.into_model(),
            iso: self.iso.map(|iso| iso.map(Into::into)),
            cloud_init: self.cloud_init,
            metadata: MetadataWish {
                labels: self.labels.map(Option::unwrap_or_default),
                add_labels: self.add_labels,
                remove_labels: self.remove_labels,
                description: self.description,
                protected: self.protected,
            },
            words: Some(words),
        })
    }
}

pub async fn update(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let (body, read): (WholeBody, _) = request.json_beside(read_only::FIELDS)?;
    read_only::check(&Details::of(&shared.service, &shared.service.view(id)?), read)?;
    let (view, applied) = shared.service.define(id, body.into_model(&Written::of(&request))?).await?;
    let config = Config::of(&shared.service, &view);
    let whole = Whole { config, status: "updated".into(), message: "VM successfully updated.".into(), applied };
    Ok(Reply::json(StatusCode::OK, &whole))
}
