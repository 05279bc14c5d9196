//! `image/<id>`: how an image is stored. The layer with its data is a record of its own (`vm::layers`).

use crate::{
    model::{Image, MAX_METADATA},
    store::{self, MAX_RECORD_BYTES},
};

impl store::Record for Image {
    const KIND: &'static str = "image";
    const VERSION: u32 = 1;
}

/// A path has 4,096 bytes, each of which may have to be escaped.
const _: () = assert!(MAX_METADATA + 2 * 4096 + 2048 <= MAX_RECORD_BYTES);
