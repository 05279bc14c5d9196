//! The rows of the route table that are about switches and the port forwards of their VMs.

use super::{
    Shared,
    error::{Endpoint, NotFound, endpoint},
    forwards, switches,
};
use crate::{
    api::{
        http::{Route, in_section},
        labels,
    },
    model::Role,
    service::operations::Work,
};

const SWITCH_CREATE: Endpoint = endpoint(NotFound::Colon, "Internal error during switch creation.");
const SWITCH_UPDATE: Endpoint = endpoint(NotFound::Colon, "Internal error during switch update.");
const SWITCH_DELETE: Endpoint = endpoint(NotFound::Colon, "Internal error during switch deletion.");
const SWITCHES: Endpoint = endpoint(NotFound::Colon, "Internal server error while retrieving switches.");

const NETWORKS: &str = "Networks";

pub fn routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/switches", "listSwitches", in_section(&SWITCHES, switches::list))
            .role(Role::Viewer)
            .tag(NETWORKS)
            .summary("The virtual switches, oldest first.")
            .query(labels::QUERY)
            .output::<Vec<switches::SwitchFields>>(200, "The switches."),
        Route::post("/switches", "createSwitch", in_section(&SWITCH_CREATE, switches::create))
            .does(Work::MakeSwitch)
            .role(Role::Admin)
            .tag(NETWORKS)
            .summary("Make a virtual switch: private, internal (with the host) or external (with an adapter).")
            .input::<switches::SwitchBody>()
            .output::<switches::SwitchFields>(201, "The switch.")
            .error(409, "The subnet or the adapter is taken, or the adapter carries addresses of the host."),
        Route::get("/switches/{id}", "getSwitch", in_section(&SWITCHES, switches::details))
            .role(Role::Viewer)
            .tag(NETWORKS)
            .summary("One switch, with the VMs on it and the addresses that it has given out.")
            .output::<switches::SwitchFields>(200, "The switch."),
        Route::put("/switches/{id}", "updateSwitch", in_section(&SWITCH_UPDATE, switches::update))
            .does(Work::ChangeSwitch)
            .role(Role::Admin)
            .tag(NETWORKS)
            .summary("Change a switch with its VMs on it: notes, MTU, subnet and what belongs to it.")
            .input::<switches::SwitchUpdate>()
            .output::<switches::SwitchChanged>(200, "The switch, and the NICs whose address is another now.")
            .error(409, "The subnet is taken, or port forwards need the NAT that is to go."),
        Route::delete("/switches/{id}", "deleteSwitch", in_section(&SWITCH_DELETE, switches::delete))
            .does(Work::DeleteSwitch)
            .role(Role::Admin)
            .tag(NETWORKS)
            .summary("Remove a switch that no VM uses.")
            .output::<switches::SwitchDone>(200, "It is gone.")
            .error(409, "VMs use it, or it is protected."),
        Route::get("/switches/{id}/leases", "listSwitchLeases", in_section(&SWITCHES, forwards::leases))
            .role(Role::Viewer)
            .tag(NETWORKS)
            .summary("The addresses that NICs have taken from the DHCP of a switch.")
            .output::<Vec<forwards::LeaseFields>>(200, "The leases, by address."),
        Route::get("/switches/{id}/forwards", "listSwitchForwards", in_section(&SWITCHES, forwards::list))
            .role(Role::Viewer)
            .tag(NETWORKS)
            .summary("The ports of the host that lead to VMs on a switch.")
            .output::<Vec<forwards::ForwardFields>>(200, "The forwards, in the order in which they were made."),
        Route::post("/switches/{id}/forwards", "addSwitchForward", in_section(&SWITCH_UPDATE, forwards::add))
            .does(Work::AddForward)
            .role(Role::Operator)
            .tag(NETWORKS)
            .summary("Make a port of the host lead to a VM on a switch with NAT. It goes with the VM's NIC.")
            .input::<forwards::ForwardBody>()
            .output::<forwards::ForwardFields>(201, "It leads there.")
            .error(404, "There is no such switch, VM or NIC.")
            .error(409, "The port is taken, the switch has no NAT, or the VM no NIC on it."),
        Route::delete(
            "/switches/{id}/forwards/{forward}",
            "removeSwitchForward",
            in_section(&SWITCH_UPDATE, forwards::remove),
        )
        .does(Work::RemoveForward)
        .role(Role::Operator)
        .tag(NETWORKS)
        .summary("Remove a port forward.")
        .output::<forwards::ForwardDone>(200, "It is gone.")
        .error(404, "There is no such switch, or no such forward."),
    ]
}
