//! A start that fails after any of its steps leaves the VM as it was: stopped, its image there, nothing else.

use std::path::{Path, PathBuf};

use crate::support::qemus_below;
use qherd::{
    config::{Accel, Config, Settings},
    host::fail_point,
    model::{CreateVm, Ending, Error, Operation, Status, VmId},
    service::{Filter, Service},
    store::Store,
    vm::{LaunchStep, StopMode, core::Run, records},
};

macro_rules! failing_after {
    ($($name:ident: $step:ident,)*) => {
        $(#[test]
        fn $name() {
            a_launch_that_fails_after(LaunchStep::$step);
        })*

        #[test]
        fn every_step_is_made_to_fail() {
            assert_eq!([$(LaunchStep::$step),*], LaunchStep::ALL);
        }
    };
}

failing_after! {
    after_its_files_a_failed_start_leaves_nothing: Files,
    after_its_network_a_failed_start_leaves_nothing: Network,
    after_its_sockets_a_failed_start_leaves_nothing: Sockets,
    after_the_spawn_a_failed_start_leaves_nothing: Spawn,
    after_the_record_a_failed_start_leaves_nothing: Record,
    after_the_monitor_a_failed_start_leaves_nothing: Monitor,
    after_pinning_a_failed_start_leaves_nothing: Pin,
    after_throttling_a_failed_start_leaves_nothing: Throttle,
    after_the_guest_runs_a_failed_start_leaves_nothing: Continue,
}

fn a_launch_that_fails_after(step: LaunchStep) {
    let place = Place::new();
    let id = place.with_service(Some(step), async |service| {
        let id = service.create(place.wish(false)).await.unwrap().spec.id;
        // Twice: what the first attempt leaves must not make the second one fail differently.
        for _ in 0..2 {
            assert_eq!(service.start(id).await.unwrap_err(), made_to_fail(step));
            let view = service.view(id).unwrap();
            assert_eq!((view.status, view.pid, view.started_at()), (Status::Stopped, None, None));
            place.assert_only_the_image_of(id);
        }
        // All or nothing: a VM that was to be started at once does not exist at all.
        assert_eq!(service.create(place.wish(true)).await.unwrap_err(), made_to_fail(step));
        let listed = service.list(&Filter::default(), None, None).vms;
        assert_eq!(listed.iter().map(|view| view.spec.id).collect::<Vec<_>>(), [id]);
        place.assert_only_the_image_of(id);
        id
    });
    assert_eq!(place.records(), [(id.to_string(), Run::Down { last: Ending::Clean })]);
    place.with_service(None, async |service| {
        assert_eq!(service.view(id).unwrap().status, Status::Stopped);
        assert_eq!(service.start(id).await.unwrap().0.status, Status::Running);
        assert_eq!(qemus_below(&place.state()).len(), 1);
        service.stop(id, StopMode::Force).await.unwrap();
        place.assert_only_the_image_of(id);
    });
}

fn made_to_fail(step: LaunchStep) -> Error {
    Error::failed(Operation::Start, format!("made to fail after {step:?}"))
}

/// A state directory for services in this process, one after the other.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("qherd-launch-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bases")).unwrap();
        std::fs::File::create(dir.path().join("bases/blank.raw")).unwrap().set_len(64 << 20).unwrap();
        std::fs::write(dir.path().join("empty.toml"), "").unwrap();
        Self(dir)
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn config(&self) -> Config {
        let settings = Settings {
            state_dir: Some(self.state()),
            image_dirs: vec![self.0.path().join("bases")],
            accel: Some(Accel::Tcg),
            ..Settings::default()
        };
        settings.resolve(Some(&self.0.path().join("empty.toml"))).unwrap()
    }

    /// Opens the core, works with it, and closes it with all its tasks.
    fn with_service<T>(&self, failing: Option<LaunchStep>, work: impl AsyncFnOnce(&Service) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let config = self.config();
            fail_point::fail(&config.state_dir, failing.as_ref());
            work(&*Service::open(config).await.unwrap()).await
        })
    }

    fn wish(&self, start: bool) -> CreateVm {
        let base_image = self.0.path().join("bases/blank.raw");
        CreateVm { vcpus: 1, memory: 64, disk_size: 1, base_image: Some(base_image), start, ..CreateVm::default() }
    }

    #[track_caller]
    fn assert_only_the_image_of(&self, id: VmId) {
        assert_eq!(qemus_below(&self.state()), [] as [i32; 0]);
        let names = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.state().join("images")), [".qherd-storage".to_owned(), id.to_string()]);
        assert_eq!(names(&self.state().join("images").join(id.to_string())), ["root.qcow2"]);
        assert_eq!(names(&self.state().join("run")), [id.short()]);
        let left = names(&self.state().join("run").join(id.short()));
        let logs = ["console.log", "console.log.times", "qemu.log", "qemu.log.times"];
        assert!(left.iter().all(|name| logs.contains(&name.as_str())), "{left:?}");
    }

    fn records(&self) -> Vec<(String, Run)> {
        let store = Store::open(&self.state().join("db")).unwrap();
        records::scan(&store)
            .unwrap()
            .into_iter()
            .map(|(key, record)| (key, record.unwrap().record.run.state))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in qemus_below(&self.state()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
