//! The one core under every dialect: knows the VMs, creates and removes them, and hands requests to their tasks.
//! It holds no state of a single VM and speaks neither HTTP nor QMP.

pub mod access;
mod addresses;
mod autostart;
mod bases;
mod capacity;
mod changes;
mod cloud_init;
pub(crate) mod content;
mod create;
pub mod database;
mod define;
mod disks;
pub mod events;
mod existing;
mod exports;
mod file_id;
mod folders;
pub mod guest;
mod host;
pub mod image_store;
mod images;
mod keys;
mod machine;
mod nics;
pub mod operations;
mod output;
mod paths;
mod private;
mod recover;
mod registry;
mod relocate;
mod room;
mod sandbox;
mod state_dir;
mod state_lock;
mod switches;
mod trusted;
mod user_network;
mod volume_claims;
pub mod volumes;
mod waiting;
mod warnings;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;

pub use crate::vm::{Bytes, Phase, Progress, asked_by, shown_in};
pub use crate::{host::inventory::Node as NumaNode, qemu::Caps};
pub use addresses::{AddressView, Addresses};
pub use bases::{Base, BaseState, BaseUser};
pub use changes::Redefine;
pub use define::Define;
pub use host::{HostView, PinnedVm};
pub use keys::{Attempt, Claim, Digest, KeptAnswer, KeyError, Keys};
pub use nics::{NicStatus, NicView, Nics, Removed, among as among_networks};
pub(crate) use output::Output;
pub use registry::Page;
pub use switches::{Changed, ForwardView, ForwardWish, LeaseView, Readdressed, SwitchView};
pub use waiting::Awaited;

use crate::{
    config::{Accel, Config},
    host::{
        STORAGE,
        cpus::Host,
        image::{self, QemuImg},
        in_time, process,
    },
    model::{CreateVm, Error, LabelFilter, Operation, Result, Sample, Status, VmId, VmView, same_name},
    net::Network,
    profile::Profiles,
    qemu::Accelerator,
    store::{Riders, Store},
    vm::{Closing, Context, RebootMode, SharedContext, Start, StopMode, Stopped, VmHandle},
};
use registry::Registry;

/// A VM whose time to power off is over is forced off by its own task; after this long by the way around it.
const OVERTIME: Duration = Duration::from_secs(2);

/// The core. Cheap to share.
pub struct Service {
    ctx: SharedContext,
    profiles: Profiles,
    registry: Registry,
    places: switches::Places,
    bases: bases::Inspector,
    image_store: image_store::ImageStore,
    attaching: existing::Claims,
    volumes: volume_claims::Volumes,
    underway: cloud_init::Underway,
    making: folders::Making,
    capacity: capacity::Capacity,
    remembered: Remembered,
    events: Arc<events::Events>,
    /// Held for as long as the daemon lives.
    _lock: state_lock::StateLock,
}

/// What is kept of requests.
#[derive(Clone)]
pub struct Remembered {
    /// Which of them were made under which idempotency key.
    pub keys: Arc<Keys>,
    /// Those whose clients do not wait on the line.
    pub operations: Arc<operations::Operations>,
}

/// Which VMs a list is to hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub name: Option<String>,
    pub name_in_any_case: Option<String>,
    pub labels: LabelFilter,
}

impl Filter {
    fn wants(&self, view: &VmView) -> bool {
        let spec = &view.spec;
        self.status.is_none_or(|status| status == view.status)
            && self.name.as_ref().is_none_or(|name| *name == spec.name)
            && self.name_in_any_case.as_ref().is_none_or(|name| same_name(name, &spec.name))
            && self.labels.wants(&spec.metadata.labels)
    }
}

impl Service {
    /// Opens the state directory, asks QEMU what it can do, and begins to take over every VM that is recorded
    /// ([`Self::recovered`]).
    ///
    /// # Errors
    /// For the person who starts the daemon: a second daemon on the state directory, a missing program, a store that
    /// does not open.
    pub async fn open(config: Config) -> anyhow::Result<Arc<Self>> {
        // Definitions are JSON, and so are QEMU's arguments.
        anyhow::ensure!(
            config.state_dir.to_str().is_some(),
            "the path of the state directory {} is not UTF-8; choose another with --state-dir",
            config.state_dir.display()
        );
        process::raise_descriptor_limit();
        let named = config.clone();
        match in_time(STORAGE, move || Ok(trusted::check(&named))).await {
            Ok(judged) => judged?,
            // On storage that hangs; what is wanted of it is refused for as long as it does.
            Err(error) => tracing::warn!(%error, "cannot tell who can change the image and storage directories"),
        }
        let lock = state_lock::StateLock::for_daemon(&config.state_dir)?;
        private::folders(&config.state_dir)?;
        let state_dir = config.state_dir.clone();
        // It looks at where the directory was before, too, which may be on storage that hangs.
        let history = in_time(STORAGE, move || Ok(state_dir::recognise(&state_dir))).await;
        let history = history.context("cannot tell where the state directory was")??;
        let profiles = Profiles::load(config.templates_dir.as_deref())?;
        let wanted = match config.accel {
            Accel::Auto => None,
            Accel::Kvm => Some(Accelerator::Kvm),
            Accel::Tcg => Some(Accelerator::Tcg),
        };
        let host = Host::read().context("cannot read the host's cores and memory")?;
        let (db, cache) = (config.state_dir.join("db"), config.state_dir.join("accelerator.json"));
        let (program, keep) = (config.program.clone(), sandbox::keep(&config, &history.id));
        let folders = image::Folders { images: config.base_dirs(), storage: config.storage_dirs.clone() };
        // Each takes its time, and none needs another: VMs wait for this daemon.
        let (images, unpacker, caps, store, net) = tokio::join!(
            QemuImg::find(&config.qemu_img, folders, &keep),
            image::Unpacker::find(config.program.as_deref(), &keep),
            Caps::detect(&config.qemu, wanted, &cache),
            tokio::task::spawn_blocking(move || {
                if let Some(program) = program {
                    database::try_open(&db, program)?;
                }
                Ok::<_, anyhow::Error>(Store::open(&db)?)
            }),
            Network::open(&config.state_dir),
        );
        let (images, caps) = (images.map_err(anyhow::Error::msg)?, caps.map_err(anyhow::Error::msg)?);
        let sandbox = sandbox::find(&config, &caps, &keep.mark, &sandbox::of_tools(&images, &unpacker)).await?;
        net.users_are(&config.vm_uids);
        let user_network = user_network::choose(&config, &caps, &sandbox, &net).await?;
        let store = store??;
        let riders = Arc::<Riders>::default();
        let keys = Keys::open(store.clone(), riders.clone()).context("cannot read the idempotency keys")?;
        let operations = operations::Operations::open(store.clone()).context("cannot read the operations")?;
        operations.conclude().await;
        let image_store = image_store::ImageStore::open(&config, &store, unpacker).await?;
        let capacity = capacity::Capacity::new(&config, &host);
        let ctx = Arc::new(Context {
            config,
            host,
            caps,
            images,
            store,
            riders,
            census: Arc::default(),
            reports: Default::default(),
            net,
            sandbox,
            user_network,
            carriers: Default::default(),
            original: history.original,
            closing: Closing::default(),
        });
        let service = Self {
            bases: bases::Inspector::default(),
            image_store,
            attaching: existing::Claims::default(),
            volumes: volume_claims::Volumes::default(),
            underway: cloud_init::Underway::default(),
            making: folders::Making::default(),
            capacity,
            registry: Registry::new(ctx.census.clone()),
            remembered: Remembered { keys, operations },
            events: events::Events::of(ctx.store.clone()),
            places: switches::Places::default(),
            profiles,
            ctx,
            _lock: lock,
        };
        service.recover_switches().await?;
        service.recover(history.older).await?;
        service.keep_hosts_of_unreadable();
        service.tell_all_hosts();
        service.sweep_network().await;
        exports::keep_daily(service.ctx.store.clone(), &service.ctx.config.state_dir);
        let service = Arc::new(service);
        tokio::spawn(switches::follow(Arc::downgrade(&service)));
        tokio::spawn(switches::tell(Arc::downgrade(&service)));
        tokio::spawn(warnings::tell(service.clone()));
        Ok(service)
    }

    /// The daemon is told to end: from now on no VM is started, whoever asked for it and whenever. VMs go on running
    /// unless they are to end with the daemon.
    pub fn begin_to_end(&self) {
        self.ctx.closing.begin();
    }

    /// The last thing before the daemon ends: writes an export. VMs go on running.
    pub async fn close(&self) {
        exports::write(self.ctx.store.clone(), exports::folder(&self.ctx.config.state_dir)).await;
    }

    /// What QEMU can do on this host.
    pub fn caps(&self) -> &Caps {
        &self.ctx.caps
    }

    /// Refuses to make a thing once more that was made under the same idempotency key, and is gone.
    ///
    /// # Errors
    /// [`Error::MadeAndDeleted`].
    fn check_not_made(&self, id: Option<impl Into<uuid::Uuid>>) -> Result<()> {
        match id.is_some_and(|id| self.ctx.riders.has_made(id.into())) {
            true => Err(Error::MadeAndDeleted),
            false => Ok(()),
        }
    }

    /// What is kept of requests.
    pub fn remembered(&self) -> Remembered {
        self.remembered.clone()
    }

    /// The work for requests whose clients do not wait on the line.
    pub fn operations(&self) -> &Arc<operations::Operations> {
        &self.remembered.operations
    }

    /// What happens, for those who follow.
    pub fn events(&self) -> Arc<events::Events> {
        self.events.clone()
    }

    /// Whoever reaches the API may do everything.
    pub fn is_open(&self) -> bool {
        self.ctx.config.access.open
    }

    /// A page of VMs, oldest first.
    pub fn list(&self, filter: &Filter, after: Option<(u64, VmId)>, limit: Option<usize>) -> Page {
        self.registry.page(filter, after, limit)
    }

    /// What is known of a VM right now.
    ///
    /// # Errors
    /// [`Error::VmNotFound`].
    pub fn view(&self, id: VmId) -> Result<VmView> {
        Ok(self.handle(id)?.view())
    }

    /// A running VM's last figures: `None` when it has no live process, `Some(None)` when nothing was measured yet or its
    /// monitor does not answer.
    ///
    /// # Errors
    /// [`Error::VmNotFound`].
    pub fn sample(&self, id: VmId) -> Result<Option<Option<Sample>>> {
        let handle = self.handle(id)?;
        // The pid counts, not the sample: just after a start there is nothing to tell yet, and that is no 404.
        Ok(handle.view().pid.map(|_| handle.sample()))
    }

    /// See [`VmHandle::start`].
    pub async fn start(&self, id: VmId) -> Result<(VmView, Start)> {
        let handle = self.handle(id)?;
        let _room = self.room_to_start(&handle.view())?;
        existing::are_free(&handle).await?;
        let found = handle.start().await?;
        Ok((handle.view(), found))
    }

    /// See [`VmHandle::stop`]. Without a timeout the configured one holds.
    pub async fn stop(&self, id: VmId, mode: StopMode) -> Result<Stopped> {
        self.handle(id)?.stop(mode).await
    }

    /// See [`VmHandle::reboot`].
    pub async fn reboot(&self, id: VmId, mode: RebootMode) -> Result<()> {
        self.handle(id)?.reboot(mode).await
    }

    /// See [`VmHandle::restart`].
    pub async fn restart(&self, id: VmId, mode: RebootMode) -> Result<()> {
        self.handle(id)?.restart(mode).await
    }

    /// See [`VmHandle::suspend`].
    pub async fn suspend(&self, id: VmId) -> Result<VmView> {
        let handle = self.handle(id)?;
        handle.suspend().await?;
        Ok(handle.view())
    }

    /// See [`VmHandle::resume`].
    pub async fn resume(&self, id: VmId) -> Result<VmView> {
        let handle = self.handle(id)?;
        handle.resume().await?;
        Ok(handle.view())
    }

    /// Powers a VM off, asking the guest first where `graceful` gives it time, and removes everything it has.
    /// Returns its last definition.
    ///
    /// # Errors
    /// [`Error::VmNotFound`]; [`Error::Failed`] when something could not be removed, and the VM is still there then.
    pub async fn delete(&self, id: VmId, graceful: Option<Duration>) -> Result<VmView> {
        let handle = self.handle(id)?;
        match graceful {
            Some(patience) => handle.delete_gracefully(patience).await?,
            None => handle.delete().await?,
        }
        self.registry.remove(id);
        let view = handle.view();
        self.tell_hosts(changes::switches_of(&view));
        Ok(view)
    }

    /// Powers off every VM, each as gracefully as the configured time allows, and by force after that: also one whose task
    /// is busy with something else, or that is just being made.
    pub async fn stop_all(&self) {
        let patience = self.default_patience();
        let stops = self.registry.everyone().into_iter().map(|handle| async move {
            let graceful = tokio::time::timeout(patience + OVERTIME, handle.stop(StopMode::Graceful(patience)));
            let stopped = match graceful.await {
                Ok(Ok(stopped)) => Ok(stopped),
                Ok(Err(_)) | Err(_) => handle.stop(StopMode::Force).await,
            };
            match stopped {
                Ok(_) | Err(Error::VmNotFound(_)) => {}
                Err(error) => tracing::warn!(vm = %handle.view().spec.id, %error, "cannot stop"),
            }
        });
        futures_util::future::join_all(stops).await;
    }

    /// See `create`.
    pub async fn create(&self, wish: CreateVm) -> Result<VmView> {
        create::create(self, wish).await
    }

    fn handle(&self, id: VmId) -> Result<VmHandle> {
        let handle = self.registry.get(id).ok_or_else(|| match self.registry.unreadable(id) {
            Some(why) => Error::failed(Operation::ReadRecord, why),
            None => Error::VmNotFound(id),
        })?;
        // Its deletion had to wait for the kernel, longer than anybody waited for the answer.
        if handle.view().gone {
            self.registry.remove(id);
            return Err(Error::VmNotFound(id));
        }
        Ok(handle)
    }
}
