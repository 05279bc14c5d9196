//! Creates a VM: everything is checked, and its task makes it; only then anybody is let know of it. What fails, or is cut
//! short by a crash, is taken back whole.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Service, changes,
    disks::{self, Claim},
    images::{self, ImageUse},
    nics, room,
};
use crate::{
    host::{STORAGE, in_time},
    model::{
        Alias, Conflict, CreateVm, Disk, DiskWish, Error, MAX_DEVICES, Metadata, Named, NewDisk, Operation, Policy,
        Result, Status, VmId, VmSpec, VmView, check_definition, check_disk_size, check_length, check_max_memory,
        check_max_vcpus, check_memory, check_name, check_vcpus, default_max_memory, now_ms,
    },
    profile,
    vm::{self, VmHandle, records},
};

/// vCPUs that a VM can grow to when its creator does not say (ruling 12).
const DEFAULT_MAX_VCPUS: u32 = 16;
/// For what is left of an earlier attempt to go.
const UNWINDING: Duration = Duration::from_secs(30);

/// # Errors
/// [`Error::Invalid`], [`Error::BaseImageNotFound`] and [`Error::MadeAndDeleted`] before anything is made; [`Error::Failed`]
/// with everything taken back.
pub(super) async fn create(service: &Service, wish: CreateVm) -> Result<VmView> {
    if let Some(handle) = made_before(service, wish.id).await? {
        return Ok(handle.view());
    }
    service.check_not_made(wish.id)?;
    let (start, named, cloud_init) = (wish.start, wish.base_image.clone(), wish.cloud_init.clone());
    // Kept until the VM is on the list, or is not.
    let (mut spec, _kept) = vm::while_wanted(resolve(service, wish)).await?;
    let _room = service.room_for_new(&spec, start)?;
    let written = match cloud_init {
        Some(data) => service.write_seed(spec.id, None, Some(data)).await?,
        None => None,
    };
    let id = spec.id;
    spec.seed = written.as_ref().and_then(|written| written.seed.clone());
    let made = establish(service, Arc::new(spec), named, start).await;
    if let Some(written) = written {
        service.conclude_seed(id, written).await;
    }
    made
}

/// What others leave alone until this is dropped.
struct Kept<'a> {
    _promises: Vec<nics::Promises<'a>>,
    _claims: Vec<Claim>,
}

/// Checks the wish and fills in what it leaves open. Makes nothing.
async fn resolve(service: &Service, wish: CreateVm) -> Result<(VmSpec, Kept<'_>)> {
    let host = &service.ctx.host;
    let id = wish.id.unwrap_or_else(VmId::random);
    let vcpus = check_vcpus(wish.vcpus)?;
    let max_vcpus = match wish.max_vcpus {
        Some(max) => check_max_vcpus(max, vcpus)?,
        None => vcpus.max(DEFAULT_MAX_VCPUS),
    };
    let memory = check_memory(wish.memory, host.memory)?;
    let max_memory = match wish.max_memory {
        Some(max) => check_max_memory(max, memory, host.memory)?,
        None => default_max_memory(memory, host.memory),
    };
    if wish.root.is_none() {
        check_disk_size(wish.disk_size)?;
    }
    let name = wish.name.as_deref().map_or_else(|| Ok(id.default_name()), check_name)?;
    if let Some(pinning) = &wish.cpu_pinning {
        changes::check_pinning(pinning, host)?;
        pinning.check_sets(vcpus)?;
    }
    if let Some(cpu) = &wish.cpu {
        service.ctx.caps.check_cpu(cpu)?;
    }
    if let Some(limits) = &wish.io_limits {
        limits.check()?;
    }
    let mut policy = Policy::default();
    wish.policy.apply(&mut policy)?;
    let mut metadata = Metadata::default();
    wish.metadata.apply(&mut metadata)?;
    let profile = wish.profile.as_deref().unwrap_or(profile::DEFAULT);
    let machine = service.profiles.resolve(profile, &service.ctx.caps)?;
    let sent_base = wish.base_image.clone();
    let mut claims = Vec::new();
    let mut sent = wish.sent;
    let attached = wish.root.is_some();
    let root = wish.root.unwrap_or(DiskWish {
        request: None,
        existing: None,
        volume: None,
        size: Some(wish.disk_size),
        base_image: wish.base_image,
        clone: wish.clone,
        io_limits: wish.io_limits,
    });
    let named = root.names().filter(|_| attached).map(Path::to_owned);
    let root = disks::resolve(service, root).await;
    let (root, claim) = root.map_err(|error| if attached { disks::among(0, error) } else { error })?;
    sent.files.extend(named.and_then(|named| Alias::new(root.named()?.to_owned(), named)));
    let NewDisk { layer, file: there, size, base, clone, io_limits, .. } = root;
    claims.extend(claim);
    let named_base = base.as_ref().zip(sent_base).and_then(|(base, sent)| Alias::new(base.path.clone(), sent));
    let folder = service.ctx.image_folder(&id);
    let file = match &wish.disk_folder {
        Some(named) => images::folder(service, named).await?.join(format!("{id}.qcow2")),
        None => folder.join("root.qcow2"),
    };
    let file = there.unwrap_or_else(|| file.into());
    let iso = match &wish.iso {
        Some(named) => Some(images::locate(service, named, ImageUse::Iso).await?.0),
        None => None,
    };
    let named_iso = iso.clone().zip(wish.iso).map(|(file, sent)| Alias { file, sent });
    let disk = Disk { name: "root".into(), layer, file, size, clone, base, io_limits, slot: None, request: None };
    check_length("disks", &wish.disks, MAX_DEVICES)?;
    let mut further = Vec::new();
    for (index, wish) in wish.disks.into_iter().enumerate() {
        let named = wish.names().map(Path::to_owned);
        let disk = disks::resolve(service, wish).await;
        let (disk, claim) = disk.map_err(|error| disks::among(index + usize::from(attached), error))?;
        sent.files.extend(named.and_then(|named| Alias::new(disk.named()?.to_owned(), named)));
        further.push(disk);
        claims.extend(claim);
    }
    sent.cut();
    let mut spec = VmSpec {
        id,
        name,
        created_at: now_ms(),
        machine,
        vcpus,
        max_vcpus,
        max_vcpus_given: wish.max_vcpus.is_some(),
        memory,
        max_memory,
        max_memory_given: wish.max_memory.is_some(),
        cpu_pinning: wish.cpu_pinning,
        cpu: wish.cpu,
        disks: vec![disk],
        disks_added: 0,
        nics: Vec::new(),
        nics_added: 0,
        policy,
        iso,
        seed: None,
        named: Named {
            iso: named_iso,
            base_image: named_base,
            disk_folder: wish.disk_folder,
            folders: Vec::new(),
            sent,
        },
        metadata,
    };
    for (index, disk) in further.into_iter().enumerate() {
        spec.add_disk(disk, &folder, None).map_err(|error| too_many("disks", index, error))?;
    }
    let networks = wish.networks.unwrap_or_else(nics::by_default);
    check_length("networks", &networks, MAX_DEVICES)?;
    let mut promises = Vec::new();
    for (index, wish) in networks.into_iter().enumerate() {
        let (nic, promise) =
            nics::resolve(service, wish, (id, &spec.name)).map_err(|error| nics::among(index, error))?;
        spec.add_nic(nic, None).map_err(|error| too_many("networks", index, error))?;
        promises.push(promise);
    }
    check_definition(&spec, None)?;
    let copies =
        spec.disks.iter().filter_map(|disk| disks::full_clone(&disk.base, disk.clone, disk.file.to_path_buf()));
    room::check(copies.collect()).await?;
    Ok((spec.without_spare_room(), Kept { _promises: promises, _claims: claims }))
}

/// There is nothing yet that could be removed to make room: it is the wish that is too large.
fn too_many(list: &str, index: usize, error: Error) -> Error {
    match error {
        Error::Conflict(Conflict::NoFreeSlot) => {
            let must = "have a slot, and the profile has none left for it; ask for fewer disks and NICs, or for a \
                        profile with more hotplug_ports";
            Error::invalid(format!("{list}[{index}]"), must)
        }
        other => other,
    }
}

/// Makes it real. `named` is the base image in the client's words.
async fn establish(service: &Service, mut spec: Arc<VmSpec>, named: Option<PathBuf>, start: bool) -> Result<VmView> {
    check_mounted(service, &spec).await?;
    check_nothing_there(&spec).await?;
    let ctx = &service.ctx;
    let mut made = service.making.begin();
    // Outside of the VM's own folder.
    let folder = ctx.image_folder(&spec.id);
    let own = spec.root().and_then(|root| root.file.own());
    let place = own.and_then(|file| file.parent()).filter(|place| **place != folder).map(Path::to_owned);
    if let Some(place) = &place
        && let Err(error) = made.make(service, place, &mut spec).await
    {
        take_back(service, spec).await;
        return Err(error);
    }
    let (handle, answer) = vm::create(ctx.clone(), spec.clone(), start, made.noted());
    let making = service.registry.making(handle.clone());
    let answer = answer.await;
    made.leave().await;
    match answer {
        Ok(view) => {
            service.registry.insert(handle);
            drop(making);
            service.tell_hosts(changes::switches_of(&view));
            Ok(view)
        }
        Err(error) => {
            if !handle.view().gone {
                // Its task takes it back as soon as the host lets it.
                tracing::error!(vm = %spec.id, "cannot take back a VM that was not made");
                service.registry.insert(handle);
            } else if place.is_some() {
                take_back(service, spec).await;
            }
            Err(in_words_of(error, named))
        }
    }
}

/// What went wrong with a disk went wrong with the VM, or with the image that it was to be cloned from.
fn in_words_of(error: Error, named: Option<PathBuf>) -> Error {
    match error {
        Error::Failed { operation: Operation::Change, why } => {
            Error::failed(named.map_or(Operation::Create, |base| Operation::Clone { base }), why)
        }
        other => other,
    }
}

/// What is noted of a VM that did not come to be goes as after a crash.
async fn take_back(service: &Service, spec: Arc<VmSpec>) {
    let id = spec.id;
    match records::get(&service.ctx.store, &id.to_string()) {
        Ok(Some(stored)) => {
            let handle = vm::adopt(service.ctx.clone(), stored);
            if tokio::time::timeout(UNWINDING, handle.gone()).await.is_err() {
                tracing::error!(vm = %id, "cannot take back a half-made VM; the next start of qherd tries again");
                service.registry.insert(handle);
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(vm = %id, %error, "cannot take back a half-made VM"),
    }
}

/// The files that are made for a VM.
fn own_files(spec: &VmSpec) -> Vec<PathBuf> {
    spec.disks.iter().filter_map(|disk| Some(disk.file.own()?.to_path_buf())).collect()
}

/// Refuses a VM whose disks would be made where files are that no record tells of, as after the loss of one: taking back
/// what then fails must not take those.
async fn check_nothing_there(spec: &VmSpec) -> Result<()> {
    let files = own_files(spec);
    let looked = in_time(STORAGE, move || Ok(files.into_iter().find(|file| fs::symlink_metadata(file).is_ok()))).await;
    match looked.map_err(|error| Error::failed(Operation::Create, error))? {
        None => Ok(()),
        Some(file) => Err(Error::Storage(format!(
            "There is a file {} already, of which no record tells. It is left alone; ask under another idempotency key.",
            file.display()
        ))),
    }
}

/// Refuses a VM whose disks would be made below a mount point, and be hidden when its storage is there.
async fn check_mounted(service: &Service, spec: &VmSpec) -> Result<()> {
    let folders = || service.ctx.config.storage_dirs.clone();
    let failed = |error| Error::failed(Operation::Create, error);
    let files = own_files(spec);
    let (looked, within) = (files.clone(), folders());
    let marked = in_time(STORAGE, move || Ok(looked.iter().all(|file| vm::is_marked(file, &within)))).await;
    if marked.map_err(failed)? {
        return Ok(());
    }
    let views = service.registry.views();
    let others: Vec<_> = views.iter().flat_map(|view| own_files(&view.spec)).collect();
    let within = folders();
    let mounted =
        in_time(STORAGE, move || Ok(files.iter().try_for_each(|file| vm::check_mounted(file, &others, &within)))).await;
    mounted.map_err(failed)?
}

/// The VM that the same request has made, when its answer was lost: a daemon before this one may have died after it. With
/// `start` it has been started as well, or it would not be there.
async fn made_before(service: &Service, id: Option<VmId>) -> Result<Option<VmHandle>> {
    let handle = match id.map(|id| service.handle(id)) {
        None | Some(Err(Error::VmNotFound(_))) => return Ok(None),
        // Such as a record that cannot be read, and is not to be written over.
        Some(Err(other)) => return Err(other),
        Some(Ok(handle)) => handle,
    };
    // What that daemon had not finished is being unwound.
    let _ = tokio::time::timeout(UNWINDING, handle.recovered()).await;
    let view = handle.view();
    if view.gone {
        service.registry.remove(view.spec.id);
        return Ok(None);
    }
    if matches!(view.status, Status::Starting | Status::Stopping) {
        return Err(Error::Busy(view.spec.id));
    }
    Ok(Some(handle))
}
