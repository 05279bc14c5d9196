//! `image set`: what is noted of an image of the store. What it is called is another command, `image tag`.

use std::collections::BTreeMap;

use clap::Args;

use super::{SET, at, made};
use crate::{
    api::kvm::bodies::{ImageFields, ImageUpdate},
    cli::{
        connect::Connect,
        exit::Fail,
        sizes::{self, Label},
    },
};

#[derive(Args)]
pub struct Set {
    /// Its name or id
    image: String,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// A label that it is to have; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = sizes::label)]
    labels: Vec<Label>,
    /// The key of a label that it is to lose; repeatable
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
    /// What it is for; empty for nothing
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether it is kept from being deleted
    #[arg(long, value_name = "YES")]
    protected: Option<bool>,
}

impl Set {
    pub async fn run(self) -> Result<(), Fail> {
        let Self { image, change, to } = self;
        let output = to.output();
        let client = to.client()?;
        let found: ImageFields = client.get(&at(&image)).await?;
        let name = format!("{}:{}", found.name, found.tag);
        let changed = client.put::<ImageFields>(&at(&found.id), &change.body(found.labels)).await;
        let changed = changed.map_err(|error| Fail::from(error).about_what(&name, SET))?;
        made(output, &changed, "is set")
    }
}

impl Change {
    /// Labels are replaced whole, so those that are not named are sent as they are.
    fn body(self, mut labels: BTreeMap<String, String>) -> ImageUpdate {
        let changes = !self.labels.is_empty() || !self.unlabels.is_empty();
        labels.extend(self.labels.into_iter().map(|label| (label.key, label.value)));
        labels.retain(|key, _| !self.unlabels.contains(key));
        ImageUpdate {
            name: None,
            labels: changes.then_some(Some(labels)),
            description: self.description.map(|text| Some(text).filter(|text| !text.is_empty())),
            protected: self.protected,
        }
    }
}
