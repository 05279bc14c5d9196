//! The documents and the code say the same: every link leads to a file, and what docs/architecture.md shows of the core is
//! what the core does.

use crate::support_golden as golden;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use qherd::{
    model::{Ending, ProcessId, Sandbox, Upkeep, VmSpec},
    vm::core::{
        Answer, Bounds, Facts, Found, Goal, Guest, Held, Lane, Look, Now, Outcome, Patience, Record, Report, Request,
        Run, RunRecord, Sight, StartedWith, Step, StepReport, absorb, admit, plan, recover, status,
    },
};
use serde_json::json;

const DOCUMENT: &str = "docs/architecture.md";

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn documents() -> Vec<PathBuf> {
    let here = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    let folders = ["docs", "docs/adr"].map(|folder| root().join(folder).read_dir().unwrap());
    let below = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    here.into_iter().chain(below.filter(|path| path.extension().is_some_and(|kind| kind == "md"))).collect()
}

/// Where the links of a text lead, but for those into the world.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let paths = targets.map(|target| target.split('#').next().unwrap_or_default());
    paths.filter(|path| !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:"))
}

#[test]
fn every_link_leads_to_a_file() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let beside = document.parent().unwrap();
        let missing = links(&text).filter(|link| !beside.join(link).exists());
        broken.extend(missing.map(|link| format!("{}: {link}", document.display())));
    }
    assert_eq!(broken, [] as [String; 0]);
    let text = std::fs::read_to_string(root().join(DOCUMENT)).unwrap();
    assert!(links(&text).filter(|link| Path::new(link).extension().is_some_and(|kind| kind == "rs")).count() > 20);
}

/// Compares a part of the document, between its marks, or rewrites it when `scripts/bless` asks for it.
#[track_caller]
fn compare(part: &str, generated: &str) {
    let path = root().join(DOCUMENT);
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- generated: {part} -->\n```text\n"), "```\n<!-- end -->");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{DOCUMENT} has no part {part}"));
    let (there, after) = rest.split_once(end).unwrap();
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(&path, format!("{before}{begin}{generated}{end}{after}")).unwrap();
    } else {
        assert_eq!(there, generated, "{part} of {DOCUMENT}; if that is meant, run scripts/bless and read the diff");
    }
}

const NOW: Now = Now { wall: 1_000_000, monotonic: 50_000, uptime: 50_000 };
const BOUNDS: Bounds = Bounds { memory: 4096, closing: false, ends_vms: false };

/// With a disk, and a NIC on a switch.
fn stopped() -> Facts {
    let id = |last: u8| format!("1b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e{last}");
    let disk = json!({
        "name": "root", "layer": id(7), "file": "/i/root.qcow2", "size": 1, "clone": "linked", "base": null, "io_limits": null, "slot": null
    });
    let nic = json!({
        "id": id(5), "name": "net0", "label": "a", "mac": "52:54:00:12:34:56", "slot": 1, "queues": 1,
        "backend": { "switch": { "switch": id(6), "address": null, "allow_spoofing": false } }
    });
    let spec: VmSpec = serde_json::from_value(json!({
        "id": id(4), "name": "a", "created_at": 0,
        "machine": {
            "profile": "q35", "machine_type": "q", "bus": { "kind": "pcie", "hotplug_ports": 8 }, "rng": true, "balloon": true,
            "pvpanic": true, "virtio_mem": true
        },
        "vcpus": 1, "max_vcpus": 4, "max_vcpus_given": false, "memory": 64, "max_memory": 512, "max_memory_given": true,
        "cpu_pinning": null, "disks": [disk], "disks_added": 0, "nics": [nic], "nics_added": 1
    }))
    .unwrap();
    let run = RunRecord {
        state: Run::Down { last: Ending::Clean },
        goal: Goal::Rest,
        upkeep: Upkeep::default(),
        held: Held::default(),
        unmade: [].into(),
        reported: Default::default(),
        frozen: None,
        failed_start: None,
    };
    let record = Record { definition: Arc::new(spec), run };
    let mut facts = recover(record, Found::Nothing, NOW, BOUNDS);
    absorb(&mut facts, NOW, Report::Sight(Sight::Time));
    Diagram::default().follow(&mut facts, &[]);
    facts
}

/// What a host reports on which everything works.
fn outcome(step: &Step, facts: &Facts) -> Outcome {
    Outcome::Done(match step {
        Step::Spawn => StepReport::Spawned {
            process: ProcessId { pid: 7, starttime: 1, boot_id: "b".into() },
            with: StartedWith {
                fitted: facts.record.definition.clone(),
                hotplug_memory: 448,
                sandbox: Sandbox::default(),
            },
        },
        Step::FindFiles => StepReport::Missing(None),
        // A guest does as it was asked to.
        Step::Look { .. } if facts.goal().is_stop() && facts.seen.requested.is_some() => {
            StepReport::Guest(Look::PoweredOff)
        }
        Step::Look { .. } => StepReport::Guest(Look::Is(Guest::Running)),
        _ => StepReport::Done,
    })
}

fn word(of: &impl std::fmt::Debug) -> String {
    let text = format!("{of:?}");
    text.split(['(', '{', ' ']).next().unwrap_or_default().to_owned()
}

/// Round by round: the steps of one round run side by side, and the next begins when they have reported.
#[derive(Default)]
struct Diagram {
    lanes: Vec<String>,
    rounds: Vec<(BTreeMap<String, String>, String, String)>,
}

impl Diagram {
    /// Until nothing is left to be done. Each sight of `seen` comes with the report of the step that it is named for.
    fn follow(&mut self, facts: &mut Facts, seen: &[(&str, Sight)]) {
        for _ in 0..40 {
            let next = plan(facts);
            if next.start.is_empty() {
                return;
            }
            facts.begin(&next);
            let mut cells = BTreeMap::new();
            for step in &next.start {
                let lane = word(&step.lane());
                if !self.lanes.contains(&lane) {
                    self.lanes.push(lane.clone());
                }
                cells.insert(lane, word(step));
            }
            let mut answers = Vec::new();
            for step in &next.start {
                let report = Report::Outcome(step.lane(), outcome(step, facts));
                answers.extend(absorb(facts, NOW, report).answers);
                for (_, sight) in seen.iter().filter(|(after, _)| *after == word(step)) {
                    answers.extend(absorb(facts, NOW, Report::Sight(sight.clone())).answers);
                }
            }
            let answers: Vec<String> = answers.iter().map(|(_, answer)| reported(answer)).collect();
            self.rounds.push((cells, format!("{:?}", status(facts)).to_lowercase(), answers.join(", ")));
        }
        panic!("it does not come to rest");
    }

    fn draw(&self) -> String {
        let line = |cells: Vec<&str>| {
            let cells: String = cells.iter().map(|cell| format!("{cell:<15}")).collect();
            cells.trim_end().to_owned() + "\n"
        };
        let heads = self.lanes.iter().map(String::as_str).chain(["status then", "answer"]).collect();
        let mut text = line(heads);
        for (cells, status, answer) in &self.rounds {
            let steps = self.lanes.iter().map(|lane| cells.get(lane).map_or("·", String::as_str));
            text += &line(steps.chain([status.as_str(), answer.as_str()]).collect());
        }
        text
    }
}

fn reported(answer: &qherd::model::Result<Answer>) -> String {
    match answer {
        Ok(answer) => word(answer),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_document_shows_what_the_core_does() {
    compare("the table", &golden::kept("core"));

    let mut facts = stopped();
    let mut diagram = Diagram::default();
    admit(&mut facts, NOW, 1, Request::Start, false);
    diagram.follow(&mut facts, &[]);
    compare("a start", &diagram.draw());

    let mut diagram = Diagram::default();
    let patience = Patience { time: 60_000, agent_only: false };
    admit(&mut facts, NOW, 2, Request::Stop(patience), false);
    let exited = Sight::Exited("QEMU ended with exit status 0".to_owned());
    diagram.follow(&mut facts, &[("AskGuest", Sight::Halted), ("Quit", exited)]);
    compare("a stop", &diagram.draw());

    compare("the lanes", &lanes());
}

/// Each lane with its steps.
fn lanes() -> String {
    let spec = stopped().record.definition;
    let mut lanes: BTreeMap<Lane, Vec<String>> = BTreeMap::new();
    for step in every_step(&spec.disks[0], &spec.nics[0]) {
        let star = if step.may_be_cut() { "*" } else { "" };
        lanes.entry(step.lane()).or_default().push(word(&step) + star);
    }
    let mut text = String::new();
    for (lane, steps) in lanes {
        let mut line = format!("{:<12}", word(&lane));
        for step in steps {
            if line.len() + step.len() > 110 {
                text += &format!("{}\n", line.trim_end());
                line = " ".repeat(12);
            }
            line += &format!("{step} ");
        }
        text += &format!("{}\n", line.trim_end());
    }
    text
}

/// One of each.
fn every_step(disk: &qherd::model::Disk, nic: &qherd::model::Nic) -> Vec<Step> {
    use qherd::vm::core::{DiskNo, Mode, Txn};
    let (no, nic_of, disk) = (DiskNo(0), || Box::new(nic.clone()), Box::new(disk.clone()));
    let txn = Txn { number: 1, record: None, is_wish: false, tells: Default::default() };
    let steps = vec![
        Step::Commit(Box::new(txn)),
        Step::Kill,
        Step::EndStrays,
        Step::Prepare,
        Step::Spawn,
        Step::Greet,
        Step::Tune,
        Step::Continue,
        Step::Pause,
        Step::Reset,
        Step::Quit,
        Step::GoOn,
        Step::Connect,
        Step::Look { devices: true },
        Step::AskGuest { mode: Mode::PowerOff, by_agent: true, agent_only: false },
        Step::PressButton,
        Step::Freeze,
        Step::Thaw,
        Step::FindFiles,
        Step::CheckRemovable,
        Step::Erase { half_made: false },
        Step::RemoveRunFiles,
        Step::CheckImage(no),
        Step::MakeImage(no, 1),
        Step::RemoveImage(no),
        Step::GrowImage(no, 1),
        Step::PlugDisk(disk),
        Step::ReleaseDisk(no),
        Step::CloseDisk(no),
        Step::ResizeDisk(no, 1),
        Step::ThrottleDisk(no, None),
        Step::ConnectNic(nic_of()),
        Step::AdoptNic(nic_of()),
        Step::DisconnectNic(nic_of()),
        Step::PlugNic(nic_of()),
        Step::ReleaseNic(nic.id),
        Step::CloseNic(nic.id),
        Step::PutPort(nic_of()),
        Step::SetVcpus(1),
        Step::Pin(None),
        Step::SetMemory(64),
        Step::ReadMemory,
        Step::ExchangeMedium(None),
    ];
    // A step that is added is to be added here as well.
    let source = std::fs::read_to_string(root().join("src/vm/core/step.rs")).unwrap();
    let lanes = source.split_once("pub fn lane(&self)").unwrap().1.split_once("/// The longest").unwrap().0;
    for name in lanes.split("Self::").skip(1).map(|rest| rest.split([' ', '(', '{', '\n']).next().unwrap()) {
        assert!(steps.iter().any(|step| word(step) == name), "{name} is missing");
    }
    steps
}
