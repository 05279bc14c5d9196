//! Pulls: a file comes from a server elsewhere, as an upload does from a client. Where it may come from is `fetch`'s matter;
//! what it is, `import`'s.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::spool::{Partial, Spooled};
use crate::{
    fetch::{FetchError, Place},
    host::image::Copied,
    model::{Error, ImageName, Operation, Result},
    service::Service,
    vm::{asker, copying},
};

/// Pulls of a client at a time; its others wait for their turn.
pub(super) const PULLS: usize = 4;
/// However steadily it comes.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The field of a request that names the place.
pub(super) const URL: &str = "url";

impl Service {
    /// Where a well-known image is pulled from.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name of none.
    pub(super) fn known_place(&self, name: &ImageName) -> Result<Place> {
        let known = &self.image_store.known;
        known.get(name).cloned().ok_or_else(|| {
            let names: Vec<String> = known.names().map(ToString::to_string).collect();
            let must = format!(
                "be given, or path or upload, unless name is that of a well-known image, and {name} is none; those are {}",
                names.join(", ")
            );
            Error::invalid(URL, must)
        })
    }

    /// Gets the file. Nothing is left of one that is given up.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Elsewhere`], [`Error::NoRoom`], [`Error::Failed`].
    pub(super) async fn pull(&self, place: &Place, is_checked: bool) -> Result<Spooled> {
        let store = &self.image_store;
        let client = asker().map(|asker| asker.caller);
        let turn = store.pulls.take_for(client.as_deref(), &[&store.folder]).await;
        let _turn = turn.map_err(|error| Error::failed(Operation::Import, error))?;
        let copied = Arc::default();
        let received = timeout(LONGEST, self.receive(place, is_checked, &copied));
        let late = |_| Error::Elsewhere(format!("{} has not sent it within a day", place.host()));
        copying("download", &copied, received).await.map_err(late)?
    }

    async fn receive(&self, place: &Place, is_checked: bool, copied: &Arc<Copied>) -> Result<Spooled> {
        let store = &self.image_store;
        let failed = |error| of(error, &place.host());
        let mut transfer = store.fetcher.transfer(place.clone(), is_checked);
        let mut partial = Partial::begin(&store.folder).await?;
        loop {
            let run = transfer.run(partial.length()).await.map_err(failed)?;
            if run.from == 0 && partial.length() > 0 {
                partial.clear().await?;
            }
            self.check_room_for("the image", run.length.map(|length| length.saturating_sub(run.from))).await?;
            copied.begin(run.length.unwrap_or_default());
            copied.is_at(run.from);
            let (received, broken) = partial.append(run.pieces(), copied).await?;
            partial = received;
            match broken {
                None => return Ok(partial.whole()),
                Some(why) => transfer.broke(partial.length(), why).await.map_err(failed)?,
            }
        }
    }
}

/// The place that a client names.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) fn place(text: &str) -> Result<Place> {
    Place::parse(text).map_err(|error| of(error, text))
}

fn of(error: FetchError, host: &str) -> Error {
    match error {
        FetchError::Unsuitable(must) => Error::invalid(URL, must),
        FetchError::Elsewhere(why) if why.contains(host) => Error::Elsewhere(why),
        FetchError::Elsewhere(why) => Error::Elsewhere(format!("{host}: {why}")),
    }
}
