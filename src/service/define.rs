//! Brings a VM to the definition that a client has of it, or to a part of that: what is so already stays, what can be
//! changed is changed, all of it or nothing, and what cannot be changed is refused by its name. How a running VM follows is
//! the business of its task.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    Service, bases,
    disks::{self, Claim},
    images,
    nics::{self, Promises},
    paths,
    switches::Reservation,
};
use crate::{
    model::{
        Alias, Applied, Change, CloneMode, CloudInit, Conflict, CpuPinning, Disk, DiskWish, Error, GuestCpu, IoLimits,
        MAX_DEVICES, MetadataWish, Nic, NicWish, PolicyWish, Result, VmId, VmSpec, VmView, Words, check_length,
        default_max_memory,
    },
    vm::VmHandle,
};

/// How often lists are compared anew that others change at the same time.
const TRIES: usize = 8;
/// Until what they have changed is looked at again in any case.
const SOON: Duration = Duration::from_secs(1);

/// A definition, or a part of it, as a dialect hands it over: decoded, not yet checked.
#[derive(Clone, Debug, Default)]
pub struct Define {
    pub name: Option<String>,
    pub profile: Option<String>,
    pub vcpus: Option<i64>,
    pub max_vcpus: Option<i64>,
    /// MiB.
    pub memory: Option<i64>,
    /// MiB.
    pub max_memory: Option<i64>,
    /// GiB, of the root disk.
    pub disk_size: Option<i64>,
    /// In the client's words.
    pub base_image: Option<PathBuf>,
    pub clone: Option<CloneMode>,
    /// `Some(None)` removes it.
    pub cpu_pinning: Option<Option<CpuPinning>>,
    /// `Some(None)` for the richest.
    pub cpu: Option<Option<GuestCpu>>,
    /// Of the root disk; `Some(None)` removes them.
    pub io_limits: Option<Option<IoLimits>>,
    /// All beside the root disk.
    pub disks: Option<Vec<DiskWish>>,
    pub networks: Option<Vec<NicWish>>,
    pub policy: PolicyWish,
    /// In the client's words; `Some(None)` takes it out.
    pub iso: Option<Option<PathBuf>>,
    /// `Some(None)` for none.
    pub cloud_init: Option<Option<CloudInit>>,
    pub metadata: MetadataWish,
    /// What it is asked for in, where its dialect tells them.
    pub words: Option<Words>,
}

impl Service {
    /// Changes what differs. Returns the VM and when all of it is in effect.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::Invalid`]; [`Error::Fixed`] for what cannot be changed and differs; those of the single
    /// changes. Nothing is changed then.
    pub async fn define(&self, id: VmId, wish: Define) -> Result<(VmView, Applied)> {
        let handle = self.handle(id)?;
        let mut views = handle.views();
        for _ in 0..TRIES {
            let before = views.borrow().spec.clone();
            match self.define_once(&handle, wish.clone()).await {
                // Others have changed its lists since they were compared.
                Err(Error::Conflict(Conflict::Outdated)) => {
                    // It shows when it is stored.
                    let _ = timeout(SOON, views.wait_for(|view| view.gone || view.spec != before)).await;
                }
                done => return done,
            }
        }
        Err(Conflict::Outdated.into())
    }

    async fn define_once(&self, handle: &VmHandle, wish: Define) -> Result<(VmView, Applied)> {
        let spec = handle.view().spec;
        let id = spec.id;
        check_fixed(&spec, &wish, self.ctx.host.memory)?;
        if let Some(named) = &wish.base_image {
            self.check_base(&spec, named).await?;
        }
        let mut wanted =
            Wanted { service: self, spec: &spec, changes: Vec::new(), kept: Vec::new(), files: Vec::new() };
        if wish.disks.is_some() || wish.networks.is_some() {
            let disks = spec.disks.iter().map(|disk| disk.name.clone()).collect();
            wanted.changes.push(Change::Over { disks, nics: spec.nics.iter().map(|nic| nic.id).collect() });
        }
        wanted.plain(&wish)?;
        if let Some(iso) = &wish.iso {
            let change = self.medium(id, iso.as_deref()).await?;
            wanted.changes.push(change);
        }
        if let Some(disks) = wish.disks {
            wanted.disks(disks).await?;
        }
        if let Some(networks) = wish.networks {
            wanted.networks(networks)?;
        }
        if let Some(words) = wish.words {
            let words = Words { files: std::mem::take(&mut wanted.files), base_image: wish.base_image, ..words };
            wanted.changes.push(Change::Sent(Box::new(words)));
        }
        let written = match wish.cloud_init {
            Some(data) => self.write_seed(id, spec.seed.as_ref(), data).await?,
            None => None,
        };
        let Some(written) = written else { return wanted.make(handle).await };
        wanted.changes.push(Change::Seed { seed: written.seed.clone(), over: written.over });
        let made = wanted.make(handle).await;
        self.conclude_seed(id, written).await;
        made
    }

    /// That the root disk was cloned from this image.
    async fn check_base(&self, spec: &VmSpec, named: &Path) -> Result<()> {
        let Some(base) = spec.root().and_then(|root| root.base.as_ref()) else {
            return Err(fixed("base_image", "none: the root disk was made empty"));
        };
        // It need not be there any more.
        if named == base.path || spec.base_image_as_sent().is_some_and(|sent| sent == named) {
            return Ok(());
        }
        let file = bases::path_of(self, named).await?;
        if file == base.path { Ok(()) } else { Err(fixed("base_image", base.path.display().to_string())) }
    }
}

fn fixed(param: impl Into<std::borrow::Cow<'static, str>>, is: impl Into<String>) -> Error {
    Error::Fixed { param: param.into(), is: is.into() }
}

/// What was decided when the VM was created, or only grows. A bound that nobody set rises with what it bounds.
fn check_fixed(spec: &VmSpec, wish: &Define, host_memory: u64) -> Result<()> {
    let bound = |name: &'static str, wish: Option<i64>, is: u64| match wish {
        Some(..=0) => Err(Error::invalid(name, "be greater than 0")),
        Some(wish) if i64::try_from(is) != Ok(wish) => {
            Err(fixed(name, format!("{is}, and only a VM that is created can be given another")))
        }
        _ => Ok(()),
    };
    let vcpus = wish.vcpus.and_then(|vcpus| u64::try_from(vcpus).ok()).filter(|_| !spec.max_vcpus_given);
    bound("max_vcpus", wish.max_vcpus, vcpus.map_or(0, |vcpus| vcpus).max(spec.max_vcpus.into()))?;
    let memory = wish.memory.and_then(|memory| u64::try_from(memory).ok()).filter(|_| !spec.max_memory_given);
    bound(
        "max_memory",
        wish.max_memory,
        memory.map_or(spec.max_memory, |memory| default_max_memory(memory, host_memory)),
    )?;
    if wish.profile.as_ref().is_some_and(|profile| *profile != spec.machine.profile) {
        return Err(fixed("profile", spec.machine.profile.clone()));
    }
    let Some(root) = spec.root() else { return Ok(()) };
    if wish.clone.is_some_and(|clone| root.base.is_some() && clone != root.clone) {
        return Err(fixed(
            "clone",
            match root.clone {
                CloneMode::Linked => "linked",
                CloneMode::Full => "full",
            },
        ));
    }
    check_grows("disk_size", wish.disk_size, root.size)
}

fn check_grows(param: impl Into<std::borrow::Cow<'static, str>>, wish: Option<i64>, size: u64) -> Result<()> {
    match wish.and_then(|wish| u64::try_from(wish).ok()) {
        // Zero and less are no sizes, which is told as that.
        Some(wish) if (1..size).contains(&wish) => Err(fixed(param, format!("{size} GiB, and a disk only grows"))),
        _ => Ok(()),
    }
}

/// Whether a disk is in the file that a client means: the one that it named, or one that was made for it.
fn same_file(service: &Service, wish: &DiskWish, disk: &Disk) -> Result<bool> {
    if let Some(volume) = wish.volume {
        return Ok(disk.file.volume().is_some() && disk.layer == volume);
    }
    match (&wish.existing, disk.file.foreign()) {
        (None, None) => Ok(true),
        (Some(wish), Some(file)) => {
            let named = images::host_path(service, &wish.path, "path", "be the path of a disk image")?;
            Ok(wish.format == file.format
                && (named == file.path || paths::canonical(&named).as_ref() == Some(&file.path)))
        }
        (Some(_), None) | (None, Some(_)) => Ok(false),
    }
}

/// The changes that lead to a definition.
struct Wanted<'a> {
    service: &'a Service,
    spec: &'a VmSpec,
    changes: Vec<Change>,
    /// Addresses, until they stand in the definition or do not.
    kept: Vec<Kept<'a>>,
    /// What files of disks are called.
    files: Vec<Alias>,
}

/// Held for what its drop gives back.
#[derive(Default)]
struct Kept<'a> {
    _new: Option<Promises<'a>>,
    _place: Option<Reservation>,
    _file: Option<Claim>,
}

impl Wanted<'_> {
    /// What is neither a list nor a file.
    fn plain(&mut self, wish: &Define) -> Result<()> {
        self.changes.extend(wish.name.clone().map(Change::Name));
        if wish.vcpus.is_some() || wish.cpu_pinning.is_some() {
            // Fewer vCPUs than the pinning has sets go with a pinning that has fewer.
            let (vcpus, pinning) = (wish.vcpus, wish.cpu_pinning.clone());
            self.changes.push(Change::Cpu { vcpus, pinning });
        }
        self.changes.extend(wish.cpu.clone().map(|cpu| Change::GuestCpu(cpu.map(Box::new))));
        self.changes.extend(wish.memory.map(Change::Memory));
        if let Some(root) = self.spec.root()
            && (wish.disk_size.is_some() || wish.io_limits.is_some())
        {
            let io_limits = wish.io_limits.map(|limits| limits.map(Box::new));
            self.changes.push(Change::Disk { name: root.name.clone(), size: wish.disk_size, io_limits });
        }
        self.changes.push(Change::Policy(wish.policy));
        self.changes.push(Change::Metadata(Box::new(wish.metadata.clone())));
        Ok(())
    }

    async fn disks(&mut self, wishes: Vec<DiskWish>) -> Result<()> {
        check_length("disks", &wishes, MAX_DEVICES)?;
        let there = self.spec.listed_disks();
        if wishes.len() < there.len() {
            let count = there.len();
            return Err(fixed(
                "disks",
                format!("{count} long, and a disk goes with its data when it is removed by itself"),
            ));
        }
        for (index, wish) in wishes.into_iter().enumerate() {
            let named = wish.names().map(Path::to_owned);
            let Some(disk) = there.get(index) else {
                let resolved = disks::resolve(self.service, wish).await;
                let (disk, claim) = resolved.map_err(|error| disks::among(index, error))?;
                self.files.extend(named.and_then(|named| Alias::new(disk.named()?.to_owned(), named)));
                self.kept.push(Kept { _file: claim, ..Kept::default() });
                let folder = self.service.ctx.image_folder(&self.spec.id);
                self.changes.push(Change::AddDisk { disk: Box::new(disk), folder });
                continue;
            };
            let place = |field: &str| format!("disks[{index}].{field}");
            check_grows(place("disk_size"), wish.size, disk.size)?;
            if !same_file(self.service, &wish, disk)? {
                return Err(fixed(place("path"), disk.file.display().to_string()));
            }
            let is = || disk.base.as_ref().map_or_else(|| "none".to_owned(), |base| base.path.display().to_string());
            let same = match (&wish.base_image, &disk.base) {
                // What it was found to lie on.
                (None, _) if wish.existing.is_some() || wish.volume.is_some() => true,
                (None, None) => true,
                (Some(named), Some(base)) => {
                    wish.clone == disk.clone
                        && (*named == base.path || {
                            let path = bases::path_of(self.service, named).await;
                            path.map_err(|error| disks::among(index, error))? == base.path
                        })
                }
                (None, Some(_)) | (Some(_), None) => false,
            };
            if !same {
                return Err(fixed(place("base_image"), is()));
            }
            self.files.extend(named.and_then(|named| Alias::new(disk.named()?.to_owned(), named)));
            let io_limits = Some(wish.io_limits.map(Box::new));
            self.changes.push(Change::Disk { name: disk.name.clone(), size: wish.size, io_limits });
        }
        Ok(())
    }

    fn networks(&mut self, wishes: Vec<NicWish>) -> Result<()> {
        check_length("networks", &wishes, MAX_DEVICES)?;
        let there = &self.spec.nics;
        if wishes.len() < there.len() {
            let count = there.len();
            return Err(fixed("networks", format!("{count} long; a NIC that is to go is removed by itself")));
        }
        for (index, wish) in wishes.into_iter().enumerate() {
            match there.get(index) {
                Some(nic) => self.nic(nic, wish).map_err(|error| nics::among(index, error))?,
                None => {
                    let resolved = nics::resolve(self.service, wish, (self.spec.id, &self.spec.name));
                    let (nic, promises) = resolved.map_err(|error| nics::among(index, error))?;
                    self.changes.push(Change::AddNic(Box::new(nic)));
                    self.kept.push(Kept { _new: Some(promises), ..Kept::default() });
                }
            }
        }
        Ok(())
    }

    fn nic(&mut self, nic: &Nic, wish: NicWish) -> Result<()> {
        let switch = self.service.switch_of(&wish)?;
        if let Some((field, is)) = wish.fixed_difference(nic, switch) {
            return Err(fixed(field, is));
        }
        let Some(port) = nic.port() else {
            return match wish.port.first() {
                Some(name) => Err(Error::invalid(name, "not be set for a NIC on the user-mode network")),
                None => Ok(()),
            };
        };
        let whole = wish.port.whole();
        let mut wished = port.clone();
        whole.apply(&mut wished)?;
        if wished != *port {
            let (change, place) = self.service.port_change(self.spec, nic.id, whole)?;
            self.changes.push(change);
            self.kept.push(Kept { _place: place, ..Kept::default() });
        }
        Ok(())
    }

    async fn make(self, handle: &VmHandle) -> Result<(VmView, Applied)> {
        self.service.change_by(handle, Change::Several(self.changes)).await
    }
}
