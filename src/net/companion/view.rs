//! What dnsmasq is kept in: what it sees of the host's files, whom it speaks to by TCP, its group and its own shared memory. It
//! answers whatever guests send it.

#![allow(clippy::disallowed_methods, reason = "on a thread that may wait")]

use std::{io, path::PathBuf, sync::OnceLock, thread};

use nix::sched::{CloneFlags, unshare};

use super::{Folders, PROGRAM};
use crate::host::{
    cgroups::Group,
    launcher::{Apart, Cell, Roots, Shown, Tcp, View},
    sandbox::installed_in,
};

/// Beside the system's: who it is to become.
const USERS: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];
const DNS: u16 = 53;
/// It serves names, and asks other servers from whatever port there is.
const TCP: Tcp = Tcp::Ports { bind: &[0, DNS], connect: &[DNS] };

/// Made for each start: what is shown may have been exchanged. Blocks.
///
/// # Errors
/// When the kernel has no descriptor left, or the group is gone.
pub fn cell(folders: &Folders, group: Option<&Group>) -> io::Result<Cell> {
    let read = USERS.iter().map(PathBuf::from).chain([folders.public.clone()]).collect();
    // It may be a script, which ends in another.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).filter(|file| file.is_file());
    let names: Vec<PathBuf> = found.collect();
    let programs = names.iter().filter_map(|program| installed_in(program)).collect();
    let shown = Shown { programs, names, read, own: vec![folders.own.clone()], ..Shown::default() };
    let view = View::of(&shown, TCP).inspect_err(|error| {
        tracing::debug!(%error, "dnsmasq is not kept from files by Landlock");
    });
    let seat = group.map(Group::seat).transpose()?;
    // No sockets of the host by their paths, either. Its own folder is kept from being unmounted by its log already.
    let root = Roots::new(shown).root().inspect_err(|error| {
        tracing::debug!(%error, "dnsmasq has no root of its own");
    });
    let apart = Apart { ipc: has_ipc(), root: root.ok(), ..Apart::default() };
    Ok(Cell { seat, apart, view: view.ok(), user: None })
}

/// Whether the kernel lets this daemon give a child shared memory of its own. Tried on a thread that ends with it.
fn has_ipc() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    let tried = || thread::spawn(|| unshare(CloneFlags::CLONE_NEWIPC).is_ok()).join();
    *HAS.get_or_init(|| tried().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, reason = "a variable of the environment")]

    use std::{fs, net::TcpListener, path::Path};

    use super::*;
    use crate::host::launcher::{Child, DNSMASQ};

    /// What a shell in dnsmasq's place comes to, with some layers left out: the words that it says in between.
    fn tried(folders: &Folders, script: &str, without: &str) -> String {
        // SAFETY: of this test's process alone (nextest), before anything reads it.
        unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", without) };
        let child =
            Child::new(DNSMASQ, Path::new("/bin/bash")).args(["-c", script]).within(cell(folders, None).unwrap());
        String::from_utf8(child.piped().spawn().unwrap().output().unwrap().stdout).unwrap()
    }

    #[test]
    fn dnsmasq_sees_its_own_files_and_speaks_tcp_on_its_own_port() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), "").unwrap();
            folder
        };
        let folders = Folders { own: folder("own"), public: folder("public") };
        let other = folder("other");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = |folder: &Path, what: &str| format!("{}/{what}", folder.display());
        let attempts = [
            format!("echo lease >{}", at(&folders.own, "leases")),
            format!("cat {}", at(&folders.public, "file")),
            "cat /etc/passwd".to_owned(),
            // From here on what it has no business with.
            format!("echo x >{}", at(&folders.public, "file")),
            format!("cat {}", at(&other, "file")),
            format!("echo x >{}", at(&other, "new")),
            "cat /etc/shadow".to_owned(),
            format!("exec 3<>/dev/tcp/127.0.0.1/{port}"),
        ];
        let script: String =
            attempts.iter().map(|attempt| format!("({attempt}) >&2 && echo yes || echo no; ")).collect();
        let outcome =
            |without| tried(&folders, &script, without).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(outcome(""), ["yes", "yes", "yes", "no", "no", "no", "no", "no"]);
        // By its root alone: what is not its own is not there, or not to be written to.
        assert_eq!(outcome("landlock"), ["yes", "yes", "yes", "no", "no", "no", "no", "yes"]);
        assert_eq!(outcome("mounts"), ["yes", "yes", "yes", "no", "no", "no", "no", "no"]);
        assert_eq!(outcome("landlock,mounts"), ["yes"; 8]);
    }
}
