//! Folders whose owner exchanges what is in them while images are made there: qherd works with the very files that it opened,
//! never with what their names lead to by then.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use futures_util::future::join_all;
use qherd::{
    host::image::{Copied, Folders, Keep, QemuImg},
    model::{BaseImage, CloneMode, ImageFormat, Uids},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const SECRET: &[u8] = b"root:secret";

/// Somebody who works until the test is over.
struct Busy(Arc<AtomicBool>, Option<JoinHandle<usize>>);

impl Busy {
    fn at(work: impl Fn() -> bool + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let worker = move || {
            let mut done = 0;
            while !ends.load(Ordering::SeqCst) {
                done += usize::from(work());
            }
            done
        };
        Self(over, Some(std::thread::spawn(worker)))
    }

    /// How often something was done.
    fn end(mut self) -> usize {
        self.0.store(true, Ordering::SeqCst);
        self.1.take().unwrap().join().unwrap()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn images(dir: &Path) -> QemuImg {
    let folders = Folders { images: vec![dir.join("images")], storage: vec![dir.join("vms")] };
    for folder in folders.images.iter().chain(&folders.storage) {
        fs::create_dir(folder).unwrap();
    }
    let keep = Keep { uids: Uids::default(), mark: format!("test-{}", std::process::id()) };
    QemuImg::find("qemu-img".as_ref(), folders, &keep).await.unwrap()
}

#[tokio::test]
async fn an_image_that_is_exchanged_for_a_link_while_it_is_made_leads_to_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path()).await;
    let (victim, bob) = (dir.path().join("victim"), dir.path().join("vms/bob"));
    fs::write(&victim, SECRET).unwrap();
    fs::create_dir(&bob).unwrap();
    let (target, folder) = (victim.clone(), bob.clone());
    let attacker = Busy::at(move || {
        let mut exchanged = false;
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
                exchanged |= fs::remove_file(&path).and_then(|()| symlink(&target, &path)).is_ok();
            }
        }
        exchanged
    });
    // More than have a place at once: the others wait with their name taken.
    let made = (0..40).map(|number| {
        let (images, file) = (images.clone(), bob.join(format!("{number}.qcow2")));
        async move { images.create(&file, 1).await }
    });
    join_all(made).await;
    assert!(attacker.end() > 0);
    assert_eq!(fs::read(&victim).unwrap(), SECRET);
    // Nor does what was exchanged before that.
    for number in 0..40 {
        let file = bob.join(format!("{number}.qcow2"));
        let why = images.create(&file, 1).await.unwrap_err().to_string();
        assert!(why.contains("cannot make"), "{why}");
        let description = serde_json::json!({ "driver": "qcow2", "file": { "driver": "file", "filename": file } });
        assert!(images.grow(description, (&file, ImageFormat::Qcow2), &[], 2 << 30).await.is_err());
    }
    assert_eq!(fs::read(&victim).unwrap(), SECRET);
}

#[tokio::test]
async fn a_folder_that_is_exchanged_for_a_link_while_an_image_is_copied_leads_to_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path()).await;
    let (etc, sub) = (dir.path().join("etc"), dir.path().join("images/sub"));
    fs::create_dir(&etc).unwrap();
    fs::create_dir(&sub).unwrap();
    fs::create_dir(sub.join("here")).unwrap();
    fs::write(etc.join("shadow"), SECRET.repeat(1024)).unwrap();
    fs::write(sub.join("here/shadow"), [b'x'; 8192]).unwrap();
    symlink(&etc, sub.join("there")).unwrap();
    let base = BaseImage::at(sub.join("here/shadow"), ImageFormat::Raw);
    let attacker = Busy::at(move || {
        std::thread::sleep(std::time::Duration::from_millis(1));
        renameat_with(CWD, sub.join("here"), CWD, sub.join("there"), RenameFlags::EXCHANGE).is_ok()
    });
    let mut copied = 0;
    for number in 0..30 {
        let file = dir.path().join(format!("vms/{number}.qcow2"));
        let looked = images.inspect(&base.path, None).await;
        let made = images.clone_base(&base, CloneMode::Full, &file, 1, &Arc::<Copied>::default()).await;
        if looked.is_ok() && made.is_ok() {
            copied += 1;
        }
        let made = fs::read(&file).unwrap_or_default();
        assert!(!made.windows(SECRET.len()).any(|bytes| bytes == SECRET), "{number}");
    }
    assert!(attacker.end() > 0);
    eprintln!("{copied} of 30 were copied");
}
