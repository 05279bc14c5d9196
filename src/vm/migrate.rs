//! Records of earlier versions, brought up to the present one step by step. Each step works on plain JSON and never
//! changes again: the types of today know nothing of yesterday.

use serde_json::{Value, json};

/// # Errors
/// For a version that never was, or data that is not of its version.
pub(super) fn record(from: u32, mut data: Value) -> Result<Value, String> {
    if from != 1 {
        return Err(format!("nothing here knows version {from}"));
    }
    complete_nics(data.get_mut("spec").ok_or("it has no definition")?)?;
    if let Some(in_effect) = data.get_mut("run").and_then(|run| run.get_mut("in_effect")) {
        complete_nics(in_effect)?;
    }
    Ok(data)
}

/// 1 to 2: a NIC had no id and one kind of backend. An id that is the VM's with the NIC's own digits at its end is
/// the same at every reading.
fn complete_nics(spec: &mut Value) -> Result<(), String> {
    let id = spec["id"].as_str().and_then(|id| id.get(..30)).ok_or("the VM has no id")?.to_owned();
    let nics = spec["nics"].as_array_mut().ok_or("the VM has no list of NICs")?;
    for nic in nics.iter_mut() {
        let mac = nic["mac"].as_str().ok_or("a NIC has no MAC address")?;
        let digits: String = mac.chars().filter(char::is_ascii_hexdigit).skip(6).collect();
        nic["id"] = format!("{id}{digits}").into();
        nic["label"] = "Network Adapter".into();
        nic["slot"] = Value::Null;
        nic["queues"] = 1.into();
        nic["backend"] = json!({ "user": { "forwards": [] } });
    }
    let added = nics.len();
    spec["nics_added"] = added.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NicBackend, Run, VmRecord};

    #[test]
    fn a_record_of_version_1_becomes_one_of_today() {
        for line in include_str!("../../tests/fixtures/store/vm-1.jsonl").lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let old = &line["value"]["data"];
            let new: VmRecord = serde_json::from_value(record(1, old.clone()).unwrap()).unwrap();
            let mut specs = vec![&new.spec];
            if let Run::Live(run) = &new.run {
                assert_eq!(run.in_effect.nics, new.spec.nics);
                specs.push(&run.in_effect);
            }
            for spec in specs {
                let [nic] = &spec.nics[..] else { panic!("{:?}", spec.nics) };
                assert_eq!((nic.slot, nic.queues, spec.nics_added), (None, 1, 1));
                assert_eq!(nic.backend, NicBackend::User { forwards: Vec::new() });
                assert_eq!(nic.id.to_string()[..30], spec.id.to_string()[..30]);
                assert_eq!(serde_json::to_value(nic.mac).unwrap(), old["spec"]["nics"][0]["mac"]);
            }
        }
        assert!(record(0, json!({})).is_err() && record(1, json!({})).is_err());
    }
}
