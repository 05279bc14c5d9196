//! Bearer tokens: one file per token in the folder `tokens` of the state directory, named by the token's id. It holds a
//! hash, never the token. There is no copy in memory and no lock: whoever may write there adds and revokes while the
//! daemon runs, and the next request knows (docs/adr/0025).

#![allow(
    clippy::disallowed_methods,
    reason = "small files of the state directory; a request's is read on a thread that may wait"
)]

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::{Role, now_ms};

/// The folder of a state directory.
pub const FOLDER: &str = "tokens";
const PREFIX: &str = "qherd_";
/// Bytes of a secret and of an id.
const SECRET: usize = 32;
const ID: usize = 8;
/// A file that is longer is none of ours.
const LONGEST_FILE: u64 = 4096;
const LONGEST_NAME: usize = 100;

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub name: String,
    pub role: Role,
    /// Milliseconds since 1970.
    pub created: u64,
    pub expires: Option<u64>,
}

impl Token {
    pub fn has_expired(&self) -> bool {
        self.expires.is_some_and(|at| at <= now_ms())
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    name: String,
    role: String,
    /// SHA-256 of the whole token. It has 256 random bits, so that no slower hash makes it any safer.
    sha256: String,
    created: u64,
    expires: Option<u64>,
}

/// Why a token is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("The token is not one of this qherd, or was revoked.")]
    Unknown,
    #[error("The token has expired.")]
    Expired,
    #[error("The token cannot be looked up: {0}.")]
    Unreadable(String),
}

/// The tokens of a state directory.
#[derive(Clone, Debug)]
pub struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    /// Those in this folder, which need not be there.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Those of a state directory.
    pub fn of(state_dir: &Path) -> Self {
        Self::at(state_dir.join(FOLDER))
    }

    /// What a token is good for.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn check(&self, token: &str) -> Result<Token, TokenError> {
        let id = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map(|(id, _)| id);
        let id = id.filter(|id| is_id(id)).ok_or(TokenError::Unknown)?;
        let file = self.file(id)?;
        // Of hashes: how long the comparison takes says nothing of the token.
        if file.sha256 != hash(token) {
            return Err(TokenError::Unknown);
        }
        good(id, file)
    }

    /// What the token with this id is good for, which was shown before.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn look_up(&self, id: &str) -> Result<Token, TokenError> {
        good(id, self.file(id)?)
    }

    fn file(&self, id: &str) -> Result<File, TokenError> {
        match read(&self.folder.join(file_name(id))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TokenError::Unknown),
            read => read.map_err(|error| TokenError::Unreadable(error.to_string())),
        }
    }

    /// Makes one; returns it with what is known of it. Nobody can be told it again.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(&self, name: &str, role: Role, expires: Option<u64>) -> anyhow::Result<(String, Token)> {
        anyhow::ensure!(
            name.chars().count() <= LONGEST_NAME && !name.contains(char::is_control),
            "the name of a token has at most {LONGEST_NAME} characters, and no control characters"
        );
        let id = hex(&random::<ID>()?);
        let token = format!("{PREFIX}{id}_{}", hex(&random::<SECRET>()?));
        let file = File {
            name: name.to_owned(),
            role: role.as_str().to_owned(),
            sha256: hash(&token),
            created: now_ms(),
            expires,
        };
        let text = serde_json::to_vec(&file)?;
        self.write(&file_name(&id), &text).with_context(|| format!("cannot write to {}", self.folder.display()))?;
        let made = token_of(&id, file).map_err(anyhow::Error::msg)?;
        Ok((token, made))
    }

    /// All of them, the oldest first, and what could not be read.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(&self) -> anyhow::Result<(Vec<Token>, Vec<String>)> {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((found, problems)),
            entries => entries.with_context(|| format!("cannot read {}", self.folder.display()))?,
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".json").filter(|id| is_id(id)) else { continue };
            let file = read(&self.folder.join(&name)).map_err(|error| error.to_string());
            match file.and_then(|file| token_of(id, file)) {
                Ok(token) => found.push(token),
                Err(why) => problems.push(format!("{name}: {why}")),
            }
        }
        found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok((found, problems))
    }

    /// Revokes one: whether there was one.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, id: &str) -> anyhow::Result<bool> {
        if !is_id(id) {
            return Ok(false);
        }
        let removed = (|| {
            let folder = open_folder(&self.folder)?;
            rustix::fs::unlinkat(&folder, file_name(id), AtFlags::empty())?;
            rustix::fs::fsync(&folder)
        })();
        match removed {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove {id} from {}", self.folder.display())),
        }
    }

    /// On stable storage under its name, or not there. It belongs to whom the state directory belongs to, so that a
    /// daemon that is not root can read what root has made.
    fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let parent = self.folder.parent().unwrap_or(Path::new("."));
        let owner = rustix::fs::stat(parent)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
        let given = |fd: &OwnedFd| match owner.st_uid == rustix::process::geteuid().as_raw() {
            true => Ok(()),
            false => rustix::fs::fchown(fd, Some(uid), Some(gid)),
        };
        match rustix::fs::mkdir(&self.folder, Mode::RWXU) {
            Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
            _ => {}
        }
        let folder = open_folder(&self.folder)?;
        given(&folder)?;
        let new = format!(".{name}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, &new, flags, Mode::RUSR | Mode::WUSR)?;
        given(&file)?;
        let mut file = fs::File::from(file);
        file.write_all(text)?;
        file.sync_all()?;
        rustix::fs::renameat(&folder, &new, &folder, name)?;
        Ok(rustix::fs::fsync(&folder)?)
    }
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn read(path: &Path) -> io::Result<File> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(LONGEST_FILE).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

fn good(id: &str, file: File) -> Result<Token, TokenError> {
    let found = token_of(id, file).map_err(TokenError::Unreadable)?;
    if found.has_expired() { Err(TokenError::Expired) } else { Ok(found) }
}

fn token_of(id: &str, file: File) -> Result<Token, String> {
    let File { name, role, created, expires, .. } = file;
    Ok(Token { id: id.to_owned(), name, role: role.parse()?, created, expires })
}

fn file_name(id: &str) -> String {
    format!("{id}.json")
}

fn is_id(text: &str) -> bool {
    text.len() == 2 * ID && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the kernel gives no random numbers: {error}"))?;
    Ok(bytes)
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |at: u64| {
            // A year has four digits.
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at.min(253_402_300_799_000));
            humantime::format_rfc3339_seconds(at).to_string()
        };
        let expires = match self.expires {
            None => "never expires".to_owned(),
            Some(when) if self.has_expired() => format!("expired {}", at(when)),
            Some(when) => format!("expires {}", at(when)),
        };
        write!(f, "{}  {:8}  created {}  {expires}  {}", self.id, self.role.as_str(), at(self.created), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_good_until_it_is_revoked_or_expires() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(dir.path());
        assert_eq!(tokens.list().unwrap().0, []);
        let (text, token) = tokens.create("ci", Role::Operator, None).unwrap();
        assert_eq!(tokens.check(&text), Ok(token.clone()));
        let (old, expired) = tokens.create("", Role::Admin, Some(now_ms())).unwrap();
        assert_eq!(tokens.check(&old), Err(TokenError::Expired));
        assert_eq!(tokens.list().unwrap().0, [token.clone(), expired]);
        assert!(tokens.remove(&token.id).unwrap());
        assert!(!tokens.remove(&token.id).unwrap());
        assert_eq!(tokens.check(&text), Err(TokenError::Unknown));
    }

    #[test]
    fn what_is_no_token_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(dir.path());
        let (text, token) = tokens.create("", Role::Admin, None).unwrap();
        let mut other = text.clone();
        let last = other.pop().unwrap();
        other.push(if last == '0' { '1' } else { '0' });
        let traversal = format!("qherd_../tokens/{}_x", token.id);
        for bad in ["", "qherd_", "x", &token.id, &other, &traversal, &text[..text.len() - 1], &format!("{text}0")] {
            assert_eq!(tokens.check(bad), Err(TokenError::Unknown), "{bad}");
        }
        for bad in ["..", "", "../../x", &token.id.to_uppercase()] {
            assert!(!tokens.remove(bad).unwrap() || bad == token.id, "{bad}");
        }
    }

    #[test]
    fn no_token_is_at_rest_and_nobody_else_reads_what_is() {
        let dir = tempfile::tempdir().unwrap();
        let (text, token) = Tokens::of(dir.path()).create("ci", Role::Viewer, None).unwrap();
        let path = dir.path().join("tokens").join(format!("{}.json", token.id));
        let kept = fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(text.rsplit('_').next().unwrap()), "{kept}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        // 256 bits.
        assert_eq!(text.rsplit('_').next().unwrap().len(), 64);
    }

    #[test]
    fn a_token_that_root_makes_is_the_daemons() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(4711), Some(4712)).unwrap();
        let (_, token) = Tokens::of(dir.path()).create("", Role::Viewer, None).unwrap();
        for path in [dir.path().join("tokens"), dir.path().join(format!("tokens/{}.json", token.id))] {
            let found = fs::metadata(path).unwrap();
            assert_eq!((found.uid(), found.gid()), (4711, 4712));
        }
    }
}
