//! Writes what the daemon sends to a new file here; of one that is cut short nothing is left.

use std::{io, path::Path};

use tokio::{fs, io::AsyncWriteExt};

use super::{
    exit::{Exit, Fail},
    progress::Saying,
    sizes::written,
};
use crate::client::Client;

/// SIGINT.
const INTERRUPTED: u8 = 2;

/// Returns how many bytes there were.
///
/// # Errors
/// A file that is there already, and whatever cuts it short.
pub async fn save(client: &Client, path: &str, to: &Path, saying: &Saying) -> Result<u64, Fail> {
    let failed = |error: io::Error| Fail::usage(format!("cannot write {}: {error}", to.display()));
    let mut stream = client.stream(path).await?;
    let mut file = fs::File::create_new(to).await.map_err(failed)?;
    let receive = async {
        let mut all = 0;
        while let Some(piece) = stream.next().await? {
            file.write_all(&piece).await.map_err(failed)?;
            all += piece.len() as u64;
            saying.is(&format!("writing: {}", written(all)));
        }
        file.sync_all().await.map_err(failed)?;
        Ok(all)
    };
    let received = tokio::select! {
        received = receive => received,
        _ = tokio::signal::ctrl_c() => Err(Fail::new(Exit::Signal(INTERRUPTED), "interrupted; nothing is kept of it")),
    };
    if received.is_err() {
        // It was made here.
        let _ = fs::remove_file(to).await;
    }
    received
}
