//! Creates a VM: check everything, record it, make its disk, and only then let anybody know of it. A failure at any
//! step takes the earlier ones back; a crash leaves a record that says `Creating`, which the next start unwinds.

use std::{path::Path, sync::Arc};

use super::{Service, bases};
use crate::{
    model::{
        CpuPinning, CreateVm, Disk, Ending, Error, Nic, NicBackend, Operation, Result, Run, VmId, VmRecord, VmSpec,
        VmView, check_disk_size, check_max_memory, check_max_vcpus, check_memory, check_name, check_vcpus, now_ms,
    },
    profile, vm,
};

/// vCPUs that a VM can grow to when its creator does not say (ruling 12).
const DEFAULT_MAX_VCPUS: u32 = 16;
const GIB: u64 = 1 << 30;

/// # Errors
/// [`Error::Invalid`] and [`Error::BaseImageNotFound`] before anything is made; [`Error::Failed`] with everything taken
/// back.
pub(super) async fn create(service: &Service, wish: CreateVm) -> Result<VmView> {
    let (start, named) = (wish.start, wish.base_image.clone());
    let spec = resolve(service, wish).await?;
    let id = spec.id;
    let macs: Vec<_> = spec.nics.iter().map(|nic| nic.mac).collect();
    let created = establish(service, VmRecord { spec: Arc::new(spec), run: Run::Creating }, &named, start).await;
    // One that could not be taken back is still there, and so is its card.
    if created.is_err() && service.registry.get(id).is_none() {
        macs.into_iter().for_each(|mac| service.registry.release(mac));
    }
    created
}

/// Checks the wish and fills in what it leaves open. Makes nothing.
async fn resolve(service: &Service, wish: CreateVm) -> Result<VmSpec> {
    let host = &service.ctx.host;
    let id = VmId::random();
    let vcpus = check_vcpus(wish.vcpus)?;
    let max_vcpus = match wish.max_vcpus {
        Some(max) => check_max_vcpus(max, vcpus)?,
        None => vcpus.max(DEFAULT_MAX_VCPUS),
    };
    let memory = check_memory(wish.memory, host.memory)?;
    let max_memory = match wish.max_memory {
        Some(max) => check_max_memory(max, memory, host.memory)?,
        None => host.memory,
    };
    let size = check_disk_size(wish.disk_size)?;
    let name = wish.name.as_deref().map_or_else(|| Ok(id.default_name()), check_name)?;
    if let Some(pinning) = &wish.cpu_pinning {
        check_pinning(pinning, host)?;
    }
    if let Some(limits) = &wish.io_limits {
        limits.check()?;
    }
    let profile = wish.profile.as_deref().unwrap_or(profile::DEFAULT);
    let machine = service.profiles.resolve(profile, &service.ctx.caps)?;
    let (base, virtual_size) = bases::resolve(service, &wish.base_image).await?;
    if virtual_size > size * GIB {
        let must = format!(
            "be at least {} (GiB), the size of the base image ({virtual_size} bytes), not {size}",
            virtual_size.div_ceil(GIB)
        );
        return Err(Error::invalid("disk_size", must));
    }
    let file = service.ctx.image_folder(&id).join("root.qcow2");
    let disk = Disk { name: "root".into(), file, size, clone: wish.clone, base, io_limits: wish.io_limits };
    let nic = Nic { name: "net0".into(), mac: service.registry.reserve_mac(), backend: NicBackend::User };
    Ok(VmSpec {
        id,
        name,
        created_at: now_ms(),
        machine,
        vcpus,
        max_vcpus,
        memory,
        max_memory,
        cpu_pinning: wish.cpu_pinning,
        disks: vec![disk],
        nics: vec![nic],
    })
}

/// Ruling 15.
fn check_pinning(pinning: &CpuPinning, host: &crate::host::cpus::Host) -> Result<()> {
    let name = "cpu_pinning.cores";
    if pinning.cores.is_empty() {
        return Err(Error::invalid(name, "name at least one core"));
    }
    for (index, &core) in pinning.cores.iter().enumerate() {
        if let Some(must) = host.refuse_core(core) {
            return Err(Error::invalid(name, must));
        }
        if pinning.cores[..index].contains(&core) {
            return Err(Error::invalid(name, format!("name every core once; {core} is repeated")));
        }
    }
    Ok(())
}

/// Makes it real. `named` is the base image in the client's words.
async fn establish(service: &Service, mut record: VmRecord, named: &Path, start: bool) -> Result<VmView> {
    let ctx = &service.ctx;
    ctx.persist(&record).await.map_err(|e| Error::failed(Operation::Create, e))?;
    if let Err(error) = make_disks(service, &mut record, named).await {
        undo(service, &record).await;
        return Err(error);
    }
    let id = record.spec.id;
    let handle = vm::spawn(ctx.clone(), record);
    if start && let Err(error) = handle.start().await {
        if let Err(left) = handle.delete().await {
            tracing::error!(vm = %id, error = %left, "cannot take back a VM that did not start");
            service.registry.insert(handle);
        }
        return Err(error);
    }
    service.registry.insert(handle.clone());
    Ok(handle.view())
}

async fn make_disks(service: &Service, record: &mut VmRecord, named: &Path) -> Result<()> {
    let ctx = &service.ctx;
    let folder = ctx.image_folder(&record.spec.id);
    tokio::fs::create_dir_all(&folder)
        .await
        .map_err(|e| Error::failed(Operation::Create, format!("cannot make {}: {e}", folder.display())))?;
    for disk in &record.spec.disks {
        let cloned = ctx.images.clone(&disk.base, disk.clone, &disk.file, disk.size).await;
        cloned.map_err(|why| Error::failed(Operation::Clone { base: named.to_owned() }, why))?;
    }
    record.run = Run::Down { last: Ending::Clean };
    ctx.persist(record).await.map_err(|e| Error::failed(Operation::Create, e))
}

async fn undo(service: &Service, record: &VmRecord) {
    if let Err(error) = service.ctx.erase(record).await {
        tracing::error!(vm = %record.spec.id, error, "cannot take back a half-made VM; the next start of qherd tries again");
    }
}
