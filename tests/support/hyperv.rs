//! The Hyper-V dialect in tests: a daemon that knows the document's folders, in a network namespace of its own, and both
//! places where the dialect is mounted.
#![allow(dead_code)] // Every test file uses its own part.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Answer, Daemon, netns};

/// Where the dialect is: at `/hyperv` of the main listener, and at the root of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    Below,
    Root,
}

pub const MOUNTS: [Mount; 2] = [Mount::Below, Mount::Root];

/// A client of the dialect.
pub struct Client<'a> {
    pub daemon: &'a Daemon,
    pub base: String,
}

/// A daemon with both mounts and the document's folders: `D:/HyperV` for disks, `D:/ISOs` for ISO images, of which
/// there is one. The thread is in a network namespace of its own from now on.
pub fn prepared(args: &[&str]) -> Daemon {
    let _ = netns::Host::leave();
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--hyperv-listen", "127.0.0.1:0"]);
    let disks = disks(&daemon);
    std::fs::create_dir(&disks).unwrap();
    std::fs::write(daemon.bases().join("AlmaLinux.iso"), vec![0; 1 << 20]).unwrap();
    let (disk_map, iso_map) =
        (format!("D:/HyperV={}", disks.display()), format!("D:/ISOs={}", daemon.bases().display()));
    daemon.add_args(&["--path-map", &disk_map, "--path-map", &iso_map, "--storage-dir", disks.to_str().unwrap()]);
    daemon.add_args(args);
    daemon
}

pub fn started() -> Daemon {
    let mut daemon = prepared(&[]);
    daemon.run();
    daemon
}

/// `D:/HyperV`.
pub fn disks(daemon: &Daemon) -> PathBuf {
    daemon.dir.path().join("vms")
}

/// Everything in `D:/HyperV`, but for the mark that says that it is mounted.
pub fn in_disks(daemon: &Daemon) -> Vec<String> {
    let entries = std::fs::read_dir(disks(daemon)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".qherd-storage").collect()
}

impl<'a> Client<'a> {
    pub fn at(daemon: &'a Daemon, mount: Mount) -> Self {
        let base = match mount {
            Mount::Below => format!("{}/hyperv", daemon.url),
            Mount::Root => daemon.hyperv_url.clone(),
        };
        Self { daemon, base }
    }

    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let request = self.daemon.http().request(method.parse().unwrap(), format!("{}{path}", self.base));
        let request = if body.is_null() { request } else { request.json(body) };
        self.daemon.send(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &Value::Null).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, &body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask("PUT", path, &body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &Value::Null).await
    }

    /// A VM without a switch; returns its id.
    pub async fn vm(&self, name: &str) -> String {
        self.created("/vms", wish(name)).await
    }

    /// Creates a VM or a switch; returns its id.
    pub async fn created(&self, path: &str, wish: Value) -> String {
        let body = self.post(path, wish).await.expect(201);
        body["id"].as_str().unwrap().to_owned()
    }

    pub async fn state(&self, id: &str) -> String {
        self.get(&format!("/vms/{id}")).await.expect(200)["State"].as_str().unwrap().to_owned()
    }
}

/// A small VM without a switch.
pub fn wish(name: &str) -> Value {
    json!({ "name": name, "memoryMB": 64, "vcpu": 1, "diskPath": "D:/HyperV", "diskGB": 1 })
}
