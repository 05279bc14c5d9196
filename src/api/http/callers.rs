//! What one caller may ask for at once, so that nobody shuts out anybody else (docs/adr/0026): how many requests may be under
//! way, how many may come in a second, and how many there may be of all callers together. Who asks is the gate's question.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::HttpError;

/// Requests per second that one caller may go on with.
const RATE: u32 = 5_000;
/// Requests that may come faster than that, after a pause.
const BURST: u32 = 20_000;
/// Beyond it those who have not asked for a while are forgotten.
const REMEMBERED: usize = 1024;

/// The callers of all listeners.
pub struct Callers {
    /// Requests under way of all of them.
    most: usize,
    shares: Mutex<Shares>,
}

#[derive(Default)]
struct Shares {
    under_way: usize,
    by_name: HashMap<String, Share>,
}

struct Share {
    under_way: usize,
    credit: f64,
    /// When the credit was that.
    at: Instant,
}

/// One request, until it is done.
pub struct UnderWay {
    callers: Arc<Callers>,
    name: String,
    urgent: bool,
}

impl Share {
    fn new(now: Instant) -> Self {
        Self { under_way: 0, credit: BURST.into(), at: now }
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(RATE);
        (self.credit, self.at) = ((self.credit + earned).min(BURST.into()), now);
    }

    fn is_at_rest(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.under_way == 0 && self.credit >= f64::from(BURST)
    }
}

impl Callers {
    /// `most` requests of all callers may be under way.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, shares: Mutex::default() })
    }

    /// Of them one caller may have five in six.
    fn most_of_one(&self) -> usize {
        self.most / 6 * 5
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of somebody. One that is `urgent` is let through in any case, and is under way like the others.
    ///
    /// # Errors
    /// [`HttpError::TooManyRequests`] for more than one caller may have, [`HttpError::Crowded`] for more than there may be.
    pub fn enter(self: &Arc<Self>, name: &str, urgent: bool) -> Result<UnderWay, HttpError> {
        self.enter_at(Instant::now(), name, urgent)
    }

    fn enter_at(self: &Arc<Self>, now: Instant, name: &str, urgent: bool) -> Result<UnderWay, HttpError> {
        let mut shares = self.shares();
        let Shares { under_way, by_name } = &mut *shares;
        if by_name.len() >= REMEMBERED {
            by_name.retain(|_, share| !share.is_at_rest(now));
        }
        let share = by_name.entry(name.to_owned()).or_insert_with(|| Share::new(now));
        share.refill(now);
        let refused = |why: String| HttpError::TooManyRequests { name: name.to_owned(), why };
        if !urgent {
            if share.credit < 1.0 {
                return Err(refused(format!("asks more than {RATE} times a second")));
            }
            if share.under_way >= self.most_of_one() {
                return Err(refused(format!("waits for the answers to {} requests already", share.under_way)));
            }
            if *under_way >= self.most {
                return Err(HttpError::Crowded { under_way: *under_way });
            }
            share.credit -= 1.0;
        }
        share.under_way += 1;
        *under_way += 1;
        Ok(UnderWay { callers: Arc::clone(self), name: name.to_owned(), urgent })
    }
}

impl UnderWay {
    /// It is not urgent: where it was let through as that, it takes its turn now.
    ///
    /// # Errors
    /// As [`Callers::enter`], as if it had just come.
    pub fn queue_up(self) -> Result<Self, HttpError> {
        if !self.urgent {
            return Ok(self);
        }
        let (callers, name) = (Arc::clone(&self.callers), self.name.clone());
        drop(self);
        callers.enter(&name, false)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut shares = self.callers.shares();
        shares.under_way = shares.under_way.saturating_sub(1);
        if let Some(share) = shares.by_name.get_mut(&self.name) {
            share.under_way = share.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(entered: Result<UnderWay, HttpError>) -> u16 {
        entered.err().map_or(200, |error| error.status().as_u16())
    }

    #[test]
    fn one_caller_leaves_room_for_the_others_and_all_of_them_for_what_is_urgent() {
        let callers = Callers::new(12);
        let mut one: Vec<_> = (0..10).map(|_| callers.enter("one", false).ok().unwrap()).collect();
        assert_eq!(status(callers.enter("one", false)), 429);
        let _others = [callers.enter("two", false).ok().unwrap(), callers.enter("three", false).ok().unwrap()];
        assert_eq!(status(callers.enter("two", false)), 503);
        let urgent = callers.enter("one", true).ok().unwrap();
        assert_eq!(status(urgent.queue_up()), 429);
        one.truncate(9);
        assert_eq!(status(callers.enter("one", false)), 200);
    }

    #[test]
    fn who_asks_too_often_waits_and_nobody_else() {
        let (callers, now) = (Callers::new(100), Instant::now());
        for _ in 0..BURST {
            assert_eq!(status(callers.enter_at(now, "one", false)), 200);
        }
        assert_eq!(status(callers.enter_at(now, "one", false)), 429);
        assert_eq!(status(callers.enter_at(now, "one", true)), 200);
        assert_eq!(status(callers.enter_at(now, "two", false)), 200);
        let later = now + Duration::from_secs(1);
        let again = (0..BURST).take_while(|_| callers.enter_at(later, "one", false).is_ok()).count();
        assert_eq!(again, RATE as usize);
    }

    #[test]
    fn a_request_is_counted_once_whether_it_was_taken_for_urgent_or_not() {
        let callers = Callers::new(100);
        let credit = |name: &str| callers.shares().by_name[name].credit.round() as u32;
        for (name, urgent) in [("usual", false), ("forced", true)] {
            let request = callers.enter(name, urgent).ok().unwrap().queue_up();
            assert_eq!((credit(name), callers.shares().under_way), (BURST - 1, 1));
            drop(request);
        }
        assert_eq!(callers.shares().under_way, 0);
    }

    #[test]
    fn callers_of_long_ago_are_forgotten() {
        let (callers, now) = (Callers::new(10_000), Instant::now());
        let _waiting = callers.enter_at(now, "waiting", false).ok().unwrap();
        for n in 1..REMEMBERED {
            assert_eq!(status(callers.enter_at(now, &n.to_string(), false)), 200);
        }
        assert_eq!(status(callers.enter_at(now + Duration::from_secs(1), "one more", false)), 200);
        assert_eq!(callers.shares().by_name.len(), 2);
    }
}
