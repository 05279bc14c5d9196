//! The switches at the daemon's start, and while it runs whenever an adapter gets addresses again: every record is met
//! with what is really there.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::future::join_all;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{super::Service, plugged};
use crate::{
    model::{LabelFilter, Nic, SwitchId, SwitchRecord, SwitchState},
    net::{NetError, PortEvent},
};

/// What was in the way of a switch may have gone by itself: an adapter is back, a program is installed.
pub(super) const AGAIN: Duration = Duration::from_secs(10);

impl Service {
    /// Finishes or unwinds what a crash interrupted, and makes every other switch again where it is not there. A switch
    /// that fails is told as a problem of its own; it does not keep the daemon from starting.
    pub(in crate::service) async fn recover_switches(&self) -> anyhow::Result<()> {
        let records = self.ctx.store.scan::<SwitchRecord>().context("cannot read the definitions of the switches")?;
        if let Some(newer) = records.iter().find_map(|(_, r)| r.as_ref().err().filter(|e| e.is_newer())) {
            bail!("cannot read the definitions of the switches: {newer}");
        }
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for (key, record) in records {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(
                        switch = key,
                        %error,
                        "a switch cannot be managed, because its record cannot be read; what is there of it is left as it is"
                    );
                    continue;
                }
            };
            match record.state {
                SwitchState::Ready => {
                    self.places.ready(&record);
                    wanted.push(record.switch.id);
                }
                // Nobody was told that it exists; or its owner wanted it gone.
                SwitchState::Creating | SwitchState::Deleting => unwanted.push(record),
            }
        }
        // One that the host keeps waiting is not in the way of the others.
        join_all(wanted.into_iter().map(|id| self.repair_switch(id))).await;
        // After the others: with the last switch the rules of all go, also those of the NICs of live VMs.
        for record in unwanted {
            if let Err(error) = self.erase_switch(&record).await {
                tracing::error!(switch = %record.switch.id, error, "cannot remove what a crash left of a switch; the next start of qherd tries again");
            }
        }
        Ok(())
    }

    /// Removes devices that bear this daemon's mark and that no record names.
    pub(in crate::service) async fn sweep_network(&self) {
        if !self.registry.has_unreadable() {
            self.ctx.net.tidy_user_rules().await;
        }
        // Also those that could not be removed yet: their bridge may carry addresses of the host.
        let Ok(records) = self.ctx.store.scan::<SwitchRecord>() else { return };
        let readable: Result<Vec<_>, _> = records.into_iter().map(|(_, record)| record).collect();
        // What a record that cannot be read would name is not to be taken for nobody's.
        let (Ok(records), false) = (readable, self.registry.has_unreadable()) else { return };
        let switches: Vec<SwitchId> = records.into_iter().map(|record| record.switch.id).collect();
        let nics: Vec<Nic> = self.registry.views().iter().flat_map(plugged::nics).cloned().collect();
        match self.ctx.net.sweep(&switches, &nics).await {
            Ok(()) | Err(NetError::Missing { .. }) => {}
            Err(error) => tracing::warn!(%error, "cannot tidy up the host's network"),
        }
    }

    /// Brings a switch to its recorded form.
    async fn repair_switch(&self, id: SwitchId) {
        let Ok(_turn) = self.places.turn(id).await else { return };
        let Ok(mut record) = self.places.record(id) else { return };
        let repaired = async {
            let surveyed = self.ctx.net.survey(&record.switch, record.moved.as_ref()).await;
            if let Ok(moved) = &surveyed
                && *moved != record.moved
            {
                record.moved.clone_from(moved);
                self.persist_switch(&record).await.map_err(|e| e.to_string())?;
                self.places.ready(&record);
            }
            // Also when the adapter is missing: what is there of the switch connects its VMs.
            let put = self.ctx.net.put_switch(&record.switch, record.moved.as_ref()).await;
            // The network tells of what it cannot make, for as long as that is so.
            let put = if self.ctx.net.problem(id).is_some() { Ok(()) } else { put };
            surveyed.map(drop).and(put).map_err(|e| e.to_string())
        };
        let problem = repaired.await.err();
        let known = self.places.get(id).ok().and_then(|(_, problem)| problem);
        match &problem {
            Some(error) if problem != known => {
                tracing::warn!(switch = %id, error, "the switch is not as it should be");
            }
            None if known.is_some() => tracing::info!(switch = %id, "the switch is as it should be again"),
            _ => {}
        }
        self.places.tell_problem(id, problem);
    }
}

/// What a switch is owed, each in a task of its own: the host may keep one waiting.
async fn tidy(service: Arc<Service>, id: SwitchId, broken: bool) {
    if broken {
        service.repair_switch(id).await;
    }
    // Where a VM keeps one waiting, no more come.
    let Some(_alone) = service.places.alone(id) else { return };
    // What a crash or a mute VM left of a change.
    service.readdress(id).await;
    service.forget_forwards(id).await;
}

/// Follows the host's network for as long as the service lives.
pub(in crate::service) async fn follow(service: Weak<Service>) {
    let Some(mut events) = service.upgrade().map(|service: Arc<Service>| service.ctx.net.subscribe()) else { return };
    // What was told before anybody listened.
    if let Some(service) = service.upgrade() {
        service.look_after_taps();
    }
    let mut again = interval_at(Instant::now() + AGAIN, AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => Some(event),
            _ = again.tick() => None,
        };
        let Some(service) = service.upgrade() else { return };
        let Some(event) = event else {
            service.tell_all_hosts();
            for view in service.switches(&LabelFilter::default()) {
                // One that is being worked on is looked at the next time.
                if !service.places.is_busy(view.switch.id) {
                    let broken = view.problem.is_some();
                    tokio::spawn(tidy(service.clone(), view.switch.id, broken));
                }
            }
            continue;
        };
        match event {
            Ok(PortEvent::AdapterChanged(id)) => {
                tokio::spawn(tidy(service, id, true));
            }
            // What was in the way of an operation may have gone with it.
            Ok(PortEvent::SwitchChanged(id)) => {
                if service.places.get(id).is_ok_and(|(_, problem)| problem.is_some()) {
                    tokio::spawn(tidy(service, id, true));
                }
            }
            Ok(PortEvent::TapGone(nic)) => service.tap_gone(nic),
            Err(RecvError::Lagged(_)) => {
                for view in service.switches(&LabelFilter::default()) {
                    tokio::spawn(tidy(service.clone(), view.switch.id, true));
                }
                service.look_after_taps();
            }
            Err(RecvError::Closed) => return,
        }
    }
}
