//! Looks after one dnsmasq: brings its files to what is wanted, has it read them or starts another, and tells how it is.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{FOREGROUND, Folders, LOG, Orders, PROGRAM, Report, end, group, is, marker, running, view};
use crate::{
    host::{
        cgroups::Group,
        fail_point::step,
        launcher::{Child, DNSMASQ},
        process::Process,
    },
    net::{
        dhcp::{self, Files},
        runtime,
    },
};

/// Before one that ended is started again; doubles up to the longest, and begins anew after a long life.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Changes that come together cost one reading.
const GATHER: Duration = Duration::from_millis(20);
/// One that cannot begin ends at once; one that is still there after this has begun.
const BEGUN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// What it has to read its lists in; one that does not hangs.
const READING: Duration = Duration::from_secs(5);
/// A process that nobody knows has so long to show what it is, and to end.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// Its log is emptied when it has become so long.
const LONGEST_LOG: u64 = 1 << 20;
const TIDY: Duration = Duration::from_secs(60);
/// Whether it does anything at all is looked at so often.
const PULSE: Duration = Duration::from_secs(1);
/// Whether it takes what waits for it is looked at so often.
const HEARING: Duration = Duration::from_secs(5);
/// So many looks in a row at which something waits, and one is asked whether it does anything; twice that for one that cannot
/// be asked. Somebody may send more than it can take.
const DEAF: u32 = 2;

/// What is known of it, and what it is to be.
pub struct Shared {
    pub folders: Folders,
    orders: Mutex<Orders>,
    pub changed: Notify,
    pub alive: AtomicBool,
    /// Whether it has read the lists as they are is not known.
    pub unread: AtomicBool,
    /// It does not get at its lists.
    pub kept_out: AtomicBool,
    /// Held while one is being forked, also when nobody waits for that any more.
    pub forking: Arc<tokio::sync::Mutex<()>>,
    report: Report,
}

/// What becomes of a process that is to work by other orders.
#[derive(PartialEq, Eq)]
enum Change {
    Nothing,
    Reads,
    Ends,
}

/// It is to read its lists.
struct Reading {
    /// What it says of that is in its log from here on.
    from: u64,
    until: Instant,
    /// One that says nothing hangs.
    signalled: bool,
}

/// Sees to it that there is one, for as long as nobody ends this.
pub async fn supervise(shared: Arc<Shared>, first: Process) {
    let mut process = Some(first);
    let mut pause = FIRST_PAUSE;
    loop {
        let born = Instant::now();
        shared.alive.store(process.is_some(), Ordering::Relaxed);
        let on_purpose = match &process {
            Some(process) => {
                let group = group::of(&shared.folders, process);
                let on_purpose = shared.serve(process).await;
                group::end(group).await;
                on_purpose
            }
            None => false,
        };
        if born.elapsed() > LONG_LIFE {
            pause = FIRST_PAUSE;
        }
        shared.alive.store(false, Ordering::Relaxed);
        if !on_purpose {
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = shared.changed.notified() => pause = FIRST_PAUSE,
            }
        }
        let begun = shared.begin().await;
        process = begun.inspect_err(|error| (shared.report)(Some(format!("dnsmasq cannot be started: {error}")))).ok();
    }
}

impl Shared {
    pub fn new(folders: Folders, orders: Orders, report: Report) -> Self {
        Self {
            folders,
            orders: Mutex::new(orders),
            changed: Notify::new(),
            alive: AtomicBool::new(true),
            unread: AtomicBool::new(false),
            kept_out: AtomicBool::new(false),
            forking: Arc::default(),
            report,
        }
    }

    /// Returns when the process has ended; says whether it was asked to, for another to follow at once.
    async fn serve(&self, process: &Process) -> bool {
        let begun = Instant::now() + BEGUN;
        let mut well = false;
        // When it has begun it reads its lists untold.
        let mut reading = Some(Reading { from: 0, until: begun + READING, signalled: false });
        let mut tidy = interval(TIDY);
        let mut pulse = interval(PULSE);
        let mut hearing = interval(HEARING);
        // Looks that follow one another at once say nothing.
        hearing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deaf = 0;
        let mut stopped = false;
        loop {
            tokio::select! {
                _ = process.exited() => {
                    self.alive.store(false, Ordering::Relaxed);
                    (self.report)(Some(format!("dnsmasq has ended: {}", self.last_words())));
                    return false;
                }
                () = self.changed.notified() => {
                    sleep(GATHER).await;
                    match self.change() {
                        Change::Nothing => {}
                        // Before it has begun a signal would end it.
                        Change::Reads if !well => self.unread.store(true, Ordering::Relaxed),
                        Change::Reads => match self.write() {
                            Ok(()) => {
                                self.unread.store(false, Ordering::Relaxed);
                                // One that has not answered yet has no more time now.
                                if reading.as_ref().is_some_and(|reading| reading.signalled) {
                                    process.hang_up();
                                } else {
                                    reading = Some(self.tell_to_read(process));
                                }
                            }
                            Err(error) => well = self.cannot_write(&error),
                        },
                        // It ends before its configuration changes: one that is found beside a new one works by it.
                        Change::Ends => match self.prepare() {
                            Ok(()) => {
                                end(&self.folders, process).await;
                                return true;
                            }
                            Err(error) => well = self.cannot_write(&error),
                        },
                    }
                }
                () = sleep(LOOK), if !well || reading.is_some() => {
                    if !well && (Instant::now() >= begun || self.log().contains(" started, version ")) {
                        well = true;
                        (self.report)(None);
                        if self.unread.load(Ordering::Relaxed) {
                            self.changed.notify_one();
                        }
                    }
                    match reading.as_ref().and_then(|reading| self.hears(reading)) {
                        Some(true) => (reading, deaf) = (None, 0),
                        Some(false) => return self.replace(process).await,
                        None => {}
                    }
                }
                _ = pulse.tick() => match (process.is_stopped(), stopped) {
                    // Whoever stops it for a moment goes on with it by then.
                    (true, true) => {
                        (self.report)(Some("somebody has stopped dnsmasq, so that it answered nobody; another takes its place".into()));
                        process.kill();
                        process.exited().await;
                        return true;
                    }
                    (now, _) => stopped = now,
                },
                _ = hearing.tick(), if well && reading.is_none() => {
                    deaf = if process.has_unread() { deaf + 1 } else { 0 };
                    if deaf >= DEAF && self.orders().files.words().is_some() {
                        reading = Some(self.tell_to_read(process));
                    } else if deaf >= 2 * DEAF {
                        return self.replace(process).await;
                    }
                }
                _ = tidy.tick(), if reading.is_none() => {
                    if self.log_length() > LONGEST_LOG {
                        let _ = File::options().write(true).open(self.folders.own.join(LOG)).and_then(|log| log.set_len(0));
                    }
                }
            }
        }
    }

    /// Has it read its lists, which it says when it has.
    fn tell_to_read(&self, process: &Process) -> Reading {
        let (from, until) = (self.log_length(), Instant::now() + READING);
        process.hang_up();
        Reading { from, until, signalled: true }
    }

    /// Ends one that hangs, for another to follow at once.
    async fn replace(&self, process: &Process) -> bool {
        (self.report)(Some("dnsmasq hangs and answers nobody; another takes its place".into()));
        end(&self.folders, process).await;
        true
    }

    /// Whether it does what it is asked to; nothing while it may be about to.
    fn hears(&self, reading: &Reading) -> Option<bool> {
        let Some((read, refused)) = self.orders().files.words() else { return Some(true) };
        let log = self.log();
        let log = log.get(reading.from as usize..).unwrap_or_default();
        if refused.iter().any(|words| log.contains(words)) {
            tracing::warn!(
                "dnsmasq does not get at its lists, and is started anew whenever they change: {}",
                log.trim()
            );
            self.kept_out.store(true, Ordering::Relaxed);
            // Which leads to other orders.
            (self.report)(None);
            return Some(true);
        }
        if log.contains(&read) {
            return Some(true);
        }
        (Instant::now() >= reading.until).then_some(!reading.signalled)
    }

    /// Is not well.
    fn cannot_write(&self, error: &io::Error) -> bool {
        (self.report)(Some(format!("dnsmasq's files cannot be written: {error}")));
        false
    }

    /// Starts one with the files as they are wanted, on a thread that may wait: whoever starts a program waits until it is
    /// executed, and that may lie on storage that hangs.
    pub async fn begin(&self) -> io::Result<Process> {
        self.write()?;
        let folder = &self.folders.own;
        let log = File::options().create(true).append(true).open(folder.join(LOG))?;
        self.claim(&log).await?;
        // It reads them when it begins, and writes them at any time while it lives.
        if let Some(leases) = self.stale() {
            step(|| fs::write(folder.join(dhcp::LEASES), leases))?;
        }
        log.set_len(0)?;
        self.unread.store(false, Ordering::Relaxed);
        // It begins in its folder, whose path may have any characters in it: the configuration has words of its own for some.
        let args = [FOREGROUND.to_owned(), marker(folder)];
        let child = Child::new(DNSMASQ, Path::new(PROGRAM)).args(args).folder(folder).stderr(log);
        let forking = self.forking.clone().lock_owned().await;
        let folders = self.folders.clone();
        let fork = move || {
            let _forking = forking;
            let group = group::make(&folders);
            let child = child.within(view::cell(&folders, group.as_ref())?);
            step(|| Process::spawn(child)).inspect_err(|_| group.iter().for_each(Group::end))
        };
        spawn_blocking(fork).await.map_err(io::Error::other)?
    }

    /// Waits until nobody else works by this folder, and ends who does: whoever is to write the log has a lock of it from
    /// before the fork on. A daemon that was killed may have left a child that nobody knows for a dnsmasq yet.
    ///
    /// # Errors
    /// When it cannot be seen who that is.
    async fn claim(&self, log: &File) -> io::Result<()> {
        let until = Instant::now() + GIVEN_UP;
        // Some file systems have no locks.
        while flock(log, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            for other in running(&self.folders.own)? {
                end(&self.folders, &other).await;
            }
            if Instant::now() > until {
                tracing::warn!(folder = %self.folders.own.display(), "who has the log of dnsmasq does not show; going on");
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    pub fn is_written(&self) -> bool {
        let files = self.orders().files.clone();
        self.places(&files).all(|(path, text)| is(&path, text))
    }

    /// Every file with what is to be in it.
    fn places<'a>(&self, files: &'a Files) -> impl Iterator<Item = (PathBuf, &'a str)> {
        let own = &self.folders.own;
        let lists = files.lists().flat_map(|(name, text)| {
            // What a next daemon goes by, and what dnsmasq reads.
            [Some(own.join(name)), files.place_of(name)].into_iter().flatten().map(move |path| (path, text))
        });
        [(own.join(dhcp::CONFIG), files.config.as_str())].into_iter().chain(lists.collect::<Vec<_>>())
    }

    /// What is to become of a process that works by the files that are there.
    fn change(&self) -> Change {
        let files = self.orders().files.clone();
        if !is(&self.folders.own.join(dhcp::CONFIG), &files.config) || self.stale().is_some() {
            return Change::Ends;
        }
        let unread = self.unread.load(Ordering::Relaxed) && files.lists().next().is_some();
        if unread || !self.places(&files).all(|(path, text)| is(&path, text)) {
            return Change::Reads;
        }
        Change::Nothing
    }

    /// Writes the files that are to be others beside those that are there, to see that they can be.
    fn prepare(&self) -> io::Result<()> {
        let files = self.orders().files.clone();
        self.places(&files)
            .filter(|(path, text)| !is(path, text))
            .try_for_each(|(path, text)| self.put_beside(&path, text))
    }

    fn put_beside(&self, path: &Path, text: &str) -> io::Result<()> {
        if path.starts_with(&self.folders.public) {
            return runtime::put_beside(path, text);
        }
        fs::create_dir_all(&self.folders.own)?;
        fs::write(runtime::beside(path), text)
    }

    /// Brings the files to what is wanted, each in one step.
    pub fn write(&self) -> io::Result<()> {
        let files = self.orders().files.clone();
        for (path, text) in self.places(&files).filter(|(path, text)| !is(path, text)) {
            self.put_beside(&path, text)?;
            step(|| fs::rename(runtime::beside(&path), &path))?;
        }
        Ok(())
    }

    /// Its leases without those that are in somebody's way, where there are such.
    pub fn stale(&self) -> Option<String> {
        let leases = fs::read_to_string(self.folders.own.join(dhcp::LEASES)).ok()?;
        dhcp::stale(&leases, &self.orders().hosts)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folders.own.join(LOG)).unwrap_or_default()
    }

    fn log_length(&self) -> u64 {
        fs::metadata(self.folders.own.join(LOG)).map_or(0, |log| log.len())
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it did not say why");
        last.trim_start_matches("dnsmasq: ").trim().to_owned()
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    pub fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
