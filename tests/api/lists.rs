//! The list of VMs with its filters and pages, what is said of paths and methods that are not there, and the OpenAPI
//! document.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Daemon;
use serde_json::{Value, json};

/// Method, path and operation id of every route.
const ROUTES: [(&str, &str, &str); 77] = [
    ("get", "/images", "listImages"),
    ("post", "/images", "importImage"),
    ("post", "/images/uploads", "uploadImage"),
    ("get", "/known-images", "listKnownImages"),
    ("get", "/uploads", "listUploads"),
    ("post", "/uploads", "beginUpload"),
    ("get", "/uploads/{upload}", "getUpload"),
    ("put", "/uploads/{upload}", "continueUpload"),
    ("delete", "/uploads/{upload}", "deleteUpload"),
    ("get", "/images/{image}", "getImage"),
    ("get", "/images/{image}/content", "getImageContent"),
    ("put", "/images/{image}", "updateImage"),
    ("delete", "/images/{image}", "deleteImage"),
    ("get", "/volumes", "listVolumes"),
    ("post", "/volumes", "createVolume"),
    ("get", "/volumes/{volume}", "getVolume"),
    ("get", "/volumes/{volume}/content", "getVolumeContent"),
    ("delete", "/volumes/{volume}", "deleteVolume"),
    ("post", "/vms", "createVM"),
    ("get", "/vms", "listVMs"),
    ("get", "/vms/{id}", "getVM"),
    ("get", "/vms/{id}/addresses", "listVMAddresses"),
    ("put", "/vms/{id}", "updateVM"),
    ("delete", "/vms/{id}", "deleteVM"),
    ("get", "/vms/{id}/config", "getVMConfig"),
    ("get", "/vms/{id}/status", "getVMStatus"),
    ("put", "/vms/{id}/cpu", "updateVMCpu"),
    ("put", "/vms/{id}/memory", "updateVMMemory"),
    ("put", "/vms/{id}/disk", "resizeVMDisk"),
    ("put", "/vms/{id}/policy", "updateVMPolicy"),
    ("put", "/vms/{id}/iso", "changeVMIso"),
    ("delete", "/vms/{id}/iso", "ejectVMIso"),
    ("put", "/vms/{id}/machine", "updateVMMachine"),
    ("get", "/vms/{id}/disks", "listVMDisks"),
    ("post", "/vms/{id}/disks", "addVMDisk"),
    ("put", "/vms/{id}/disks/{disk}", "updateVMDisk"),
    ("delete", "/vms/{id}/disks/{disk}", "removeVMDisk"),
    ("get", "/vms/{id}/networks", "listVMNetworks"),
    ("post", "/vms/{id}/networks", "addVMNetwork"),
    ("put", "/vms/{id}/networks/{nic}", "updateVMNetwork"),
    ("delete", "/vms/{id}/networks/{nic}", "removeVMNetwork"),
    ("post", "/vms/{id}/start", "startVM"),
    ("post", "/vms/{id}/stop", "stopVM"),
    ("post", "/vms/{id}/reboot", "rebootVM"),
    ("post", "/vms/{id}/suspend", "suspendVM"),
    ("post", "/vms/{id}/resume", "resumeVM"),
    ("get", "/vms/{id}/performance", "getVMPerformanceMetrics"),
    ("get", "/vms/{id}/console", "openVMConsole"),
    ("get", "/vms/{id}/console/log", "getVMConsoleLog"),
    ("get", "/vms/{id}/logs", "getVMLogs"),
    ("get", "/vms/{id}/agent", "getVMAgent"),
    ("post", "/vms/{id}/exec", "execInVM"),
    ("get", "/vms/{id}/files", "readVMFile"),
    ("put", "/vms/{id}/files", "writeVMFile"),
    ("post", "/vms/{id}/time", "setVMTime"),
    ("post", "/vms/{id}/freeze", "freezeVM"),
    ("post", "/vms/{id}/thaw", "thawVM"),
    ("get", "/switches", "listSwitches"),
    ("post", "/switches", "createSwitch"),
    ("get", "/switches/{id}", "getSwitch"),
    ("put", "/switches/{id}", "updateSwitch"),
    ("delete", "/switches/{id}", "deleteSwitch"),
    ("get", "/switches/{id}/leases", "listSwitchLeases"),
    ("get", "/switches/{id}/forwards", "listSwitchForwards"),
    ("post", "/switches/{id}/forwards", "addSwitchForward"),
    ("delete", "/switches/{id}/forwards/{forward}", "removeSwitchForward"),
    ("get", "/base-images", "listBaseImages"),
    ("get", "/host", "getHost"),
    ("get", "/operations", "listOperations"),
    ("get", "/operations/{operation}", "getOperation"),
    ("delete", "/operations/{operation}", "cancelOperation"),
    ("get", "/events", "listEvents"),
    ("get", "/health", "getHealth"),
    ("get", "/openapi.json", "getOpenAPI"),
    ("get", "/openapi.yaml", "getOpenAPIAsYAML"),
    ("get", "/docs", "getDocs"),
    ("get", "/docs/{file}", "getDocsFile"),
];
const ID: &str = "123e4567-e89b-12d3-a456-426614174000";

async fn named(daemon: &Daemon, name: &str) -> String {
    let mut wish = daemon.wish();
    wish["name"] = json!(name);
    daemon.create(wish).await
}

/// The ids of a list, in its order, and the path of the next page.
async fn page(daemon: &Daemon, path: &str) -> (Vec<String>, Option<String>) {
    let response = daemon.http().get(daemon.at(path)).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
    let next = link.map(|link| {
        let path = link.strip_prefix('<').and_then(|l| l.strip_suffix(">; rel=\"next\""));
        path.unwrap_or_else(|| panic!("{link}")).to_owned()
    });
    let vms: Vec<Value> = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    (vms.iter().map(|vm| vm["id"].as_str().unwrap().to_owned()).collect(), next)
}

/// Follows the Link headers to the end; returns the pages.
async fn walk(daemon: &Daemon, first: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        let (ids, following) = page(daemon, &path).await;
        pages.push(ids);
        next = following;
    }
    pages
}

#[tokio::test]
async fn the_list_is_oldest_first_and_filters_narrow_it() {
    let daemon = Daemon::start();
    let mut ids = Vec::new();
    for name in ["web", "größe 1", "web"] {
        ids.push(named(&daemon, name).await);
    }
    daemon.post(&format!("/vms/{}/start", ids[2]), json!({})).await.expect(200);
    let (all, next) = page(&daemon, "/vms").await;
    assert_eq!((&all, next), (&ids, None));
    for (query, found) in [
        ("status=stopped", vec![0, 1]),
        ("status=running", vec![2]),
        ("status=crashed", vec![]),
        ("name=web", vec![0, 2]),
        ("name=gr%C3%B6%C3%9Fe+1", vec![1]),
        ("name=WEB", vec![]),
        ("name=we", vec![]),
        ("name=web&status=running", vec![2]),
        ("name=web&limit=1", vec![0]),
        ("limit=10000", vec![0, 1, 2]),
    ] {
        let (listed, _) = page(&daemon, &format!("/vms?{query}")).await;
        let found: Vec<&String> = found.into_iter().map(|i: usize| &ids[i]).collect();
        assert_eq!(listed.iter().collect::<Vec<_>>(), found, "{query}");
    }
    // The order is that of creation also after a restart.
    let mut daemon = daemon;
    daemon.kill();
    daemon.run();
    assert_eq!(page(&daemon, "/vms").await.0, ids);
}

#[tokio::test]
async fn pages_hold_every_vm_once_also_when_one_is_deleted_on_the_way() {
    let daemon = Daemon::start();
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(named(&daemon, "a b").await);
    }
    for (limit, sizes) in [(1, vec![1; 7]), (3, vec![3, 3, 1]), (7, vec![7]), (8, vec![7])] {
        let pages = walk(&daemon, &format!("/vms?limit={limit}")).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        assert_eq!(pages.concat(), ids);
    }
    // A filter goes along from page to page.
    let other = named(&daemon, "other").await;
    let pages = walk(&daemon, "/vms?name=a+b&status=stopped&limit=2").await;
    assert_eq!(pages.concat(), ids);
    assert!(!pages.concat().contains(&other));

    // The very VM that the next page begins after goes, one that is still to come goes, one already seen goes.
    let (mut seen, next) = page(&daemon, "/vms?limit=3").await;
    for gone in [2, 0, 4] {
        daemon.delete(&format!("/vms/{}", ids[gone])).await.expect(200);
    }
    seen.extend(walk(&daemon, &next.unwrap()).await.concat());
    let expected = [&ids[0], &ids[1], &ids[2], &ids[3], &ids[5], &ids[6], &other];
    assert_eq!(seen.iter().collect::<Vec<_>>(), expected);
    // A token stays good when everything behind it is gone.
    let (_, next) = page(&daemon, "/vms?limit=4").await;
    for id in [&ids[6], &other] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(walk(&daemon, &next.unwrap()).await, [[] as [String; 0]]);
}

#[tokio::test]
async fn a_path_that_is_not_there_is_a_404_in_the_shape_of_every_error() {
    let daemon = Daemon::start();
    for path in ["/", "/nope", "/vms/", "/vm", "/vms//status", "/VMS", &format!("/vms/{ID}/nope"), "/hyperv2/vms"] {
        let answer = daemon.get(path).await;
        assert_eq!(
            answer.body,
            json!({"error": {"code": 404, "message": "No such path; openapi.json lists those that there are."}}),
            "{path}"
        );
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_there_is_a_405_that_says_which_are() {
    let daemon = Daemon::start();
    let mut allowed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (method, path, _) in ROUTES {
        let methods = allowed.entry(path).or_default();
        methods.extend(if method == "get" { vec!["GET", "HEAD"] } else { vec![method] });
    }
    for (path, methods) in allowed {
        let methods: BTreeSet<String> = methods.iter().map(|m| m.to_uppercase()).collect();
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            if methods.contains(method) {
                continue;
            }
            let url = daemon.at(&path.replace("{id}", ID));
            let response = daemon.http().request(method.parse().unwrap(), url).send().await.unwrap();
            assert_eq!(response.status(), 405, "{method} {path}");
            let allow = response.headers()["allow"].to_str().unwrap().to_owned();
            assert_eq!(allow.split(", ").map(str::to_owned).collect::<BTreeSet<_>>(), methods, "{method} {path}");
            if method != "HEAD" {
                let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
                assert_eq!(body["error"]["code"], 405);
                assert!(body["error"]["message"].as_str().unwrap().contains(&allow), "{body}");
            }
        }
    }
    let head = daemon.http().head(daemon.at("/health")).send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.text().await.unwrap(), "");
}

#[tokio::test]
async fn the_openapi_document_describes_every_route() {
    let daemon = Daemon::start();
    let document = daemon.get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let mut described = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            described.push((method.as_str(), path.as_str(), operation["operationId"].as_str().unwrap()));
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2') || status == "101"), "{method} {path}");
            assert!(responses.contains_key("4XX") && responses.contains_key("5XX"), "{method} {path}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_path = parameters.iter().filter(|p| p["in"] == "path" && p["required"] == true).count();
            assert_eq!(in_path, path.matches('{').count(), "{method} {path}");
        }
    }
    described.sort_unstable();
    let mut routes = ROUTES;
    routes.sort_unstable();
    assert_eq!(described, routes);
    // Nothing is referred to that is not there.
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads out of the document"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let create = &document["paths"]["/vms"]["post"];
    assert_eq!(create["requestBody"]["required"], true);
    assert_eq!(document["paths"]["/vms/{id}/stop"]["post"]["requestBody"]["required"], false);
    let names = |path: &str, method: &str| -> Vec<String> {
        let parameters = document["paths"][path][method]["parameters"].as_array().unwrap();
        parameters.iter().filter(|p| p["in"] == "query").map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/vms", "get"), ["status", "name", "label", "fields", "sort", "limit", "page_token"]);
    assert_eq!(names("/vms/{id}/stop", "post"), ["force", "timeout"]);
    assert_eq!(names("/vms/{id}", "delete"), ["graceful"]);
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| collect_references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}
