//! The NICs of a VM in figures. A tap counts from when it was made; these count from the start of the VM, also
//! over NICs that came out and taps that were made anew.

use std::collections::HashMap;

use crate::{
    model::{NetworkSample, Nic, NicId, NicSample},
    net::Traffic,
};

/// A NIC with what its tap has counted, where it has one.
pub(in crate::vm) type Reading = (Nic, Option<Traffic>);

/// What was counted so far.
#[derive(Default)]
pub(super) struct Counted {
    nics: HashMap<NicId, Counters>,
    /// Of NICs that are out.
    before: NetworkSample,
}

#[derive(Clone, Copy)]
struct Counters {
    last: Traffic,
    total: NetworkSample,
}

impl Counted {
    /// The NICs that QEMU has, and all together unless one of them is not counted.
    pub fn take(&mut self, readings: Vec<Reading>) -> (Vec<NicSample>, Option<NetworkSample>) {
        let there = |id: &NicId| readings.iter().any(|(nic, _)| nic.id == *id);
        for (_, nic) in self.nics.extract_if(|id, _| !there(id)) {
            self.before = sum(self.before, nic.total);
        }
        let samples: Vec<NicSample> = readings
            .iter()
            .map(|(nic, traffic)| {
                let traffic = traffic.map(|now| self.nic(nic.id, now));
                NicSample { id: nic.id, name: nic.name.clone(), traffic }
            })
            .collect();
        let together = samples.iter().map(|nic| nic.traffic).collect::<Option<Vec<_>>>();
        // A VM without NICs has nothing to count.
        let together = together.filter(|nics| !nics.is_empty());
        let together = together.map(|nics| {
            let now = nics.into_iter().reduce(sum).unwrap_or_default();
            let rates = (now.in_packets, now.out_packets);
            let all = sum(self.before, now);
            NetworkSample { in_packets: rates.0, out_packets: rates.1, ..all }
        });
        (samples, together)
    }

    fn nic(&mut self, id: NicId, now: Traffic) -> NetworkSample {
        let Some(nic) = self.nics.get_mut(&id) else {
            let total = NetworkSample {
                in_bytes: now.in_bytes,
                out_bytes: now.out_bytes,
                dropped: now.in_dropped + now.out_dropped,
                ..NetworkSample::default()
            };
            self.nics.insert(id, Counters { last: now, total });
            return total;
        };
        let last = std::mem::replace(&mut nic.last, now);
        // The tap was not read since: what was known still holds.
        if now.at == last.at {
            return nic.total;
        }
        // Less than before: another tap, which began at 0.
        let anew = now.in_bytes < last.in_bytes || now.out_bytes < last.out_bytes;
        let since = |of: fn(&Traffic) -> u64| if anew { of(&now) } else { of(&now).saturating_sub(of(&last)) };
        let seconds = (now.at - last.at).as_secs_f64();
        let rate = |of: fn(&Traffic) -> u64| Some((since(of) as f64 / seconds).round() as u64);
        nic.total = NetworkSample {
            in_bytes: nic.total.in_bytes + since(|t| t.in_bytes),
            out_bytes: nic.total.out_bytes + since(|t| t.out_bytes),
            in_packets: rate(|t| t.in_packets),
            out_packets: rate(|t| t.out_packets),
            dropped: nic.total.dropped + since(|t| t.in_dropped + t.out_dropped),
        };
        nic.total
    }
}

fn sum(one: NetworkSample, other: NetworkSample) -> NetworkSample {
    // A NIC that has just come has no rate yet, and that is no 0.
    let rate = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
    NetworkSample {
        in_bytes: one.in_bytes + other.in_bytes,
        out_bytes: one.out_bytes + other.out_bytes,
        in_packets: rate(one.in_packets, other.in_packets),
        out_packets: rate(one.out_packets, other.out_packets),
        dropped: one.dropped + other.dropped,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::{MacAddr, NicBackend};

    fn nic(name: &str) -> Nic {
        Nic {
            id: NicId::random(),
            name: name.into(),
            label: "Network Adapter".into(),
            mac: MacAddr::random(),
            slot: Some(1),
            queues: 1,
            backend: NicBackend::User { forwards: Vec::new() },
        }
    }

    fn traffic(at: Instant, bytes: u64, packets: u64) -> Traffic {
        Traffic {
            at,
            in_bytes: bytes,
            in_packets: packets,
            in_dropped: 0,
            out_bytes: 2 * bytes,
            out_packets: 2 * packets,
            out_dropped: 1,
        }
    }

    #[test]
    fn totals_outlive_taps_and_nics_and_rates_are_of_the_time_between() {
        let (one, two) = (nic("net0"), nic("net1"));
        let begin = Instant::now();
        let later = begin + Duration::from_secs(2);
        let mut counted = Counted::default();
        let first = counted.take(vec![(one.clone(), Some(traffic(begin, 100, 10)))]).1.unwrap();
        assert_eq!((first.in_bytes, first.out_bytes, first.in_packets), (100, 200, None));
        let again = counted.take(vec![(one.clone(), Some(traffic(later, 300, 30)))]).1.unwrap();
        assert_eq!((again.in_bytes, again.in_packets, again.out_packets), (300, Some(10), Some(20)));
        // A new tap begins at 0; a second NIC has no rate yet.
        let much_later = later + Duration::from_secs(2);
        let both = vec![(one.clone(), Some(traffic(much_later, 50, 4))), (two, Some(traffic(much_later, 1, 1)))];
        let (each, all) = counted.take(both);
        assert_eq!(each[0].traffic.map(|t| (t.in_bytes, t.in_packets, t.dropped)), Some((350, Some(2), 2)));
        assert_eq!(all.map(|t| (t.in_bytes, t.in_packets)), Some((351, None)));
        // One NIC goes; what it carried stays in the sum.
        let end = much_later + Duration::from_secs(2);
        let all = counted.take(vec![(one, Some(traffic(end, 60, 6)))]).1.unwrap();
        assert_eq!((all.in_bytes, all.in_packets), (361, Some(1)));
    }

    #[test]
    fn what_is_not_counted_is_not_zero() {
        let (counted, user) = (nic("net0"), nic("net1"));
        let now = Some(traffic(Instant::now(), 5, 5));
        let (each, all) = Counted::default().take(vec![(counted, now), (user, None)]);
        assert_eq!((each[0].traffic.is_some(), each[1].traffic, all), (true, None, None));
        assert_eq!(Counted::default().take(Vec::new()), (Vec::new(), None));
    }
}
