//! What is done with a VM that nobody asked for at that moment: after its end, at the boot of the host, on an I/O error.
//! Plain rules; the VM's task follows them.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Ending, Error, Moment, Result};

/// Milliseconds before the first restart; each further one in a row waits twice as long.
const FIRST_WAIT: u64 = 1_000;
/// Milliseconds; no wait is longer.
pub const LONGEST_WAIT: u64 = 60_000;
/// After a run of so many milliseconds the next end counts as the first again.
const PROVEN: u64 = 600_000;
/// Seconds.
const MAX_DELAY: i64 = 3_600;
const MAX_ORDER: i64 = 65_535;
const MAX_RESTARTS: i64 = 1_000_000;

/// The rules of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    pub restart: RestartPolicy,
    /// Restarts in a row before it is given up; `None`: never.
    pub max_restarts: Option<u32>,
    pub autostart: Autostart,
    pub on_io_error: OnIoError,
}

/// When a VM that has ended is started again. One that a client stopped is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    Never,
    /// When it crashed.
    OnFailure,
    /// Also when its guest powered off.
    Always,
}

/// Whether and when it starts after a boot of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autostart {
    pub enabled: bool,
    /// Lower ones start first; equal ones by age.
    pub order: u32,
    /// Seconds from its start to that of the next one.
    pub delay: u32,
}

/// What becomes of a guest whose disk the host cannot read or write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnIoError {
    /// It is paused until a client starts it again.
    #[default]
    Pause,
    /// It is paused, and goes on by itself when there is space again, or after a while.
    Retry,
    /// The guest gets the error, as from a broken disk.
    Report,
}

/// A policy, or a part of one, as a client wishes for it: decoded, not yet checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyWish {
    pub restart: Option<RestartPolicy>,
    /// `Some(None)` removes it.
    pub max_restarts: Option<Option<i64>>,
    pub autostart: Option<AutostartWish>,
    pub on_io_error: Option<OnIoError>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct AutostartWish {
    pub enabled: bool,
    pub order: i64,
    pub delay: i64,
}

impl PolicyWish {
    /// The policy with the wish in it.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn apply(self, policy: &mut Policy) -> Result<()> {
        let within = |param: &'static str, value: i64, min: i64, max: i64| {
            if (min..=max).contains(&value) {
                return Ok(value as u32);
            }
            Err(Error::invalid(param, format!("be from {min} to {max}")))
        };
        if let Some(max) = self.max_restarts {
            policy.max_restarts = max.map(|max| within("max_restarts", max, 1, MAX_RESTARTS)).transpose()?;
        }
        if let Some(wish) = self.autostart {
            policy.autostart = Autostart {
                enabled: wish.enabled,
                order: within("autostart.order", wish.order, 0, MAX_ORDER)?,
                delay: within("autostart.delay", wish.delay, 0, MAX_DELAY)?,
            };
        }
        policy.restart = self.restart.unwrap_or(policy.restart);
        policy.on_io_error = self.on_io_error.unwrap_or(policy.on_io_error);
        Ok(())
    }
}

/// Starts that qherd owes a VM, and how many it has made in a row. Stored with the VM, so that no restart of the daemon
/// loses or doubles one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// Restarts in a row, the one that is due included.
    pub attempts: u32,
    pub due: Option<Due>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Due {
    /// At this time, in milliseconds since 1970.
    Restart {
        at: u64,
        /// The same by `monotonic_ms`, which is what counts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        monotonic: Option<u64>,
    },
    /// When it is its turn after the boot of the host.
    Boot,
}

impl Upkeep {
    /// What follows when the VM has ended at `now` after `ran` (both in ms) without being asked to by a client.
    pub fn after(self, policy: &Policy, ending: &Ending, ran: u64, now: u64) -> Self {
        let wanted = match policy.restart {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => *ending != Ending::Clean,
            RestartPolicy::Always => true,
        };
        if self.due == Some(Due::Boot) {
            return self;
        }
        if !wanted {
            return Self::default();
        }
        let before = if ran < PROVEN { self.attempts } else { 0 };
        if policy.max_restarts.is_some_and(|max| before >= max) {
            return Self { attempts: before, due: None };
        }
        let wait = FIRST_WAIT.saturating_mul(1 << before.min(16)).min(LONGEST_WAIT);
        Self { attempts: before.saturating_add(1), due: Some(Due::Restart { at: now + wait, monotonic: None }) }
    }
}

impl Upkeep {
    /// When it is started again by its policy.
    pub fn restart(self) -> Option<Moment> {
        match self.due {
            Some(Due::Restart { at, monotonic }) => Some(Moment { at, monotonic }),
            Some(Due::Boot) | None => None,
        }
    }

    /// The start that comes by itself, or no longer does, in words.
    pub fn owed(self) -> Option<String> {
        let attempts = self.attempts;
        match (self.restart(), self.due) {
            (Some(restart), _) => {
                let at = UNIX_EPOCH + Duration::from_millis(restart.wall_time());
                Some(format!("restart {attempts} follows at {}", humantime::format_rfc3339_seconds(at)))
            }
            (None, Some(_)) => Some("it starts when it is its turn after the boot of the host".to_owned()),
            (None, None) if attempts > 0 => Some(format!("given up after {attempts} restarts in a row")),
            (None, None) => None,
        }
    }

    /// Without what `policy` no longer wants.
    pub fn within(self, policy: &Policy) -> Self {
        match self.due {
            Some(Due::Restart { .. }) if policy.restart == RestartPolicy::Never => Self::default(),
            Some(Due::Boot) if !policy.autostart.enabled => Self { due: None, ..self },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(restart: RestartPolicy, max_restarts: Option<u32>) -> Policy {
        Policy { restart, max_restarts, ..Policy::default() }
    }

    fn crash() -> Ending {
        Ending::Crashed { reason: "x".into() }
    }

    fn waits(policy: &Policy, ran: u64, ends: usize) -> Vec<Option<u64>> {
        let mut upkeep = Upkeep::default();
        let mut waits = Vec::new();
        for _ in 0..ends {
            upkeep = upkeep.after(policy, &crash(), ran, 5_000);
            waits.push(upkeep.due.map(|due| match due {
                Due::Restart { at, .. } => at - 5_000,
                Due::Boot => unreachable!(),
            }));
        }
        waits
    }

    #[test]
    fn each_restart_in_a_row_waits_twice_as_long_up_to_a_minute() {
        let policy = policy(RestartPolicy::OnFailure, None);
        let seconds = |list: &[u64]| list.iter().map(|s| Some(s * 1000)).collect::<Vec<_>>();
        assert_eq!(waits(&policy, 100, 8), seconds(&[1, 2, 4, 8, 16, 32, 60, 60]));
        assert!(waits(&policy, 100, 200)[6..].iter().all(|&wait| wait == Some(60_000)));
    }

    #[test]
    fn a_long_run_makes_the_next_end_the_first_again() {
        assert_eq!(waits(&policy(RestartPolicy::Always, Some(1)), 600_000, 3), [Some(1000); 3]);
    }

    #[test]
    fn it_is_given_up_after_so_many_in_a_row() {
        let policy = policy(RestartPolicy::OnFailure, Some(2));
        assert_eq!(waits(&policy, 0, 4), [Some(1000), Some(2000), None, None]);
        let tried = Upkeep { attempts: 2, due: None };
        assert_eq!(tried.after(&policy, &crash(), 0, 0), tried, "and it shows");
    }

    #[test]
    fn a_guest_that_powers_off_comes_back_only_with_always() {
        let due = |restart, ending| Upkeep::default().after(&policy(restart, None), &ending, 0, 0).due.is_some();
        for (restart, after_power_off, after_crash) in [
            (RestartPolicy::Never, false, false),
            (RestartPolicy::OnFailure, false, true),
            (RestartPolicy::Always, true, true),
        ] {
            assert_eq!((due(restart, Ending::Clean), due(restart, crash())), (after_power_off, after_crash));
        }
    }
}
