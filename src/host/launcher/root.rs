//! A root of a child's own: the folders of programs, a few files of the system, and nothing else of the host, all for reading
//! only but the folders that it makes files in. Landlock refuses what a path leads to; here there are no paths, to sockets neither, which Landlock lets everybody
//! connect to.
//!
//! It is a mount namespace that is made once and entered by each child with one system call: to make one in each would copy
//! the host's mounts each time. It holds no mount but those that it shows, so nobody's storage is kept from being unmounted.

#![allow(clippy::disallowed_methods, reason = "system folders, on a thread of its own")]

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, symlink},
    },
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
        mount_remount, unmount,
    },
    process::{chdir, pivot_root, umask},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::view::{Shown, Use};

/// Where a new root is put together. Nobody outside of its namespace sees anything there.
const SITE: &str = "/run/qherd/root";
/// More links one behind the other lead nowhere.
const LINKS: usize = 40;

/// A mount namespace, ready to be entered.
#[derive(Clone, Debug)]
pub struct Root(Arc<OwnedFd>);

/// The root of what is shown, made anew when something else is there under the same name.
#[derive(Debug)]
pub struct Roots {
    shown: Shown,
    made: Mutex<Option<(Vec<Piece>, Root)>>,
}

/// What a root is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Link { at: PathBuf, to: PathBuf },
    Mount { at: PathBuf, whole: bool, kind: Kept, is: (u64, u64) },
}

/// What may be done with what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Read,
    Device,
    Written,
}

impl Roots {
    pub fn new(shown: Shown) -> Self {
        Self { shown, made: Mutex::default() }
    }

    /// Blocks.
    ///
    /// # Errors
    /// Of a daemon that may not mount, or where a program lies in the host's root itself.
    pub fn root(&self) -> io::Result<Root> {
        let pieces = pieces(&self.shown)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, root)) = &*made
            && *of == pieces
        {
            return Ok(root.clone());
        }
        let root = Root::of(pieces.clone())?;
        *made = Some((pieces, root.clone()));
        Ok(root)
    }
}

impl Root {
    fn of(pieces: Vec<Piece>) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(SITE)?;
        // The namespace is the thread's, and ends with it but for the descriptor.
        let made = thread::Builder::new().name("root".to_owned()).spawn(move || make(&pieces))?.join();
        made.unwrap_or_else(|_| Err(io::Error::other("making a root has panicked")))
    }

    /// In the child. Allocates nothing.
    ///
    /// # Errors
    /// Without the right to it.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Mount))?)
    }
}

/// All that there is of what is to be shown, what contains others first.
fn pieces(shown: &Shown) -> io::Result<Vec<Piece>> {
    let (mut links, mut mounts) = (Vec::new(), Vec::new());
    let all = shown.all().map(|(path, used)| (path, used == Use::Own));
    let all = all.chain(shown.names.iter().map(|name| (name.clone(), false)));
    let mut all: Vec<_> = all.map(|(path, written)| (followed(&path, &mut links), written)).collect();
    all.sort_by_key(|(path, _)| path.components().count());
    for (at, written) in all {
        if at == Path::new("/") {
            return Err(io::Error::other("a program lies in the host's root itself; put it into a folder of its own"));
        }
        let is_seen = |piece: &Piece| matches!(piece, Piece::Mount { at: other, .. } if at.starts_with(other));
        if !written && mounts.iter().any(is_seen) {
            continue;
        }
        // What is not there is not shown.
        let Ok(found) = fs::metadata(&at) else { continue };
        // What is mounted below a folder of the system's belongs to it; below others it may be anybody's.
        let whole = ["/usr", "/etc"].iter().any(|system| at == Path::new(system));
        let kind = match found.file_type().is_char_device() {
            true => Kept::Device,
            false if written => Kept::Written,
            false => Kept::Read,
        };
        mounts.push(Piece::Mount { at, whole, kind, is: (found.dev(), found.ino()) });
    }
    let in_a_mount =
        |at: &Path| mounts.iter().any(|piece| matches!(piece, Piece::Mount { at: other, .. } if at.starts_with(other)));
    links.retain(|(at, _)| !in_a_mount(at));
    links.sort();
    links.dedup();
    let links = links.into_iter().map(|(at, to)| Piece::Link { at, to });
    // A link may be the way to where something is put.
    Ok(mounts.iter().cloned().chain(links).collect())
}

/// Where a path leads, with the links on the way.
fn followed(path: &Path, links: &mut Vec<(PathBuf, PathBuf)>) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let prefixes = path.ancestors().collect::<Vec<_>>().into_iter().rev();
        let link = prefixes.into_iter().find_map(|prefix| Some((prefix.to_owned(), fs::read_link(prefix).ok()?)));
        let Some((at, to)) = link else { break };
        let rest = path.strip_prefix(&at).map(Path::to_owned).unwrap_or_default();
        let beside = at.parent().unwrap_or(Path::new("/"));
        path = plain(&beside.join(&to).join(rest));
        links.push((at, to));
    }
    path
}

/// Without `..`, of a path that has no link before them.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// On a thread that ends then.
fn make(pieces: &[Piece]) -> io::Result<Root> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    umask(Mode::empty());
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    let none = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", none)?;
    // What the new root is put over may be on the way to them.
    let path_of = |piece: &Piece| match piece {
        Piece::Mount { at, .. } => Some(openat(CWD, at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())).transpose(),
        Piece::Link { .. } => Ok(None),
    };
    let sources: Vec<Option<OwnedFd>> = pieces.iter().map(path_of).collect::<Result<_, _>>()?;
    mount("qherd", SITE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=1m,nr_inodes=1k")?;
    chdir(SITE)?;
    for (piece, source) in pieces.iter().zip(&sources) {
        put(piece, source.as_ref())?;
    }
    mount_remount(".", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")?;
    // The host's root, with all its mounts, is put over the new one, and goes.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(Root(Arc::new(namespace.into())))
}

fn put(piece: &Piece, source: Option<&OwnedFd>) -> io::Result<()> {
    let place = |at: &Path| at.strip_prefix("/").map(Path::to_owned).map_err(io::Error::other);
    let beside = |at: &Path| {
        let folder = at.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.map_or(Ok(()), |folder| DirBuilder::new().recursive(true).mode(0o755).create(folder))
    };
    match (piece, source) {
        (Piece::Mount { at, whole, kind, .. }, Some(source)) => {
            let at = place(at)?;
            beside(&at)?;
            let source = format!("/proc/self/fd/{}", source.as_raw_fd());
            // It may be there, within what is mounted already.
            if !at.exists() && fs::metadata(&source)?.is_dir() {
                DirBuilder::new().recursive(true).mode(0o755).create(&at)?;
            } else if !at.exists() {
                File::create(&at)?;
            }
            let bound = if *whole { mount_bind_recursive(&source, &at) } else { mount_bind(&source, &at) };
            bound?;
            let may = match kind {
                Kept::Read => MountFlags::RDONLY | MountFlags::NODEV,
                Kept::Device => MountFlags::RDONLY | MountFlags::NOEXEC,
                Kept::Written => MountFlags::NODEV | MountFlags::NOEXEC,
            };
            Ok(mount_remount(&at, MountFlags::BIND | MountFlags::NOSUID | may, c"")?)
        }
        (Piece::Link { at, to }, _) => {
            let at = place(at)?;
            beside(&at)?;
            symlink(to, at)
        }
        (Piece::Mount { .. }, None) => Ok(()),
    }
}
