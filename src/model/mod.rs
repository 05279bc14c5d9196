//! The plain types that every layer speaks: what a virtual machine is, what is known of its run,
//! what is published about it, and what can go wrong. No I/O and no knowledge of QEMU, HTTP or sled.

mod access;
mod address;
mod base_image;
mod bounds;
mod change;
mod clock;
mod cloud_init;
mod create;
mod disk_file;
mod ending;
mod error;
mod event;
mod forward;
mod guest_cpu;
mod hostname;
mod id;
mod image;
mod image_format;
mod labels;
mod limits;
mod lists;
mod mac;
mod metadata;
mod name;
mod named;
mod nearest;
mod network;
mod policy;
mod port;
mod record;
mod sample;
mod sandbox;
mod size;
mod spec;
mod spec_parts;
mod status;
mod subnet;
mod subnet_wish;
mod switch;
mod switch_form;
mod uids;
mod view;
mod volume;
mod written;

pub use access::{Grant, Role, Who};
pub use address::AddressSource;
pub use base_image::{BaseContent, BaseImage};
pub use bounds::{Bounds, Figures};
pub use change::{Applied, Change, NewNics, Redefinition};
pub use clock::{Moment, monotonic_ms, now_ms, uptime_ms, wall_at_uptime, wall_time_of};
pub use cloud_init::{CloudInit, CloudPart, SEED_LABEL, Seed, SeedFile, hashed, seed_files};
pub use create::{CreateVm, DEFAULT_LABEL, DiskWish, ExistingDisk, NetworkWish, NicWish};
pub use disk_file::{Below, DiskFile, ForeignFile, OwnFile, VolumeFile};
pub use ending::{Ending, FailedStart};
pub use error::{Conflict, Error, Operation, Result, human};
pub use event::{About, Asker, EVENT_TYPES, Event, GuestRequest, Incident, OperationNews, Outcome, Wanted, What};
pub use forward::{SwitchForward, check_forward};
pub use guest_cpu::{GuestCpu, MAX_CPU_FEATURES};
pub use hostname::{check_domain, host_label};
pub use id::{ForwardId, ImageId, LayerId, NicId, SeedId, SwitchId, UploadId, VmId};
pub use image::{Compression, Image, ImageName, ImageSource, SourceFormat, check_sha256};
pub use image_format::ImageFormat;
pub use labels::{LabelFilter, Labels, around};
pub use limits::{IoLimits, Rate};
pub use lists::{MAX_DEVICES, MAX_FORWARDS, MAX_PINNED, check_length};
pub use mac::MacAddr;
pub use metadata::{MAX_LABELS, MAX_METADATA, Metadata, MetadataWish, check_label_key};
pub use name::{check_name, same_name};
pub use named::{Alias, MAX_ALL_SENT, MadeFolder, Named, Sent, Words};
pub use nearest::nearest;
pub use network::{
    Forward, NewNic, Nic, NicBackend, Protocol, TAP_PREFIX, check_carried, check_forwards, check_queues,
};
pub use policy::{Autostart, AutostartWish, Due, LONGEST_WAIT, OnIoError, Policy, PolicyWish, RestartPolicy, Upkeep};
pub use port::{Bandwidth, PortWish, SwitchPort};
pub use record::{Boot, ProcessId};
pub use sample::{BalloonSample, DiskSample, NetworkSample, NicSample, Sample, VcpuSample};
pub use sandbox::{Carrier, Layer, MissingLayer, Sandbox, UserNetwork};
pub use size::{MAX_DEFINITION, MAX_LAYER, check_definition};
pub use spec::{
    Bus, CloneMode, CpuPinning, Disk, MAX_VCPUS, Machine, NewDisk, VmSpec, check_disk_size, check_max_memory,
    check_max_vcpus, check_memory, check_vcpus, default_max_memory,
};
pub use status::Status;
pub use subnet::{Cidr, Dns, Subnet, Subnet6};
pub use subnet_wish::SubnetWish;
pub use switch::{
    BRIDGE_PREFIX, CreateSwitch, Moved, Switch, SwitchKind, SwitchRecord, SwitchRef, SwitchState, SwitchWish,
    check_mtu, check_notes,
};
pub use switch_form::{SwitchForm, SwitchShape, SwitchType};
pub use uids::Uids;
pub use view::VmView;
pub use volume::Volume;
pub use written::written;
