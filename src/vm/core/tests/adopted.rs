//! What an earlier daemon has left: its records, and what it had begun of a VM that runs.

use super::*;

#[test]
fn a_vcpu_that_an_earlier_daemon_made_and_did_not_bind_is_bound() {
    let facts = up();
    let mut stored = facts.stored.clone();
    let pinning = crate::model::CpuPinning { cores: vec![0], ..Default::default() };
    let Run::Up(up) = &mut stored.run.state else { panic!("it is up") };
    for spec in [&mut stored.definition, &mut up.in_effect] {
        Arc::make_mut(spec).cpu_pinning = Some(pinning.clone());
    }
    Arc::make_mut(&mut stored.definition).vcpus = 2;
    let mut facts = recover(stored, Found::Alive, NOW, BOUNDS);
    see(&mut facts, Sight::Time);
    end(&mut facts, Lane::Monitor, StepReport::Connected { agent: false });
    let (disks, look) = (vec![DiskNo(0), DiskNo(1)], Look::Is(Guest::Running));
    end(&mut facts, Lane::Look, StepReport::Devices { look, disks, nics: Vec::new(), vcpus: 2 });
    assert_eq!(facts.up().unwrap().in_effect.vcpus, 2);
    assert_eq!(facts.in_flight.get(&Lane::Pin), Some(&Step::Pin(Some(Box::new(pinning)))));
}

#[test]
fn records_are_read_as_they_were_written() {
    for mut facts in [down(), up()] {
        facts.note_effect(|spec| spec.disks.iter_mut().for_each(|disk| disk.file = Default::default()));
        let text = serde_json::to_string(&facts.record.run).unwrap();
        assert_eq!(serde_json::from_str::<RunRecord>(&text).unwrap(), facts.record.run);
    }
}
