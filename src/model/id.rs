//! The identities of things that clients name: UUIDs v4, written in lower case with hyphens, never reused (ruling 3).

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// Takes the hyphenated form only: the other notations of a UUID would give one thing two addresses.
            pub fn parse(text: &str) -> Option<Self> {
                (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(Self)
            }

            /// Takes what Windows takes for a GUID as well: in braces, without hyphens (ruling 29).
            pub fn parse_guid(text: &str) -> Option<Self> {
                let bare = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
                matches!(bare.len(), 32 | 36).then(|| Uuid::try_parse(bare).ok()).flatten().map(Self)
            }

            /// The first 12 hex digits: short enough for a socket path or the name of an interface, long enough to be
            /// unique on a host.
            pub fn short(&self) -> String {
                self.0.simple().to_string()[..12].to_owned()
            }

            /// Spread over all numbers; not unique.
            pub fn number(&self) -> u32 {
                self.0.as_fields().0
            }
        }

        /// For a UUID v4 that was drawn already.
        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

ids! {
    /// A virtual machine.
    VmId;
    /// A NIC of a virtual machine.
    NicId;
    /// A layer of disks: a file with data, which may lie on another one.
    LayerId;
    /// An image of the store.
    ImageId;
    /// A file on its way to the store.
    UploadId;
    /// What a guest's cloud-init is given.
    SeedId;
    /// A virtual switch.
    SwitchId;
    /// A port of the host that leads to a guest on a switch.
    ForwardId;
}

impl VmId {
    /// The name of a VM that was given none.
    pub fn default_name(&self) -> String {
        format!("vm-{}", &self.0.simple().to_string()[..8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = VmId::parse("123E4567-e89b-12d3-a456-426614174000").unwrap();
        assert_eq!(id.to_string(), "123e4567-e89b-12d3-a456-426614174000");
        assert_eq!(id.default_name(), "vm-123e4567");
        for guid in ["123E4567E89B12D3A456426614174000", "{123e4567-e89b-12d3-a456-426614174000}"] {
            assert_eq!(VmId::parse_guid(guid), Some(id), "{guid}");
        }
        for bad in ["", "{}", "{123e4567-e89b-12d3-a456-426614174000", "urn:uuid:123e4567-e89b-12d3-a456-426614174000"]
        {
            assert_eq!(VmId::parse_guid(bad), None, "{bad}");
        }
        for bad in ["", "x", "123e4567e89b12d3a456426614174000", "{123e4567-e89b-12d3-a456-426614174000}"] {
            assert_eq!(VmId::parse(bad), None, "{bad}");
        }
    }
}
