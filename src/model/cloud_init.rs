//! What a guest's cloud-init is given, as its owner wants it, and what a definition says of it: a few words, for the data
//! itself has no place in a record of bounded size (docs/adr/0048). What a guest reads of it is `seed`'s.

mod password;
mod seed;
mod ssh_key;
mod user_data;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Error, Result, SeedId, check_length, written};
pub use password::hashed;
pub use seed::{SEED_LABEL, SeedFile, seed_files};

/// Characters of user data; the whole of a request has a megabyte.
const MAX_USER_DATA: usize = 512 << 10;
/// Bytes, as JSON, of meta data, and of a network configuration.
const MAX_PART: usize = 64 << 10;
/// SSH keys of one VM.
const MAX_KEYS: usize = 64;
/// Characters of an SSH key.
const MAX_KEY: usize = 8 << 10;
/// Characters of a password, or of its hash.
const MAX_PASSWORD: usize = 256;
/// Characters of a host name.
const MAX_HOSTNAME: usize = 253;

/// What the guest's cloud-init is given at its first boot, on a disk of its own (NoCloud), and again when it is changed: the
/// guest takes what is new at its next start. `user_data` goes to it as it is; where that says something of the same, it
/// wins over `hostname` and `password`, and its keys stand beside `ssh_keys`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(example = serde_json::json!({
    "hostname": "web",
    "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUcZvKtCd9SuHNJUJ8lwzZEfWrYqWpeSpkZxCJcTxXp me@example.com"],
    "user_data": "#cloud-config\npackages: [nginx]\n",
    "network_config": { "version": 2, "ethernets": { "lan0": {
        "match": { "macaddress": "52:54:00:00:00:09" }, "set-name": "lan0", "addresses": ["10.0.0.9/24"]
    } } }
}))]
pub struct CloudInit {
    /// As it is: `#cloud-config` with YAML behind it, a script that begins with `#!`, or whatever else cloud-init knows by its
    /// first line. At most 524,288 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_USER_DATA))]
    pub user_data: Option<String>,
    /// Beside what qherd says there: `instance-id`, `local-hostname`, `public-keys`. At most 65,536 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<Map<String, Value>>,
    /// A network configuration of cloud-init, version 1 or 2. Without one the guest asks by DHCP. At most 65,536 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_config: Option<Map<String, Value>>,
    /// Public keys of OpenSSH that the image's own user is logged in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_KEYS), inner(length(min = 1, max = MAX_KEY)))]
    pub ssh_keys: Option<Vec<String>>,
    /// What the guest calls itself; default the name of the VM, as far as a host name can be that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_HOSTNAME))]
    pub hostname: Option<String>,
    /// Of the image's own user, for its console: as it is typed, which is kept as its hash alone (sha512-crypt), or such a hash
    /// (`$6$…`). It is never shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_PASSWORD))]
    pub password: Option<String>,
    /// What there is beside this and is not shown. In an update: what stays as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    pub withheld: Vec<CloudPart>,
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloudPart {
    UserData,
    MetaData,
    NetworkConfig,
    SshKeys,
    Hostname,
    Password,
}

/// What a definition says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Another for other data: cloud-init takes it for the id of the instance, and does again what it does once.
    pub id: SeedId,
    pub parts: Vec<CloudPart>,
}

/// Secrets are in it: only what there is, not what is in it.
impl fmt::Debug for CloudInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudInit").field("parts", &self.parts()).field("withheld", &self.withheld).finish()
    }
}

impl CloudInit {
    /// What there is of it.
    pub fn parts(&self) -> Vec<CloudPart> {
        let all = [
            (CloudPart::UserData, self.user_data.is_some()),
            (CloudPart::MetaData, self.meta_data.is_some()),
            (CloudPart::NetworkConfig, self.network_config.is_some()),
            (CloudPart::SshKeys, self.ssh_keys.is_some()),
            (CloudPart::Hostname, self.hostname.is_some()),
            (CloudPart::Password, self.password.is_some()),
        ];
        all.into_iter().filter_map(|(part, there)| there.then_some(part)).collect()
    }

    /// All that may be shown to whoever may change it.
    #[must_use]
    pub fn shown(mut self) -> Self {
        self.withheld = self.password.take().map(|_| CloudPart::Password).into_iter().collect();
        self
    }

    /// What may be shown to anybody: which parts there are.
    pub fn hidden(seed: &Seed) -> Self {
        Self { withheld: seed.parts.clone(), ..Self::default() }
    }

    /// With those parts of what there was that are to stay; a password that is that of before stays the hash that it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a part that was not there, or is given as well.
    pub fn over(mut self, before: Option<&Self>) -> Result<Self> {
        let nothing = Self::default();
        let before = before.unwrap_or(&nothing);
        for part in std::mem::take(&mut self.withheld) {
            let (given, there) = match part {
                CloudPart::UserData => stays(&mut self.user_data, &before.user_data),
                CloudPart::MetaData => stays(&mut self.meta_data, &before.meta_data),
                CloudPart::NetworkConfig => stays(&mut self.network_config, &before.network_config),
                CloudPart::SshKeys => stays(&mut self.ssh_keys, &before.ssh_keys),
                CloudPart::Hostname => stays(&mut self.hostname, &before.hostname),
                CloudPart::Password => stays(&mut self.password, &before.password),
            };
            let name = part.as_str();
            if given {
                return Err(Error::invalid("cloud_init.withheld", format!("not name {name}, which is given as well")));
            }
            if !there {
                return Err(Error::invalid("cloud_init.withheld", format!("not name {name}: there was none")));
            }
        }
        if let (Some(given), Some(known)) = (&self.password, &before.password)
            && password::is_of(given, known)
        {
            self.password.clone_from(&before.password);
        }
        Ok(self)
    }

    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::invalid("cloud_init", "hold something, such as ssh_keys or user_data, or be null"));
        }
        self.user_data.iter().try_for_each(|text| {
            check_characters("cloud_init.user_data", text, MAX_USER_DATA)?;
            user_data::check(text)
        })?;
        check_part("cloud_init.meta_data", self.meta_data.as_ref())?;
        check_part("cloud_init.network_config", self.network_config.as_ref())?;
        self.check_meta_data()?;
        self.network_config.iter().try_for_each(check_network)?;
        if let Some(keys) = &self.ssh_keys {
            check_length("cloud_init.ssh_keys", keys, MAX_KEYS)?;
            for (index, key) in keys.iter().enumerate() {
                let field = format!("cloud_init.ssh_keys[{index}]");
                check_characters(&field, key, MAX_KEY)?;
                ssh_key::check(key).map_err(|must| Error::invalid(field, must))?;
            }
        }
        self.hostname.iter().try_for_each(|name| check_hostname(name))?;
        self.password.iter().try_for_each(|password| {
            check_characters("cloud_init.password", password, MAX_PASSWORD)?;
            password::check(password)
        })
    }

    /// What qherd says there itself is said in one place.
    fn check_meta_data(&self) -> Result<()> {
        let Some(meta_data) = &self.meta_data else { return Ok(()) };
        let said = [
            ("local-hostname", "hostname", self.hostname.is_some()),
            ("public-keys", "ssh_keys", self.ssh_keys.is_some()),
        ];
        match said.into_iter().find(|(name, _, given)| *given && meta_data.contains_key(*name)) {
            Some((name, field, _)) => Err(Error::invalid(
                "cloud_init.meta_data",
                format!("not hold {name} beside {field}, which says the same"),
            )),
            None => Ok(()),
        }
    }
}

impl CloudPart {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserData => "user_data",
            Self::MetaData => "meta_data",
            Self::NetworkConfig => "network_config",
            Self::SshKeys => "ssh_keys",
            Self::Hostname => "hostname",
            Self::Password => "password",
        }
    }
}

/// Whether a part is given as well, and whether there was one.
fn stays<T: Clone>(wanted: &mut Option<T>, before: &Option<T>) -> (bool, bool) {
    let given = wanted.is_some();
    if !given {
        wanted.clone_from(before);
    }
    (given, before.is_some())
}

fn check_characters(field: &str, text: &str, most: usize) -> Result<()> {
    let count = text.chars().count();
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(Error::invalid(field.to_owned(), format!("have 1 to {most} characters, and has {count}")))
}

fn check_part(field: &'static str, part: Option<&Map<String, Value>>) -> Result<()> {
    let size = part.map_or(0, written);
    if size > MAX_PART {
        return Err(Error::invalid(field, format!("take at most {MAX_PART} bytes, as JSON, and takes {size}")));
    }
    Ok(())
}

/// As far as cloud-init looks before it takes a configuration for one.
fn check_network(config: &Map<String, Value>) -> Result<()> {
    let inner = config.get("network").and_then(Value::as_object).unwrap_or(config);
    match inner.get("version").and_then(Value::as_u64) {
        Some(1 | 2) => Ok(()),
        _ => Err(Error::invalid(
            "cloud_init.network_config",
            "say its version, 1 or 2, such as {\"version\": 2, \"ethernets\": {…}}",
        )),
    }
}

fn check_hostname(name: &str) -> Result<()> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() <= MAX_HOSTNAME && name.split('.').all(is_label) {
        return Ok(());
    }
    let must =
        format!("be a host name: letters, digits and '-', with points between labels, at most {MAX_HOSTNAME} of them");
    Err(Error::invalid("cloud_init.hostname", must))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUcZvKtCd9SuHNJUJ8lwzZEfWrYqWpeSpkZxCJcTxXp me@example.com";

    fn of(value: Value) -> CloudInit {
        serde_json::from_value(value).unwrap()
    }

    fn refused(value: Value) -> String {
        of(value).check().unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_field() {
        of(json!({ "ssh_keys": [KEY], "hostname": "web.example", "password": "x" })).check().unwrap();
        of(json!({ "network_config": { "network": { "version": 1, "config": [] } } })).check().unwrap();
        assert!(refused(json!({})).contains("cloud_init must hold something"));
        assert!(refused(json!({ "ssh_keys": [KEY, "ssh-rsa AAAA"] })).contains("cloud_init.ssh_keys[1] must"));
        assert!(refused(json!({ "hostname": "a_b" })).contains("cloud_init.hostname must be a host name"));
        assert!(refused(json!({ "hostname": "a..b" })).contains("hostname"));
        assert!(refused(json!({ "network_config": { "ethernets": {} } })).contains("say its version"));
        assert!(
            refused(json!({ "meta_data": { "local-hostname": "a" }, "hostname": "b" }))
                .contains("not hold local-hostname")
        );
        assert!(refused(json!({ "meta_data": { "a": "x".repeat(MAX_PART) } })).contains("at most 65536 bytes"));
        assert!(refused(json!({ "user_data": "" })).contains("1 to 524288 characters"));
    }

    #[test]
    fn what_is_withheld_stays_when_it_is_sent_back() {
        let whole = of(json!({ "user_data": "#!/bin/sh", "password": "$6$salt$hash", "hostname": "a" }));
        let shown = whole.clone().shown();
        assert_eq!((&shown.password, &shown.withheld[..]), (&None, &[CloudPart::Password][..]));
        assert_eq!(shown.over(Some(&whole)), Ok(whole.clone()));
        let seed = Seed { id: SeedId::random(), parts: whole.parts() };
        assert_eq!(CloudInit::hidden(&seed).over(Some(&whole)), Ok(whole.clone()));
        let both = of(json!({ "hostname": "b", "withheld": ["hostname"] }));
        assert!(both.over(Some(&whole)).unwrap_err().to_string().contains("given as well"));
        let none = of(json!({ "withheld": ["ssh_keys"] }));
        assert!(none.clone().over(Some(&whole)).unwrap_err().to_string().contains("there was none"));
        assert!(none.over(None).is_err());
    }

    #[test]
    fn a_password_that_is_the_same_stays_the_same_hash() {
        let known = of(json!({ "password": hashed("secret") }));
        let again = of(json!({ "password": "secret" })).over(Some(&known)).unwrap();
        assert_eq!(again, known);
        let another = of(json!({ "password": "Secret" })).over(Some(&known)).unwrap();
        assert_eq!(another.password.as_deref(), Some("Secret"));
    }

    #[test]
    fn it_is_not_written_into_logs() {
        let text = format!("{:?}", of(json!({ "password": "hush", "user_data": "#!secret", "ssh_keys": [KEY] })));
        assert!(!text.contains("hush") && !text.contains("secret") && !text.contains("AAAA"), "{text}");
        assert!(text.contains("Password"));
    }
}
