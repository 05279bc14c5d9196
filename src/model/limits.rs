//! I/O limits of a disk: QEMU's throttling values, checked by QEMU's own rules
//! (`throttle_is_valid()` in its util/throttle.c) before anything changes. Applying them is not done here.

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// The largest rate that QEMU's throttling takes (THROTTLE_VALUE_MAX).
const MAX_RATE: i64 = 1_000_000_000_000_000;

/// Limits in operations per second (`iops…`) and bytes per second (`bps…`), from 1 to 10^15 (ruling 18).
///
/// A `…_burst` is the rate that may be reached for `…_burst_seconds` (default 1). What is not given is not limited.
/// The numbers are as wide as JSON's, so that a negative one gets a sentence; only checked limits are ever stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "IoLimits")]
pub struct IoLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_burst: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_burst_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_read: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_read_burst: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_read_burst_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_write: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_write_burst: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_write_burst_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_burst: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_burst_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_read: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_read_burst: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_read_burst_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_write: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_write_burst: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_write_burst_seconds: Option<i64>,
}

/// One throttling bucket with its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Name in the API.
    pub name: &'static str,
    /// Name in `block_set_io_throttle`.
    pub qemu_name: &'static str,
    /// Sustained rate per second.
    pub average: Option<i64>,
    /// Rate per second during a burst.
    pub burst: Option<i64>,
    /// How long a burst may last, in seconds.
    pub burst_seconds: Option<i64>,
}

impl IoLimits {
    /// Every bucket, total before read before write.
    pub fn rates(&self) -> [Rate; 6] {
        let rate =
            |name, qemu_name, average, burst, burst_seconds| Rate { name, qemu_name, average, burst, burst_seconds };
        [
            rate("iops", "iops", self.iops, self.iops_burst, self.iops_burst_seconds),
            rate("iops_read", "iops_rd", self.iops_read, self.iops_read_burst, self.iops_read_burst_seconds),
            rate("iops_write", "iops_wr", self.iops_write, self.iops_write_burst, self.iops_write_burst_seconds),
            rate("bps", "bps", self.bps, self.bps_burst, self.bps_burst_seconds),
            rate("bps_read", "bps_rd", self.bps_read, self.bps_read_burst, self.bps_read_burst_seconds),
            rate("bps_write", "bps_wr", self.bps_write, self.bps_write_burst, self.bps_write_burst_seconds),
        ]
    }

    /// Refuses what QEMU would refuse, naming the field.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value that is not above 0 or beyond 10^15, a burst without or below its limit, a
    /// burst's length without a burst, a total together with its read or write part, and limits that limit nothing.
    pub fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::invalid("io_limits", "hold at least one limit, such as iops, or be null"));
        }
        self.rates().iter().try_for_each(Rate::check)?;
        for (name, total, read, write) in
            [("iops", self.iops, self.iops_read, self.iops_write), ("bps", self.bps, self.bps_read, self.bps_write)]
        {
            if total.is_some() && (read.is_some() || write.is_some()) {
                let must = format!("not be combined with {name}_read or {name}_write");
                return Err(Error::invalid(format!("io_limits.{name}"), must));
            }
        }
        Ok(())
    }
}

impl Rate {
    fn check(&self) -> Result<()> {
        let name = self.name;
        let invalid = |suffix: &str, must: String| Err(Error::invalid(format!("io_limits.{name}{suffix}"), must));
        for (suffix, value) in [("", self.average), ("_burst", self.burst), ("_burst_seconds", self.burst_seconds)] {
            match value {
                Some(v) if v <= 0 => return invalid(suffix, "be greater than 0".into()),
                Some(v) if v > MAX_RATE => return invalid(suffix, format!("be at most {MAX_RATE}")),
                _ => {}
            }
        }
        match (self.average, self.burst, self.burst_seconds) {
            (None, Some(_), _) => invalid("_burst", format!("come together with {name}")),
            (Some(average), Some(burst), _) if burst < average => {
                invalid("_burst", format!("not be lower than {name} ({average})"))
            }
            (_, None, Some(_)) => invalid("_burst_seconds", format!("come together with {name}_burst")),
            (_, Some(burst), Some(seconds)) if seconds > MAX_RATE / burst => {
                invalid("_burst_seconds", format!("be at most {}", MAX_RATE / burst))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> IoLimits {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn limits_that_qemu_takes_pass_and_read_back_as_they_were_given() {
        for json in [
            r#"{"iops":100}"#,
            r#"{"iops":100,"bps_read":1,"bps_write":2}"#,
            r#"{"iops_read":10,"iops_read_burst":20,"iops_read_burst_seconds":5}"#,
        ] {
            limits(json).check().unwrap();
            assert_eq!(serde_json::to_string(&limits(json)).unwrap(), json);
        }
    }

    #[test]
    fn limits_that_qemu_refuses_are_refused_with_their_name() {
        for (json, refusal) in [
            ("{}", "io_limits must hold at least one limit, such as iops, or be null."),
            (r#"{"iops":0}"#, "io_limits.iops must be greater than 0."),
            (r#"{"iops":-5}"#, "io_limits.iops must be greater than 0."),
            (r#"{"bps":1000000000000001}"#, "io_limits.bps must be at most 1000000000000000."),
            (r#"{"iops":10,"iops_burst":5}"#, "io_limits.iops_burst must not be lower than iops (10)."),
            (r#"{"iops_burst":5}"#, "io_limits.iops_burst must come together with iops."),
            (
                r#"{"iops":5,"iops_burst_seconds":5}"#,
                "io_limits.iops_burst_seconds must come together with iops_burst.",
            ),
            (
                r#"{"bps":1,"bps_burst":1000000000000000,"bps_burst_seconds":2}"#,
                "io_limits.bps_burst_seconds must be at most 1.",
            ),
            (r#"{"iops":1,"iops_write":1}"#, "io_limits.iops must not be combined with iops_read or iops_write."),
        ] {
            assert_eq!(
                limits(json).check().unwrap_err().to_string(),
                format!("Invalid parameter: {refusal}"),
                "{json}"
            );
        }
    }
}
