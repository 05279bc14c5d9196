//! A guest that does to a terminal whatever it can: a boot sector that writes to its serial port, and from then on what is typed at
//! it. It is up as soon as the firmware is.

use serde_json::json;

use crate::support::Daemon;

/// The other screen, no cursor, the mouse, pasted text in brackets, keys of applications, a scrolling region, colours, a title, a
/// question that the terminal would answer; and at the end a title that never ends.
pub const EVIL: &str = "\x1b[?1049h\x1b[?25l\x1b[?1000;1003;1006h\x1b[?2004h\x1b[?1h\x1b=\x1b[2;3r\x1b[1;31;7m\x1b]0;owned\x07\x1b[6n\x1b[c\
                        \u{9b}31m ready to harm \x1b]2;never ends";
/// What a person may read of it.
pub const HARMLESS: &str = "ready to harm";

/// Starts it; returns its id.
pub async fn start(daemon: &Daemon, name: &str) -> String {
    let image = daemon.bases().join("hostile.raw");
    std::fs::write(&image, disk(EVIL.as_bytes())).unwrap();
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": image, "name": name, "start": true });
    let id = daemon.create(wish).await;
    daemon.await_console(&id, HARMLESS, 0).await;
    id
}

fn disk(text: &[u8]) -> Vec<u8> {
    const CODE: &[u8] = &[
        0xfa, // cli
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x40, 0x7c, // mov si, text
        0xb0, 0xc1, // mov al, 0xc1
        0xba, 0xfa, 0x03, // mov dx, 0x3fa
        0xee, // out dx, al: a FIFO, so that what is typed at once is taken at once
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x11, // jz echo
        0x88, 0xc4, // send: mov ah, al
        0xba, 0xfd, 0x03, // mov dx, 0x3fd
        0xec, // full: in al, dx
        0xa8, 0x20, // test al, 0x20
        0x74, 0xfb, // jz full
        0x88, 0xe0, // mov al, ah
        0xb2, 0xf8, // mov dl, 0xf8
        0xee, // out dx, al
        0xeb, 0xea, // jmp next
        0xb2, 0xfd, // echo: mov dl, 0xfd
        0xec, // in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xfb, // jz echo + 2
        0xb2, 0xf8, // mov dl, 0xf8
        0xec, // in al, dx
        0x4e, // dec si: the zero again
        0xeb, 0xe2, // jmp send
    ];
    let mut disk = vec![0; 1 << 20];
    disk[..CODE.len()].copy_from_slice(CODE);
    let begin = 0x40;
    assert!(CODE.len() <= begin);
    disk[begin..begin + text.len()].copy_from_slice(text);
    assert!(begin + text.len() < 510);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}
