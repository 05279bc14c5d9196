//! What is stored of an operation. What a restart of the daemon makes of one that has no end yet is `judge`'s.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    model::{About, Asker, Labels, Outcome, Role, SwitchId, VmId, around},
    service::keys::{Digest, KeptAnswer},
    store::Record,
    vm::Phase,
};

/// What an operation does, as far as that decides what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    Create,
    Start,
    Stop,
    Suspend,
    Resume,
    Reboot,
    Delete,
    /// A disk or a NIC comes.
    Add,
    /// A disk or a NIC goes.
    Remove,
    /// Something else of the definition.
    Change,
    /// By the agent of a guest.
    AskGuest,
    MakeSwitch,
    ChangeSwitch,
    DeleteSwitch,
    AddForward,
    RemoveForward,
    ImportImage,
    ChangeImage,
    DeleteImage,
    MakeVolume,
    DeleteVolume,
}

impl Work {
    /// It is about a switch, else about a VM or an image.
    pub fn is_of_switch(self) -> bool {
        match self {
            Self::MakeSwitch | Self::ChangeSwitch | Self::DeleteSwitch | Self::AddForward | Self::RemoveForward => true,
            Self::Create
            | Self::Start
            | Self::Stop
            | Self::Suspend
            | Self::Resume
            | Self::Reboot
            | Self::Delete
            | Self::Add
            | Self::Remove
            | Self::Change
            | Self::AskGuest
            | Self::ImportImage
            | Self::ChangeImage
            | Self::DeleteImage
            | Self::MakeVolume
            | Self::DeleteVolume => false,
        }
    }

    /// It is about an image, and about no VM.
    pub fn is_of_image(self) -> bool {
        matches!(self, Self::ImportImage | Self::ChangeImage | Self::DeleteImage)
    }

    /// It is about a volume, and about no VM.
    pub fn is_of_volume(self) -> bool {
        matches!(self, Self::MakeVolume | Self::DeleteVolume)
    }

    /// It makes something, which has an id from the beginning.
    pub fn makes(self) -> bool {
        match self {
            Self::Create | Self::Add | Self::MakeSwitch | Self::AddForward | Self::ImportImage | Self::MakeVolume => {
                true
            }
            Self::Start
            | Self::Stop
            | Self::Suspend
            | Self::Resume
            | Self::Reboot
            | Self::Delete
            | Self::Remove
            | Self::Change
            | Self::AskGuest
            | Self::ChangeSwitch
            | Self::DeleteSwitch
            | Self::RemoveForward
            | Self::ChangeImage
            | Self::DeleteImage
            | Self::DeleteVolume => false,
        }
    }

    /// What a VM does by itself when it has been asked: a daemon that ends leaves it to the next one.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Stop)
    }

    /// # Errors
    /// Why it is never cancelled.
    pub fn check_cancellable(self) -> Result<(), &'static str> {
        match self {
            Self::Create
            | Self::Stop
            | Self::Add
            | Self::Remove
            | Self::Change
            | Self::ImportImage
            | Self::MakeVolume => Ok(()),
            // While it waits for its turn.
            Self::Suspend | Self::Resume => Ok(()),
            // Until the guest is off.
            Self::Delete => Ok(()),
            Self::Start => Err("a start is not taken back by itself; stop the VM with force"),
            Self::AskGuest => Err("what the guest was told to do it does"),
            Self::Reboot => Err("a guest that was asked to reboot cannot be told not to"),
            Self::MakeSwitch | Self::ChangeSwitch | Self::DeleteSwitch | Self::AddForward | Self::RemoveForward => {
                Err("what is done to the host's network is done whole; ask for the opposite when it has ended")
            }
            Self::ChangeImage | Self::DeleteImage => Err("an image is changed or deleted whole"),
            Self::DeleteVolume => Err("a volume is deleted whole"),
        }
    }
}

/// `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The operation id of its route.
    pub kind: String,
    pub work: Work,
    /// Whose words its answer is in.
    pub dialect: String,
    pub by: Asker,
    /// What it is about, where that is known.
    pub vm: Option<VmId>,
    /// The same, of one that is about a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<SwitchId>,
    /// Of the VM, the switch or the image, when it was asked.
    pub name: Option<String>,
    /// What it makes bears this id: a VM, the request of a disk, a NIC, a switch, a forward, an image.
    pub makes: Option<Uuid>,
    /// The disk, the NIC, the forward or the image that it is about, as the client names it.
    pub device: Option<String>,
    /// The idempotency key that it came with, and what it was used for.
    pub key: Option<(Digest, Digest)>,
    /// By which the next daemon can ask again for what the VM goes on with.
    pub again: Option<Again>,
    pub end: Option<End>,
}

/// A request, as its handler had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    pub params: Vec<(String, String)>,
    pub query: Vec<(String, String)>,
    pub body: String,
    pub role: Role,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Milliseconds since 1970.
    pub at: u64,
    pub outcome: Outcome,
    /// As a client that waits on the line would have had it; none where a restart has lost it.
    pub answer: Option<KeptAnswer>,
    /// What a restart made of it, and what is to be done.
    pub interrupted: Option<String>,
    pub phases: Vec<Phase>,
}

impl Record for OperationRecord {
    const KIND: &'static str = "operation";
    const VERSION: u32 = 1;
}

impl OperationRecord {
    /// What is told of it is about this, where its VM has these labels.
    pub fn about(&self, id: Uuid, labels: &Labels) -> About {
        let (name, labels) = (self.name.clone().unwrap_or_default(), around(labels, None));
        About::Operation { id, kind: self.kind.clone(), vm: self.vm, switch: self.switch, name, labels }
    }

    /// What it makes has this id.
    pub fn makes(&mut self, id: Uuid) {
        self.makes = Some(id);
        match self.work {
            Work::Create => self.vm = Some(id.into()),
            Work::MakeSwitch => self.switch = Some(id.into()),
            _ => {}
        }
    }
}
