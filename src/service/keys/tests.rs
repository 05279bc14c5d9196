//! Keys over a real store, with a clock of the tests' own.

use super::*;

const NOW: u64 = 1_000_000_000_000;
const DAY: u64 = KEPT.as_millis() as u64;

fn open(dir: &tempfile::TempDir) -> Arc<Keys> {
    Keys::open(Store::open(dir.path()).unwrap(), Arc::default()).unwrap()
}

fn answer(body: &str) -> KeptAnswer {
    KeptAnswer { status: 201, content_type: Some("application/json".into()), body: body.into() }
}

impl Keys {
    async fn claim_of(self: &Arc<Self>, now: u64, key: &str, request: &str) -> Claim {
        self.claim_at(Now { wall: now, lagging: now }, key.into(), request.into()).await.unwrap()
    }

    async fn run(self: &Arc<Self>, now: u64, key: &str, request: &str) -> Attempt {
        match self.claim_of(now, key, request).await {
            Claim::Run(attempt) => attempt,
            Claim::Replay(answer) => panic!("{answer:?}"),
            Claim::Reused => panic!("reused"),
        }
    }

    fn stored(&self) -> usize {
        self.store.scan::<KeyRecord>().unwrap().len()
    }
}

#[tokio::test]
async fn an_answer_is_given_again_also_after_a_restart_until_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    let first = keys.run(NOW, "k", "a").await;
    let id = first.id();
    first.keep(answer("1")).await;
    drop(keys);
    let keys = open(&dir);
    assert!(matches!(keys.claim_of(NOW + DAY, "k", "a").await, Claim::Replay(again) if again == answer("1")));
    assert!(matches!(keys.claim_of(NOW + DAY, "k", "b").await, Claim::Reused));
    let later = keys.run(NOW + DAY + 1, "k", "b").await;
    assert_ne!(later.id(), id, "a key whose time is over is a new one");
}

#[tokio::test]
async fn a_request_that_was_cut_short_runs_again_for_the_same_id() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    let id = keys.run(NOW, "k", "a").await.id();
    assert!(matches!(keys.claim_of(NOW, "k", "b").await, Claim::Reused));
    assert_eq!(keys.run(NOW, "k", "a").await.id(), id, "it failed, or panicked");
    drop(keys);
    let keys = open(&dir);
    assert_eq!(keys.run(NOW, "k", "a").await.id(), id, "the daemon died");
    assert_ne!(keys.run(NOW, "other", "a").await.id(), id);
}

#[tokio::test]
async fn one_at_a_time_and_the_others_get_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    let first = keys.run(NOW, "k", "a").await;
    let others: Vec<_> = (0..20)
        .map(|_| {
            let keys = keys.clone();
            tokio::spawn(async move { keys.claim_of(NOW, "k", "a").await })
        })
        .collect();
    assert!(matches!(keys.claim_of(NOW, "k", "b").await, Claim::Reused), "nobody waits for what cannot be answered");
    drop(keys.run(NOW, "unrelated", "a").await);
    assert!(others.iter().all(|other| !other.is_finished()));
    first.keep(answer("1")).await;
    for other in others {
        assert!(matches!(other.await.unwrap(), Claim::Replay(again) if again == answer("1")));
    }
}

#[tokio::test]
async fn of_many_that_wait_for_one_that_fails_one_runs_next() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    let first = keys.run(NOW, "k", "a").await;
    let others: Vec<_> = (0..20)
        .map(|_| {
            let keys = keys.clone();
            tokio::spawn(async move {
                match keys.claim_of(NOW, "k", "a").await {
                    Claim::Run(attempt) => {
                        attempt.keep(answer("2")).await;
                        true
                    }
                    Claim::Replay(again) => {
                        assert_eq!(again, answer("2"));
                        false
                    }
                    Claim::Reused => panic!("it is the same request"),
                }
            })
        })
        .collect();
    drop(first);
    let mut ran = 0;
    for other in others {
        ran += usize::from(other.await.unwrap());
    }
    assert_eq!(ran, 1);
}

#[tokio::test]
async fn keys_whose_time_is_over_go() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    for n in 0..50 {
        keys.run(NOW, &format!("old{n}"), "a").await.keep(answer("1")).await;
    }
    assert_eq!(keys.stored(), 50);
    for n in 0..3 {
        keys.run(NOW + DAY + 1, &format!("new{n}"), "a").await.keep(answer("1")).await;
    }
    assert_eq!((keys.stored(), keys.lock().ages.len()), (3, 3));
}

#[tokio::test]
async fn where_there_is_no_room_a_new_key_is_refused_and_none_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    keys.run(NOW, "promised", "a").await.keep(answer("1")).await;
    keys.lock().ages.extend((1..MOST as u64).map(|n| (NOW + n, format!("many{n}"))));
    let refused = keys.claim_at(Now { wall: NOW + DAY, lagging: NOW + DAY }, "new".into(), "a".into()).await;
    assert!(matches!(refused, Err(KeyError::Full)));
    assert!(!keys.lock().under_way.contains_key("new"), "it may ask again");
    assert!(matches!(keys.claim_of(NOW + DAY, "promised", "a").await, Claim::Replay(again) if again == answer("1")));
    assert_eq!(keys.lock().ages.len(), MOST);
    // The first one's time is over a moment later.
    drop(keys.run(NOW + DAY + 1, "new", "a").await);
    assert!(!keys.lock().ages.contains(&(NOW, "promised".into())));
    assert_eq!((keys.stored(), keys.lock().ages.len()), (1, MOST));
}

#[tokio::test]
async fn what_was_refused_leaves_its_key_to_the_next_request() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    let first = keys.run(NOW, "k", "a").await;
    let id = first.id();
    first.release(answer("no")).await;
    assert_eq!((keys.stored(), keys.lock().ages.len()), (0, 0));
    let next = keys.run(NOW, "k", "b").await;
    assert_ne!(next.id(), id);
    // This one is cut short, and may have made something: its id is kept, whatever the same request is told then.
    let id = next.id();
    drop(next);
    keys.run(NOW, "k", "b").await.release(answer("busy")).await;
    assert_eq!(keys.run(NOW, "k", "b").await.id(), id);
}

#[tokio::test]
async fn an_answer_that_no_record_holds_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    let first = keys.run(NOW, "k", "a").await;
    let id = first.id();
    first.keep(answer(&"x".repeat(40_000))).await;
    assert_eq!(keys.run(NOW, "k", "a").await.id(), id);
}

#[test]
fn the_form_on_disk_is_this_one() {
    let id = Uuid::nil();
    let record = KeyRecord { request: "r".into(), at: 1, id, made: false, answer: Some(answer("{}")) };
    assert_eq!(
        serde_json::to_string(&record).unwrap(),
        r#"{"request":"r","at":1,"id":"00000000-0000-0000-0000-000000000000","answer":{"status":201,"content_type":"application/json","body":"{}"}}"#
    );
}

#[tokio::test]
async fn those_that_wait_for_one_that_fails_are_told_so_and_only_who_comes_later_runs() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    let first = keys.run(NOW, "k", "a").await;
    let id = first.id();
    let other = tokio::spawn({
        let keys = keys.clone();
        async move { keys.claim_of(NOW, "k", "a").await }
    });
    tokio::task::yield_now().await;
    let failure = KeptAnswer { status: 500, ..answer("no") };
    first.fail(failure.clone()).await;
    assert!(matches!(other.await.unwrap(), Claim::Replay(kept) if kept == failure));
    assert_eq!(keys.run(NOW, "k", "a").await.id(), id);
}

#[tokio::test]
async fn a_clock_that_is_set_forward_makes_no_key_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir);
    keys.run(NOW, "k", "a").await.keep(answer("1")).await;
    let stepped = Now { wall: NOW + 2 * DAY, lagging: NOW + DAY };
    let again = keys.claim_at(stepped, "k".into(), "a".into()).await.unwrap();
    assert!(matches!(again, Claim::Replay(again) if again == answer("1")));
    assert!(matches!(keys.claim_at(stepped, "other".into(), "a".into()).await.unwrap(), Claim::Run(_)));
    assert_eq!(keys.stored(), 2, "nor does another new one drop it");
}
