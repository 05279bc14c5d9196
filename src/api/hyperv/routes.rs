//! The route table of this dialect: what there is, in which words it fails, and what OpenAPI says of it.

use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::Value;

use super::{
    Shared, adapters, addresses, console, dto,
    error::{Endpoint, ErrorBody, SWITCH_NOT_FOUND, http_error},
    events, forwards, guest, info, operations, power, switches, vms,
};
use crate::{
    api::{
        docs::{self, Docs},
        http::{
            NoFields, QueryParam, Route, Table, Urgency, in_section,
            openapi::{About, PathParam, document},
        },
        labels,
    },
    model::Role,
    service::{Service, operations::Work},
};

const fn vm(failed: &'static str) -> Endpoint {
    Endpoint { not_found: "VM not found", failed }
}

const fn switch(failed: &'static str) -> Endpoint {
    Endpoint { not_found: SWITCH_NOT_FOUND, failed }
}

const LIST: Endpoint = vm("Failed to list VMs");
const GET: Endpoint = vm("Failed to get VM");
const CREATE: Endpoint = vm("Failed to create VM");
const UPDATE: Endpoint = vm("Failed to update VM");
const DELETE: Endpoint = vm("Failed to delete VM");
const START: Endpoint = vm("Failed to start VM");
const STOP: Endpoint = vm("Failed to stop VM");
const RESTART: Endpoint = vm("Failed to restart VM");
const SUSPEND: Endpoint = vm("Failed to suspend VM");
const RESUME: Endpoint = vm("Failed to resume VM");
const CONSOLE: Endpoint = vm("Failed to open the console");
const ADAPTERS: Endpoint = vm("Failed to list network adapters");
const ADDRESSES: Endpoint = vm("Failed to list addresses");
const ADD_ADAPTER: Endpoint = vm("Failed to add network adapter");
const REMOVE_ADAPTER: Endpoint =
    Endpoint { not_found: "VM or network adapter not found", failed: "Failed to remove network adapter" };
const CHANGE_ADAPTER: Endpoint =
    Endpoint { not_found: "VM or network adapter not found", failed: "Failed to update network adapter" };
const LIST_SWITCHES: Endpoint = switch("Failed to list switches");
const GET_SWITCH: Endpoint = switch("Failed to get switch");
const CREATE_SWITCH: Endpoint = switch("Failed to create switch");
const UPDATE_SWITCH: Endpoint = switch("Failed to update switch");
const DELETE_SWITCH: Endpoint = switch("Failed to delete switch");
const GENERAL: Endpoint = vm("Internal server error");

const VMS: &str = "Virtual Machines";
const ADAPTER: &str = "Network Adapters";
const SWITCHES: &str = "Virtual Switches";
const SERVICE: &str = "Service";

const FORCE: &[QueryParam] = &[QueryParam::boolean("force", "Do not ask the guest; default false.")];
const WAIT_QUERY: &[QueryParam] = &[
    QueryParam::one_of(
        "wait",
        &["Running", "Off", "Agent", "IP"],
        "Answer when it runs, when it is off, when the guest's agent is there, or when the guest has an address; `Reached` says whether it came to that within \
         the time. Deleted meanwhile: 404 at once.",
    ),
    QueryParam::whole("timeout", 1, 3600, "With `wait`: seconds, 1 to 3600; default 30."),
];
const NO_AGENT: &str = "The guest agent is not there, or does not do it; the VM runs.";

pub fn routes() -> Vec<Route<Shared>> {
    let mut routes = vm_routes();
    routes.extend(network_routes());
    routes.extend(guest::routes());
    routes.extend(operations::routes());
    routes.extend([
        events::route(),
        Route::get("/health", "getHealth", in_section(&GENERAL, info::health))
            .role(Role::Viewer)
            .tag(SERVICE)
            .summary("Whether the service answers, and what it runs on.")
            .output::<info::Health>(200, "It answers."),
    ]);
    routes.extend(docs::routes(SERVICE));
    routes
}

fn vm_routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/vms", "listVMs", in_section(&LIST, vms::list))
            .role(Role::Viewer)
            .tag(VMS)
            .summary("List all VMs, oldest first.")
            .query(labels::QUERY)
            .output::<Vec<dto::Vm>>(200, "The VMs."),
        Route::post("/vms", "createVM", in_section(&CREATE, vms::create))
            .does(Work::Create)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Create a VM with a new, empty disk. Each call creates another one.")
            .input::<dto::CreateBody>()
            .output::<dto::Created>(201, "The VM, which is off."),
        Route::get("/vms/{id}", "getVM", in_section(&GET, vms::get))
            .role(Role::Viewer)
            .tag(VMS)
            .summary("One VM, at once or when it is as is waited for.")
            .query(WAIT_QUERY)
            .waits_for_guest()
            .output::<dto::Vm>(200, "The VM."),
        Route::get("/vms/by-name/{name}", "getVMsByName", in_section(&LIST, vms::by_name))
            .role(Role::Viewer)
            .tag(VMS)
            .summary("The VMs with this name, whatever its case.")
            .output::<Vec<dto::Vm>>(200, "The VMs, or none."),
        Route::put("/vms/{id}", "updateVM", in_section(&UPDATE, vms::update))
            .does(Work::Change)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Change a VM that is off, all or nothing.")
            .input::<dto::UpdateBody>()
            .output::<dto::Updated>(200, "It is so now, or was before.")
            .error(409, "It is not off, or what cannot be changed is given another value."),
        Route::delete("/vms/{id}", "deleteVM", in_section(&DELETE, vms::delete))
            .does(Work::Delete)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Cut the power of a VM and remove it with its disk.")
            .output::<dto::Deleted>(200, "It is gone.")
            .error(409, "It is protected, or the storage of its disk is not mounted, or is no storage directory any more."),
        Route::post("/vms/{id}/start", "startVM", in_section(&START, power::start))
            .does(Work::Start)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Start a VM, or resume a suspended one.")
            .optional_input::<NoFields>()
            .output::<dto::Started>(200, "It runs.")
            .error(409, "It is stopping or rebooting."),
        Route::post("/vms/{id}/stop", "stopVM", in_section(&STOP, power::stop))
            .does(Work::Stop)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Stop a VM by its guest agent, or by force.")
            .query(FORCE)
            .urgency(Urgency::Forced)
            .waits_for_guest()
            .optional_input::<dto::Force>()
            .output::<dto::Stopped>(200, "It is off.")
            .error(409, "It was off before; or it is protected, and was to be turned off by force.")
            .error(422, NO_AGENT),
        Route::post("/vms/{id}/restart", "restartVM", in_section(&RESTART, power::restart))
            .does(Work::Reboot)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Restart a VM by its guest agent, or by force; start one that is off.")
            .query(FORCE)
            .waits_for_guest()
            .optional_input::<dto::Force>()
            .output::<dto::Restarted>(200, "The restart is under way.")
            .error(409, "It is stopping, or a forced stop or a delete of the VM came before it was done.")
            .error(422, NO_AGENT),
        Route::post("/vms/{id}/suspend", "suspendVM", in_section(&SUSPEND, power::suspend))
            .does(Work::Suspend)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Suspend a VM.")
            .optional_input::<NoFields>()
            .output::<dto::Suspended>(200, "It is paused.")
            .error(409, "It is suspended already, or off."),
        Route::post("/vms/{id}/resume", "resumeVM", in_section(&RESUME, power::resume))
            .does(Work::Resume)
            .role(Role::Operator)
            .tag(VMS)
            .summary("Resume a suspended VM.")
            .optional_input::<NoFields>()
            .output::<dto::Resumed>(200, "It runs.")
            .error(409, "It is running already, or off."),
        Route::get("/vms/{id}/console", "openVMConsole", in_section(&CONSOLE, console::open))
            .role(Role::Operator)
            .tag(VMS)
            .summary("The serial console as a WebSocket: bytes are the guest's, text messages notes, and what is sent is typed.")
            .query(crate::api::console::QUERY)
            .output_socket("What was written before comes first, then what is written now."),
    ]
}

fn network_routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/vms/{id}/network-adapters", "listNetworkAdapters", in_section(&ADAPTERS, adapters::list))
            .role(Role::Viewer)
            .tag(ADAPTER)
            .summary("The network adapters of a VM.")
            .output::<Vec<adapters::Adapter>>(200, "The adapters."),
        Route::get("/vms/{id}/addresses", "listVMAddresses", in_section(&ADDRESSES, addresses::list))
            .role(Role::Viewer)
            .tag(ADAPTER)
            .summary("The addresses of a running VM, each with who says so and how long ago. One that several tell is there several times.")
            .output::<Vec<addresses::Address>>(200, "The addresses, by adapter; none while it does not run."),
        Route::post("/vms/{id}/network-adapters", "addNetworkAdapter", in_section(&ADD_ADAPTER, adapters::add))
            .does(Work::Add)
            .role(Role::Operator)
            .tag(ADAPTER)
            .summary("Add a network adapter; a running VM gets it by hot-plug.")
            .input::<adapters::AddBody>()
            .output::<dto::Created>(201, "It is added.")
            .error(409, "There is no free slot, or an address is taken or none is free."),
        Route::put(
            "/vms/{id}/network-adapters/{adapterId}",
            "updateNetworkAdapter",
            in_section(&CHANGE_ADAPTER, adapters::change),
        )
        .does(Work::Change)
        .role(Role::Operator)
        .tag(ADAPTER)
        .summary("Change the port of an adapter on a switch: address, spoofing, isolation, bandwidth; live.")
        .input::<adapters::ChangeBody>()
        .output::<adapters::Changed>(200, "It is changed, or will be at the next start (`pending`).")
        .error(409, "Another adapter on the switch has the address."),
        Route::delete(
            "/vms/{id}/network-adapters/{adapterId}",
            "removeNetworkAdapter",
            in_section(&REMOVE_ADAPTER, adapters::remove),
        )
        .does(Work::Remove)
        .role(Role::Operator)
        .tag(ADAPTER)
        .summary("Remove a network adapter.")
        .output::<dto::Deleted>(200, "It is gone, or will be when the guest lets go of it (`pending`).")
        .error(409, "The guest is suspended, or a forced stop or a delete of the VM came before it was done."),
        Route::get("/switches", "listSwitches", in_section(&LIST_SWITCHES, switches::list))
            .role(Role::Viewer)
            .tag(SWITCHES)
            .summary("List all switches, oldest first.")
            .query(labels::QUERY)
            .output::<Vec<switches::Switch>>(200, "The switches."),
        Route::post("/switches", "createSwitch", in_section(&CREATE_SWITCH, switches::create))
            .does(Work::MakeSwitch)
            .role(Role::Admin)
            .tag(SWITCHES)
            .summary("Create a switch. Each call creates another one.")
            .input::<switches::CreateBody>()
            .output::<dto::Created>(201, "The switch.")
            .error(409, "The adapter carries addresses of the host, or the subnet is in use."),
        Route::get("/switches/{id}", "getSwitch", in_section(&GET_SWITCH, switches::get))
            .role(Role::Viewer)
            .tag(SWITCHES)
            .summary("One switch.")
            .output::<switches::Switch>(200, "The switch."),
        Route::get("/switches/by-name/{name}", "getSwitchesByName", in_section(&LIST_SWITCHES, switches::by_name))
            .role(Role::Viewer)
            .tag(SWITCHES)
            .summary("The switches with this name, whatever its case.")
            .output::<Vec<switches::Switch>>(200, "The switches, or none."),
        Route::put("/switches/{id}", "updateSwitch", in_section(&UPDATE_SWITCH, switches::update))
            .does(Work::ChangeSwitch)
            .role(Role::Admin)
            .tag(SWITCHES)
            .summary("Change a switch with its VMs on it: notes, MTU, subnet and what belongs to it.")
            .input::<switches::UpdateBody>()
            .output::<switches::Updated>(200, "It is changed, with the adapters whose address is another now.")
            .error(409, "The subnet is taken, or port forwards need the NAT that is to go."),
        Route::delete("/switches/{id}", "deleteSwitch", in_section(&DELETE_SWITCH, switches::delete))
            .does(Work::DeleteSwitch)
            .role(Role::Admin)
            .tag(SWITCHES)
            .summary("Delete a switch that no VM uses.")
            .output::<dto::Deleted>(200, "It is gone.")
            .error(409, "VMs use it, or it is protected."),
        Route::get("/switches/{id}/leases", "listSwitchLeases", in_section(&GET_SWITCH, forwards::leases))
            .role(Role::Viewer)
            .tag(SWITCHES)
            .summary("The addresses that adapters have taken from the DHCP of a switch.")
            .output::<Vec<forwards::Lease>>(200, "The leases, by address."),
        Route::get("/switches/{id}/forwards", "listSwitchForwards", in_section(&GET_SWITCH, forwards::list))
            .role(Role::Viewer)
            .tag(SWITCHES)
            .summary("The ports of the host that lead to VMs on a switch.")
            .output::<Vec<forwards::Forward>>(200, "The forwards, in the order in which they were made."),
        Route::post("/switches/{id}/forwards", "addSwitchForward", in_section(&UPDATE_SWITCH, forwards::add))
            .does(Work::AddForward)
            .role(Role::Operator)
            .tag(SWITCHES)
            .summary("Make a port of the host lead to a VM on a switch with NAT. It goes with the VM's adapter.")
            .input::<forwards::ForwardBody>()
            .output::<dto::Created>(201, "It leads there.")
            .error(409, "The port is taken, the switch has no NAT, or the VM no adapter on it."),
        Route::delete(
            "/switches/{id}/forwards/{forwardId}",
            "removeSwitchForward",
            in_section(&UPDATE_SWITCH, forwards::remove),
        )
        .does(Work::RemoveForward)
        .role(Role::Operator)
        .tag(SWITCHES)
        .summary("Remove a port forward.")
        .output::<dto::Deleted>(200, "It is gone."),
    ]
}

/// The OpenAPI document of this dialect where it is mounted at `server`: `/` or `/hyperv`.
pub fn openapi(server: &'static str) -> Value {
    let about = About {
        title: "qherd, Hyper-V dialect",
        version: env!("CARGO_PKG_VERSION"),
        description: "Manages virtual machines and switches by stable Ids; compatible with the Hyper-V API overlay.",
        server,
        error: |generator: &mut SchemaGenerator| generator.subschema_for::<ErrorBody>(),
        operation: |generator: &mut SchemaGenerator| generator.subschema_for::<operations::OperationBody>(),
        path_params: &[
            PathParam { name: "id", description: "The Id of the VM or switch.", format: Some("uuid") },
            PathParam { name: "operationId", description: "The Id of the operation.", format: Some("uuid") },
            PathParam { name: "name", description: "The whole name, in any case.", format: None },
            PathParam { name: "forwardId", description: "The Id of the port forward.", format: Some("uuid") },
            docs::FILE,
            PathParam { name: "adapterId", description: "The Id of the network adapter.", format: Some("uuid") },
        ],
    };
    document(&about, routes().iter().map(|route| &route.info))
}

/// The table over a service, mounted at `server`.
pub fn table(service: Arc<Service>, server: &'static str) -> Table {
    // On a listener of its own there is no other dialect to lead to.
    let place = (server == "/hyperv").then_some("/hyperv/docs");
    let docs = Arc::new(Docs::new(openapi(server), place));
    let table = Table::new(Shared { service, docs }, routes());
    table.errors(http_error).operations(operations::shape).dialect("hyperv")
}
