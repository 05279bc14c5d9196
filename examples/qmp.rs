//! The QMP session by itself: starts a QEMU that has no guest, talks to it, and ends it.
//!
//!     cargo run --example qmp

use std::{os::fd::AsRawFd, process::Command, time::Duration};

use qherd::qmp::{Session, socket};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("qmp-example-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let path = directory.join("qmp.sock");
    // QEMU takes a socket that listens already, so there is no waiting for it to appear.
    let listening = socket::listen(&path)?;
    let inherited = rustix::io::dup(&listening)?;
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S"])
        .args(["-chardev", &format!("socket,id=monitor,fd={},server=on,wait=off", inherited.as_raw_fd())])
        .args(["-mon", "chardev=monitor,mode=control"])
        .spawn()?;

    let stream = socket::connect(&path, Duration::from_secs(10)).await?;
    let (session, mut events) = Session::open(stream, Duration::from_secs(30)).await?;
    println!("QEMU {}", session.version());
    println!("{:?}", session.query_status().await?);
    // Commands are qapi's types; whatever has none is sent by name.
    session.execute(qapi::qmp::cont {}).await?;
    println!("{}", session.execute_raw("query-uuid", None).await?);
    session.execute(qapi::qmp::quit {}).await?;
    while let Some(event) = events.next().await {
        println!("{:?}", event.event);
    }
    println!("closed: {}", session.closed().await);

    qemu.wait()?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
