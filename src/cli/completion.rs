//! `completion`: what a shell has to read to complete commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, exit::Fail, output::bytes};

#[derive(Args)]
pub struct Completion {
    /// For bash: qherd completion bash > /etc/bash_completion.d/qherd
    shell: Shell,
}

impl Completion {
    pub fn run(self) -> Result<(), Fail> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "qherd", &mut script);
        bytes(&script)
    }
}
