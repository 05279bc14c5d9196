//! The system calls that no child has a use for, refused by a filter of seccomp: ways to more of the kernel than a program
//! that reads and writes files needs. It is stacked under the filter that QEMU puts on itself, which is put on by what is to be
//! held, and lets through namespaces and netlink.
//!
//! Written out as the kernel's own small programs: they can be refused by argument, and nothing is compiled or allocated in the
//! child. What is refused answers EPERM, so that a program which merely tries goes on without.

#![allow(unsafe_code, reason = "the system call that installs a filter")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use nix::libc::{self, sock_filter, sock_fprog};

/// Which sockets may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    None,
    /// What a guest's connections are made of: TCP, UDP and echo requests; Unix sockets for the monitor. Nothing raw.
    OfGuests,
    /// Those, and netlink, which tells what routes there are.
    OfRoutes,
    Any,
}

/// Of what is refused, what a program needs that makes namespaces and an empty root of its own.
const WALLS: &[libc::c_long] = &[libc::SYS_unshare, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root];

/// Refused to everybody.
const REFUSED: &[libc::c_long] = &[
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Files past their paths.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_fanotify_init,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Programs in the kernel, and calls past a filter.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    // Keys of others.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The host itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_iopl,
    libc::SYS_ioperm,
];

/// `clone` with any of these makes a namespace. (The one of time has the place of a signal there; only clone3 can.)
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Keys put into a terminal that somebody looks at.
const TYPING: &[u32] = &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32];

/// `SOCK_PACKET`: packets past AF_PACKET.
const OLD_PACKET: i32 = 10;

/// `AUDIT_ARCH_X86_64`: the only kind of calls that a child makes.
const NATIVE: u32 = 0xc000_003e;
/// Set in the numbers of x32, another way to the same calls.
const X32: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`; of an argument, the half that the kernel heeds in what is looked at here.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// A program of the kernel's, ready to be installed.
#[derive(Debug)]
pub struct Filter(Vec<sock_filter>);

impl Filter {
    /// With `asks` we are asked about what it opens.
    pub fn new(sockets: Sockets, walls_itself_in: bool, asks: bool) -> Self {
        let mut program = Self(Vec::new());
        program.load(ARCHITECTURE);
        program.when_not(NATIVE, libc::SECCOMP_RET_KILL_PROCESS);
        program.load(NUMBER);
        program.when_at_least(X32, refuse(libc::ENOSYS));
        for &call in REFUSED.iter().filter(|call| !(walls_itself_in && WALLS.contains(call))) {
            program.when(call as u32, refuse(libc::EPERM));
        }
        if asks {
            program.when(libc::SYS_openat as u32, libc::SECCOMP_RET_USER_NOTIF);
        }
        // Its flags lie in memory, where a filter does not see them; libraries make do with clone where it is not there.
        program.when(libc::SYS_clone3 as u32, refuse(libc::ENOSYS));
        program.on(libc::SYS_clone, |rules| {
            rules.load(argument(0));
            rules.when_any_bit(NAMESPACES, refuse(libc::EPERM));
        });
        program.on(libc::SYS_ioctl, |rules| {
            rules.load(argument(1));
            TYPING.iter().for_each(|request| rules.when(*request, refuse(libc::EPERM)));
        });
        match sockets {
            Sockets::Any => {}
            Sockets::None => program.when(libc::SYS_socket as u32, refuse(libc::EAFNOSUPPORT)),
            Sockets::OfGuests | Sockets::OfRoutes => program.on(libc::SYS_socket, |rules| {
                if sockets == Sockets::OfRoutes {
                    // All of its kinds are one to the kernel.
                    rules.load(argument(0));
                    rules.when(libc::AF_NETLINK as u32, libc::SECCOMP_RET_ALLOW);
                }
                // The kind, without its flags.
                rules.load(argument(1));
                rules.mask(0xf);
                [libc::SOCK_RAW, OLD_PACKET, libc::SOCK_SEQPACKET]
                    .into_iter()
                    .for_each(|kind| rules.when(kind as u32, refuse(libc::EPERM)));
                rules.load(argument(0));
                [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6]
                    .into_iter()
                    .for_each(|family| rules.when(family as u32, libc::SECCOMP_RET_ALLOW));
                rules.end(refuse(libc::EAFNOSUPPORT));
            }),
        }
        program.end(libc::SECCOMP_RET_ALLOW);
        program
    }

    /// For this process and whatever it becomes; new privileges must be out of the question already. Allocates nothing.
    ///
    /// # Errors
    /// Where the kernel knows no filters.
    pub fn install(&self) -> io::Result<()> {
        self.put_on(0).map(drop)
    }

    /// The same of one that asks; returns what the questions come from.
    ///
    /// # Errors
    /// Where the kernel cannot ask, also because somebody is asked about this process already.
    pub fn install_and_listen(&self) -> io::Result<OwnedFd> {
        let listener = self.put_on(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        // SAFETY: a new descriptor, and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(listener) })
    }

    fn put_on(&self, flags: libc::c_ulong) -> io::Result<RawFd> {
        // No filter here has as many as 65,536 instructions.
        let program = sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the program lives until the call returns; the kernel copies it, and writes nothing.
        let done =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as RawFd) }
    }

    fn load(&mut self, offset: u32) {
        self.add(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    }

    fn mask(&mut self, bits: u32) {
        self.add(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, bits);
    }

    fn end(&mut self, verdict: u32) {
        self.add(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
    }

    fn when(&mut self, value: u32, verdict: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, value);
        self.end(verdict);
    }

    fn when_not(&mut self, value: u32, verdict: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, value);
        self.end(verdict);
    }

    fn when_at_least(&mut self, value: u32, verdict: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, value);
        self.end(verdict);
    }

    fn when_any_bit(&mut self, bits: u32, verdict: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, bits);
        self.end(verdict);
    }

    /// Rules for one call, by its arguments; what they do not refuse is allowed.
    fn on(&mut self, call: libc::c_long, rules: impl FnOnce(&mut Self)) {
        let mut own = Self(Vec::new());
        rules(&mut own);
        own.end(libc::SECCOMP_RET_ALLOW);
        // A jump reaches 255 instructions; `rules` are a dozen.
        self.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, own.0.len() as u8, call as u32);
        self.0.append(&mut own.0);
    }

    fn add(&mut self, code: u32, jt: u8, jf: u8, k: u32) {
        self.0.push(sock_filter { code: code as u16, jt, jf, k });
    }
}

const fn refuse(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}
