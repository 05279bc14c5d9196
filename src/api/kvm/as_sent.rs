//! A definition in the words in which it was sent, as long as the VM is so: a client that compares what it reads with what it
//! sent finds no difference then. What is kept is the client's own JSON; whether it still says how the VM is, is seen by reading
//! it again. What a definition means is not known here.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    disks::DiskBody,
    network_body::NetworkBody,
    pinning::CpuPinning,
    policy::{AUTOSTART, AutostartBody},
    words::{AsSent, plain, written},
};
use crate::{
    api::http::Request,
    model::{GuestCpu, IoLimits, Sent, VmSpec, Words},
    service::Service,
};

const DISKS: &str = "disks";
const NETWORKS: &str = "networks";
const CPU: &str = "cpu";
const CPU_PINNING: &str = "cpu_pinning";
const IO_LIMITS: &str = "io_limits";

/// The members of a request's body, which has been read as what it is to be already.
#[derive(Default)]
pub struct Written(Map<String, Value>);

impl Written {
    pub fn of(request: &Request) -> Self {
        let body = request.body.as_ref().ok().and_then(|body| serde_json::from_slice(body).ok());
        Self(body.unwrap_or_default())
    }

    /// What is kept of a new VM.
    pub fn sent(&self, start: bool) -> Sent {
        let list = |name| self.list(name).flatten();
        let plain = self.plain().into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?)));
        let (disks, networks) = (list(DISKS).filter(|text| &**text != "[]"), list(NETWORKS));
        Sent { disks, networks, plain: plain.collect(), start, ..Sent::default() }
    }

    /// What is kept of an update.
    pub fn words(&self, start: Option<bool>) -> Words {
        let (disks, networks) = (self.list(DISKS), self.list(NETWORKS));
        Words { disks, networks, plain: self.plain(), start, ..Words::default() }
    }

    fn list(&self, name: &str) -> Option<Option<Box<str>>> {
        self.0.get(name).filter(|value| !value.is_null()).map(Sent::kept)
    }

    fn plain(&self) -> BTreeMap<&'static str, Option<Box<str>>> {
        let parts = [
            self.part::<AutostartBody>(AUTOSTART),
            self.part::<GuestCpu>(CPU),
            self.part::<CpuPinning>(CPU_PINNING),
            self.part::<IoLimits>(IO_LIMITS),
        ];
        parts.into_iter().flatten().collect()
    }

    /// What is to be kept of one that is there.
    fn part<T: DeserializeOwned + Serialize>(&self, name: &'static str) -> Option<(&'static str, Option<Box<str>>)> {
        let value = self.0.get(name)?;
        let is_other = !value.is_null() && !is_usual::<T>(value);
        Some((name, is_other.then(|| Sent::kept(value)).flatten()))
    }
}

/// Whether it is written as it would be shown.
fn is_usual<T: DeserializeOwned + Serialize>(value: &Value) -> bool {
    let read = T::deserialize(value).ok().and_then(|read| serde_json::to_value(read).ok());
    read.is_none_or(|read| read == *value)
}

/// Its disks beside a root disk that was made.
pub fn disks(spec: &VmSpec) -> AsSent<Vec<DiskBody>> {
    let there = spec.listed_disks();
    let sent = &spec.named.sent;
    let same = |list: &Vec<DiskBody>| {
        list.len() == there.len()
            && list
                .iter()
                .zip(there)
                .all(|(body, disk)| body.clone().into_model().is_ok_and(|wish| wish.is(disk, &sent.files)))
    };
    AsSent::new(there.iter().map(DiskBody::of).collect(), written(sent.disks.as_deref(), same))
}

/// Its NICs.
pub fn networks(service: &Service, spec: &VmSpec) -> AsSent<Vec<NetworkBody>> {
    let same = |list: &Vec<NetworkBody>| {
        list.len() == spec.nics.len()
            && list.iter().zip(&spec.nics).all(|(body, nic)| {
                let wish = body.clone().into_model().ok();
                wish.is_some_and(|wish| service.switch_of(&wish).is_ok_and(|switch| wish.is(nic, switch)))
            })
    };
    let is = spec.nics.iter().map(|nic| NetworkBody::of(nic, service)).collect();
    AsSent::new(is, written(spec.named.sent.networks.as_deref(), same))
}

pub fn cpu(spec: &VmSpec) -> AsSent<Option<GuestCpu>> {
    let written = plain(spec, CPU, |cpu: &GuestCpu| spec.cpu.as_ref() == Some(cpu));
    AsSent::new(spec.cpu.clone(), written)
}

pub fn cpu_pinning(spec: &VmSpec) -> AsSent<Option<CpuPinning>> {
    let same = |body: &CpuPinning| body.clone().into_model().ok() == spec.cpu_pinning;
    AsSent::new(spec.cpu_pinning.as_ref().map(CpuPinning::of), plain(spec, CPU_PINNING, same))
}

pub fn io_limits(spec: &VmSpec) -> AsSent<Option<IoLimits>> {
    let is = spec.root().and_then(|root| root.io_limits);
    AsSent::new(is, plain(spec, IO_LIMITS, |limits: &IoLimits| is.as_ref() == Some(limits)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(body: Value) -> Written {
        Written(body.as_object().unwrap().clone())
    }

    #[test]
    fn what_would_be_shown_in_other_words_is_kept_and_nothing_else() {
        let body = json!({
            "vcpus": 1, "disks": [{ "disk_size": 1, "io_limits": null }], "networks": null, "autostart": { "enabled": true },
            "cpu": { "model": "Nehalem" }, "cpu_pinning": null, "io_limits": { "iops": 5, "bps": null },
        });
        let sent = members(body.clone()).sent(true);
        assert_eq!(sent.disks.as_deref(), Some(r#"[{"disk_size":1,"io_limits":null}]"#));
        assert_eq!((&sent.networks, sent.start), (&None, true));
        let plain: Vec<(&str, &str)> = sent.plain.iter().map(|(name, text)| (name.as_str(), &**text)).collect();
        assert_eq!(plain, [("autostart", r#"{"enabled":true}"#), ("io_limits", r#"{"bps":null,"iops":5}"#)]);
        // What was in other words before is so no more.
        let words = members(body).words(None);
        assert_eq!(words.plain.get("cpu"), Some(&None));
        assert_eq!(words.plain.get("cpu_pinning"), Some(&None));
        assert_eq!((words.networks, words.start), (None, None));
    }
}
