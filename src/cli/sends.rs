//! Sends a file to the daemon, in as many requests as it takes: what has come there is not sent again, whether the connection
//! broke or the command was interrupted.

use std::{
    io::{self, SeekFrom},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    time::sleep,
};

use super::{
    exit::{Exit, Fail},
    names::encoded,
    progress::Saying,
    sizes::written,
};
use crate::{
    api::kvm::bodies::{UploadBody, UploadFields},
    client::{Client, Failure, LONG, SOON},
};

/// Requests in a row that bring nothing.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// SIGINT.
const INTERRUPTED: u8 = 2;

/// Returns the id of the upload, all of which is there.
pub async fn send(client: &Client, path: &Path, saying: Saying) -> Result<String, Fail> {
    tokio::select! {
        sent = send_all(client, path, saying) => sent,
        _ = tokio::signal::ctrl_c() => {
            let text = "interrupted; the same command goes on where this one was, within a day";
            Err(Fail::new(Exit::Signal(INTERRUPTED), text))
        }
    }
}

async fn send_all(client: &Client, path: &Path, saying: Saying) -> Result<String, Fail> {
    let unreadable = |error: io::Error| Fail::usage(format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(path).await.map_err(unreadable)?;
    let metadata = file.metadata().await.map_err(unreadable)?;
    let length = metadata.len();
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Whoever sends the same file again is known by it.
    let name = format!("{}:{length}:{}", name.chars().take(60).collect::<String>(), modified.as_nanos());
    let begun = match begun_before(client, &name, &mut file).await.map_err(unreadable)? {
        Some(upload) => upload,
        None => client.post("/uploads", &UploadBody { name: Some(name) }, SOON).await?,
    };
    let at = format!("/uploads/{}", encoded(&begun.id));
    let (mut offset, mut attempts) = (begun.offset, 0);
    while offset < length {
        let mut rest = file.try_clone().await.map_err(unreadable)?;
        rest.seek(SeekFrom::Start(offset)).await.map_err(unreadable)?;
        let saying = saying.clone();
        let say = move |sent: u64| match offset + sent {
            all if all == length => saying.is("all is sent"),
            sent => saying.is(&format!("sending: {} of {}", written(sent), written(length))),
        };
        let place = format!("{at}?offset={offset}");
        let there = match client.put_file::<UploadFields>(&place, rest, length - offset, say, LONG).await {
            Ok(upload) => upload.offset,
            Err(Failure::Lost { .. } | Failure::Late { .. } | Failure::Unreachable { .. }) if attempts < ATTEMPTS => {
                sleep(PAUSE).await;
                client.get::<UploadFields>(&at).await?.offset
            }
            Err(failure) => return Err(failure.into()),
        };
        attempts = if there > offset { 0 } else { attempts + 1 };
        if attempts > ATTEMPTS {
            return Err(Fail::new(Exit::Failed, format!("nothing of {} gets through", path.display())));
        }
        offset = there;
    }
    Ok(begun.id)
}

/// An upload of the same file that broke off, of which just this is there.
async fn begun_before(client: &Client, name: &str, file: &mut File) -> io::Result<Option<UploadFields>> {
    // Without one it is begun anew, which says what is wrong.
    let Ok(uploads) = client.get::<Vec<UploadFields>>("/uploads").await else { return Ok(None) };
    let mut same = uploads.into_iter().filter(|upload| upload.name.as_deref() == Some(name) && upload.offset > 0);
    let Some(upload) = same.next() else { return Ok(None) };
    let sum = sum_of(file, upload.offset).await?;
    Ok((upload.sha256.as_ref() == Some(&sum)).then_some(upload))
}

async fn sum_of(file: &mut File, length: u64) -> io::Result<String> {
    file.seek(SeekFrom::Start(0)).await?;
    let (mut sum, mut piece, mut taken) = (Sha256::new(), vec![0; PIECE], file.take(length));
    loop {
        match taken.read(&mut piece).await? {
            0 => break,
            read => sum.update(&piece[..read]),
        }
    }
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
