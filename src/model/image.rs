//! Images of the store: what one is, what it is called, and in which form it came. Where its data are is its layer's
//! matter (`vm::layers`).

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Error, ImageId, LayerId, Metadata, Result, VmId};

/// Characters of a name, and of a tag.
const MAX_PART: usize = 64;
/// The tag of a name that has none.
const LATEST: &str = "latest";

/// What people call an image: `debian:12`. One name is one image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageName {
    pub name: String,
    pub tag: String,
}

impl ImageName {
    /// `NAME` or `NAME:TAG`, of ASCII letters and digits with `.`, `_` and `-` between them: no name can be taken for a
    /// path, a Windows drive or an id.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str) -> Result<Self> {
        let (name, tag) = text.split_once(':').unwrap_or((text, LATEST));
        let invalid = |must: &str| Err(Error::invalid("name", must));
        if Uuid::try_parse(name).is_ok() {
            return invalid("not be a UUID, which would be taken for an id");
        }
        if !(is_part(name) && name.len() > 1 && is_part(tag)) {
            return invalid(&format!(
                "be NAME or NAME:TAG, such as debian:12, of ASCII letters and digits with '.', '_' and '-' between them; \
                 a name has 2 to {MAX_PART}, a tag 1 to {MAX_PART}"
            ));
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

fn is_part(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.len() <= MAX_PART && ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(fits)
}

/// The form of a file that an image is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    Raw,
    Qcow2,
    Vmdk,
    Vhd,
    Vhdx,
    Vdi,
}

impl SourceFormat {
    /// QEMU's driver name.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
        }
    }

    /// For people, with its article.
    pub fn title(self) -> &'static str {
        match self {
            Self::Raw => "a raw image",
            Self::Qcow2 => "a qcow2 image",
            Self::Vmdk => "a VMDK image",
            Self::Vhd => "a VHD image",
            Self::Vhdx => "a VHDX image",
            Self::Vdi => "a VDI image",
        }
    }
}

/// What a file was compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    Xz,
    Gzip,
    Zstd,
    Bzip2,
}

impl Compression {
    pub const ALL: [Self; 4] = [Self::Xz, Self::Gzip, Self::Zstd, Self::Bzip2];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xz => "xz",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// Where the file came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// It lies on this host.
    Path(PathBuf),
    Upload,
    /// It was pulled from there.
    Url(String),
    /// It was a disk of this VM, which may be gone.
    Vm {
        id: VmId,
        disk: String,
    },
}

/// `image/<id>`: an image of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub id: ImageId,
    #[serde(flatten)]
    pub name: ImageName,
    /// Of the file that it was made of, in hexadecimal digits, as whoever publishes that lists it.
    pub sha256: String,
    pub format: SourceFormat,
    pub compression: Option<Compression>,
    /// Bytes that a guest sees.
    pub virtual_size: u64,
    /// Bytes of the file that its data are in.
    pub size: u64,
    /// Of that file, which is never written to.
    pub content_sha256: String,
    pub layer: LayerId,
    pub source: ImageSource,
    /// Milliseconds since 1970.
    pub created_at: u64,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

/// A sum as clients write it, in lower case.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_sha256(text: &str) -> Result<String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Error::invalid("sha256", "be a SHA-256 sum: 64 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_tag_and_is_no_path_and_no_id() {
        let text = |text: &str| ImageName::parse(text).unwrap().to_string();
        assert_eq!(text("debian:12"), "debian:12");
        assert_eq!(text("Rocky-9.4_min"), "Rocky-9.4_min:latest");
        for bad in [
            "",
            "d",
            ":12",
            "debian:",
            "a:b:c",
            "a/b",
            "../x",
            "-a",
            "a-",
            ".a",
            "dä",
            "a b",
            "D:\\x",
            "debian\n",
            "123e4567-e89b-42d3-a456-426614174000",
            "123e4567e89b42d3a456426614174000",
        ] {
            let said = ImageName::parse(bad).unwrap_err().to_string();
            assert!(said.starts_with("Invalid parameter: name must "), "{bad:?}: {said}");
        }
        assert!(ImageName::parse(&"x".repeat(64)).is_ok() && ImageName::parse(&"x".repeat(65)).is_err());
    }

    #[test]
    fn a_sum_is_taken_in_either_case() {
        assert_eq!(check_sha256(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
        for bad in ["", "ab", &"g".repeat(64), &"a".repeat(65)] {
            assert!(check_sha256(bad).is_err(), "{bad:?}");
        }
    }
}
