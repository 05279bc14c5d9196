//! Which accelerator works, tried rather than guessed. A /dev/kvm that opens says little: under some hypervisors
//! it makes VMs whose guests die at once. So a tiny guest is booted under KVM, into 64-bit mode with paging,
//! through memory, SSE and local APIC accesses, to a write on a debug port that makes QEMU end with a known
//! status. It is a firmware of its own: no SeaBIOS, nothing to load, some 30 ms where KVM works.

#![allow(unsafe_code, reason = "the code of the probe guest is found between two symbols")]
#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{io::Write, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::stderr::stderr_pipe;
use crate::host::{
    launcher::{Child, QEMU_PROBE},
    process::{Exit, Process, boot_id},
};

/// A KVM that needs longer for the probe than this is not worth having.
const DEADLINE: Duration = Duration::from_secs(3);
/// isa-debug-exit turns a written V into the exit status 2V+1; the guest writes 42.
const SUCCESS: Exit = Exit::Code(85);

/// The accelerator in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// The value of `-accel`.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// The richest CPU that each offers.
    pub fn cpu_model(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The outcome of a probe, valid for one boot of the host and one version of QEMU.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outcome {
    boot_id: String,
    qemu: String,
    /// Why KVM does not work; none where it does.
    kvm_fault: Option<String>,
}

/// The accelerator to use and why: the one that is `wanted`, else KVM where it works.
///
/// # Errors
/// `--accel kvm` where KVM does not work, in words.
pub(super) async fn choose(
    qemu: &Path,
    version: &str,
    wanted: Option<Accelerator>,
    cache: &Path,
) -> Result<(Accelerator, String), String> {
    if wanted == Some(Accelerator::Tcg) {
        return Ok((Accelerator::Tcg, "chosen by --accel tcg".into()));
    }
    match (kvm_fault(qemu, version, cache).await, wanted) {
        (None, _) => Ok((Accelerator::Kvm, "a probe guest boots under KVM".into())),
        (Some(fault), Some(_)) => Err(format!(
            "KVM does not work on this host: {fault}. Use --accel auto or --accel tcg to run without it, more slowly"
        )),
        (Some(fault), None) => Ok((Accelerator::Tcg, format!("KVM does not work: {fault}"))),
    }
}

async fn kvm_fault(qemu: &Path, version: &str, cache: &Path) -> Option<String> {
    let key = (boot_id().unwrap_or_default(), format!("{} {version}", qemu.display()));
    let known: Option<Outcome> = std::fs::read(cache).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(known) = known
        && (&known.boot_id, &known.qemu) == (&key.0, &key.1)
    {
        return known.kvm_fault;
    }
    let kvm_fault = match openable() {
        Err(why) => return Some(why), // Cheap to look at again, and soon mended.
        Ok(()) => boot(qemu).await.err(),
    };
    let outcome = Outcome { boot_id: key.0, qemu: key.1, kvm_fault };
    // A cache: without it the next start probes again.
    if let Ok(text) = serde_json::to_vec(&outcome) {
        let _ = std::fs::write(cache, text);
    }
    outcome.kvm_fault
}

fn openable() -> Result<(), String> {
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    let device = "/dev/kvm";
    match std::fs::File::options().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == NotFound => Err(format!(
            "there is no {device}; switch virtualization on in the firmware and load the module kvm_intel or kvm_amd"
        )),
        Err(e) if e.kind() == PermissionDenied => {
            Err(format!("{device} may not be opened; add the user that runs qherd to the group kvm"))
        }
        Err(e) => Err(format!("{device} cannot be opened: {e}")),
    }
}

/// Boots the probe guest under KVM.
async fn boot(qemu: &Path) -> Result<(), String> {
    let firmware = rom_file().map_err(|e| format!("cannot write the probe guest: {e}"))?;
    let accelerator = Accelerator::Kvm;
    let args = [
        "-machine",
        "pc",
        "-accel",
        accelerator.argument(),
        "-cpu",
        accelerator.cpu_model(),
        "-m",
        "16",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-action",
        "reboot=shutdown",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-bios",
    ];
    let mut args: Vec<String> = args.map(str::to_owned).into();
    args.push(firmware.path().display().to_string());
    let (stderr, words) = stderr_pipe().map_err(|e| e.to_string())?;
    let process = Process::spawn(Child::new(QEMU_PROBE, qemu).args(&args).stderr(stderr)).map_err(|e| e.to_string())?;
    let exit = tokio::time::timeout(DEADLINE, process.exited()).await;
    process.kill();
    process.exited().await;
    match exit {
        Ok(SUCCESS) => Ok(()),
        Ok(other) => {
            let words = words.read();
            let last = words.lines().last().unwrap_or("no message");
            Err(format!("a probe guest did not reach 64-bit mode ({other}: {last})"))
        }
        Err(_) => Err(format!("a probe guest did not reach 64-bit mode within {} s", DEADLINE.as_secs())),
    }
}

struct RomFile(std::path::PathBuf);

impl RomFile {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RomFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn rom_file() -> std::io::Result<RomFile> {
    let file = RomFile(std::env::temp_dir().join(format!("qherd-probe-{}.rom", uuid::Uuid::new_v4())));
    std::fs::File::create_new(&file.0)?.write_all(&rom())?;
    Ok(file)
}

/// A firmware image: 64 KiB that end at 4 GiB, where the processor starts at the last 16 bytes.
fn rom() -> Vec<u8> {
    const SIZE: usize = 0x1_0000;
    const RESET_VECTOR: usize = SIZE - 16;
    let code = guest_code();
    let mut rom = vec![0; SIZE];
    rom[..code.len()].copy_from_slice(code);
    // jmp to offset 0 of the segment: the 16-bit displacement wraps around.
    rom[RESET_VECTOR..RESET_VECTOR + 3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    rom
}

fn guest_code() -> &'static [u8] {
    unsafe extern "C" {
        static qherd_probe_guest: u8;
        static qherd_probe_guest_end: u8;
    }
    let (start, end) = (&raw const qherd_probe_guest, &raw const qherd_probe_guest_end);
    // SAFETY: both symbols stand in the one block of read-only data below, in this order.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

// Never executed by this process: data for the guest. Page tables at 0x1000 map the first 2 MiB, and at 0x4000
// the last GiB with this code and the local APIC.
std::arch::global_asm!(
    r#"
    .pushsection .rodata.qherd_probe_guest, "a", @progbits
    .globl qherd_probe_guest
    .globl qherd_probe_guest_end
qherd_probe_guest:
    .code16
    cli
    .byte 0x2e                      # cs:
    lgdtl (6f - qherd_probe_guest)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $(1f - qherd_probe_guest + 0xffff0000)
    .code32
1:  movl $16, %eax                  # protected mode
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl $0x1000, %edi
    movl $0x1000, %ecx
    rep stosl
    movl $0x2003, 0x1000            # PML4 -> PDPT
    movl $0x3003, 0x2000            # PDPT -> PD of the first GiB
    movl $0x0083, 0x3000            # 2 MiB at 0
    movl $0x4003, 0x2018            # PDPT -> PD of the last GiB
    movl $0xffe00083, 0x4ff8        # 2 MiB with this code
    movl $0xfee00093, 0x4fb8        # 2 MiB with the local APIC, uncached
    movl $0x1000, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax                # PAE, SSE
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xfffffffb, %eax
    orl $0x80000002, %eax           # paging on
    movl %eax, %cr0
    ljmpl $24, $(2f - qherd_probe_guest + 0xffff0000)
    .code64
2:  movl $16, %eax                  # 64-bit mode
    movl %eax, %ds
    movl %eax, %ss
    movl $0x8000, %esp
    xorl %eax, %eax
    cpuid
    movl $0xfee00030, %ebx          # the local APIC's version
    movl (%rbx), %eax
    xorps %xmm0, %xmm0
    movl $0x180000, %ebx
    movl $100000, %ecx
3:  movups %xmm0, (%rbx)
    movq %rcx, (%rbx)
    addq (%rbx), %rdx
    decq %rcx
    jnz 3b
    movb $42, %al
    outb %al, $0xf4
4:  hlt
    jmp 4b
    .balign 8
5:  .quad 0
    .quad 0x00cf9a000000ffff        # 8: 32-bit code
    .quad 0x00cf92000000ffff        # 16: data
    .quad 0x00af9a000000ffff        # 24: 64-bit code
6:  .word 6b - 5b - 1
    .long 5b - qherd_probe_guest + 0xffff0000
qherd_probe_guest_end:
    .popsection
"#,
    options(att_syntax)
);

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest itself is right where it boots under emulation.
    #[tokio::test]
    async fn the_probe_guest_reaches_64_bit_mode_under_tcg() {
        let firmware = rom_file().unwrap();
        let path = firmware.path().display().to_string();
        let args = [
            "-machine",
            "pc",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "16",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
            "-bios",
            &path,
        ];
        let qemu = Path::new("/usr/bin/qemu-system-x86_64");
        let process = Process::spawn(Child::new(QEMU_PROBE, qemu).args(args)).unwrap();
        assert_eq!(process.exited().await, SUCCESS);
    }

    #[tokio::test]
    async fn an_outcome_of_another_boot_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("accel.json");
        let stale = Outcome { boot_id: "another".into(), qemu: "/nonexistent 7.2".into(), kvm_fault: None };
        std::fs::write(&cache, serde_json::to_vec(&stale).unwrap()).unwrap();
        assert!(kvm_fault(Path::new("/nonexistent"), "7.2", &cache).await.is_some());
    }
}
