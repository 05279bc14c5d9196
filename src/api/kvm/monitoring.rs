//! The rows of the route table about what a VM does and says: its figures, its console and its logs.

use super::{
    Shared, addresses, console,
    error::{Endpoint, NotFound, endpoint},
    logs, performance,
};
use crate::{
    api::http::{QueryParam, Route, in_section},
    model::Role,
};

const PERFORMANCE: Endpoint = endpoint(NotFound::Short, "Internal error during performance metrics retrieval.");
const ADDRESSES: Endpoint = endpoint(NotFound::Colon, "Internal error while looking for addresses.");
const CONSOLE_LOG: Endpoint = endpoint(NotFound::Colon, "Internal error while reading the console log.");
const CONSOLE: Endpoint = endpoint(NotFound::Colon, "Internal error while opening the console.");

const MONITORING: &str = "Monitoring";

const CONSOLE_QUERY: &[QueryParam] = &[
    QueryParam::whole("tail", 1, i64::MAX, "The last so many lines; default 1000."),
    QueryParam::boolean(
        "plain",
        "Without what a terminal would act on: colours, titles, cursor movements and the like are left out, so that a guest does \
         nothing to who looks at it; default false, as the guest wrote it. `\\u001b[32mok\\u001b[0m` is `ok` then.",
    ),
];
const LOGS_QUERY: &[QueryParam] = &[
    QueryParam::one_of(
        "source",
        &["console", "qemu"],
        "Whose words; default console. Of QEMU's there are those of the last run.",
    ),
    QueryParam::boolean("follow", "Goes on with what is written from now on, over all runs; default false."),
    QueryParam::text(
        "since",
        "Only what was written since: a time (RFC 3339), seconds since 1970, or how long ago (`10m`).",
    ),
    QueryParam::whole(
        "tail",
        1,
        i64::MAX,
        "At most the last so many lines of what was written before; default 1000, and all with `since`.",
    ),
    QueryParam::boolean(
        "timestamps",
        "Each line begins with the time at which the log had it, which is within 2 s; `-` where it is not known any more. Default false.",
    ),
    QueryParam::boolean("plain", "Without what a terminal would act on; default false."),
];
const LOGS_EXAMPLE: &str = "2026-01-31T12:00:00.000Z guest login: ";
const CONSOLE_EXAMPLE: &str = "[    0.000000] Linux version 6.1.0-40-cloud-amd64\nguest login: ";

pub fn routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/vms/{id}/performance", "getVMPerformanceMetrics", in_section(&PERFORMANCE, performance::performance))
            .role(Role::Viewer)
            .tag(MONITORING)
            .summary("Figures of a running VM.")
            .output::<performance::Performance>(200, "The last sampling.")
            .error(404, "There is no such VM, or it does not run."),
        Route::get("/vms/{id}/addresses", "listVMAddresses", in_section(&ADDRESSES, addresses::list))
            .role(Role::Viewer)
            .tag(MONITORING)
            .summary("The addresses of a running VM, each with who says so and how long ago. One that several tell is there several times.")
            .output::<Vec<addresses::AddressRow>>(200, "The addresses, by NIC; none while it does not run."),
        Route::get("/vms/{id}/console", "openVMConsole", in_section(&CONSOLE, console::open))
            .role(Role::Operator)
            .tag(MONITORING)
            .summary(
                "The serial console as a WebSocket. Binary messages to the client are what the guest writes, text messages notes about \
                 it, for people; what the client sends is typed. One types, or several who all say `shared`; the others watch, and are told so.",
            )
            .query(crate::api::console::QUERY)
            .output_socket("What was written before comes first, then what is written now."),
        Route::get("/vms/{id}/console/log", "getVMConsoleLog", in_section(&CONSOLE_LOG, console::log))
            .role(Role::Operator)
            .tag(MONITORING)
            .summary("The last lines of the guest's serial output.")
            .query(CONSOLE_QUERY)
            .output_text(206, "The range that was asked for; of `plain` there are none.", "login: ")
            .error(416, "The range begins beyond the end.")
            .output_text(200, "Text, over all runs of the VM; at most 16 MiB are kept, and 1 MiB of what comes while no daemon runs.", CONSOLE_EXAMPLE),
        Route::get("/vms/{id}/logs", "getVMLogs", in_section(&CONSOLE_LOG, logs::logs))
            .role(Role::Operator)
            .tag(MONITORING)
            .summary("What the guest wrote on its console, or QEMU complained of; with times, and as it comes.")
            .query(LOGS_QUERY)
            .output_stream("Lines. With `follow` it ends with the VM, or the daemon.", "text/plain", LOGS_EXAMPLE),
    ]
}
