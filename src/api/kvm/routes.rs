//! The route table of this dialect: what there is, in which words it fails, and what OpenAPI says of it.

use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::Value;

use super::{
    Shared, bases, change, config, disk_view, disks, dto,
    error::{Endpoint, ErrorBody, NotFound, endpoint, http_error},
    events, guest, host, images, info, media, monitoring, network_body, networks, operations, policy, power, rows,
    switch_routes, updated, uploads, volumes, whole,
};
use crate::{
    api::{
        docs::{self, Docs},
        http::{
            QueryParam, Route, Table, Urgency, in_section,
            openapi::{About, PathParam, document},
        },
    },
    model::Role,
    service::{Service, operations::Work},
};

/// Ruling 8.
const OVERTAKEN: &str = "A forced stop or a delete of the VM came before it was done.";

const CREATE: Endpoint = endpoint(NotFound::Colon, "Internal error during VM creation.");
const LIST: Endpoint = endpoint(NotFound::Short, "Internal server error while retrieving VMs.");
const DETAILS: Endpoint = endpoint(NotFound::Colon, "Internal server error while retrieving the VM.");
const CONFIG: Endpoint = endpoint(NotFound::WithId, "Internal server error while retrieving VM configuration details.");
const WHOLE: Endpoint = endpoint(NotFound::Colon, "Internal error during VM update.");
const STATUS: Endpoint =
    Endpoint { bad_id: "Invalid UUID format", not_found: NotFound::Short, failed: "Internal server error" };
const START: Endpoint = endpoint(NotFound::Colon, "Internal error during VM start operation.");
const STOP: Endpoint = endpoint(NotFound::Colon, "Internal error during VM stop operation.");
const REBOOT: Endpoint = endpoint(NotFound::Colon, "Internal error during VM reboot operation.");
const SUSPEND: Endpoint = endpoint(NotFound::Colon, "Internal error during VM suspend operation.");
const RESUME: Endpoint = endpoint(NotFound::Colon, "Internal error during VM resume operation.");
const CPU: Endpoint = endpoint(NotFound::Colon, "Internal error during CPU configuration update.");
const MEMORY: Endpoint = endpoint(NotFound::Colon, "Internal error during memory configuration update.");
const DISK: Endpoint = endpoint(NotFound::Colon, "Internal error during disk resize operation.");
const ISO: Endpoint = endpoint(NotFound::Colon, "Internal error during ISO image update.");
const MACHINE: Endpoint = endpoint(NotFound::Colon, "Internal error during machine type update.");
const POLICY: Endpoint = endpoint(NotFound::Colon, "Internal error during policy update.");
const DISKS: Endpoint = endpoint(NotFound::Colon, "Internal error during disk operation.");
const NICS: Endpoint = endpoint(NotFound::Colon, "Internal error during network operation.");
const DELETE: Endpoint = endpoint(NotFound::WithId, "Internal error during VM deletion.");
const HOST: Endpoint = endpoint(NotFound::Short, "Internal server error while looking at the host.");
const GENERAL: Endpoint = endpoint(NotFound::Short, "Internal server error");

const PROVISIONING: &str = "VM Provisioning";
const UPDATE: &str = "VM Configuration";
const LIFECYCLE: &str = "Lifecycle Management";
const INFORMATION: &str = "VM Information";
const SERVICE: &str = "Service";

const TIMEOUT: QueryParam = QueryParam::whole("timeout", 1, 86_400, "Seconds that the guest is given; default 60.");
const STOP_QUERY: &[QueryParam] = &[QueryParam::boolean("force", "Cut the power at once."), TIMEOUT];
const DELETE_QUERY: &[QueryParam] =
    &[QueryParam::boolean("graceful", "Ask the guest to power off first; default false.")];

pub fn routes() -> Vec<Route<Shared>> {
    let mut routes = rows();
    routes.extend(monitoring::routes());
    routes.extend(guest::routes());
    routes.extend(switch_routes::routes());
    routes.extend(operations::routes());
    routes.extend(images::routes());
    routes.extend(volumes::routes());
    routes.extend(uploads::routes());
    routes.extend(docs::routes(SERVICE));
    routes
}

fn rows() -> Vec<Route<Shared>> {
    vec![
        Route::post("/vms", "createVM", in_section(&CREATE, power::create))
            .does(Work::Create)
            .role(Role::Operator)
            .tag(PROVISIONING)
            .summary("Create a VM by cloning a base image.")
            .input::<dto::CreateBody>()
            .output::<dto::Created>(201, "The VM, stopped (or started, with `start`).")
            .error(404, "The base image does not exist.")
            .error(409, "The base image is open for writing elsewhere, or the storage for its disks is not mounted.")
            .error(507, "Full clones do not fit where they are to be; the message has the figures."),
        Route::get("/vms", "listVMs", in_section(&LIST, rows::list))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("List all VMs, oldest first.")
            .query(rows::QUERY)
            .output::<Vec<rows::Listed>>(200, "The VMs."),
        Route::get("/vms/{id}", "getVM", in_section(&DETAILS, info::details))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("All about one VM.")
            .output::<dto::Details>(200, "Definition, status and run."),
        Route::put("/vms/{id}", "updateVM", in_section(&WHOLE, whole::update))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Bring a VM to the definition that is sent, or to a part of it.")
            .input::<whole::WholeBody>()
            .output::<whole::Whole>(200, "It is stored; `applied` says whether all of it is in effect.")
            .error(404, "There is no such VM, or no such switch.")
            .error(409, "A field that cannot be changed differs, an address or a port is taken, there is no free slot; or the request was overtaken."),
        Route::delete("/vms/{id}", "deleteVM", in_section(&DELETE, power::delete))
            .does(Work::Delete)
            .role(Role::Operator)
            .tag(LIFECYCLE)
            .summary("Power a VM off and remove it with every disk that qherd made for it.")
            .query(DELETE_QUERY)
            .output::<dto::Deleted>(200, "It is gone.")
            .error(
                409,
                "It is protected; a forced stop came before it was done; or the storage of one of its disks is not mounted, or is no storage directory any more.",
            ),
        Route::get("/vms/{id}/config", "getVMConfig", in_section(&CONFIG, info::config))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("The definition of a VM.")
            .output::<config::Config>(200, "The definition."),
        Route::get("/vms/{id}/status", "getVMStatus", in_section(&STATUS, info::status))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("The status of a VM, at once or when it is as is waited for.")
            .query(info::STATUS_QUERY)
            .waits_for_guest()
            .output::<dto::StatusBody>(200, "The status."),
        Route::put("/vms/{id}/cpu", "updateVMCpu", in_section(&CPU, change::cpu))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Change the vCPUs and their pinning, live where QEMU and the guest allow.")
            .input::<change::CpuBody>()
            .output::<updated::Updated<change::Cpu>>(200, "It is stored; `applied` says whether it is in effect.")
            .error(409, OVERTAKEN),
        Route::put("/vms/{id}/memory", "updateVMMemory", in_section(&MEMORY, change::memory))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Change the memory, live where the guest follows.")
            .input::<change::MemoryBody>()
            .output::<updated::Updated<change::Memory>>(200, "It is stored; `applied` says whether it is in effect.")
            .error(409, OVERTAKEN),
        Route::put("/vms/{id}/disk", "resizeVMDisk", in_section(&DISK, change::disk))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Grow the root disk, and change its I/O limits.")
            .input::<change::DiskUpdate>()
            .output::<updated::Updated<change::RootDisk>>(200, "It is stored; `applied` says whether it is in effect.")
            .error(409, OVERTAKEN),
        Route::put("/vms/{id}/policy", "updateVMPolicy", in_section(&POLICY, policy::policy))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Change what happens unasked: restarts, autostart, I/O errors.")
            .input::<policy::PolicyBody>()
            .output::<updated::Updated<policy::PolicyView>>(200, "It is stored; `applied` says whether it is in effect.")
            .error(409, OVERTAKEN),
        Route::put("/vms/{id}/iso", "changeVMIso", in_section(&ISO, media::put_iso))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Exchange or eject the ISO image in the CD drive, live where the VM has the drive and the guest allows.")
            .input::<media::IsoBody>()
            .output::<updated::Updated<media::Iso>>(200, "It is stored; `applied` says whether it is in effect.")
            .error(409, OVERTAKEN),
        Route::delete("/vms/{id}/iso", "ejectVMIso", in_section(&ISO, media::eject))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Eject the ISO image from the CD drive.")
            .output::<updated::Updated<media::Iso>>(200, "It is stored; `applied` says whether it is in effect.")
            .error(409, OVERTAKEN),
        Route::put("/vms/{id}/machine", "updateVMMachine", in_section(&MACHINE, media::machine))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Give a VM that is off another version of its machine type, such as the latest that this QEMU knows.")
            .optional_input::<media::MachineBody>()
            .output::<updated::Updated<media::MachineType>>(200, "It is stored, and takes effect at the next start.")
            .error(409, "The VM is not off."),
        Route::get("/vms/{id}/disks", "listVMDisks", in_section(&DISKS, disks::list))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("The disks of a VM, the root disk first.")
            .output::<Vec<disks::DiskRow>>(200, "The disks."),
        Route::post("/vms/{id}/disks", "addVMDisk", in_section(&DISKS, disks::add))
            .does(Work::Add)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Add a disk, empty, cloned, or in a volume or a file that is there; a running VM gets it by hot-plug.")
            .input::<disks::DiskBody>()
            .output::<disks::DiskDone>(201, "It is added.")
            .error(404, "There is no such VM, base image or volume.")
            .error(409, "There is no free slot, the base image is open for writing elsewhere, another VM has the volume, or there is a file in the place of its image.")
            .error(507, "A full clone does not fit; the message has the figures."),
        Route::put("/vms/{id}/disks/{disk}", "updateVMDisk", in_section(&DISKS, disks::change))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Grow a disk, and change its I/O limits.")
            .input::<change::DiskUpdate>()
            .output::<updated::Updated<Option<disk_view::DiskView>>>(
                200,
                "It is stored; `applied` says whether it is in effect.",
            )
            .error(409, OVERTAKEN),
        Route::delete("/vms/{id}/disks/{disk}", "removeVMDisk", in_section(&DISKS, disks::remove))
            .does(Work::Remove)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Remove a disk with its image, or keep that as a volume; a running guest has to let go of it.")
            .query(disks::REMOVE_QUERY)
            .output::<disks::DiskDone>(200, "It is gone.")
            .error(409, "The guest does not let go of it, or is paused; the VM is protected; or the request was overtaken."),
        Route::get("/vms/{id}/networks", "listVMNetworks", in_section(&NICS, networks::list))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("The NICs of a VM, and those that its guest has not let go of yet.")
            .output::<Vec<networks::NetworkRow>>(200, "The NICs."),
        Route::post("/vms/{id}/networks", "addVMNetwork", in_section(&NICS, networks::add))
            .does(Work::Add)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Add a NIC; a running VM gets it by hot-plug.")
            .input::<network_body::NetworkBody>()
            .output::<networks::NetworkAdded>(201, "It is added.")
            .error(404, "There is no such VM, or no such switch.")
            .error(409, "There is no free slot, an address is taken or none is free, or a port of the host is taken."),
        Route::put("/vms/{id}/networks/{nic}", "updateVMNetwork", in_section(&NICS, networks::change))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Change the port of a NIC on a switch: address, spoofing, isolation, bandwidth; live.")
            .input::<networks::NetworkUpdate>()
            .output::<networks::NetworkChanged>(200, "It is stored; `applied` says whether it is in effect.")
            .error(404, "There is no such VM, or no such NIC.")
            .error(409, "Another NIC on the switch has the address."),
        Route::delete("/vms/{id}/networks/{nic}", "removeVMNetwork", in_section(&NICS, networks::remove))
            .does(Work::Remove)
            .role(Role::Operator)
            .tag(UPDATE)
            .summary("Remove a NIC; a running guest has to let go of it.")
            .output::<networks::NetworkRemoved>(200, "It is gone, or goes when the guest lets go of it (`pending`).")
            .error(409, "The guest is paused, or the request was overtaken.")
            .error(404, "There is no such VM, or no such NIC."),
        Route::post("/vms/{id}/start", "startVM", in_section(&START, power::start))
            .does(Work::Start)
            .role(Role::Operator)
            .tag(LIFECYCLE)
            .summary("Start a VM, or resume a paused one.")
            .optional_input::<crate::api::http::NoFields>()
            .output::<dto::Done>(200, "It runs.")
            .error(
                409,
                "It stops or reboots, the start was overtaken by a forced stop, its definition names what is no longer there, or its disk is that of another state directory.",
            ),
        Route::post("/vms/{id}/stop", "stopVM", in_section(&STOP, power::stop))
            .does(Work::Stop)
            .role(Role::Operator)
            .tag(LIFECYCLE)
            .summary("Stop a VM: by its agent or the power button, and by force when the timeout has passed.")
            .query(STOP_QUERY)
            .urgency(Urgency::Forced)
            .waits_for_guest()
            .optional_input::<dto::StopBody>()
            .output::<dto::Done>(200, "It is stopped.")
            .error(409, "It is protected, and was to be forced off."),
        Route::post("/vms/{id}/reboot", "rebootVM", in_section(&REBOOT, power::reboot))
            .does(Work::Reboot)
            .role(Role::Operator)
            .tag(LIFECYCLE)
            .summary("Reboot a VM; answers as soon as the reboot is under way.")
            .query(&[TIMEOUT])
            .waits_for_guest()
            .optional_input::<dto::RebootBody>()
            .output::<dto::Done>(200, "The reboot is under way.")
            .error(409, "It does not run."),
        Route::post("/vms/{id}/suspend", "suspendVM", in_section(&SUSPEND, power::suspend))
            .does(Work::Suspend)
            .role(Role::Operator)
            .tag(LIFECYCLE)
            .summary("Halt a VM until it is resumed or started.")
            .optional_input::<crate::api::http::NoFields>()
            .output::<dto::Done>(200, "It is paused.")
            .error(409, "It does not run, or is paused already."),
        Route::post("/vms/{id}/resume", "resumeVM", in_section(&RESUME, power::resume))
            .does(Work::Resume)
            .role(Role::Operator)
            .tag(LIFECYCLE)
            .summary("Let a paused VM go on.")
            .optional_input::<crate::api::http::NoFields>()
            .output::<dto::Done>(200, "It runs.")
            .error(409, "It is not paused."),
        Route::get("/base-images", "listBaseImages", in_section(&GENERAL, bases::list))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("Base images in use, and the VMs that were cloned from each.")
            .output::<Vec<bases::BaseBody>>(200, "The images."),
        Route::get("/host", "getHost", in_section(&HOST, host::host))
            .role(Role::Viewer)
            .tag(INFORMATION)
            .summary("The host: cores, NUMA nodes, memory, QEMU, and which VM is pinned to which cores.")
            .output::<host::HostBody>(200, "The host as it is now."),
        events::route(),
        Route::get("/health", "getHealth", in_section(&GENERAL, info::health))
            .role(Role::Viewer)
            .tag(SERVICE)
            .summary("Whether the service answers, and what it runs on.")
            .urgency(Urgency::Always)
            .output::<dto::Health>(200, "It answers."),
    ]
}

/// The OpenAPI document of this dialect.
pub fn openapi() -> Value {
    let about = About {
        title: "qherd, KVM dialect",
        version: env!("CARGO_PKG_VERSION"),
        description: "Manages QEMU virtual machines directly over QMP.",
        server: "/",
        error: |generator: &mut SchemaGenerator| generator.subschema_for::<ErrorBody>(),
        operation: |generator: &mut SchemaGenerator| generator.subschema_for::<operations::OperationBody>(),
        path_params: &[
            PathParam { name: "id", description: "The UUID of the VM or of the switch.", format: Some("uuid") },
            PathParam { name: "nic", description: "The id of the NIC, or QEMU's name of it: net0…", format: None },
            PathParam { name: "forward", description: "The id of the port forward.", format: Some("uuid") },
            PathParam { name: "operation", description: "The id of the operation.", format: Some("uuid") },
            PathParam {
                name: "image",
                description: "The id of the image, or its name with its tag: debian:12; without one it is latest.",
                format: None,
            },
            PathParam { name: "volume", description: "The id of the volume.", format: Some("uuid") },
            PathParam { name: "upload", description: "The id of the upload.", format: Some("uuid") },
            docs::FILE,
            PathParam { name: "disk", description: "The name of the disk: root, disk1…", format: None },
        ],
    };
    document(&about, routes().iter().map(|route| &route.info))
}

/// The table over a service.
pub fn table(service: Arc<Service>) -> Table {
    let table = Table::new(Shared { service, docs: Arc::new(Docs::new(openapi(), Some("/docs"))) }, routes());
    table.errors(http_error).operations(operations::shape).dialect("kvm")
}
