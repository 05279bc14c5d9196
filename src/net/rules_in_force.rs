//! The rules in the kernel: brought to what is wanted in one batch, and looked at whole whenever somebody else changed
//! them. What they say is `rules`' knowledge.

use std::{
    collections::HashMap,
    future::pending,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{
    Inner, NetError, Result,
    inherited::Inherited,
    nft::{Batch, Change, Events, Kernel, OtherTable, Ruleset, TableName, diff},
    place::{Area, Place, Wanted},
    rules::{self, OnHost, Refusals},
};
use crate::model::{Nic, Switch, SwitchId};

/// A kernel that holds its own lock for so long answers nobody.
const PATIENCE: Duration = Duration::from_secs(10);
/// A batch takes the kernel some milliseconds.
const SOON: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(5);
const UNANSWERED: &str = "the kernel has not answered";
/// What was refused is read so often.
const COUNT: Duration = Duration::from_secs(5);
/// Everything is looked at so often, also what should have been told.
const WHOLE: Duration = Duration::from_secs(20);

pub struct RulesInForce {
    kernel: Option<Kernel>,
    /// For what only looks: what waits for one of these keeps no rule waiting.
    others: Option<Kernel>,
    counts: Option<Kernel>,
    tables: Vec<TableName>,
    /// Of this daemon: several on one host do not meet.
    own: String,
    /// What is in the kernel as far as is known; none where that has to be read.
    known: tokio::sync::Mutex<Known>,
    /// Changes that were asked for so far.
    requested: AtomicU64,
    refusals: Mutex<Refusals>,
}

#[derive(Default)]
struct Known {
    there: Option<Ruleset>,
    /// By what the rules of each switch that is in it were made.
    parts: HashMap<SwitchId, Part>,
    /// The last change that is in.
    done: u64,
    /// What an earlier daemon left, and nobody has laid claim to yet: it may be that of a NIC whose VM nobody has looked
    /// at. What was wanted once, and is not any more, is not in it.
    inherited: Inherited,
}

/// A switch with its ports, at one time.
#[derive(Clone)]
struct Part {
    wanted: Arc<Wanted>,
    /// Addresses of the host on it.
    host: Vec<IpAddr>,
    nics: Vec<Nic>,
}

impl Part {
    /// What it has in the rules, as if there were no other.
    fn rules(&self, state: &str) -> Ruleset {
        let on = OnHost { switch: &self.wanted.switch, host: &self.host };
        rules::ruleset(state, &[on], &self.nics)
    }

    fn switch(&self) -> &Switch {
        &self.wanted.switch
    }
}

impl RulesInForce {
    pub fn new(state: &str) -> Self {
        let open = || Kernel::open().inspect_err(|error| tracing::warn!(%error, "cannot speak to nf_tables")).ok();
        Self {
            kernel: open(),
            others: open(),
            counts: open(),
            tables: rules::tables(state),
            own: rules::table(state),
            known: tokio::sync::Mutex::default(),
            requested: AtomicU64::new(0),
            refusals: Mutex::default(),
        }
    }

    /// From now on, rules that nobody wants are removed.
    pub async fn all_is_known(&self) {
        self.known.lock().await.inherited = Inherited::Nothing;
    }

    pub async fn others(&self) -> Option<Vec<OtherTable>> {
        match self.others.as_ref()?.others(&self.own).await {
            Ok(tables) => Some(tables),
            Err(error) => {
                tracing::debug!(%error, "cannot read the rules of others");
                None
            }
        }
    }

    pub fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// For what only looks.
    pub fn reader(&self) -> Option<&Kernel> {
        self.counts.as_ref()
    }

    /// Frames of a NIC that were refused, as last read.
    pub fn refused(&self, nic: &Nic) -> Option<u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).of(nic)
    }

    /// Reads what was refused, and says how many frames in all.
    pub async fn count_refused(&self, state: &str) -> Option<u64> {
        let read = rules::refused(self.counts.as_ref()?, state).await;
        let refusals = read.inspect_err(|error| tracing::debug!(%error, "cannot read what was refused")).ok()??;
        let total = refusals.total();
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner) = refusals;
        Some(total)
    }

    /// Adds what a NIC's port has in the rules to what is there, or takes it away, without a look at all the others. Says
    /// whether that was all.
    async fn put_part(&self, state: &str, on: &OnHost<'_>, nic: &Nic, add: bool) -> bool {
        let Some(kernel) = &self.kernel else { return false };
        let mut known = self.known.lock().await;
        // It is known again when this has worked.
        let Some(mut there) = known.there.take() else { return false };
        let Some(part) = rules::part(&there, state, on, nic) else {
            known.there = Some(there);
            return false;
        };
        let mut batch = Batch::default();
        let own = known.parts.get_mut(&on.switch.id);
        own.into_iter().for_each(|own| {
            own.nics.retain(|other| other.id != nic.id);
            own.nics.extend(add.then(|| nic.clone()));
        });
        if add {
            batch.add_elements(&part);
            there.add_elements(&part);
        } else {
            batch.delete_elements(&part);
            there.delete_elements(&part);
        }
        let done = kernel.apply(batch).await.is_ok();
        if done {
            known.there = Some(there);
        }
        done
    }

    /// Brings what a switch and its ports have in the rules to what is wanted, without a look at all the others. Says
    /// whether that was all.
    async fn put_switch(&self, state: &str, part: impl FnOnce() -> Option<Part>) -> bool {
        let Some(kernel) = &self.kernel else { return false };
        let mut known = self.known.lock().await;
        let Some(part) = part() else { return false };
        let (switch, alone) = (part.switch().id, part.rules(state));
        let before = known.parts.remove(&switch).map(|before| before.rules(state));
        // It is known again when this has worked.
        let Some(mut there) = known.there.take() else { return false };
        let (Some(before), true) = (
            before.or_else(|| (!rules::is_in(&there, state, part.switch())).then(Ruleset::default)),
            rules::is_framed(&there, &alone, part.switch()),
        ) else {
            known.there = Some(there);
            return false;
        };
        let is = there.about(&[&before, &alone]);
        let done = kernel.apply(diff(&is, &alone)).await.is_ok();
        if done {
            known.inherited.disown(&alone);
            there.replace(&is, &alone);
            known.there = Some(there);
            known.parts.insert(switch, part);
        }
        done
    }

    /// Takes out what a switch without ports has in the rules if it is not wanted any more, without a look at all the
    /// others. Says whether that was all.
    async fn take_switch(&self, state: &str, switch: SwitchId, unwanted: impl FnOnce() -> bool) -> bool {
        let Some(kernel) = &self.kernel else { return false };
        let mut known = self.known.lock().await;
        // With the last one all tables go.
        let alone = known.parts.len() <= 1 || !matches!(known.inherited, Inherited::Nothing);
        if alone || !unwanted() {
            return false;
        }
        let Some(part) = known.parts.remove(&switch).filter(|part| part.nics.is_empty()) else { return false };
        let (before, left) = (part.rules(state), rules::frame(state));
        // It is known again when this has worked.
        let Some(mut there) = known.there.take() else { return false };
        if !rules::is_framed(&there, &left, part.switch()) {
            known.there = Some(there);
            return false;
        }
        let is = there.about(&[&before, &left]);
        let done = kernel.apply(diff(&is, &left)).await.is_ok();
        if done {
            there.replace(&is, &left);
            known.there = Some(there);
        }
        done
    }

    /// Brings the kernel to what is wanted by the time that it is this call's turn. Calls that wait together are served
    /// by one batch.
    async fn put(&self, wanted: impl FnOnce() -> (Ruleset, HashMap<SwitchId, Part>), anew: bool) -> Result<()> {
        let ticket = self.requested.fetch_add(1, Ordering::SeqCst) + 1;
        let mut known = self.known.lock().await;
        if known.done >= ticket && !anew {
            return Ok(());
        }
        let newest = self.requested.load(Ordering::SeqCst);
        let (mut wanted, parts) = wanted();
        known.parts.clear();
        let kernel = self.kernel.as_ref().ok_or_else(|| failed("the kernel has no nf_tables"))?;
        let there = match known.there.take() {
            Some(there) if !anew => there,
            _ => kernel.read(&self.tables).await.map_err(failed)?,
        };
        known.inherited.read(&there);
        known.inherited.join(&there, &mut wanted);
        let batch = diff(&there, &wanted);
        if anew && !batch.is_empty() {
            tracing::warn!("somebody changed the rules of the switches; putting them right");
        }
        kernel.apply(batch).await.map_err(failed)?;
        known.there = Some(wanted);
        known.parts = parts;
        known.done = newest;
        Ok(())
    }
}

impl Inner {
    /// Brings the rules to what is wanted now.
    pub async fn put_rules(&self) -> Result<()> {
        let put = self.rules.put(|| self.wanted_rules(), false);
        timeout(PATIENCE, put).await.unwrap_or_else(|_| Err(failed(UNANSWERED)))
    }

    /// Brings the rules of one switch and its ports to what is wanted now.
    pub async fn put_switch_rules(&self, place: &Place) -> Result<()> {
        let part = || {
            // One that is gone has none.
            let place = self.places.switch(place.id)?;
            let (wanted, host) = (place.wanted(), place.host_addresses());
            Some(Part { wanted, host, nics: self.places.nics_on(place.id) })
        };
        let part = self.rules.put_switch(&self.state, part);
        if timeout(PATIENCE, part).await == Ok(true) {
            return Ok(());
        }
        self.put_rules().await
    }

    /// Takes the rules of a switch that is not wanted any more out.
    pub async fn take_switch_rules(&self, switch: SwitchId) -> Result<()> {
        let unwanted = || self.places.switch(switch).is_none();
        if timeout(PATIENCE, self.rules.take_switch(&self.state, switch, unwanted)).await == Ok(true) {
            return Ok(());
        }
        self.put_rules().await
    }

    /// As [`Self::put_switch_rules`], for whoever has other things to do.
    pub async fn put_switch_rules_soon(&self, place: &Place) -> Result<()> {
        timeout(SOON, self.put_switch_rules(place)).await.unwrap_or_else(|_| Err(failed(UNANSWERED)))
    }

    /// Brings the rules of one NIC's port to what is wanted now: it was added, or it is gone.
    pub async fn put_port_rules(&self, place: &Place, nic: &Nic, add: bool) -> Result<()> {
        let (wanted, host) = (place.wanted(), place.host_addresses());
        let on = OnHost { switch: &wanted.switch, host: &host };
        let part = self.rules.put_part(&self.state, &on, nic, add);
        if !self.places.is_empty() && timeout(PATIENCE, part).await == Ok(true) {
            return Ok(());
        }
        self.put_switch_rules(place).await
    }

    /// Compares what the kernel has with what is wanted, whole.
    async fn look_at_rules(&self) {
        if self.places.is_empty() {
            return;
        }
        let put = timeout(PATIENCE, self.rules.put(|| self.wanted_rules(), true)).await;
        let put = put.unwrap_or_else(|_| Err(failed(UNANSWERED)));
        for place in self.places.switches() {
            self.tell(&place, Area::Rules, put.as_ref().err().map(ToString::to_string));
        }
    }

    fn wanted_rules(&self) -> (Ruleset, HashMap<SwitchId, Part>) {
        let part = |place: &Arc<Place>| Part { wanted: place.wanted(), host: place.host_addresses(), nics: Vec::new() };
        let parts: Vec<Part> = self.places.switches().iter().map(part).collect();
        let nics: Vec<_> = self.places.ports().values().map(|port| port.nic.clone()).collect();
        let on_host: Vec<_> = parts.iter().map(|part| OnHost { switch: part.switch(), host: &part.host }).collect();
        let whole = rules::ruleset(&self.state, &on_host, &nics);
        let mut parts: HashMap<_, _> = parts.into_iter().map(|part| (part.switch().id, part)).collect();
        for nic in nics {
            if let Some(part) = nic.switch().and_then(|switch| parts.get_mut(&switch)) {
                part.nics.push(nic);
            }
        }
        (whole, parts)
    }
}

/// Follows what others do to the rules for as long as the network is in use.
pub async fn follow(inner: Weak<Inner>) {
    let events = Events::open().inspect_err(|error| tracing::warn!(%error, "cannot follow nf_tables")).ok();
    loop {
        let next = async {
            match &events {
                Some(events) => events.next().await,
                None => pending().await,
            }
        };
        let changes = next.await;
        if changes.is_err() {
            sleep(AGAIN).await;
        }
        let Some(inner): Option<Arc<Inner>> = inner.upgrade() else { return };
        let ours = inner.rules.kernel.as_ref().map(Kernel::port_id);
        let changes = changes.unwrap_or_else(|_| vec![Change::Anything]);
        let by_others = |change: &&Change| !matches!(change, Change::Table { by, .. } if Some(*by) == ours);
        let (mut own, mut foreign) = (false, false);
        for change in changes.iter().filter(by_others) {
            match change {
                Change::Table { name, .. } if inner.rules.tables.contains(name) => own = true,
                Change::Table { .. } => foreign = true,
                Change::Anything => (own, foreign) = (true, true),
            }
        }
        if own {
            inner.look_at_rules().await;
        }
        if foreign {
            inner.others.changed();
        }
    }
}

/// Compares the rules with what is wanted from time to time, for as long as the network is in use: an event may be lost.
pub async fn compare(inner: Weak<Inner>) {
    loop {
        sleep(WHOLE).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.others.changed();
        inner.look_at_rules().await;
    }
}

/// Reads what was refused from time to time.
pub async fn count(inner: Weak<Inner>) {
    loop {
        sleep(COUNT).await;
        let Some(inner) = inner.upgrade() else { return };
        if !inner.places.is_empty() {
            inner.rules.count_refused(&inner.state).await;
        }
    }
}

fn failed(why: impl ToString) -> NetError {
    NetError::failed("change the rules of the switches", why)
}
