//! Uploads that go on: a file that comes in as many requests as it takes, each from where the last one broke off. An import
//! makes an image of it then. They are in memory with their files, and go when nobody has sent anything for a day, and with
//! the daemon.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::{Notify, OwnedMutexGuard},
    time::{sleep, timeout},
};

use super::spool::{Partial, SpoolError};
use crate::{
    host::image::Copied,
    model::{Error, Result, UploadId, monotonic_ms, now_ms},
    service::Service,
};

/// That there may be.
const MOST: usize = 64;
/// How long one is kept that nothing comes of.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// What somebody else who sends is given to let go of it.
const HANDOVER: Duration = Duration::from_secs(70);
/// Characters of a name.
const LONGEST_NAME: usize = 256;

#[derive(Default)]
pub(super) struct Uploads(Arc<Mutex<All>>);

type All = BTreeMap<UploadId, Arc<Upload>>;

/// One that was begun.
struct Upload {
    name: Option<String>,
    created_at: u64,
    /// When something came last, by the host's clock, and as it is shown.
    touched: AtomicU64,
    touched_at: AtomicU64,
    /// How much of it is there, also while more comes.
    copied: Arc<Copied>,
    /// Whoever sends is to let go of it.
    handover: Notify,
    /// None when it is of no use any more.
    partial: Arc<tokio::sync::Mutex<Option<Partial>>>,
}

/// As it is shown.
#[derive(Clone, Debug)]
pub struct UploadView {
    pub id: UploadId,
    pub name: Option<String>,
    /// Bytes that are there: the next ones begin here.
    pub offset: u64,
    /// Of what is there; none while more comes.
    pub sha256: Option<String>,
    pub created_at: u64,
    pub expires_at: u64,
}

/// One that nobody else sends to, or makes an image of, meanwhile.
pub(super) struct Held {
    all: Weak<Mutex<All>>,
    id: UploadId,
    upload: Arc<Upload>,
    guard: OwnedMutexGuard<Option<Partial>>,
}

fn lock(all: &Mutex<All>) -> MutexGuard<'_, All> {
    // Every change under the lock is whole.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.guard.is_none()
            && let Some(all) = self.all.upgrade()
        {
            lock(&all).remove(&self.id);
        }
    }
}

impl Held {
    /// The part that is there.
    ///
    /// # Errors
    /// [`Error::UploadNotFound`] when it is gone.
    pub fn partial(&self) -> Result<&Partial> {
        self.guard.as_ref().ok_or_else(|| Error::UploadNotFound(self.id.to_string()))
    }

    fn take(&mut self) -> Result<Partial> {
        self.guard.take().ok_or_else(|| Error::UploadNotFound(self.id.to_string()))
    }

    /// An image is made of it.
    pub fn finish(mut self) {
        *self.guard = None;
    }
}

impl Upload {
    fn view(&self, id: UploadId) -> UploadView {
        let sha256 = self.partial.try_lock().ok().and_then(|partial| Some(partial.as_ref()?.sha256()));
        let expires_at = self.touched_at.load(Ordering::Relaxed).saturating_add(IDLE.as_millis() as u64);
        UploadView {
            id,
            name: self.name.clone(),
            offset: self.copied.done(),
            sha256,
            created_at: self.created_at,
            expires_at,
        }
    }

    fn is_touched(&self) {
        self.touched.store(monotonic_ms(), Ordering::Relaxed);
        self.touched_at.store(now_ms(), Ordering::Relaxed);
    }

    /// How much longer it is kept, unless something comes.
    fn left(&self) -> Duration {
        IDLE.saturating_sub(Duration::from_millis(monotonic_ms().saturating_sub(self.touched.load(Ordering::Relaxed))))
    }
}

impl Uploads {
    fn find(&self, id: UploadId) -> Result<Arc<Upload>> {
        lock(&self.0).get(&id).cloned().ok_or_else(|| Error::UploadNotFound(id.to_string()))
    }

    /// Takes it from whoever sends to it: a client that comes back does not wait until its lost connection is.
    ///
    /// # Errors
    /// [`Error::UploadNotFound`]; [`Error::ImageConflict`] while an image is made of it.
    pub async fn hold(&self, id: UploadId) -> Result<Held> {
        let upload = self.find(id)?;
        let taken = async {
            // One that has it and does not look yet hears of it when it does.
            upload.handover.notify_one();
            upload.partial.clone().lock_owned().await
        };
        let busy = |_| Error::ImageConflict(format!("The upload {id} is in use at this moment; ask again."));
        let guard = timeout(HANDOVER, taken).await.map_err(busy)?;
        Ok(Held { all: Arc::downgrade(&self.0), id, upload, guard })
    }
}

/// Takes it away when nothing has come for long enough.
fn expire(all: Weak<Mutex<All>>, id: UploadId) {
    tokio::spawn(async move {
        loop {
            let Some(uploads) = all.upgrade() else { return };
            let Some(upload) = lock(&uploads).get(&id).cloned() else { return };
            drop(uploads);
            let left = upload.left();
            if left.is_zero()
                && let Ok(mut partial) = upload.partial.try_lock()
            {
                *partial = None;
                tracing::info!(upload = %id, "an upload is taken back: nothing of it has come for a day");
                all.upgrade().map(|all| lock(&all).remove(&id));
                return;
            }
            drop(upload);
            sleep(left.max(Duration::from_secs(60))).await;
        }
    });
}

impl Service {
    /// Begins one, of which nothing is there yet.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::ImageConflict`] where there are too many; [`Error::Failed`].
    pub async fn begin_upload(&self, id: Option<UploadId>, name: Option<String>) -> Result<UploadView> {
        let uploads = &self.image_store.uploads;
        let id = match id {
            // The same request has begun it already.
            Some(id) if uploads.find(id).is_ok() => return self.upload(id),
            Some(id) => id,
            None => UploadId::random(),
        };
        if name.as_ref().is_some_and(|name| name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control)) {
            let must = format!("have at most {LONGEST_NAME} characters, and no control characters");
            return Err(Error::invalid("name", must));
        }
        let folder: PathBuf = self.image_store.folder.clone();
        let full = || {
            let why =
                format!("There are {MOST} uploads, and there may be no more; finish or delete one of them first.");
            Error::ImageConflict(why)
        };
        if lock(&uploads.0).len() >= MOST {
            return Err(full());
        }
        let partial = Partial::begin(&folder).await?;
        let upload = Arc::new(Upload {
            name,
            created_at: now_ms(),
            touched: monotonic_ms().into(),
            touched_at: now_ms().into(),
            copied: Arc::default(),
            handover: Notify::new(),
            partial: Arc::new(tokio::sync::Mutex::new(Some(partial))),
        });
        {
            let mut all = lock(&uploads.0);
            if all.len() >= MOST {
                return Err(full());
            }
            all.insert(id, upload.clone());
        }
        expire(Arc::downgrade(&uploads.0), id);
        Ok(upload.view(id))
    }

    /// All of them, by their ids.
    pub fn uploads(&self) -> Vec<UploadView> {
        lock(&self.image_store.uploads.0).iter().map(|(id, upload)| upload.view(*id)).collect()
    }

    /// # Errors
    /// [`Error::UploadNotFound`].
    pub fn upload(&self, id: UploadId) -> Result<UploadView> {
        Ok(self.image_store.uploads.find(id)?.view(id))
    }

    /// Takes what comes, which begins at `offset` of the file. What has come of it stays, however it ends.
    ///
    /// # Errors
    /// What the stream ends with. [`Error::UploadNotFound`]; [`Error::ImageConflict`] where another part is the next one;
    /// [`Error::NoRoom`] and [`Error::Failed`], and the upload is gone where its part was begun.
    pub async fn continue_upload<E>(
        &self,
        id: UploadId,
        offset: u64,
        declared: Option<u64>,
        stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<UploadView, SpoolError<E>> {
        let mut held = self.image_store.uploads.hold(id).await.map_err(SpoolError::Domain)?;
        let there = held.partial().map_err(SpoolError::Domain)?.length();
        if offset != there {
            let why = format!("The upload {id} has {there} bytes: go on there, and not at {offset}.");
            return Err(SpoolError::Domain(Error::ImageConflict(why)));
        }
        self.check_room_for("the upload", declared).await.map_err(SpoolError::Domain)?;
        let upload = held.upload.clone();
        // It may be from before this one had it.
        let _ = timeout(Duration::ZERO, upload.handover.notified()).await;
        let partial = held.take().map_err(SpoolError::Domain)?;
        let until_handover = stream.take_until(Box::pin(upload.handover.notified()));
        let (partial, cut) = partial.append(until_handover, &upload.copied).await.map_err(SpoolError::Domain)?;
        let length = partial.length();
        *held.guard = Some(partial);
        upload.is_touched();
        drop(held);
        match cut {
            Some(cut) => Err(SpoolError::Stream(cut)),
            None if declared.is_some_and(|declared| length != offset.saturating_add(declared)) => {
                let why = format!("Another request goes on with the upload {id}, which has {length} bytes.");
                Err(SpoolError::Domain(Error::ImageConflict(why)))
            }
            None => self.upload(id).map_err(SpoolError::Domain),
        }
    }

    /// # Errors
    /// [`Error::UploadNotFound`]; [`Error::ImageConflict`] while an image is made of it.
    pub async fn delete_upload(&self, id: UploadId) -> Result<UploadView> {
        let view = self.upload(id)?;
        self.image_store.uploads.hold(id).await?.finish();
        Ok(view)
    }
}
