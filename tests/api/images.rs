//! The store of images: every form that disks come in, told by content and compared by content; what is refused, and with
//! which words; names, owners and what keeps an image; and what is left of what fails: nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    operations_of as operations,
    support::{Answer, Daemon, PATIENCE},
};
use serde_json::{Value, json};

/// Runs a shell line in a folder.
fn shell(folder: &Path, line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A raw disk of 9 MiB with data at its beginning, in its middle and in its last sector, and holes between.
fn disk(bases: &Path) {
    shell(bases, "head -c 200000 /dev/urandom > disk.raw; truncate -s 9M disk.raw");
    shell(bases, "head -c 70000 /dev/urandom | dd of=disk.raw bs=1M seek=4 conv=notrunc status=none");
    shell(bases, "printf 'the last sector' | dd of=disk.raw bs=1 seek=9436672 conv=notrunc status=none");
}

fn same_content(one: &Path, other: &Path) {
    let compared = Command::new("qemu-img").args(["compare"]).arg(one).arg(other).output().unwrap();
    assert!(compared.status.success(), "{}: {}", other.display(), String::from_utf8_lossy(&compared.stdout));
}

async fn import(daemon: &Daemon, name: &str, path: &str) -> Answer {
    daemon.post("/images", json!({ "name": name, "path": path })).await
}

fn file_of(image: &Value) -> PathBuf {
    image["layer"]["file"].as_str().unwrap().into()
}

/// What the store has on the disk.
fn kept(daemon: &Daemon) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["layers", "layers/unfinished"] {
        let entries = std::fs::read_dir(daemon.state().join(folder)).unwrap().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    found
}

/// What has failed is taken back a moment after the answer.
async fn nothing_is_kept(daemon: &Daemon) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !kept(daemon).is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?}", kept(daemon));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn every_form_of_a_disk_is_told_by_its_content_and_comes_out_as_it_went_in() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    disk(&bases);
    let made = |line: &str| drop(shell(&bases, line));
    made("qemu-img convert -O qcow2 disk.raw plain.bin");
    made("qemu-img convert -O qcow2 -o compat=0.10 disk.raw old.bin");
    made("qemu-img convert -c -O qcow2 disk.raw compressed.bin");
    made("qemu-img convert -O qcow2 -o extended_l2=on,cluster_size=128k disk.raw extended.bin");
    made("qemu-img convert -O qcow2 -o cluster_size=512 disk.raw small.bin");
    made("qemu-img convert -O qcow2 -o cluster_size=2M disk.raw large.bin");
    made("cp plain.bin snapped.bin; qemu-img snapshot -c one snapped.bin");
    made("qemu-img convert -O vmdk disk.raw sparse.bin");
    made("qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw stream.bin");
    made("qemu-img convert -O vpc -o force_size=on disk.raw dynamic.bin");
    made("qemu-img convert -O vpc -o subformat=fixed,force_size=on disk.raw fixed.bin");
    made("qemu-img convert -O vhdx disk.raw x.bin; qemu-img convert -O vdi disk.raw i.bin; cp disk.raw r.bin");
    made(
        "xz -k -c disk.raw > xz.bin; gzip -c disk.raw > gz.bin; bzip2 -c disk.raw > bz.bin; zstd -q -c disk.raw > zst.bin; xz -c plain.bin > q.xz.bin",
    );
    made("gzip -c sparse.bin > vmdk.gz.bin");
    let cases = [
        ("plain", "qcow2", None),
        ("old", "qcow2", None),
        ("compressed", "qcow2", None),
        ("extended", "qcow2", None),
        ("small", "qcow2", None),
        ("large", "qcow2", None),
        ("snapped", "qcow2", None),
        ("sparse", "vmdk", None),
        ("stream", "vmdk", None),
        ("dynamic", "vhd", None),
        ("fixed", "vhd", None),
        ("x", "vhdx", None),
        ("i", "vdi", None),
        ("r", "raw", None),
        ("xz", "raw", Some("xz")),
        ("gz", "raw", Some("gzip")),
        ("bz", "raw", Some("bzip2")),
        ("zst", "raw", Some("zstd")),
        ("q.xz", "qcow2", Some("xz")),
        ("vmdk.gz", "vmdk", Some("gzip")),
    ];
    for (file, format, compression) in cases {
        let path = format!("{file}.bin");
        let image = import(&daemon, &format!("of-{file}:1"), &path).await.expect(201);
        assert_eq!((&image["format"], &image["compression"]), (&json!(format), &json!(compression)), "{file}: {image}");
        let sum = shell(&bases, &format!("sha256sum {path}"));
        assert_eq!(image["sha256"].as_str().unwrap(), sum.split(' ').next().unwrap(), "{file}");
        assert_eq!(image["virtual_size"], json!(9 << 20), "{file}: {image}");
        let made = file_of(&image);
        same_content(&bases.join("disk.raw"), &made);
        let sum = shell(&bases, &format!("sha256sum {}", made.display()));
        assert_eq!(image["layer"]["sha256"].as_str().unwrap(), sum.split(' ').next().unwrap(), "{file}");
        assert!(made.ends_with(format!("{}.qcow2", image["layer"]["sha256"].as_str().unwrap())), "{made:?}");
        let header = shell(&bases, &format!("qemu-img info --output=json {}", made.display()));
        let header: Value = serde_json::from_str(&header).unwrap();
        assert!(header["backing-filename"].is_null() && header["snapshots"].is_null(), "{header}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&made.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o400, "{file}");
    }
    // One that is known by its content already is not kept twice.
    let images = daemon.get("/images").await.expect(200);
    assert_eq!(images.as_array().unwrap().len(), cases.len());
    let files: std::collections::BTreeSet<PathBuf> = images.as_array().unwrap().iter().map(file_of).collect();
    assert_eq!(kept(&daemon).into_iter().collect::<std::collections::BTreeSet<_>>(), files);
    assert!(files.len() < cases.len(), "the same data are stored once: {files:?}");
}

#[tokio::test]
async fn what_is_no_whole_disk_is_refused_with_what_it_is_and_nothing_is_left() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    disk(&bases);
    let made = |line: &str| drop(shell(&bases, line));
    made(
        "printf '<!DOCTYPE html><title>404</title>' > page.qcow2; printf '{\"message\":\"no\"}' > no.img; : > empty.raw",
    );
    made("printf '%%PDF-1.7' > paper.vmdk; cp /bin/true program.raw");
    made("truncate -s 1M cd.raw; printf CD001 | dd of=cd.raw bs=1 seek=32769 conv=notrunc status=none");
    made("printf '<ovf/>' > vm.ovf; tar -cf appliance.qcow2 vm.ovf disk.raw; tar -czf appliance.tgz vm.ovf disk.raw");
    made("xz -c disk.raw > a.xz; gzip -c a.xz > twice.gz; head -c 100000 a.xz > cut.xz; gzip -c page.qcow2 > page.gz");
    made("qemu-img create -q -f qcow2 -b disk.raw -F raw overlay.qcow2; gzip -c overlay.qcow2 > overlay.gz");
    made("qemu-img create -q -f qcow2 -o data_file=outside.raw outside.qcow2 8M");
    made("qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 8M");
    made("qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 8M");
    made("qemu-img create -q -f vmdk parent.vmdk 8M; qemu-img create -q -f vmdk -b parent.vmdk -F vmdk child.vmdk");
    made("qemu-img convert -O vmdk disk.raw whole.vmdk; head -c 100000 whole.vmdk > cut.vmdk");
    made("qemu-img convert -O vhdx disk.raw whole.vhdx; head -c 100000 whole.vhdx > cut.vhdx");
    made("qemu-img convert -O vdi disk.raw whole.vdi; head -c 2500000 whole.vdi > cut.vdi");
    made("qemu-img convert -O vpc disk.raw whole.vhd; head -c 100000 whole.vhd > cut.vhd");
    made("qemu-img convert -O qcow2 disk.raw torn.qcow2; head -c 70000 torn.qcow2 > t; mv t torn.qcow2");
    let secret = daemon.dir.path().join("secret");
    std::fs::write(&secret, "hush").unwrap();
    std::os::unix::fs::symlink(&secret, bases.join("link.raw")).unwrap();
    let cases = [
        ("page.qcow2", 400, "not an HTML or XML page"),
        ("no.img", 400, "not a JSON text"),
        ("empty.raw", 400, "not be empty"),
        ("paper.vmdk", 400, "not a PDF document"),
        ("program.raw", 400, "not a program (ELF)"),
        ("cd.raw", 400, "not an ISO image"),
        ("appliance.qcow2", 400, "not an OVA (a tar archive)"),
        ("appliance.tgz", 400, "what gzip has packed must be the image of a disk, not an OVA"),
        ("twice.gz", 400, "not be packed once more, with xz"),
        ("page.gz", 400, "what gzip has packed must be the image of a disk, not an HTML"),
        ("cut.xz", 400, "cannot be unpacked"),
        ("overlay.qcow2", 400, "it has the backing file disk.raw"),
        ("overlay.gz", 400, "it has the backing file disk.raw"),
        ("outside.qcow2", 400, "it keeps its data in outside.raw"),
        ("flat.vmdk", 400, "the descriptor of a VMDK image"),
        ("split-s001.vmdk", 400, "one part of several"),
        ("child.vmdk", 400, "this VMDK image lies on another"),
        ("cut.vmdk", 400, "be intact, but qemu-img check finds it damaged"),
        ("cut.vdi", 400, "the end of this one is missing"),
        ("cut.vhd", 400, "the end of this one is missing"),
        ("cut.vhdx", 400, "be a VHDX image, all of it and intact"),
        ("torn.qcow2", 400, "intact"),
        ("missing.raw", 400, "exist; there is no missing.raw"),
        ("link.raw", 400, "lie in an image directory"),
        ("/etc/passwd", 400, "lie in an image directory"),
        ("../secret", 400, "lie in an image directory"),
    ];
    for (path, status, said) in cases {
        let answer = import(&daemon, "bad:1", path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.message().starts_with("Invalid parameter: path must "), "{path}: {answer:?}");
        assert!(answer.message().contains(said), "{path}: no {said:?} in {answer:?}");
        assert!(!answer.message().contains("/proc/self/fd"), "{path}: {answer:?}");
    }
    assert_eq!(daemon.get("/images").await.expect(200), json!([]));
    nothing_is_kept(&daemon).await;
    // The name is free again.
    import(&daemon, "bad:1", "disk.raw").await.expect(201);
}

#[tokio::test]
async fn names_sums_and_bodies_that_cannot_be_are_refused_by_their_field() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    disk(&bases);
    for (body, said) in [
        (json!({ "name": "a/b", "path": "disk.raw" }), "name must be NAME or NAME:TAG"),
        (json!({ "name": "123e4567-e89b-42d3-a456-426614174000", "path": "disk.raw" }), "name must not be a UUID"),
        (json!({ "name": "disk", "path": "disk.raw", "sha256": "12" }), "sha256 must be a SHA-256 sum"),
        (
            json!({ "name": "disk", "path": "disk.raw", "sha256": "0".repeat(64) }),
            "sha256 must be the sum of what is imported",
        ),
        (json!({ "name": "disk", "path": "disk.raw", "labels": { "-": "" } }), "labels must have keys"),
        (json!({ "name": "disk" }), "path"),
        (json!({ "name": "disk", "path": "disk.raw", "url": "http://x" }), "url"),
    ] {
        let answer = daemon.post("/images", body.clone()).await;
        assert!(answer.status == 400 && answer.message().contains(said), "{body}: {answer:?}");
    }
    let sum = shell(&bases, "sha256sum disk.raw | cut -c1-64");
    let body = json!({ "name": "disk", "path": bases.join("disk.raw"), "sha256": sum.trim().to_uppercase(),
                       "labels": { "os": "none" }, "description": "a disk", "protected": true });
    let image = daemon.post("/images", body).await.expect(201);
    assert_eq!((&image["name"], &image["tag"]), (&json!("disk"), &json!("latest")));
    assert_eq!(
        image["source"],
        json!({ "type": "path", "path": bases.join("disk.raw"), "url": null, "vm_id": null, "disk": null })
    );
    let id = image["id"].as_str().unwrap().to_owned();
    for named in [id.as_str(), "disk", "disk:latest"] {
        let mut found = daemon.get(&format!("/images/{named}")).await.expect(200);
        // Beside what lies on it.
        let more = ["disks", "volumes", "allocated"].map(|field| found.as_object_mut().unwrap().remove(field));
        assert_eq!((found, &more[0], &more[1]), (image.clone(), &Some(json!([])), &Some(json!([]))), "{named}");
    }
    let answer = import(&daemon, "disk:latest", "disk.raw").await;
    assert!(answer.status == 409 && answer.message().contains("an image disk:latest already"), "{answer:?}");
    let second = import(&daemon, "disk:2", "disk.raw").await.expect(201);
    assert_eq!(second["layer"], image["layer"], "the same file is stored once");

    // Another name, and what else there is to change.
    let answer = daemon.put(&format!("/images/{id}"), json!({ "name": "disk:2" })).await;
    assert!(answer.status == 409, "{answer:?}");
    let changed =
        daemon.put("/images/disk", json!({ "name": "disc:1", "labels": null, "description": "" })).await.expect(200);
    assert_eq!((&changed["name"], &changed["tag"], &changed["labels"]), (&json!("disc"), &json!("1"), &json!({})));
    assert_eq!(changed["description"], Value::Null);
    daemon.get("/images/disk").await.expect(404);
    assert!(daemon.put("/images/disc:1", json!({})).await.status == 400);
    let listed = daemon.get("/images?name=disc").await.expect(200);
    assert_eq!(listed, json!([changed]));
    assert_eq!(daemon.get("/images?label=os").await.expect(200), json!([]));

    // It is protected, and then it goes; what it shares with the other stays.
    let answer = daemon.delete("/images/disc:1").await;
    assert!(answer.status == 409 && answer.message().contains("protected"), "{answer:?}");
    daemon.put("/images/disc:1", json!({ "protected": false })).await.expect(200);
    daemon.delete("/images/disc:1").await.expect(200);
    assert!(file_of(&second).exists());
    daemon.delete(&format!("/images/{}", second["id"].as_str().unwrap())).await.expect(200);
    assert!(!file_of(&second).exists());
    assert!(daemon.delete("/images/disk:2").await.status == 404);
    nothing_is_kept(&daemon).await;
    let events = daemon.get("/events?wait=0&after=0&type=image.created,image.changed,image.deleted").await;
    let events = events.expect(200);
    let types: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    let wanted = ["image.created", "image.created", "image.changed", "image.changed", "image.deleted", "image.deleted"];
    assert_eq!(types, wanted, "{events:#}");
    assert_eq!(events["events"][2]["fields"], json!(["name", "labels", "description"]));
}

#[tokio::test]
async fn a_vm_is_cloned_from_an_image_by_name_and_keeps_it() {
    let mut daemon = Daemon::start();
    disk(&daemon.bases());
    let image = import(&daemon, "disk:1", "disk.raw").await.expect(201);
    let id = image["id"].as_str().unwrap().to_owned();
    let mut wish = daemon.wish();
    wish["name"] = json!("web");
    wish["base_image"] = json!("disk:1");
    wish["disks"] = json!([{ "disk_size": 1, "base_image": id }]);
    let vm = daemon.create(wish.clone()).await;
    let config = daemon.get(&format!("/vms/{vm}/config")).await.expect(200);
    assert_eq!(config["base_image"], "disk:1");
    // What is sent again, in whatever form, changes nothing.
    for base in [json!("disk:1"), json!(id), image["layer"]["file"].clone()] {
        let body = json!({ "base_image": base, "disks": [{ "disk_size": 1, "base_image": base }] });
        let whole = daemon.put(&format!("/vms/{vm}"), body).await.expect(200);
        assert_eq!(whole["disks"][0]["disk_size"], json!(1), "{whole}");
    }
    let bases = daemon.get("/base-images").await.expect(200);
    assert_eq!((&bases[0]["path"], &bases[0]["images"]), (&image["layer"]["file"], &json!(["disk:1"])), "{bases}");
    let used = daemon.get("/images/disk:1").await.expect(200);
    assert_eq!(used["vms"], json!([{ "id": vm, "name": "web" }]));
    let answer = daemon.delete("/images/disk:1").await;
    assert!(answer.status == 409 && answer.message().contains(&format!("in use by a VM: web ({vm})")), "{answer:?}");

    // Over a crash, with the VM running, and where the state directory has another name.
    daemon.post(&format!("/vms/{vm}/start"), json!({})).await.expect(200);
    daemon.kill();
    daemon.run();
    assert_eq!(daemon.get("/images/disk:1").await.expect(200), used);
    assert!(daemon.delete("/images/disk:1").await.status == 409);
    daemon.post(&format!("/vms/{vm}/stop"), json!({ "force": true })).await.expect(200);

    // A full clone stands alone.
    wish["name"] = json!("alone");
    wish["clone"] = json!("full");
    wish["disks"] = json!([]);
    let alone = daemon.create(wish).await;
    daemon.delete(&format!("/vms/{vm}")).await.expect(200);
    daemon.delete("/images/disk:1").await.expect(200);
    assert!(!file_of(&image).exists());
    daemon.post(&format!("/vms/{alone}/start"), json!({})).await.expect(200);
    daemon.delete(&format!("/vms/{alone}")).await.expect(200);
    nothing_is_kept(&daemon).await;
    let mut gone = daemon.wish();
    gone["base_image"] = json!("disk:1");
    let answer = daemon.post("/vms", gone).await;
    assert!(answer.status == 404 && answer.message() == "Base image not found: disk:1.", "{answer:?}");
}

#[tokio::test]
async fn a_name_that_is_a_files_as_well_is_refused_until_one_is_meant() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    disk(&bases);
    std::fs::copy(bases.join("disk.raw"), bases.join("debian")).unwrap();
    let mut wish = daemon.wish();
    wish["base_image"] = json!("debian");
    let first = daemon.create(wish.clone()).await;
    let image = import(&daemon, "debian", "disk.raw").await.expect(201);
    let answer = daemon.post("/vms", wish.clone()).await;
    assert!(answer.status == 400 && answer.message().contains("both an image of the store and the file"), "{answer:?}");
    assert!(answer.message().contains(image["id"].as_str().unwrap()), "{answer:?}");
    for base in [bases.join("debian").to_str().unwrap(), "./debian", "debian:latest", image["id"].as_str().unwrap()] {
        wish["base_image"] = json!(base);
        daemon.post("/vms", wish.clone()).await.expect(201);
    }
    let used = daemon.get("/images/debian").await.expect(200);
    assert_eq!(used["vms"].as_array().unwrap().len(), 2, "{used}");
    // A VM that was made before is as it was.
    let body = json!({ "base_image": "debian" });
    daemon.put(&format!("/vms/{first}"), body).await.expect(200);
}

#[tokio::test]
async fn an_import_is_an_operation_with_phases_that_can_be_cancelled_and_has_a_key() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    // Compresses badly, so that it takes a while.
    shell(&bases, "head -c 24M /dev/urandom > big.raw; bzip2 -1 -k big.raw");
    let body = |name: &str| json!({ "name": name, "path": "big.raw.bz2" });
    let place = operations::post(&daemon, "/images", body("big:1")).await;
    let phase = operations::in_phase(&daemon, &place, "unpack").await;
    assert!(phase["device"].is_null(), "{phase}");
    let answer = import(&daemon, "big:1", "big.raw.bz2").await;
    assert!(answer.status == 409 && answer.message().contains("being imported already"), "{answer:?}");
    operations::cancel(&daemon, &place).await;
    nothing_is_kept(&daemon).await;
    assert_eq!(daemon.get("/images").await.expect(200), json!([]));

    let place = operations::post(&daemon, "/images", body("big:1")).await;
    let ended = operations::end(&daemon, &place).await;
    assert_eq!((&ended["status"], &ended["name"]), (&json!("done"), &json!("big:1")), "{ended:#}");
    let names: Vec<&str> =
        ended["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["checksum", "unpack", "convert", "store_image"], "{ended:#}");
    assert_eq!(ended["result"]["body"]["format"], "raw");

    // The same key, the same image; after its deletion that is told.
    let keyed = |name: &str| {
        daemon
            .http()
            .post(daemon.at("/images"))
            .header("idempotency-key", "k1")
            .json(&json!({ "name": name, "path": "blank.raw" }))
    };
    let first = daemon.send(keyed("keyed")).await.expect(201);
    assert_eq!(daemon.send(keyed("keyed")).await.expect(201)["id"], first["id"]);
    assert_eq!(daemon.send(keyed("other")).await.status, 422);
}

#[tokio::test]
async fn a_thousand_images_are_listed_and_one_of_them_is_found() {
    let daemon = Daemon::start();
    // One after the other, of one file, whose data at most sixty-four share: eighteen files.
    for file in 0..18 {
        shell(&daemon.bases(), &format!("printf {file:04} > tiny{file}.raw"));
        for tag in 0..60 {
            import(&daemon, &format!("tiny-{file}:{tag}"), &format!("tiny{file}.raw")).await.expect(201);
        }
    }
    let all = daemon.get("/images").await.expect(200);
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 1080);
    let names: std::collections::BTreeSet<String> = all
        .iter()
        .map(|image| format!("{}:{}", image["name"].as_str().unwrap(), image["tag"].as_str().unwrap()))
        .collect();
    assert_eq!(names.len(), 1080);
    assert_eq!(daemon.get("/images?name=tiny-7").await.expect(200).as_array().unwrap().len(), 60);
    assert_eq!(daemon.get("/images/tiny-17:59").await.expect(200)["tag"], "59");
    assert_eq!(kept(&daemon).len(), 18);
}
