//! The store as its callers see it, within one process. What survives a kill, a power cut and a full disk is in
//! `tests/store_durability.rs`.

use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// Version 1 counted in GiB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Disk {
    name: String,
    bytes: u64,
}
impl Record for Disk {
    const KIND: &'static str = "disk";
    const VERSION: u32 = 2;

    fn migrate(_: &str, from: u32, mut data: Value) -> Result<Value, String> {
        match (from, data["gib"].as_u64()) {
            (1, Some(gib)) => {
                data["bytes"] = json!(gib << 30);
                Ok(data)
            }
            (1, None) => Err("no size".into()),
            _ => Err(format!("version {from} never existed")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Count(u64);
impl Record for Count {
    const KIND: &'static str = "count";
    const VERSION: u32 = 1;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Owners(Vec<u32>);
impl Record for Owners {
    const KIND: &'static str = "owners";
    const VERSION: u32 = 1;
    const COUNTED: bool = true;
}

fn new_store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    (dir, store)
}

fn reopen(dir: &TempDir, store: Store) -> Store {
    drop(store);
    Store::open(&dir.path().join("db")).unwrap()
}

/// Every record of a kind, each of which must be readable.
fn all<R: Record>(store: &Store) -> Vec<(String, R)> {
    store.scan().unwrap().into_iter().map(|(key, record)| (key, record.unwrap())).collect()
}

fn disk(name: &str, bytes: u64) -> Disk {
    Disk { name: name.into(), bytes }
}

#[tokio::test]
async fn what_is_committed_is_found_again_by_key_and_by_kind() {
    let (dir, store) = new_store();
    let batch = Batch::new().put("b", &disk("b", 2)).unwrap().put("a/ü", &disk("a", 1)).unwrap();
    store.commit(batch.put("b", &Count(7)).unwrap()).await.unwrap();
    let check = |store: &Store| {
        assert_eq!(store.get("b").unwrap(), Some(disk("b", 2)));
        assert_eq!(store.get("b").unwrap(), Some(Count(7)));
        assert_eq!(store.get::<Count>("a/ü").unwrap(), None);
        assert_eq!(all::<Disk>(store), [("a/ü".into(), disk("a", 1)), ("b".into(), disk("b", 2))]);
    };
    check(&store);
    check(&reopen(&dir, store));
}

#[tokio::test]
async fn a_batch_changes_several_kinds_and_its_last_word_counts() {
    let (_dir, store) = new_store();
    store.commit(Batch::new().put("x", &Count(1)).unwrap()).await.unwrap();
    let batch = Batch::new().put("x", &disk("x", 1)).unwrap().remove::<Count>("x");
    store.commit(batch.put("x", &disk("x", 2)).unwrap()).await.unwrap();
    assert_eq!(store.get::<Count>("x").unwrap(), None);
    assert_eq!(store.get("x").unwrap(), Some(disk("x", 2)));
}

#[tokio::test]
async fn of_two_who_read_the_same_generation_one_is_refused_and_nothing_of_its_batch_is_stored() {
    let (dir, store) = new_store();
    let outdated = |outcome: Result<(), StoreError>| {
        assert!(matches!(&outcome, Err(StoreError::Outdated { record }) if record == "owners/a"), "{outcome:?}");
    };
    let put = |owners: &[u32], before| Batch::new().put_over("a", &Owners(owners.to_vec()), before).unwrap();
    outdated(store.commit(put(&[0], Some(1))).await);
    outdated(store.commit(Batch::new().remove_at::<Owners>("a", 1)).await);
    store.commit(put(&[1], None)).await.unwrap();
    outdated(store.commit(put(&[2], None)).await);
    // Both are queued before either is written.
    let first = store.commit(put(&[1, 2], Some(1)).put("first", &Count(1)).unwrap());
    let second = store.commit(put(&[1, 3], Some(1)).put("second", &Count(2)).unwrap().remove::<Count>("first"));
    let beside = store.commit(Batch::new().put("beside", &Count(3)).unwrap());
    first.await.unwrap();
    outdated(second.await);
    beside.await.unwrap();
    let store = reopen(&dir, store);
    assert_eq!(store.get_counted("a").unwrap(), Some((Owners(vec![1, 2]), 2)));
    assert_eq!(all::<Count>(&store), [("beside".into(), Count(3)), ("first".into(), Count(1))]);
    assert_eq!(store.scan_counted::<Owners>().unwrap().pop().unwrap().1.unwrap(), (Owners(vec![1, 2]), 2));
    outdated(store.commit(Batch::new().remove_at::<Owners>("a", 1)).await);
    store.commit(Batch::new().remove_at::<Owners>("a", 2)).await.unwrap();
    assert_eq!(store.get_counted::<Owners>("a").unwrap(), None);
}

#[tokio::test]
async fn within_a_batch_each_change_replaces_what_the_one_before_has_made() {
    let (_dir, store) = new_store();
    let twice = |second| {
        let batch = Batch::new().put_over("a", &Owners(vec![1]), None).unwrap();
        store.commit(batch.put_over("a", &Owners(vec![1, 2]), second).unwrap())
    };
    assert!(matches!(twice(None).await, Err(StoreError::Outdated { .. })));
    twice(Some(1)).await.unwrap();
    assert_eq!(store.get_counted("a").unwrap(), Some((Owners(vec![1, 2]), 2)));
    let gone = Batch::new().remove_at::<Owners>("a", 2).put_over("a", &Owners(vec![3]), None).unwrap();
    store.commit(gone).await.unwrap();
    assert_eq!(store.get_counted("a").unwrap(), Some((Owners(vec![3]), 1)));
}

/// An import brings values as they were exported: also of what nobody counted then.
#[tokio::test]
async fn what_was_stored_without_a_generation_can_be_replaced() {
    let (_dir, store) = new_store();
    let crc = crc32fast::hash(b"[1]");
    store.0.db.insert("owners/a", format!(r#"{{"v":1,"crc":"{crc:08x}","data":[1]}}"#).as_str()).unwrap();
    let (owners, generation) = store.get_counted::<Owners>("a").unwrap().unwrap();
    store.commit(Batch::new().put_over("a", &owners, Some(generation)).unwrap()).await.unwrap();
    assert_eq!(store.get_counted("a").unwrap(), Some((Owners(vec![1]), 1)));
}

#[tokio::test]
async fn a_batch_with_a_record_that_cannot_be_stored_never_comes_to_be() {
    assert!(matches!(Batch::new().put("", &Count(1)), Err(StoreError::Refused { .. })));
    let huge = disk(&"x".repeat(1 << 20), 1);
    assert!(matches!(Batch::new().put("a", &huge), Err(StoreError::Refused { .. })));
}

/// Every envelope ever written by a release must be readable for ever.
#[test]
fn kept_fixtures_are_read_and_brought_up_to_date() {
    let (_dir, store) = new_store();
    for line in include_str!("../../tests/fixtures/store/example.jsonl").lines() {
        #[derive(Deserialize)]
        struct Line<'a> {
            name: String,
            #[serde(borrow)]
            value: &'a serde_json::value::RawValue,
        }
        let line: Line<'_> = serde_json::from_str(line).unwrap();
        store.0.db.insert(line.name, line.value.get()).unwrap();
    }
    let expected = [
        ("new".into(), disk("new", 1536)),
        ("root".into(), disk("root", 20 << 30)),
        ("späte Daten".into(), disk("späte Daten", 0)),
    ];
    assert_eq!(all::<Disk>(&store), expected);
}

#[tokio::test]
async fn one_bad_record_is_named_and_does_not_hide_the_others() {
    let (_dir, store) = new_store();
    store.commit(Batch::new().put("good", &Count(1)).unwrap()).await.unwrap();
    store.0.db.insert("count/bad", r#"{"v":1,"crc":"00000000","data":1}"#).unwrap();
    store.0.db.insert("count/late", r#"{"v":9}"#).unwrap();
    assert_eq!(store.get("good").unwrap(), Some(Count(1)));
    let bad = store.get::<Count>("bad").unwrap_err().to_string();
    assert!(bad.contains("count/bad") && bad.contains("checksum"), "{bad}");
    assert!(matches!(store.get::<Count>("late"), Err(StoreError::Newer { found: 9, .. })));
    let all = store.scan::<Count>().unwrap();
    let read: Vec<_> = all.iter().map(|(key, found)| (key.as_str(), found.as_ref().ok())).collect();
    assert_eq!(read, [("bad", None), ("good", Some(&Count(1))), ("late", None)]);
    assert!(all[2].1.as_ref().unwrap_err().is_newer() && !all[0].1.as_ref().unwrap_err().is_newer());
}

#[tokio::test]
async fn unknown_kinds_are_left_alone() {
    let (dir, store) = new_store();
    store.0.db.insert("future/thing", "not even JSON").unwrap();
    store.commit(Batch::new().put("a", &Count(1)).unwrap()).await.unwrap();
    let store = reopen(&dir, store);
    assert_eq!(all::<Count>(&store), [("a".into(), Count(1))]);
    assert_eq!(store.0.db.get("future/thing").unwrap().unwrap(), b"not even JSON");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_concurrent_commits_are_all_there_after_reopening() {
    let (dir, store) = new_store();
    let commits: Vec<_> = (0..1000u64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let batch = Batch::new().put(&format!("{n:04}"), &Count(n)).unwrap();
                store.commit(batch).await
            })
        })
        .collect();
    for commit in commits {
        commit.await.unwrap().unwrap();
    }
    let found = all::<Count>(&reopen(&dir, store));
    assert_eq!(found.iter().map(|(_, c)| c.0).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dropped_future_is_written_all_the_same() {
    let (dir, store) = new_store();
    for n in 0..50 {
        // Never polled even once.
        drop(store.commit(Batch::new().put(&n.to_string(), &Count(n)).unwrap()));
    }
    assert_eq!(all::<Count>(&reopen(&dir, store)).len(), 50);
}

#[test]
fn a_store_in_use_says_so() {
    let (dir, store) = new_store();
    let again = Store::open(&dir.path().join("db"));
    assert!(matches!(again, Err(StoreError::InUse { .. })));
    drop(store);
    Store::open(&dir.path().join("db")).unwrap();
}

#[tokio::test]
async fn a_half_written_snapshot_does_no_harm() {
    let (dir, store) = new_store();
    store.commit(Batch::new().put("a", &Count(1)).unwrap()).await.unwrap();
    drop(store);
    let half = dir.path().join("db/snap.7FFFFFFFFFFFFFFF.generating");
    fs::write(&half, "half").unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    assert_eq!(store.get("a").unwrap(), Some(Count(1)));
    assert!(!half.exists());
}

#[tokio::test]
async fn damage_is_reported_with_what_to_do() {
    let (dir, store) = new_store();
    store.commit(Batch::new().put("a", &Count(1)).unwrap()).await.unwrap();
    drop(reopen(&dir, store));
    for entry in fs::read_dir(dir.path().join("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("snap.") {
            fs::write(path, "no snapshot of anything").unwrap();
        }
    }
    let Err(e) = Store::open(&dir.path().join("db")) else { panic!("opened") };
    assert!(matches!(e, StoreError::Damaged { .. }), "{e}");
    for part in ["qherd db restore --state-dir", "export", "not affected"] {
        assert!(e.to_string().contains(part), "{e}");
    }
}

/// What somebody tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Said {
    at: u64,
    word: String,
}
impl Record for Said {
    const KIND: &'static str = EVENT;
    const VERSION: u32 = 1;
}
impl Telling for Said {
    fn at(&self) -> u64 {
        self.at
    }
}

fn said(number: u64) -> Said {
    Said { at: number, word: format!("word {number}") }
}

/// From the oldest on.
fn heard(store: &Store) -> Vec<(u64, Said)> {
    let events = store.events_after(store.kept_events().oldest - 1, 100_000).unwrap();
    events.iter().map(|event| (event.number, event.read().unwrap())).collect()
}

#[tokio::test]
async fn an_event_is_told_where_its_change_is_made_and_nowhere_else() {
    let (dir, store) = new_store();
    let mut follower = store.follow_events();
    let batch = |number| Batch::new().put_over("a", &Owners(vec![1]), None).unwrap().tell(&said(number)).unwrap();
    store.commit(batch(1)).await.unwrap();
    assert!(matches!(store.commit(batch(2)).await, Err(StoreError::Outdated { .. })));
    let both = Batch::new().tell(&said(3)).unwrap().and(&Batch::new().tell(&said(4)).unwrap());
    store.commit(both).await.unwrap();
    let wanted = vec![(1, said(1)), (2, said(3)), (3, said(4))];
    assert_eq!(heard(&store), wanted);
    for (number, said) in &wanted {
        let event = follower.recv().await.unwrap();
        assert_eq!((event.number, event.read::<Said>().unwrap()), (*number, said.clone()));
    }
    assert!(follower.try_recv().is_err());
    let kept = store.kept_events();
    let store = reopen(&dir, store);
    assert_eq!((store.kept_events(), heard(&store)), (kept, wanted), "the same log, and it goes on");
    store.commit(Batch::new().tell(&said(5)).unwrap()).await.unwrap();
    assert_eq!(store.kept_events(), Kept { newest: 4, ..kept });
}

#[tokio::test]
async fn events_are_kept_within_bounds_and_their_numbers_go_on() {
    let (dir, store) = new_store();
    let tell = async |store: &Store, numbers: std::ops::RangeInclusive<u64>| {
        for number in numbers {
            store.commit(Batch::new().tell(&said(number)).unwrap()).await.unwrap();
        }
    };
    let numbers = |store: &Store| {
        let heard = heard(store);
        assert!(heard.iter().all(|(number, said)| said.word == format!("word {number}")), "{heard:?}");
        (heard.first().unwrap().0, heard.last().unwrap().0, heard.len())
    };
    store.keep_events(Window { events: 5, ..Window::default() });
    tell(&store, 1..=20).await;
    assert_eq!(numbers(&store), (16, 20, 5));
    let left = |store: &Store| store.everything().unwrap().len();
    assert_eq!(left(&store), 5, "what fell out is gone");
    store.keep_events(Window { age: Duration::from_millis(2), ..Window::default() });
    tell(&store, 21..=21).await;
    assert_eq!(numbers(&store), (19, 21, 3));
    let size = u64::try_from(store.events_after(20, 1).unwrap().len()).unwrap() * 100;
    store.keep_events(Window { bytes: size * 3, ..Window::default() });
    tell(&store, 22..=40).await;
    let (_, newest, count) = numbers(&store);
    assert!(newest == 40 && (1..=3).contains(&count), "{count}");
    // Nothing that has no room is the only one.
    store.keep_events(Window { bytes: 1, ..Window::default() });
    tell(&store, 41..=41).await;
    assert_eq!(numbers(&store), (41, 41, 1));
    let store = reopen(&dir, store);
    assert_eq!(numbers(&store), (41, 41, 1));
}

#[tokio::test]
async fn the_log_belongs_to_its_store_and_to_no_copy() {
    let (dir, store) = new_store();
    store.commit(Batch::new().put("a", &Count(1)).unwrap().tell(&said(1)).unwrap()).await.unwrap();
    let (mut export, log) = (Vec::new(), store.kept_events().log);
    store.export(&mut export, &dir.path().join("export")).unwrap();
    assert!(!String::from_utf8(export).unwrap().contains("word"), "an export is of records");
    assert_eq!(store.names().unwrap(), ["count/a"]);
    store.begin_another_log().await.unwrap();
    let store = reopen(&dir, store);
    let kept = store.kept_events();
    assert!(kept.log != log && kept.newest == 1, "{kept:?}");
}
