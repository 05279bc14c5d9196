//! Processes that speak for others: the user-mode networks of virtual machines and containers. A connection from a guest
//! to the host is made by its QEMU, and bears the uid of that. Which sockets are theirs is read off /proc.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::listed;
use crate::model::Uids;

/// What a program's file name begins with that carries a guest's connections.
const RELAYS: &[&str] =
    &["qemu-system", "qemu-kvm", "slirp4netns", "passt", "pasta", "libslirp", "rootlesskit", "gvproxy"];

/// Looks for sockets of relays. Those who wait share one look.
pub struct Relays {
    /// Whose name may be another: the programs that VMs were started with.
    programs: Vec<String>,
    apart: Uids,
    last: tokio::sync::Mutex<Option<Look>>,
}

/// What one look has found.
#[derive(Clone)]
struct Look {
    begun: Instant,
    sockets: Arc<HashSet<u64>>,
}

impl Relays {
    /// `qemu` is the program that VMs are started with. Processes of the users in `apart` are passed over: what they connect
    /// bears their uid, and nobody takes that for somebody else's.
    pub fn new(qemu: &Path, apart: Uids) -> Self {
        let file_name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let programs = [Some(qemu.to_owned()), qemu.canonicalize().ok()];
        Self {
            programs: programs.into_iter().flatten().filter_map(file_name).collect(),
            apart,
            last: tokio::sync::Mutex::new(None),
        }
    }

    /// Inodes of the sockets that relays have open, by a look that begins after the call. `more` are processes that
    /// are some, whatever they are called.
    ///
    /// # Errors
    /// Where there is no /proc.
    pub async fn sockets(&self, more: Vec<i32>) -> io::Result<Arc<HashSet<u64>>> {
        let wanted = Instant::now();
        let mut last = self.last.lock().await;
        // Of all who waited for the same look, the next one serves every one.
        if let Some(look) = last.as_ref().filter(|look| look.begun > wanted) {
            return Ok(Arc::clone(&look.sockets));
        }
        let begun = Instant::now();
        let (programs, apart) = (self.programs.clone(), self.apart.clone());
        let looked = tokio::task::spawn_blocking(move || look(&programs, &more, &apart)).await;
        let sockets = Arc::new(looked.map_err(io::Error::other)??);
        *last = Some(Look { begun, sockets: Arc::clone(&sockets) });
        Ok(sockets)
    }
}

fn look(programs: &[String], more: &[i32], apart: &Uids) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for entry in listed(Path::new("/proc"))? {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // The owner is who a process is, or root; one that is gone has no sockets.
        let is_apart = fs::metadata(entry.path()).is_ok_and(|process| apart.contains(process.uid()));
        if !is_apart && (more.contains(&pid) || is_relay(&entry.path(), programs)) {
            found.extend(sockets_of(&entry.path())?);
        }
    }
    Ok(found)
}

/// One that ends meanwhile has no program any more, and no sockets.
fn is_relay(process: &Path, programs: &[String]) -> bool {
    let Ok(program) = fs::read_link(process.join("exe")) else { return false };
    let Some(name) = program.file_name().and_then(|name| name.to_str()) else { return false };
    // Of one that an upgrade has replaced.
    let name = name.trim_end_matches(" (deleted)");
    RELAYS.iter().any(|relay| name.starts_with(relay)) || programs.iter().any(|program| program == name)
}

fn sockets_of(process: &Path) -> io::Result<Vec<u64>> {
    let socket = |descriptor: &fs::DirEntry| {
        let target = fs::read_link(descriptor.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    match listed(&process.join("fd")) {
        // Another user's, which a daemon without root's rights does not see: it speaks as that user.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Vec::new()),
        descriptors => Ok(descriptors?.iter().filter_map(socket).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, os::fd::AsFd};

    #[tokio::test]
    async fn a_socket_of_a_relay_is_found_and_another_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(listener.as_fd()).unwrap().st_ino;
        let of = async |relays: Relays, more| relays.sockets(more).await.unwrap().contains(&inode);
        assert!(!of(Relays::new(Path::new("qemu-system-x86_64"), Uids::default()), vec![]).await);
        // By its name, and by its pid.
        assert!(of(Relays::new(&std::env::current_exe().unwrap(), Uids::default()), vec![]).await);
        assert!(of(Relays::new(Path::new("x"), Uids::default()), vec![std::process::id() as i32]).await);
    }

    #[tokio::test]
    async fn who_bears_a_uid_of_its_own_is_not_looked_at() {
        use std::{net::TcpStream, os::unix::process::CommandExt, process::Command};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        let mut sleeper = Command::new("sleep");
        sleeper.arg("600").uid(Uids::default().first()).stdin(std::os::fd::OwnedFd::from(socket));
        let mut sleeper = sleeper.spawn().unwrap();
        let found = async |apart: Uids| {
            let relays = Relays::new(Path::new("x"), apart);
            relays.sockets(vec![sleeper.id() as i32]).await.unwrap().contains(&inode)
        };
        let (apart, looked_at) = (found(Uids::default()).await, found("5000-5001".parse().unwrap()).await);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(!apart && looked_at);
    }

    #[tokio::test]
    async fn whoever_asks_is_answered_by_a_look_that_began_later() {
        let relays = Arc::new(Relays::new(&std::env::current_exe().unwrap(), Uids::default()));
        let before = relays.sockets(vec![]).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(listener.as_fd()).unwrap().st_ino;
        let all = (0..20).map(|_| relays.sockets(vec![]));
        for found in futures_util::future::join_all(all).await {
            assert!(found.unwrap().contains(&inode));
        }
        assert!(!before.contains(&inode));
    }
}
