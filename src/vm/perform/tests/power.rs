//! What is ended with a VM.

use super::*;
use crate::host::{
    launcher::{Child, QEMU_PROBE},
    process::Process,
};

/// Until exec is over a new process has no command line by which it could be found.
#[tokio::test]
async fn what_was_just_spawned_is_ended_whatever_its_command_line_says() {
    let vm = Vm::new().await;
    let unnamed = Process::spawn(Child::new(QEMU_PROBE, Path::new("sleep")).arg("1000")).unwrap();
    vm.hands.set_process(Some(Arc::new(unnamed)));
    vm.twice(Step::EndStrays, Report::Done).await;
    assert!(!Path::new(&format!("/proc/{}", vm.hands.process().unwrap().pid())).exists());
}
