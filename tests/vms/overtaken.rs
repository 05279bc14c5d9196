//! What was acknowledged as off stays off (ruling 8): every pair and triple of requests with a forced stop or a delete in
//! it, sent in that order to a VM that is busy. What came before the last forced one is refused, wherever it waits, or was a
//! stop, which got what it wanted; what came after it is served.
//!
//! The core runs in this process, on one thread: a request that was polled once has come, and its VM's task has not run
//! in between. So the order is the test's and not the scheduler's.

use std::{path::PathBuf, pin::Pin, task::Poll, time::Duration};

use crate::stand_in::StandIn;
use crate::support::{PATIENCE, qemus_below};
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use qherd::{
    config::{Accel, Config, Settings},
    model::{Change, Conflict, CreateVm, DiskWish, Error, Result, Status, VmId},
    service::Service,
    vm::{RebootMode, StopMode},
};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Start,
    Stop,
    ForceOff,
    Reboot,
    Restart,
    Suspend,
    Change,
    DeleteGracefully,
    Delete,
}

use Ask::*;

const ALL: [Ask; 9] = [Start, Stop, ForceOff, Reboot, Restart, Suspend, Change, DeleteGracefully, Delete];

/// What a request was answered; of a stop, whether it was forced.
type Reported = Result<Option<bool>>;
/// A request that has come.
type Sent<'a> = Pin<Box<MaybeDone<BoxFuture<'a, Reported>>>>;

impl Ask {
    fn is_forced(self) -> bool {
        matches!(self, ForceOff | Delete)
    }

    fn starts(self) -> bool {
        matches!(self, Start | Restart)
    }

    fn ask(self, service: &Service, id: VmId) -> BoxFuture<'_, Reported> {
        Box::pin(async move {
            match self {
                Start => service.start(id).await.map(|_| None),
                Stop => service.stop(id, StopMode::Graceful(LONG)).await.map(|stopped| Some(stopped.forced)),
                ForceOff => service.stop(id, StopMode::Force).await.map(|stopped| Some(stopped.forced)),
                Reboot => service.reboot(id, RebootMode::Graceful(LONG)).await.map(|()| None),
                Restart => service.restart(id, RebootMode::Force).await.map(|()| None),
                Suspend => service.suspend(id).await.map(|_| None),
                Change => service.change(id, Change::Memory(32)).await.map(|_| None),
                DeleteGracefully => service.delete(id, Some(LONG)).await.map(|_| None),
                Delete => service.delete(id, None).await.map(|_| None),
            }
        })
    }
}

/// Polls the request once.
async fn send(request: BoxFuture<'_, Reported>) -> Sent<'_> {
    let mut sent = Box::pin(maybe_done(request));
    std::future::poll_fn(|context| {
        let _ = sent.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
    sent
}

async fn answer(mut sent: Sent<'_>, what: &str) -> Reported {
    let answered = tokio::time::timeout(PATIENCE, sent.as_mut()).await;
    assert!(answered.is_ok(), "{what}: never answered");
    sent.as_mut().take_output().unwrap()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("qherd-overtaken-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bases")).unwrap();
        std::fs::File::create(dir.path().join("bases/blank.raw")).unwrap().set_len(64 << 20).unwrap();
        std::fs::write(dir.path().join("empty.toml"), "").unwrap();
        Self(dir)
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn config(&self, qemu: Option<PathBuf>) -> Config {
        let settings = Settings {
            state_dir: Some(self.state()),
            image_dirs: vec![self.0.path().join("bases")],
            accel: Some(Accel::Tcg),
            qemu,
            ..Settings::default()
        };
        settings.resolve(Some(&self.0.path().join("empty.toml"))).unwrap()
    }

    async fn vm(&self, service: &Service, disks: usize) -> VmId {
        let wish = CreateVm {
            vcpus: 1,
            memory: 64,
            disk_size: 1,
            base_image: Some(self.0.path().join("bases/blank.raw")),
            disks: (0..disks).map(|_| DiskWish { size: Some(1), ..DiskWish::default() }).collect(),
            ..CreateVm::default()
        };
        service.create(wish).await.unwrap().spec.id
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in qemus_below(&self.state()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Every list of two and of three with a forced request in it.
fn orders(longest: usize) -> Vec<Vec<Ask>> {
    let mut all: Vec<Vec<Ask>> = vec![Vec::new()];
    let mut wanted = Vec::new();
    for _ in 0..longest {
        all = all.iter().flat_map(|order| ALL.map(|ask| [&order[..], &[ask]].concat())).collect();
        wanted.extend(all.iter().filter(|order| order.len() > 1 && order.iter().any(|ask| ask.is_forced())).cloned());
    }
    wanted
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !reached() {
        assert!(begun.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends `order` to a VM that is busy with `held`, and judges the answers. Returns whether the VM is still there.
async fn judge(place: &Place, service: &Service, id: VmId, held: Sent<'_>, order: &[Ask]) -> bool {
    let what = format!("{order:?}");
    let runs = service.view(id).unwrap().status == Status::Running;
    let mut sent = Vec::new();
    for ask in order {
        sent.push(send(ask.ask(service, id)).await);
    }
    let first = order.iter().position(|ask| ask.is_forced()).unwrap();
    let last = order.iter().rposition(|ask| ask.is_forced()).unwrap();
    let mut later = sent.split_off(last + 1);
    let forced = answer(sent.pop().unwrap(), &what).await;
    let deleted_before = order[..last].contains(&Delete);
    assert!(forced.is_ok() || (deleted_before && matches!(forced, Err(Error::VmNotFound(_)))), "{what}: {forced:?}");

    if (first, order[first]) == (last, ForceOff) {
        assert_eq!(forced, Ok(Some(true)), "{what}: it was not off before");
    }
    let held = answer(held, &what).await;
    // A guest that keeps a disk for a second has it until the next start, and that is the answer.
    let kept = runs && held == Ok(None);
    assert!(kept || held == Err(Error::Conflict(Conflict::Overtaken)), "{what}: what was under way: {held:?}");
    for (ask, sent) in order[..last].iter().zip(sent) {
        let reported = answer(sent, &what).await;
        let right = match ask {
            Stop => reported == Ok(Some(true)) || (deleted_before && matches!(reported, Err(Error::VmNotFound(_)))),
            // Nothing waits behind a device: one that runs need not be started.
            Start if runs && reported == Ok(None) => true,
            ForceOff | Delete => reported.is_ok() || (deleted_before && matches!(reported, Err(Error::VmNotFound(_)))),
            _ => {
                reported == Err(Error::Conflict(Conflict::Overtaken))
                    || (deleted_before && matches!(reported, Err(Error::VmNotFound(_))))
            }
        };
        assert!(right, "{what}: {ask:?} came before the last forced one, and was told {reported:?}");
    }

    let gone = order[..=last].contains(&Delete);
    let after = &order[last + 1..];
    let starts = after.iter().position(|ask| ask.starts());
    let deletes = after.iter().position(|ask| *ask == DeleteGracefully);
    if let Some(starts) = starts.filter(|starts| !gone && deletes.is_none_or(|deletes| *starts < deletes)) {
        // What came after the forced one is no less than any other request.
        until(&format!("{what}: started"), || {
            matches!(
                service.view(id).unwrap().status,
                Status::Starting | Status::Running | Status::Paused | Status::Stopping | Status::Rebooting
            )
        })
        .await;
        assert!(starts < after.len());
        service.stop(id, StopMode::Force).await.unwrap();
    }
    for (ask, sent) in after.iter().zip(later.drain(..)) {
        let reported = answer(sent, &what).await;
        if gone {
            assert!(
                matches!(reported, Err(Error::VmNotFound(_))),
                "{what}: {ask:?} of a VM that is gone: {reported:?}"
            );
        } else if starts.is_none() {
            let overtaken = reported == Err(Error::Conflict(Conflict::Overtaken));
            assert!(!overtaken, "{what}: {ask:?} came after the last forced one, and was overtaken");
        }
    }
    assert_eq!(qemus_below(&place.state()), [] as [i32; 0], "{what}: off, and not off");
    match service.view(id) {
        Ok(view) => {
            assert_eq!((view.status, gone), (Status::Stopped, false), "{what}");
            let disks = if runs && !kept { 2 } else { 1 };
            assert_eq!(view.spec.disks.len(), disks, "{what}: a removal that was refused removes nothing");
            true
        }
        Err(error) => {
            assert!(gone || deletes.is_some(), "{what}: {error}");
            false
        }
    }
}

#[tokio::test]
async fn whatever_waits_behind_a_start_is_overtaken_in_every_order_of_three() {
    let (place, stand_in) = (Place::new(), StandIn::holding());
    let service = Service::open(place.config(Some(stand_in.path()))).await.unwrap();
    let mut id = place.vm(&service, 0).await;
    for order in orders(3) {
        let held = send(Start.ask(&service, id)).await;
        until("starting", || service.view(id).unwrap().status == Status::Starting).await;
        if !judge(&place, &service, id, held, &order).await {
            id = place.vm(&service, 0).await;
        }
    }
}

#[tokio::test]
async fn whatever_waits_beside_a_disk_that_a_guest_does_not_let_go_of_is_overtaken_in_every_order_of_two() {
    let place = Place::new();
    let service = Service::open(place.config(None)).await.unwrap();
    let mut id = place.vm(&service, 1).await;
    for order in orders(2) {
        service.start(id).await.unwrap();
        let removal: BoxFuture<'_, Reported> =
            Box::pin(async { service.change(id, Change::RemoveDisk("disk1".into())).await.map(|_| None) });
        let held = send(removal).await;
        until("removing", || service.view(id).unwrap().spec.disks.len() == 1).await;
        let there = judge(&place, &service, id, held, &order).await;
        if !there || service.view(id).unwrap().spec.disks.len() == 1 {
            id = place.vm(&service, 1).await;
        }
    }
}
