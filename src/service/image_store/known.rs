//! Images that are well known: by which name, and where whoever makes them keeps the newest. Nothing is fetched by itself; the
//! names are there so that nobody has to look for the addresses.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;

use crate::{
    fetch::Place,
    model::{ImageName, Result},
    service::Service,
};

const BUILT_IN: &str = include_str!("../../../templates/images.toml");
/// In the templates folder.
const FILE: &str = "images.toml";

pub(super) struct KnownImages(BTreeMap<ImageName, Place>);

impl KnownImages {
    /// The built-in list, joined or replaced by that of `dir`, where it has one.
    ///
    /// # Errors
    /// What cannot be read, with the name that is at fault.
    pub fn load(dir: Option<&Path>) -> anyhow::Result<Self> {
        let mut all = read(BUILT_IN).context("in the built-in list of images")?;
        if let Some(file) = dir.map(|dir| dir.join(FILE)).filter(|file| file.exists()) {
            let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            all.extend(read(&text).with_context(|| format!("in the list of images {}", file.display()))?);
        }
        Ok(Self(all))
    }

    pub fn get(&self, name: &ImageName) -> Option<&Place> {
        self.0.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &ImageName> {
        self.0.keys()
    }
}

fn read(text: &str) -> anyhow::Result<BTreeMap<ImageName, Place>> {
    let listed: BTreeMap<String, String> = toml::from_str(text)?;
    let one = |(name, url): (String, String)| {
        let parsed = ImageName::parse(&name).with_context(|| format!("{name:?}"))?;
        let place = Place::parse(&url).map_err(|must| anyhow::anyhow!("the URL of {name:?} must {must}"))?;
        Ok((parsed, place))
    };
    listed.into_iter().map(one).collect()
}

/// One as it is shown.
#[derive(Clone, Debug)]
pub struct KnownImage {
    pub name: ImageName,
    pub url: String,
    /// There is an image of that name.
    pub is_here: bool,
}

impl Service {
    /// By their names.
    pub fn known_images(&self) -> Vec<KnownImage> {
        let state = self.image_store.lock();
        let known = self.image_store.known.0.iter();
        let known = known.map(|(name, place)| KnownImage {
            name: name.clone(),
            url: place.shown(),
            is_here: state.names.get(name).is_some_and(Option::is_some),
        });
        known.collect()
    }

    /// Whether a client's `base_image` is the name of one that is not here yet.
    pub(in crate::service) fn is_only_known(&self, named: &Path) -> bool {
        let name: Option<Result<ImageName>> = named.to_str().map(ImageName::parse);
        name.is_some_and(|name| name.is_ok_and(|name| self.image_store.known.get(&name).is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_read_and_a_folder_joins_and_replaces_it() {
        let name = |text: &str| ImageName::parse(text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let built_in = KnownImages::load(Some(dir.path())).unwrap();
        assert!(built_in.get(&name("debian:12")).unwrap().shown().starts_with("https://"));
        assert!(built_in.names().all(|known| built_in.get(known).unwrap().shown().starts_with("https://")));
        let list = "\"debian:12\" = \"http://mirror.example/d.qcow2\"\nown = \"https://mirror.example/own\"\n";
        std::fs::write(dir.path().join(FILE), list).unwrap();
        let joined = KnownImages::load(Some(dir.path())).unwrap();
        assert_eq!(joined.get(&name("debian:12")).unwrap().shown(), "http://mirror.example/d.qcow2");
        assert!(joined.get(&name("own")).is_some() && joined.names().count() == built_in.names().count() + 1);
        for (bad, said) in
            [("\"a/b\" = \"https://x.example\"", "a/b"), ("ok = \"nowhere\"", "\"ok\" must"), ("ok = 1", "images.toml")]
        {
            std::fs::write(dir.path().join(FILE), bad).unwrap();
            let error = KnownImages::load(Some(dir.path())).err().unwrap();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}
