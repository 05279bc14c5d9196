//! Switches: create, find, change, delete, and recovery of what a crash interrupted. What a switch is on the host is
//! `net`'s knowledge; which of them there are, and who has a place on them, is `places`'.

mod change;
mod conflict;
mod forwards;
mod leases;
mod names;
mod news;
mod places;
mod plugged;
mod recover;

use serde_json::Value;
use uuid::Uuid;

pub use change::{Changed, Readdressed};
pub use forwards::{ForwardView, ForwardWish};
pub use leases::LeaseView;
pub(super) use news::tell;
pub use places::{Owner, Reservation};
pub(super) use places::{Places, Wanted};
pub(super) use recover::follow;

use super::Service;
use crate::{
    model::{
        CreateSwitch, Error, LabelFilter, Operation, Result, Switch, SwitchId, SwitchRecord, SwitchRef, SwitchState,
        VmId, check_mtu, check_name, check_notes,
    },
    net::NetError,
    store::{Batch, Record, StoreError},
    vm::{Mark, begins, in_phase},
};

impl Record for SwitchRecord {
    const KIND: &'static str = "switch";
    const VERSION: u32 = 1;

    fn migrate(_: &str, from: u32, _: Value) -> Result<Value, String> {
        Err(format!("switches have no version {from}"))
    }
}

/// A switch as a client sees it.
#[derive(Clone, Debug)]
pub struct SwitchView {
    pub switch: Switch,
    /// VMs with a NIC on it, by age: id and name.
    pub used_by: Vec<(VmId, String)>,
    /// Why it does not work as it should, if so.
    pub problem: Option<String>,
}

impl Service {
    /// The switches with these labels, oldest first.
    pub fn switches(&self, labels: &LabelFilter) -> Vec<SwitchView> {
        let wanted = self.places.all().into_iter().filter(|(switch, _)| labels.wants(&switch.metadata.labels));
        wanted.map(|(switch, problem)| self.switch_view(switch, problem)).collect()
    }

    /// # Errors
    /// [`Error::SwitchNotFound`].
    pub fn switch(&self, id: SwitchId) -> Result<SwitchView> {
        let (switch, problem) = self.places.get(id)?;
        Ok(self.switch_view(switch, problem))
    }

    /// The one switch that a client means.
    ///
    /// # Errors
    /// [`Error::SwitchNotFound`]; [`Error::AmbiguousSwitch`] where several bear the name.
    pub fn find_switch(&self, wanted: &SwitchRef) -> Result<Switch> {
        match wanted {
            SwitchRef::Id(id) => Ok(self.places.get(*id)?.0),
            SwitchRef::Name(name) => {
                let mut bearing = self.places.named(name);
                match bearing.len() {
                    0 => Err(Error::SwitchNotFound(name.clone())),
                    1 => Ok(bearing.remove(0)),
                    _ => Err(Error::AmbiguousSwitch {
                        param: "switch".into(),
                        name: name.clone(),
                        ids: bearing.iter().map(|switch| switch.id).collect(),
                    }),
                }
            }
        }
    }

    /// A place for a NIC on a switch: keeps the switch from being deleted, and an address of its subnet for the NIC,
    /// until it is dropped. By then the NIC is to stand in the published definition of a VM, which does the same.
    ///
    /// # Errors
    /// [`Error::SwitchNotFound`]; [`Error::Invalid`] for an address that guests cannot have there,
    /// [`Error::SwitchConflict`] for one that another has, or where the subnet has none left.
    pub(super) fn reserve(&self, switch: SwitchId, owner: Owner, wanted: Wanted) -> Result<Reservation> {
        let port = self.places.reserve(switch, owner, wanted, &self.registry)?;
        // Before the guest can ask for it.
        self.tell_hosts([switch]);
        Ok(port)
    }

    /// Makes a switch.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::SwitchConflict`], [`Error::MadeAndDeleted`] before anything is made; [`Error::Failed`] with everything taken
    /// back.
    pub async fn create_switch(&self, wish: CreateSwitch) -> Result<SwitchView> {
        // The same request has made it already, and its answer was lost.
        if let Some(made) = wish.id.and_then(|id| self.switch(id).ok()) {
            return Ok(made);
        }
        self.check_not_made(wish.id)?;
        let mut switch = Switch {
            notes: check_notes(wish.notes)?,
            mtu: wish.mtu.map(|mtu| check_mtu(mtu, false)).transpose()?,
            ..Switch::new(check_name(&wish.name)?, wish.kind)
        };
        wish.metadata.apply(&mut switch.metadata)?;
        switch.id = wish.id.unwrap_or(switch.id);
        switch.check()?;
        if let Some(subnet) = switch.subnet() {
            subnet.check_free(&self.ctx.config.allow_subnets)?;
        }
        self.places.claim(&switch)?;
        let made = self.establish(switch.clone()).await;
        if made.is_err() {
            self.places.remove(switch.id);
        }
        made?;
        self.switch(switch.id)
    }

    async fn establish(&self, switch: Switch) -> Result<()> {
        let failed = |error: NetError| net_error(Operation::CreateSwitch, error);
        // Before there is a record that could not be taken back without it.
        self.ctx.net.available().map_err(failed)?;
        let moved = self.ctx.net.survey(&switch, None).await.map_err(failed)?;
        let mut record = SwitchRecord { switch, state: SwitchState::Creating, moved };
        self.persist_wish(&record).await.map_err(|e| Error::failed(Operation::CreateSwitch, e))?;
        begins(&record.switch.name);
        let put = self.ctx.net.put_switch(&record.switch, record.moved.as_ref());
        let made = in_phase("make_switch", put).await.map_err(failed);
        let stored = match made {
            Ok(()) => {
                let ready = SwitchRecord { state: SwitchState::Ready, ..record.clone() };
                let stored = self.persist_switch(&ready).await;
                // Else nobody was told of it, and nobody is told that it goes.
                if matches!(stored, Ok(()) | Err(StoreError::Stalled { .. })) {
                    record = ready;
                }
                stored.map_err(|e| Error::failed(Operation::CreateSwitch, e))
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok(()) => self.places.ready(&record),
            Err(_) => {
                if let Err(left) = self.erase_switch(&record).await {
                    tracing::error!(switch = %record.switch.id, error = left, "cannot take back a half-made switch; the next start of qherd tries again");
                }
            }
        }
        stored
    }

    /// Removes a switch that no NIC uses. Returns its last definition.
    ///
    /// # Errors
    /// [`Error::SwitchNotFound`]; [`Error::SwitchConflict`] naming the VMs that use it, or because it is protected; [`Error::Failed`] when something
    /// could not be removed, and the switch is still there then.
    pub async fn delete_switch(&self, id: SwitchId) -> Result<Switch> {
        let _turn = self.places.turn(id).await?;
        let Switch { name, metadata, .. } = self.places.record(id)?.switch;
        if metadata.protected {
            let message =
                format!("The switch {name} is protected against deletion; update it with protected=false first.");
            return Err(Error::SwitchConflict(message));
        }
        let mut record = self.places.start_deleting(id, &self.registry)?;
        let failed = |e: String| Error::failed(Operation::DeleteSwitch, e);
        // What the bridge carries of the host's now goes back, not what it carried once.
        let moved = self.ctx.net.survey(&record.switch, record.moved.as_ref()).await;
        let removed = async {
            if let Ok(moved) = moved {
                record.moved = moved;
            }
            record.state = SwitchState::Deleting;
            self.persist_switch(&record).await.map_err(|e| failed(e.to_string()))?;
            begins(&record.switch.name);
            self.erase_switch(&record).await.map_err(failed)
        };
        match removed.await {
            Ok(()) => {
                self.places.remove(id);
                Ok(record.switch)
            }
            Err(error) => {
                // It stays, whole; VMs may use it again.
                record.state = SwitchState::Ready;
                if let Err(left) = self.persist_switch(&record).await {
                    tracing::error!(switch = %id, error = %left, "a switch that was not deleted goes at the next start of qherd");
                }
                let put = self.ctx.net.put_switch(&record.switch, record.moved.as_ref()).await;
                self.places.ready(&record);
                self.places.tell_problem(id, put.err().map(|e| e.to_string()));
                Err(error)
            }
        }
    }

    /// What the host's network tells of a switch is newer than what an operation met.
    fn switch_view(&self, switch: Switch, problem: Option<String>) -> SwitchView {
        let problem = self.ctx.net.problem(switch.id).or(problem);
        let vms = self.registry.views_with(Mark::Switch(switch.id));
        SwitchView { used_by: places::users(switch.id, &vms), switch, problem }
    }

    async fn persist_switch(&self, record: &SwitchRecord) -> Result<(), StoreError> {
        self.ctx.store.commit(self.batch_of(record)?.from_reserve()).await
    }

    /// As [`Self::persist_switch`], for what a client wants anew, which a full disk refuses.
    async fn persist_wish(&self, record: &SwitchRecord) -> Result<(), StoreError> {
        self.ctx.store.commit(self.batch_of(record)?).await
    }

    /// What goes with a switch, and with its forwards, is stored with them.
    fn batch_of(&self, record: &SwitchRecord) -> Result<Batch, StoreError> {
        let switch = &record.switch;
        let mut batch = Batch::new().put(&switch.id.to_string(), record)?;
        if let Some(event) = news::told_by_storing(self.places.known(switch.id).as_ref(), record) {
            batch = batch.tell(&event)?;
        }
        if record.state == SwitchState::Creating {
            return Ok(batch);
        }
        let forwards = switch.forwards.iter().map(|forward| Uuid::from(forward.id));
        Ok(self.ctx.riders.join(batch, forwards.chain([switch.id.into()])))
    }

    /// Removes what a switch is on the host, and then its record.
    async fn erase_switch(&self, record: &SwitchRecord) -> Result<(), String> {
        let removed = self.ctx.net.remove_switch(&record.switch, record.moved.as_ref());
        in_phase("remove_switch", removed).await.map_err(|e| e.to_string())?;
        let mut batch = Batch::new().remove::<SwitchRecord>(&record.switch.id.to_string());
        if let Some(event) = news::told_by_removing(record) {
            batch = batch.tell(&event).map_err(|e| e.to_string())?;
        }
        self.ctx.store.commit(batch.from_reserve()).await.map_err(|e| e.to_string())
    }
}

/// What the host's side says, as the caller's mistake, as a conflict, or as a failure of the host.
fn net_error(operation: Operation, error: NetError) -> Error {
    match error {
        NetError::Adapter(must) => Error::invalid("adapter", must),
        NetError::Mtu { adapter, most } => {
            let must = format!(
                "be at most {most} bytes, which is what the adapter {adapter} has; raise that of the adapter first"
            );
            Error::invalid("mtu", must)
        }
        NetError::Carries { .. } | NetError::Leased { .. } | NetError::Overlap { .. } | NetError::Vlans => {
            Error::SwitchConflict(error.to_string())
        }
        NetError::Missing { .. } | NetError::Program { .. } | NetError::Failed { .. } => {
            Error::failed(operation, error)
        }
    }
}
