//! The switch of a place: what was acknowledged of it, and what may be so.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    model::Outcome,
    operation::{Operation, SwitchChange},
};

/// What of a switch's definition is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    pub mtu: Option<u64>,
    /// Which of the place's two; a private one has none.
    pub subnet: Option<usize>,
    pub nat: bool,
    /// By the port of the host, the number of the NIC that each leads to. It goes with the NIC.
    pub forwards: BTreeMap<u64, u64>,
}

impl Definition {
    /// As the API tells it, of a place with these subnets; where a forward leads is not told by the NIC's number, but is
    /// one of what `known` says.
    pub fn read(switch: &Value, forwards: &Value, subnets: &[String; 2], known: &BTreeMap<u64, u64>) -> Self {
        let ports = forwards.as_array().unwrap().iter().map(|forward| forward["host_port"].as_u64().unwrap());
        Self {
            mtu: switch["mtu"].as_u64(),
            subnet: subnets.iter().position(|subnet| switch["subnet"] == subnet.as_str()),
            nat: switch["nat"] == true,
            forwards: ports.map(|port| (port, known.get(&port).copied().unwrap_or_default())).collect(),
        }
    }

    /// Once an operation on it is done; `nic` is the one with the lowest number.
    fn after(mut self, operation: &Operation, nic: Option<u64>) -> Self {
        match operation {
            Operation::ChangeSwitch(SwitchChange::Mtu(mtu)) => self.mtu = *mtu,
            Operation::ChangeSwitch(SwitchChange::Subnet(which)) => self.subnet = Some(*which),
            Operation::ChangeSwitch(SwitchChange::Nat(nat)) => self.nat = *nat,
            Operation::AddForward(port) => {
                self.forwards.insert(*port, nic.unwrap_or_default());
            }
            Operation::RemoveForward => {
                self.forwards.pop_first();
            }
            _ => {}
        }
        self
    }

    /// Without forwards to NICs that are no more.
    pub fn with_nics(mut self, there: impl Fn(u64) -> bool) -> Self {
        self.forwards.retain(|_, nic| there(*nic));
        self
    }
}

/// As it may be now.
#[derive(Clone, Debug)]
pub struct Switch {
    /// No other switch of the run has it.
    pub name: String,
    /// Unknown while its creation was not answered.
    pub id: Option<String>,
    pub may_be_absent: bool,
    pub definitions: Vec<Definition>,
}

impl Switch {
    /// A lane ends with the first request that is not answered, so there is one.
    pub fn definition(&self) -> Definition {
        self.definitions.last().cloned().unwrap_or_default()
    }
}

/// What an operation on the switch of a place, named so, has made of it; `nic` is the one with the lowest number.
pub fn learn(
    switch: &mut Option<Switch>,
    operation: &Operation,
    outcome: Outcome,
    (name, id): (&str, Option<&str>),
    nic: Option<u64>,
) {
    match (operation, outcome, switch) {
        (_, Outcome::Refused, _) => {}
        (Operation::MakeSwitch { private, nat }, _, switch) => {
            let subnet = (!private).then_some(0);
            *switch = Some(Switch {
                name: name.into(),
                id: id.map(str::to_owned),
                may_be_absent: outcome == Outcome::Unanswered,
                definitions: vec![Definition { subnet, nat: *nat && !private, ..Definition::default() }],
            });
        }
        (Operation::RemoveSwitch, Outcome::Acknowledged, switch) => *switch = None,
        (Operation::RemoveSwitch, _, Some(switch)) => switch.may_be_absent = true,
        (operation, outcome, Some(switch)) => {
            let after = switch.definition().after(operation, nic);
            if outcome == Outcome::Acknowledged {
                switch.definitions.clear();
            }
            switch.definitions.push(after);
        }
        (_, _, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_as_it_was_acknowledged_or_as_it_may_be() {
        let mut place = None;
        let make = Operation::MakeSwitch { private: false, nat: true };
        learn(&mut place, &make, Outcome::Acknowledged, ("one", Some("id")), None);
        let change = Operation::ChangeSwitch(SwitchChange::Mtu(Some(1400)));
        learn(&mut place, &change, Outcome::Refused, ("one", None), None);
        let made = Definition { subnet: Some(0), nat: true, ..Definition::default() };
        assert_eq!(place.as_ref().unwrap().definition(), made);
        learn(&mut place, &Operation::AddForward(7), Outcome::Acknowledged, ("one", None), Some(3));
        let forwards = BTreeMap::from([(7, 3)]);
        let forwarding = Definition { forwards, ..made.clone() };
        assert_eq!(place.as_ref().unwrap().definition(), forwarding);
        learn(&mut place, &change, Outcome::Unanswered, ("one", None), None);
        let changed = Definition { mtu: Some(1400), ..forwarding.clone() };
        assert_eq!(place.as_ref().unwrap().definitions, [forwarding.clone(), changed]);
        assert_eq!(forwarding.with_nics(|nic| nic != 3), made, "it goes with its NIC");
        learn(&mut place, &Operation::RemoveSwitch, Outcome::Unanswered, ("one", None), None);
        assert!(place.as_ref().unwrap().may_be_absent);
        learn(&mut place, &Operation::RemoveSwitch, Outcome::Acknowledged, ("one", None), None);
        assert!(place.is_none());
    }
}
