//! Names of every language, on everything that has a name: given back as they were sent, found without regard to case and
//! composition, and carried through QEMU's command line.

use crate::hyperv::{Client, Mount, started};
use serde_json::json;

#[tokio::test]
async fn a_name_of_any_language_is_kept_found_and_seen_in_the_process_list() {
    let daemon = started();
    let client = Client::at(&daemon, Mount::Root);
    let names = ["Cafe\u{301} (copy) +1 @lab:2", "हिन्दी सर्वर", "เครื่องที่ ๑", "می\u{200c}خواهم", "größe"];
    for name in names {
        let mut wish = daemon.wish();
        (wish["name"], wish["start"]) = (json!(name), json!(true));
        wish["networks"] = json!([{ "user": {}, "name": name }]);
        let id = daemon.create(wish).await;
        let vm = daemon.get(&format!("/vms/{id}")).await.expect(200);
        assert_eq!(vm["name"], name);
        assert_eq!(daemon.get(&format!("/vms/{id}/networks")).await.expect(200)[0]["name"], name);
        let arguments = procfs::process::Process::new(vm["pid"].as_i64().unwrap() as i32).unwrap().cmdline().unwrap();
        let guest = arguments.iter().position(|argument| argument == "-name").unwrap() + 1;
        assert_eq!(arguments[guest], format!("guest={name},debug-threads=on"));
        let found = client.get(&format!("/vms/by-name/{}", encoded(name))).await.expect(200);
        assert_eq!(found[0]["Id"], id, "{found}");
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
        let mut switch = json!({ "name": name, "type": "Private" });
        client.post("/switches", switch.clone()).await.expect(201);
        switch["name"] = json!(name);
        let found = client.get("/switches").await.expect(200);
        assert!(found.as_array().unwrap().iter().any(|switch| switch["Name"] == name), "{found}");
    }
    // Composed, and in capitals.
    let mut wish = daemon.wish();
    wish["name"] = json!("Cafe\u{301}");
    let id = daemon.create(wish).await;
    for other in ["caf\u{e9}", "CAF\u{c9}", "cAfE\u{301}"] {
        assert_eq!(client.get(&format!("/vms/by-name/{}", encoded(other))).await.expect(200)[0]["Id"], id);
    }
    assert_eq!(client.get("/vms/by-name/cafe").await.expect(200), json!([]));
}

#[tokio::test]
async fn a_name_that_would_mislead_is_refused_with_the_character() {
    let daemon = started();
    for (name, expected) in [
        ("a/b", "without '/'"),
        ("a,b", "without ','"),
        ("a\u{202e}b", "without U+202E"),
        ("a\u{7}b", "without U+0007"),
        ("\u{301}a", "without U+0301"),
        (" a", "spaces between them"),
    ] {
        let mut wish = daemon.wish();
        wish["name"] = json!(name);
        let answer = daemon.post("/vms", wish).await;
        assert!(answer.status == 400 && answer.message().contains(expected), "no {expected:?} in {answer:?}");
    }
}

fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}
