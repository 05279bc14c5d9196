//! Signs of life while something is waited for, on standard error and for people alone; and several VMs side by side.

use std::{future::Future, io::IsTerminal, time::Duration};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    exit::{Exit, Fail},
    names::Vm,
    output::{Output, is_coloured},
};

/// What is done sooner needs none.
const QUIET: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(120);
/// VMs that are seen to at a time: as many as there are connections.
const AT_A_TIME: usize = 64;

/// Does something, with a sign of life that says what.
pub async fn waiting<T>(output: Output, what: &str, work: impl Future<Output = T>) -> T {
    counted(output, what, 1, |_| work).await
}

/// The same, with words that change meanwhile.
pub async fn showing<T>(output: Output, what: &str, work: impl AsyncFnOnce(Saying) -> T) -> T {
    counted(output, what, 1, |bar| work(Saying(bar))).await
}

/// What is said of something while it is waited for.
#[derive(Clone)]
pub struct Saying(ProgressBar);

impl Saying {
    pub fn is(&self, what: &str) {
        self.0.set_message(crate::api::kvm::plain(what));
    }
}

async fn counted<T, F: Future<Output = T>>(
    output: Output,
    what: &str,
    count: u64,
    work: impl FnOnce(ProgressBar) -> F,
) -> T {
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::hidden());
    let shown = !output.is_quiet() && std::io::stderr().is_terminal();
    let template = match (count > 1, is_coloured(&std::io::stderr())) {
        (true, true) => "{bar:30.green} {pos} of {len} {msg} {elapsed}",
        (true, false) => "{bar:30} {pos} of {len} {msg} {elapsed}",
        (false, true) => "{spinner:.green} {msg} {elapsed}",
        (false, false) => "{spinner} {msg} {elapsed}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(crate::api::kvm::plain(what));
    let work = work(bar.clone());
    let mut work = std::pin::pin!(work);
    let done = tokio::select! {
        done = &mut work => done,
        () = tokio::time::sleep(QUIET), if shown => {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
            work.await
        }
    };
    bar.finish_and_clear();
    done
}

/// What came of several VMs.
pub struct Outcome<T> {
    pub wanted: usize,
    /// In their order, of those with which it went well.
    pub done: Vec<T>,
    /// Of all that failed: with the exit status of the first where all others failed so too, else [`Exit::Failed`].
    pub failed: Option<Fail>,
}

/// The same with each of several VMs, side by side. What comes of each is handed on in their order, as soon as it is known.
///
/// # Errors
/// Of `shown`.
pub async fn each<T, F>(
    output: Output,
    what: &str,
    vms: &[Vm],
    work: impl Fn(Vm) -> F,
    mut shown: impl FnMut(&Vm, &T) -> Result<(), Fail>,
) -> Result<Outcome<T>, Fail>
where
    F: Future<Output = Result<T, Fail>>,
{
    let what = match vms {
        [vm] => format!("{what} {}", vm.name),
        _ => what.to_owned(),
    };
    let done = counted(output, &what, vms.len() as u64, async |bar: ProgressBar| {
        let mut under_way = stream::iter(vms.iter().map(|vm| work(vm.clone()))).buffered(AT_A_TIME);
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for vm in vms {
            let Some(outcome) = under_way.next().await else { break };
            bar.inc(1);
            match outcome {
                Ok(result) => {
                    bar.suspend(|| shown(vm, &result))?;
                    done.push(result);
                }
                Err(fail) => failed.push(fail.about(&vm.name)),
            }
        }
        Ok::<_, Fail>((done, failed))
    });
    let (done, failed) = done.await?;
    let failed = failed.split_first().map(|(first, rest): (&Fail, &[Fail])| {
        let same = rest.iter().all(|fail| fail.exit == first.exit);
        let texts: Vec<String> = failed.iter().map(ToString::to_string).collect();
        Fail::new(if same { first.exit } else { Exit::Failed }, texts.join("\n"))
    });
    Ok(Outcome { wanted: vms.len(), done, failed })
}

impl<T> Outcome<T> {
    /// # Errors
    /// Where any failed.
    pub fn all(self) -> Result<Vec<T>, Fail> {
        self.failed.map_or(Ok(self.done), Err)
    }
}
