//! What a guest's cloud-init reads: the files of a NoCloud seed. The user's part stays as it is; ours is beside it, in the meta
//! data and the vendor data (docs/adr/0048). JSON is YAML. How they become a disk is `host`'s.

use serde_json::{Map, Value, json};

use super::CloudInit;
use crate::model::{SeedId, VmId, host_label};

/// By this label of a file system cloud-init knows it.
pub const SEED_LABEL: &str = "CIDATA";

/// A file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedFile {
    pub name: &'static str,
    pub content: Vec<u8>,
}

/// For a VM that is called so.
pub fn seed_files(data: &CloudInit, id: SeedId, vm: (VmId, &str)) -> Vec<SeedFile> {
    let mut meta_data = Map::new();
    meta_data.insert("instance-id".into(), id.to_string().into());
    let hostname = data.hostname.clone().unwrap_or_else(|| host_label(vm.1, vm.0));
    meta_data.insert("local-hostname".into(), hostname.into());
    if let Some(keys) = &data.ssh_keys {
        meta_data.insert("public-keys".into(), json!(keys));
    }
    meta_data.extend(data.meta_data.clone().unwrap_or_default());
    let file = |name, content: String| SeedFile { name, content: content.into_bytes() };
    let mut files = vec![
        // It has to be there, and may be empty.
        file("user-data", data.user_data.clone().unwrap_or_default()),
        file("meta-data", yaml(&meta_data.into())),
    ];
    if let Some(password) = &data.password {
        let ours = json!({ "password": password, "chpasswd": { "expire": false } });
        files.push(file("vendor-data", format!("#cloud-config\n{}", yaml(&ours))));
    }
    if let Some(config) = &data.network_config {
        files.push(file("network-config", yaml(&Value::Object(config.clone()))));
    }
    files
}

/// JSON that readers of YAML take: some characters that JSON has as they are, YAML has only escaped, or would fold to spaces.
/// They stand within strings alone.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => text.push(c),
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(data: Value) -> Map<String, Value> {
        let data: CloudInit = serde_json::from_value(data).unwrap();
        let vm = VmId::parse("123e4567-e89b-12d3-a456-426614174000").unwrap();
        let id = SeedId::parse("0a1b2c3d-4e5f-4a6b-8c7d-8e9fa0b1c2d3").unwrap();
        let text = |file: SeedFile| (file.name.to_owned(), String::from_utf8(file.content).unwrap().into());
        seed_files(&data, id, (vm, "Web 1")).into_iter().map(text).collect()
    }

    #[test]
    fn the_users_part_stays_as_it_is_and_ours_is_beside_it() {
        let files = seed(json!({ "user_data": "#!/bin/sh\n\u{7f}", "password": "$6$a$b", "ssh_keys": ["ssh-rsa x"] }));
        assert_eq!(files["user-data"], "#!/bin/sh\n\u{7f}");
        let meta: Value = serde_json::from_str(files["meta-data"].as_str().unwrap()).unwrap();
        let wanted = json!({
            "instance-id": "0a1b2c3d-4e5f-4a6b-8c7d-8e9fa0b1c2d3", "local-hostname": "web-1", "public-keys": ["ssh-rsa x"]
        });
        assert_eq!(meta, wanted);
        let ours = files["vendor-data"].as_str().unwrap().strip_prefix("#cloud-config\n").unwrap();
        let ours: Value = serde_json::from_str(ours).unwrap();
        assert_eq!(ours, json!({ "password": "$6$a$b", "chpasswd": { "expire": false } }));
        assert!(!files.contains_key("network-config"));
    }

    #[test]
    fn what_the_user_says_in_the_meta_data_wins() {
        let files = seed(json!({ "meta_data": { "instance-id": "mine", "x": "a\u{85}\u{2028}ä" }, "hostname": "a" }));
        assert_eq!(files["user-data"], "");
        let text = files["meta-data"].as_str().unwrap();
        assert!(text.contains("\"instance-id\":\"mine\"") && text.contains("\"local-hostname\":\"a\""), "{text}");
        assert!(text.contains("a\\u0085\\u2028ä"), "{text}");
    }
}
