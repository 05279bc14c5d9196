//! Bodies and handler of the policy: restarts, autostart, I/O errors. What follows from it is decided in `vm`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    error::Problem,
    updated::{Of, at_least_one, update},
    vm_id,
    words::{AsSent, plain},
};
use crate::{
    api::http::{Reply, Request, given},
    model::{Autostart, AutostartWish, Change, OnIoError, PolicyWish, RestartPolicy, VmSpec},
};

/// As the field is called.
pub const AUTOSTART: &str = "autostart";

/// At least one field.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct PolicyBody {
    /// Whether a VM that has ended starts again: `never` (default), `on-failure` (it crashed), `always` (also when its guest
    /// powered off). After 1 s, then twice as long for each in a row, up to 60 s; 10 minutes of running begin anew. One that
    /// a client stopped stays stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Restarts in a row before it is given up, 1 to 1,000,000; null (default): never.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub max_restarts: Option<Option<i64>>,
    /// Whether it starts after a boot of the host; null: no.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<AutostartBody>")]
    pub autostart: Option<Option<AutostartBody>>,
    /// What becomes of the guest when the host cannot read or write its disk: `pause` (default), `retry` (paused, and goes on
    /// by itself when there is space again, or after a while), `report` (the guest gets the error).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_io_error: Option<OnIoError>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// Shown as it was sent, too.
#[schemars(extend("required" = ["enabled"]))]
pub struct AutostartBody {
    pub enabled: bool,
    /// Lower ones start first, 0 to 65,535; default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65_535))]
    pub order: i64,
    /// Seconds from its start to that of the next one, 0 to 3,600; default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub delay: i64,
}

impl PolicyBody {
    fn is_empty(&self) -> bool {
        let Self { restart_policy, max_restarts, autostart, on_io_error } = self;
        restart_policy.is_none() && max_restarts.is_none() && autostart.is_none() && on_io_error.is_none()
    }

    pub fn into_model(self) -> PolicyWish {
        let autostart = |body: Option<AutostartBody>| {
            let AutostartBody { enabled, order, delay } = body.unwrap_or_default();
            AutostartWish { enabled, order, delay }
        };
        PolicyWish {
            restart: self.restart_policy,
            max_restarts: self.max_restarts,
            autostart: self.autostart.map(autostart),
            on_io_error: self.on_io_error,
        }
    }
}

/// The fields of [`PolicyBody`] among those of a create.
pub fn wish(
    restart_policy: Option<RestartPolicy>,
    max_restarts: Option<i64>,
    autostart: Option<AutostartBody>,
    on_io_error: Option<OnIoError>,
) -> PolicyWish {
    let body = PolicyBody { restart_policy, max_restarts: Some(max_restarts), autostart: Some(autostart), on_io_error };
    body.into_model()
}

/// As it is shown.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct PolicyView {
    pub restart_policy: RestartPolicy,
    pub max_restarts: Option<u32>,
    #[schemars(with = "AutostartBody")]
    pub autostart: AsSent<AutostartView>,
    pub on_io_error: OnIoError,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AutostartView {
    pub enabled: bool,
    pub order: u32,
    /// Seconds.
    pub delay: u32,
}

impl AutostartView {
    fn of(spec: &VmSpec) -> Self {
        let Autostart { enabled, order, delay, .. } = spec.policy.autostart;
        Self { enabled, order, delay }
    }

    /// Whether it is as is wished.
    fn is(&self, wish: &AutostartBody) -> bool {
        let AutostartBody { enabled, order, delay } = *wish;
        (enabled, order, delay) == (self.enabled, self.order.into(), self.delay.into())
    }
}

fn autostart(spec: &VmSpec) -> AsSent<AutostartView> {
    let is = AutostartView::of(spec);
    let written = plain(spec, AUTOSTART, |body: &AutostartBody| is.is(body));
    AsSent::new(is, written)
}

impl PolicyView {
    pub fn of(spec: &VmSpec) -> Self {
        let policy = &spec.policy;
        Self {
            restart_policy: policy.restart,
            max_restarts: policy.max_restarts,
            autostart: autostart(spec),
            on_io_error: policy.on_io_error,
        }
    }
}

pub async fn policy(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: PolicyBody = request.json()?;
    if body.is_empty() {
        return Err(at_least_one("restart_policy, max_restarts, autostart or on_io_error").into());
    }
    update(&shared, id, Of::vm(id), Change::Policy(body.into_model()), "Policy successfully updated.", PolicyView::of)
        .await
}
