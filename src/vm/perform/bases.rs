//! Whether what a disk was cloned from has the content still that it had then. Of an image of the store nothing has to be looked
//! at; a file of which nobody knows what was in it is taken as it is.

use std::io;

use futures_util::future::join_all;

use super::{Brief, Hands};
use crate::{
    host::{Access, STORAGE, image, on_storage, open_within},
    model::{BaseContent, Disk},
};

/// What it had and what it has, where that is something else. One that cannot be looked at is told by whoever needs it.
async fn other_content(hands: &Hands, disk: &Disk) -> io::Result<Option<(BaseContent, BaseContent)>> {
    let Some(base) = disk.base.as_ref().filter(|base| base.layer.is_none()) else { return Ok(None) };
    let Some(was) = base.content.clone() else { return Ok(None) };
    let (path, format, folders) = (base.path.clone(), base.format, hands.ctx.config.base_dirs());
    on_storage(&base.path, STORAGE, move || {
        let file = open_within(&folders, &path, Access::Read)?;
        // What it cannot be at all any more is told, better, by who hands it over.
        if image::check_base(&file, format).is_err() {
            return Ok(None);
        }
        Ok(image::other_content(&file, &was)?.map(|now| ((*was).clone(), now)))
    })
    .await
}

/// Of the disks that hold only what differs from it.
///
/// # Errors
/// In words, with what to do.
pub(super) async fn check_all(hands: &Hands, brief: &Brief) -> Result<(), String> {
    let disks = brief.definition().disks.iter();
    let on_bases = disks.filter(|disk| !brief.is_unmade(disk) && disk.backing_file().is_some());
    join_all(on_bases.map(|disk| check(hands, disk))).await.into_iter().collect()
}

/// # Errors
/// As [`check_all`].
pub(super) async fn check(hands: &Hands, disk: &Disk) -> Result<(), String> {
    let Ok(Some((was, now))) = other_content(hands, disk).await else { return Ok(()) };
    let base = disk.base.as_ref().map(|base| base.path.display().to_string()).unwrap_or_default();
    Err(format!(
        "the base image {base} has another content than when the disk {name} was cloned from it: it had {was}, and has {now}; \
         put the former back, or, where the guest is to go on over what is there now, say so with PUT /vms/{id}/disks/{name} \
         {{\"accept_base\": true}} or qherd disk accept-base",
        name = disk.name,
        id = hands.id,
    ))
}

/// Of a disk that is about to be made.
///
/// # Errors
/// As [`check_all`].
pub(super) async fn check_new(hands: &Hands, disk: &Disk) -> Result<(), String> {
    let Ok(Some((was, now))) = other_content(hands, disk).await else { return Ok(()) };
    let base = disk.base.as_ref().map(|base| base.path.display().to_string()).unwrap_or_default();
    Err(format!(
        "The base image {base} was exchanged before the disk {} was made of it: it had {was}, and has {now}. Ask again, and it is \
         made of what is there now.",
        disk.name
    ))
}
