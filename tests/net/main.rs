//! Switches, ports and rules on the host, in network namespaces of their own. A file is a subject.

#[path = "../support/groups.rs"]
mod groups;
#[path = "../support/hyperv.rs"]
mod hyperv;
#[path = "../support/lab.rs"]
mod lab;
#[path = "../support/nics.rs"]
mod nics;
#[path = "../support/sockets.rs"]
mod sockets;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/town.rs"]
mod town;
#[allow(dead_code)]
#[path = "../support/warden.rs"]
mod warden;

mod broken_switches;
mod copied_network;
mod net_bandwidth;
mod net_clients;
mod net_deaf;
mod net_dhcp;
mod net_heals;
mod net_heals_links;
mod net_host_addresses;
mod net_lists;
mod net_obstacles;
mod net_ports;
mod net_rules_host;
mod net_rules_ports;
mod net_rules_routed;
mod net_switches;
mod net_truth;
mod net_upgrade;
mod net_waits;
mod nft;
mod nft_cost;
mod switch_crash_points;
mod switch_labels;
mod switch_networks;
mod switch_refusals;
mod switch_services;
mod switch_steps;
mod switch_vlans;
