//! What dnsmasq sees of the host's files, and whom it speaks to by TCP: it answers whatever guests send it.

#![allow(clippy::disallowed_methods, reason = "on a thread that may wait")]

use std::path::PathBuf;

use super::{Folders, PROGRAM};
use crate::host::{
    launcher::{Cell, Shown, Tcp, View},
    sandbox::installed_in,
};

/// Beside the system's: who it is to become.
const USERS: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];
const DNS: u16 = 53;
/// It serves names, and asks other servers from whatever port there is.
const TCP: Tcp = Tcp::Ports { bind: &[0, DNS], connect: &[DNS] };

/// Made for each start: what is shown may have been exchanged. Blocks.
pub fn cell(folders: &Folders) -> Cell {
    let read = USERS.iter().map(PathBuf::from).chain([folders.public.clone()]).collect();
    // It may be a script, which ends in another.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).filter(|file| file.is_file());
    let programs = found.filter_map(|program| installed_in(&program)).collect();
    let shown = Shown { programs, read, own: vec![folders.own.clone()], ..Shown::default() };
    let view = View::of(&shown, TCP).inspect_err(|error| {
        tracing::debug!(%error, "dnsmasq is not kept from files by Landlock");
    });
    Cell { view: view.ok(), ..Cell::default() }
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
        let child = Child::new(DNSMASQ, Path::new("/bin/bash")).args(["-c", script]).within(cell(folders));
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
        assert_eq!(outcome("landlock"), ["yes"; 8]);
    }
}
