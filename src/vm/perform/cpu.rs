//! The CPU that a definition wants, at a start: the host may have another QEMU, or another accelerator, than when it was
//! defined.

use crate::{
    model::{Error, VmSpec},
    vm::{Context, core::Setback},
};

const REMEDY: &str = "PUT /vms/{id} gives it another, and null the richest that there is";

/// What is known to be missing, before QEMU is started.
pub(super) fn check(ctx: &Context, spec: &VmSpec) -> Result<(), Setback> {
    let Some(cpu) = &spec.cpu else { return Ok(()) };
    ctx.caps.check_cpu(cpu).map_err(|error| match error {
        Error::Invalid { param, must } => unstartable(format!("its {param} must {must}; {REMEDY}")),
        other => Setback::Reported(other),
    })
}

/// What QEMU has found missing, in its own words; `None` where it has ended of something else.
pub(super) fn explained(why: &str, spec: &VmSpec) -> Option<Setback> {
    spec.cpu.as_ref()?;
    let is_about_it = |line: &&str| {
        line.contains("support requested feature: ")
            || line.contains("find CPU model")
            || (line.contains("-cpu.") && line.contains("not found"))
    };
    let lines: Vec<&str> = why.lines().filter(is_about_it).map(str::trim).collect();
    let lines = lines.join(", ");
    (!lines.is_empty())
        .then(|| unstartable(format!("this host cannot run the CPU that it is to have ({lines}); {REMEDY}")))
}

fn unstartable(why: String) -> Setback {
    Setback::Reported(Error::Unstartable { why })
}
