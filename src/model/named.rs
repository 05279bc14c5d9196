//! What a client called the files of its VM, and in which words it asked for the rest; and which folders came into being for
//! them. None of it is hardware: two definitions that differ in this alone are the same one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::written;

/// Paths as they were sent (ruling 29), and the folders made for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// Of the ISO image.
    pub iso: Option<Alias>,
    /// Of the image that the root disk was cloned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_image: Option<Alias>,
    /// Of the folder that the root disk lies in.
    pub disk_folder: Option<PathBuf>,
    /// Folders that qherd made on the way to the root disk, the outermost first. VMs that share them all have them here,
    /// so that they go with the last of them.
    pub folders: Vec<MadeFolder>,
    #[serde(skip_serializing_if = "Sent::is_empty")]
    pub sent: Sent,
}

/// What was sent, as JSON in the KVM dialect, where it would be told in other words. It is told as long as the VM is so: a client that
/// compares what it reads with what it sent finds no difference then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Box<str>>,
    /// The files that `disks` names in words of the client's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Alias>,
    /// Of fields that are no lists, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plain: BTreeMap<String, Box<str>>,
    /// Of its creation.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

/// In what words an update asks. What is not given stays; what is given and not kept is told as it is.
#[derive(Clone, Debug, Default)]
pub struct Words {
    pub disks: Option<Option<Box<str>>>,
    pub networks: Option<Option<Box<str>>>,
    pub files: Vec<Alias>,
    pub plain: BTreeMap<&'static str, Option<Box<str>>>,
    pub start: Option<bool>,
    /// The image that its root disk was cloned from.
    pub base_image: Option<PathBuf>,
}

/// Bytes, as JSON in JSON, of a list that is kept as it was sent, with what its files are called; a longer one is told as it is.
const MAX_SENT: usize = 2 * 1024;
/// Of all fields that are no lists.
const MAX_PLAIN: usize = 512;
/// The same of all of it.
pub const MAX_ALL_SENT: usize = 2 * MAX_SENT + MAX_PLAIN + 128;

impl Sent {
    /// A list, where it is short enough to be kept.
    pub fn kept(list: &impl Serialize) -> Option<Box<str>> {
        let text = serde_json::to_string(list).ok()?;
        (written(&text) <= MAX_SENT).then(|| text.into())
    }

    /// With these words in the place of those before.
    pub fn say(&mut self, words: Words) {
        if let Some(disks) = words.disks {
            (self.disks, self.files) = (disks, words.files);
        }
        self.networks = words.networks.unwrap_or(self.networks.take());
        for (name, text) in words.plain {
            match text {
                Some(text) => self.plain.insert(name.to_owned(), text),
                None => self.plain.remove(name),
            };
        }
        self.start = words.start.unwrap_or(self.start);
        self.cut();
    }

    /// Leaves out what is too long to be kept.
    pub fn cut(&mut self) {
        if written(&self.disks) + written(&self.files) > MAX_SENT {
            (self.disks, self.files) = (None, Vec::new());
        }
        if written(&self.plain) > MAX_PLAIN {
            self.plain.clear();
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a client calls a file. It says which one: when the VM has another by now, it says nothing of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// Canonical.
    pub file: PathBuf,
    pub sent: PathBuf,
}

/// A folder that qherd made, told from any other that takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFolder {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
    /// Nanoseconds since 1970, where its file system knows.
    pub born: Option<u64>,
}

impl Alias {
    /// `None` where the client's words say it as it is.
    pub fn new(file: PathBuf, sent: PathBuf) -> Option<Self> {
        (file != sent).then_some(Self { file, sent })
    }

    /// Whether a client means a file by a name.
    pub fn means(all: &[Self], sent: &Path, file: &Path) -> bool {
        sent == file || all.iter().any(|alias| alias.sent == sent && alias.file == file)
    }
}

impl Named {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
