//! The system call that makes a child on the daemon's memory: `clone`, as the C library has it, or `clone3`, by which a child begins
//! in a control group of version 2 and which no library has.

#![allow(unsafe_code, reason = "a child on the daemon's memory")]

use std::{
    arch::asm,
    ffi::{c_int, c_long, c_void},
    io,
    os::fd::RawFd,
};

use nix::libc;

/// What a child begins with. It does not return.
pub(super) type Begin = extern "C" fn(*mut c_void) -> c_int;

const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK;
/// libc's does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child with a stack that ends at `stack_end`, which is aligned to 16 bytes, and returns when it has executed its program or ended.
///
/// # Errors
/// The kernel's; there is no child then.
///
/// # Safety
/// The stack has room enough below its end, and it and what `begin` is given are nobody else's until this returns.
pub(super) unsafe fn clone(begin: Begin, stack_end: *mut u8, plan: *mut c_void) -> io::Result<c_int> {
    // SAFETY: as promised.
    let child = unsafe { libc::clone(begin, stack_end.cast(), FLAGS | libc::SIGCHLD, plan) };
    if child < 0 { Err(io::Error::last_os_error()) } else { Ok(child) }
}

/// As [`clone`]; the child is in `group` from its beginning.
///
/// # Errors
/// As of [`clone`], also where the kernel (before 5.7) or a filter around the daemon has no such call.
///
/// # Safety
/// As of [`clone`]; the stack has `size` bytes.
pub(super) unsafe fn clone_into(
    group: RawFd,
    begin: Begin,
    stack_end: *mut u8,
    size: usize,
    plan: *mut c_void,
) -> io::Result<c_int> {
    let arguments = libc::clone_args {
        flags: FLAGS as u64 | CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack_end as u64 - size as u64,
        stack_size: size as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group as u64,
    };
    let result: c_long;
    // SAFETY: the child goes on at the same place with its own stack, and on it calls what does not return; this thread waits, and goes on with
    // its stack and registers as they were.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") plan,
            in("r13") begin,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match c_int::try_from(result) {
        Ok(child) if child > 0 => Ok(child),
        _ => Err(io::Error::from_raw_os_error(result.unsigned_abs() as i32)),
    }
}
