//! Layers over a real store: who may change one, how long it stays, and what becomes of a VM whose layer cannot be read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::{
    model::{BaseImage, Below, CloneMode, DiskFile, Ending, ForeignFile, ImageFormat, VmSpec, Volume, VolumeFile},
    vm::{
        core::{DiskNo, Run, unmade},
        records::{self, Stored},
    },
};

fn disk(number: u32) -> Disk {
    let name = DiskNo(number).name();
    let base = (number == 0).then(|| BaseImage::at("/b/debian.qcow2", ImageFormat::Qcow2));
    let file = format!("/i/{name}.qcow2").into();
    let (layer, clone) = (LayerId::random(), CloneMode::Linked);
    Disk { name, layer, file, size: 1, clone, base, io_limits: None, slot: None, request: None }
}

/// A VM that is off and not stored yet.
fn vm(disks: Vec<Disk>) -> Stored {
    let machine = json!({ "profile": "pc", "machine_type": "pc", "bus": { "kind": "pci" }, "rng": false, "balloon": false,
                          "pvpanic": false });
    let spec = json!({
        "id": VmId::random(), "name": "a", "created_at": 0, "machine": machine, "vcpus": 1, "max_vcpus": 1,
        "max_vcpus_given": false, "memory": 64, "max_memory": 64, "cpu_pinning": null, "disks": [], "nics": [],
        "nics_added": 0
    });
    let spec = VmSpec { disks, ..serde_json::from_value(spec).unwrap() };
    let mut record = unmade(Arc::new(spec));
    (record.run.state, record.run.unmade) = (Run::Down { last: Ending::Clean }, [].into());
    Stored { record, known: Default::default() }
}

impl Stored {
    async fn commit(&mut self, store: &Store) -> Result<(), StoreError> {
        records::commit_all(store, Batch::new(), &mut [self]).await
    }

    async fn delete(&mut self, store: &Store) -> Result<(), StoreError> {
        let (batch, known) = self.known.remove(Batch::new(), self.record.definition.id)?;
        store.commit(batch).await?;
        self.known = known;
        Ok(())
    }

    fn read_anew(&mut self, store: &Store) {
        self.known = self.known.read_anew(store, Some(&self.record)).unwrap();
    }

    fn disks(&mut self) -> &mut Vec<Disk> {
        &mut Arc::make_mut(&mut self.record.definition).disks
    }

    fn again(&self, store: &Store) -> Result<Record, StoreError> {
        let key = self.record.definition.id.to_string();
        let scanned = records::scan(store).unwrap().into_iter().find(|(other, _)| *other == key).unwrap().1;
        let got = records::get(store, &key).map(|vm| vm.unwrap().record);
        assert_eq!(
            got.as_ref().map_err(ToString::to_string),
            scanned.as_ref().map(|vm| &vm.record).map_err(ToString::to_string)
        );
        got
    }
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    (dir, store)
}

fn owners(store: &Store, layer: LayerId) -> Option<(Vec<VmId>, u64)> {
    let found = get(store, layer).unwrap();
    found.map(|(layer, generation)| (layer.owners.into_iter().collect(), generation))
}

fn is_outdated(outcome: &Result<(), StoreError>, layer: LayerId) -> bool {
    matches!(outcome, Err(StoreError::Outdated { record }) if *record == format!("layer/{layer}"))
}

#[tokio::test]
async fn two_vms_that_share_a_layer_cannot_both_be_right() {
    let (_dir, store) = open();
    let shared = disk(0);
    let layer = shared.layer;
    let (mut one, mut other) = (vm(vec![shared.clone()]), vm(vec![shared, disk(1)]));
    one.commit(&store).await.unwrap();
    // It believes the layer to be new: nothing of it is stored.
    assert!(is_outdated(&other.commit(&store).await, layer));
    assert_eq!(store.names().unwrap().len(), 3);
    other.read_anew(&store);
    other.commit(&store).await.unwrap();
    let mut both = vec![one.record.definition.id, other.record.definition.id];
    both.sort();
    assert_eq!(owners(&store, layer), Some((both, 2)));

    // Each may believe that nobody but itself has it: the one that comes second is wrong.
    assert!(is_outdated(&one.delete(&store).await, layer));
    assert_eq!(one.again(&store).unwrap(), one.record, "nothing of the deletion is stored");
    other.disks().remove(0);
    other.commit(&store).await.unwrap();
    assert_eq!(owners(&store, layer), Some((vec![one.record.definition.id], 3)));
    one.read_anew(&store);
    one.delete(&store).await.unwrap();
    assert_eq!(owners(&store, layer), None);
    other.delete(&store).await.unwrap();
    assert_eq!(store.names().unwrap(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_layer_stays_for_as_long_as_anything_of_the_vm_names_it() {
    let (_dir, store) = open();
    let (root, added) = (disk(0), disk(1));
    let mut one = vm(vec![root, added.clone()]);
    one.record.run.held.images.insert(DiskNo(1), added.clone().into());
    one.commit(&store).await.unwrap();
    one.disks().pop();
    one.commit(&store).await.unwrap();
    assert!(owners(&store, added.layer).is_some(), "its image may be there yet");
    assert_eq!(one.again(&store).unwrap().run.held.images[&DiskNo(1)], added.clone().into());
    one.record.run.held.images.clear();
    one.commit(&store).await.unwrap();
    assert_eq!(owners(&store, added.layer), None);
    assert_eq!(one.again(&store).unwrap(), one.record);
}

#[tokio::test]
async fn a_file_that_is_found_elsewhere_is_the_next_generation_of_its_layer() {
    let (_dir, store) = open();
    let full = Disk { clone: CloneMode::Full, base: disk(0).base, ..disk(1) };
    let mut one = vm(vec![disk(0), full]);
    let layer = one.disks()[0].layer;
    one.commit(&store).await.unwrap();
    one.commit(&store).await.unwrap();
    assert_eq!(owners(&store, layer).unwrap().1, 1, "what has not changed is not written");
    one.disks()[0].file = "/elsewhere/root.qcow2".into();
    one.commit(&store).await.unwrap();
    assert_eq!(owners(&store, layer).unwrap().1, 2);
    assert_eq!(one.again(&store).unwrap(), one.record);
    let text = serde_json::to_value(get(&store, layer).unwrap().unwrap().0).unwrap();
    assert_eq!((&text["folder"], &text["file"]), (&json!("/elsewhere"), &json!("root.qcow2")));
    assert_eq!(text["parent"], json!({ "base": { "path": "/b/debian.qcow2", "format": "qcow2" } }));
}

/// Puts a layer into the store as no program of today would.
async fn damaged<const V: u32>(store: &Store, layer: LayerId, data: Value) {
    #[derive(Serialize, Deserialize)]
    struct Any<const V: u32>(Value);
    impl<const V: u32> store::Record for Any<V> {
        const KIND: &'static str = "layer";
        const VERSION: u32 = V;
    }
    let batch = match data {
        Value::Null => Batch::new().remove::<Any<V>>(&layer.to_string()),
        data => Batch::new().put(&layer.to_string(), &Any::<V>(data)).unwrap(),
    };
    store.commit(batch).await.unwrap();
}

#[tokio::test]
async fn a_layer_says_whose_its_file_is_and_of_old_ones_each_is_qherds_own() {
    let (_dir, store) = open();
    let file = ForeignFile { path: "/srv/a.img".into(), format: ImageFormat::Raw, bytes: 512, below: Vec::new() };
    let attached = Disk { file: DiskFile::Foreign(file.clone()), ..disk(1) };
    let (mut one, mut old) = (vm(vec![disk(0), attached]), vm(vec![disk(0)]));
    one.commit(&store).await.unwrap();
    old.commit(&store).await.unwrap();
    assert_eq!(one.again(&store).unwrap().definition.disks[1].file.foreign(), Some(&file));
    let layer = old.disks()[0].layer;
    let text = serde_json::to_value(get(&store, layer).unwrap().unwrap().0).unwrap();
    assert_eq!(text.get("foreign"), None);
    damaged::<1>(&store, layer, text.clone()).await;
    assert!(old.again(&store).unwrap().definition.disks[0].file.own().is_some());
    damaged::<2>(&store, layer, text).await;
    assert!(old.again(&store).unwrap().definition.disks[0].file.own().is_some());
}

#[tokio::test]
async fn a_chain_that_a_disk_lies_on_is_kept_whole_and_as_one_that_an_earlier_qherd_does_not_read() {
    let (_dir, store) = open();
    let below = |name: &str, format| Below { path: format!("/srv/{name}").into(), format };
    let below = vec![below("one.qcow2", ImageFormat::Qcow2), below("box.img", ImageFormat::Raw)];
    let file = ForeignFile { path: "/srv/a.qcow2".into(), format: ImageFormat::Qcow2, bytes: 512, below };
    let base = Some(BaseImage::at("/srv/two.qcow2", ImageFormat::Qcow2));
    let chained = Disk { file: DiskFile::Foreign(file), base, clone: CloneMode::Linked, ..disk(0) };
    let mut one = vm(vec![chained.clone()]);
    one.commit(&store).await.unwrap();
    assert_eq!(one.again(&store).unwrap().definition.disks, [chained]);
    let record = serde_json::to_value(get(&store, one.disks()[0].layer).unwrap().unwrap().0).unwrap();
    let parent = record["parent"].as_object().unwrap();
    assert_eq!(parent.keys().collect::<Vec<_>>(), ["chain"]);
}

#[tokio::test]
async fn a_vm_whose_layer_cannot_be_read_hides_no_other_and_says_which_it_is() {
    let (_dir, store) = open();
    let (mut one, mut other) = (vm(vec![disk(0)]), vm(vec![disk(0)]));
    let layer = one.disks()[0].layer;
    let above_another = json!({
        "folder": "/i", "file": "root.qcow2", "parent": { "fork": LayerId::random() }, "owners": [one.record.definition.id]
    });
    one.commit(&store).await.unwrap();
    other.commit(&store).await.unwrap();
    let names = store.names().unwrap();
    for (data, reason) in
        [(json!("?"), "does not decode"), (above_another, "unknown variant `fork`"), (Value::Null, "not there")]
    {
        damaged::<3>(&store, layer, data).await;
        let said = one.again(&store).unwrap_err().to_string();
        assert!(said.starts_with(&format!("record layer/{layer} cannot be read: ")) && said.contains(reason), "{said}");
        assert_eq!(other.again(&store).unwrap(), other.record);
    }
    assert_eq!(store.names().unwrap().len(), names.len() - 1, "nothing else has gone");
}

#[tokio::test]
async fn a_volume_stays_when_its_last_vm_lets_go_of_it_and_knows_its_size() {
    let (_dir, store) = open();
    let volume = Arc::new(Volume { name: "data".to_owned(), created_at: 7 });
    let file = |disk: &Disk| VolumeFile { path: disk.file.to_path_buf(), volume: volume.clone() };
    let mut one = vm(vec![disk(0), disk(1)]);
    one.commit(&store).await.unwrap();
    let layer = one.disks()[1].layer;
    let spec = Arc::make_mut(&mut one.record.definition);
    spec.disks[1].file = DiskFile::Volume(file(&spec.disks[1]));
    spec.disks[1].size = 3;
    one.commit(&store).await.unwrap();
    assert_eq!(one.again(&store).unwrap().definition.disks[1].file.volume(), Some(&*volume));
    // What a VM remembers of a disk that it defines no more makes it no smaller, and no disk of its own.
    let mut held = disk(1);
    held.layer = layer;
    let no = DiskNo::of(&held.name).unwrap();
    one.record.run.held.images.insert(no, held.into());
    Arc::make_mut(&mut one.record.definition).disks.truncate(1);
    one.commit(&store).await.unwrap();
    let stored = || get(&store, layer).unwrap().unwrap().0;
    assert_eq!((stored().volume(), stored().volume_size()), (Some((&*volume, false)), 3));
    one.record.run.held.images.clear();
    one.commit(&store).await.unwrap();
    let left = stored();
    assert!(left.owners().is_empty() && left.volume().is_some() && !left.is_nobodys());
}
