//! Requests to the kernel that are kept waiting, as a kernel keeps them that waits itself: each `sendto` of the test's own
//! threads passes a warden, who holds those that say a certain thing for as long as he is told to.
#![allow(unsafe_code)]

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
};

use nix::libc;

/// Families of netlink.
pub const ROUTE: i32 = 0;
pub const NETFILTER: i32 = 12;

const RECEIVE: libc::Ioctl = 0xc050_2100u32 as libc::Ioctl;
const ANSWER: libc::Ioctl = 0xc018_2101u32 as libc::Ioctl;

pub struct Warden {
    orders: Arc<Mutex<Orders>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Orders {
    /// What to hold: a family, and what the request says.
    hold: Option<(i32, Vec<u8>)>,
    held: usize,
    end: bool,
}

impl Warden {
    /// Watches this thread, and those that it starts from now on.
    pub fn new() -> Self {
        let orders: Arc<Mutex<Orders>> = Arc::default();
        let (sender, listener) = mpsc::channel();
        let own = orders.clone();
        // Before the filter, so that it does not watch itself.
        let thread = std::thread::spawn(move || watch(&listener.recv().unwrap(), &own));
        sender.send(filter()).unwrap();
        Self { orders, thread: Some(thread) }
    }

    /// From now on holds requests that have this in them.
    pub fn hold(&self, family: i32, words: &str) {
        self.orders.lock().unwrap().hold = Some((family, words.as_bytes().to_vec()));
    }

    pub fn held(&self) -> usize {
        self.orders.lock().unwrap().held
    }

    /// Lets everything go on.
    pub fn release(&self) {
        self.orders.lock().unwrap().hold = None;
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        let mut orders = self.orders.lock().unwrap();
        (orders.hold, orders.end) = (None, true);
        drop(orders);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn filter() -> OwnedFd {
    let load = |offset| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let answer = |what| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: what };
    let is_send = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_sendto as u32 };
    let mut program = [load(0), is_send, answer(libc::SECCOMP_RET_USER_NOTIF), answer(libc::SECCOMP_RET_ALLOW)];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program lives during the call, which makes a descriptor of the caller's.
    unsafe {
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        let listener = libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program);
        assert!(listener >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(listener as i32)
    }
}

fn watch(listener: &OwnedFd, shared: &Mutex<Orders>) {
    let mut held: Vec<u64> = Vec::new();
    loop {
        let ready = ready(listener);
        let mut orders = shared.lock().unwrap();
        if orders.hold.is_none() {
            held.drain(..).for_each(|id| go_on(listener, id));
        }
        if orders.end {
            return;
        }
        if ready && let Some((id, fd, text)) = receive(listener) {
            match (&orders.hold, text) {
                (Some((family, words)), Some(text)) if family_of(fd) == Some(*family) && says(&text, words) => {
                    held.push(id);
                }
                _ => go_on(listener, id),
            }
        }
        orders.held = held.len();
    }
}

fn says(text: &[u8], words: &[u8]) -> bool {
    words.is_empty() || text.windows(words.len()).any(|part| part == words)
}

fn ready(listener: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, which is open.
    unsafe { libc::poll(&raw mut poll, 1, 5) == 1 && poll.revents & libc::POLLIN != 0 }
}

/// The next request: its number, the descriptor, and what it says where it is one of this program's own.
fn receive(listener: &OwnedFd) -> Option<(u64, i32, Option<Vec<u8>>)> {
    // SAFETY: the kernel wants it empty, and fills it.
    let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: as above. Whoever asked may be gone.
    if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut request) } != 0 {
        return None;
    }
    let [fd, at, length, ..] = request.data.args;
    // What the test starts has a filter, too.
    let own = Path::new(&format!("/proc/self/task/{}", request.pid)).exists();
    let text = own.then(|| {
        let mut text = vec![0; length as usize];
        File::open("/proc/self/mem").unwrap().read_exact_at(&mut text, at).unwrap();
        text
    });
    Some((request.id, fd as i32, text))
}

fn family_of(fd: i32) -> Option<i32> {
    let (mut value, mut length) = (0i32, 4u32);
    let mut ask = |option| {
        // SAFETY: both are of the size that the call expects.
        let reported =
            unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut length) };
        (reported == 0).then_some(value)
    };
    (ask(libc::SO_DOMAIN)? == libc::AF_NETLINK).then_some(())?;
    ask(libc::SO_PROTOCOL)
}

fn go_on(listener: &OwnedFd, id: u64) {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: an answer of the size that the call expects. Whoever asked may be gone.
    unsafe { libc::ioctl(listener.as_raw_fd(), ANSWER, &raw mut answer) };
}
