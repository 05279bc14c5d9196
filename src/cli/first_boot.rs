//! What a guest's cloud-init is given by flags: keys and user data are read from files here, as a daemon elsewhere has not got
//! them.

#![allow(clippy::disallowed_methods, reason = "a command, which serves nobody")]

use std::{fs::File, io::Read, path::Path};

use clap::Args;

use super::exit::Fail;
use crate::model::{CloudInit, CloudPart};

/// Bytes of a file that is sent; the API takes less.
const MOST: u64 = 1 << 20;
const NONE: &str = "none";

#[derive(Args, Clone, Default)]
pub struct FirstBoot {
    /// A public key of OpenSSH, or several, that the image's own user is logged in with; repeatable
    #[arg(long = "ssh-key", value_name = "FILE")]
    pub ssh_keys: Vec<String>,
    /// User data for cloud-init: #cloud-config, or a script
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<String>,
    /// What the guest calls itself [default: its name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

impl FirstBoot {
    pub fn is_given(&self) -> bool {
        !self.ssh_keys.is_empty() || self.user_data.is_some() || self.hostname.is_some()
    }

    /// What there is to be, over what there was: a part that is named is replaced, `none` takes it away. `None` for nothing at all.
    ///
    /// # Errors
    /// A file that cannot be read, or has no key in it.
    pub fn over(&self, now: Option<CloudInit>) -> Result<Option<CloudInit>, Fail> {
        let mut data = now.unwrap_or_default();
        if !self.ssh_keys.is_empty() {
            data.withheld.retain(|part| *part != CloudPart::SshKeys);
            let files = self.ssh_keys.iter().filter(|file| *file != NONE);
            let keys: Vec<String> = files.map(|file| keys(file)).collect::<Result<Vec<_>, _>>()?.concat();
            data.ssh_keys = (!keys.is_empty()).then_some(keys);
        }
        if let Some(file) = &self.user_data {
            data.withheld.retain(|part| *part != CloudPart::UserData);
            data.user_data = if file == NONE { None } else { Some(text(file)?) };
        }
        if let Some(name) = &self.hostname {
            data.withheld.retain(|part| *part != CloudPart::Hostname);
            data.hostname = (name != NONE).then(|| name.clone());
        }
        Ok((data != CloudInit::default()).then_some(data))
    }
}

/// Those of a file, as `id_ed25519.pub` and `authorized_keys` have them.
fn keys(file: &str) -> Result<Vec<String>, Fail> {
    let text = text(file)?;
    if text.contains("PRIVATE KEY") {
        let public = format!("{file}.pub");
        let instead = if Path::new(&public).exists() { format!("; give {public}") } else { String::new() };
        return Err(Fail::usage(format!("{file} holds a private key, which nobody should have{instead}")));
    }
    let keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = keys.map(str::to_owned).collect();
    if keys.is_empty() { Err(Fail::usage(format!("{file} holds no key"))) } else { Ok(keys) }
}

fn text(file: &str) -> Result<String, Fail> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MOST + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > MOST => Err(Fail::usage(format!("{file} is larger than {MOST} bytes"))),
        Ok(_) => Ok(text),
        Err(error) => Err(Fail::usage(format!("cannot read {file}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_replaced_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (one, two) = (file("a.pub", "ssh-rsa A\n"), file("keys", "# mine\nssh-rsa B\n\nssh-rsa C\n"));
        let flags = |ssh_keys: &[&String]| FirstBoot {
            ssh_keys: ssh_keys.iter().map(|key| (*key).clone()).collect(),
            ..FirstBoot::default()
        };
        let made = flags(&[&one, &two]).over(None).unwrap().unwrap();
        assert_eq!(
            made.ssh_keys.as_deref(),
            Some(&["ssh-rsa A".to_owned(), "ssh-rsa B".into(), "ssh-rsa C".into()][..])
        );
        let now = CloudInit { withheld: vec![CloudPart::Password, CloudPart::SshKeys], ..CloudInit::default() };
        let after = flags(&[&one]).over(Some(now)).unwrap().unwrap();
        assert_eq!((after.withheld, after.ssh_keys), (vec![CloudPart::Password], Some(vec!["ssh-rsa A".to_owned()])));
        assert_eq!(flags(&[&NONE.to_owned()]).over(Some(made)).unwrap(), None);
        let private = file("id", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
        let public = file("id.pub", "ssh-rsa A\n");
        let said = flags(&[&private]).over(None).unwrap_err().to_string();
        assert!(said.ends_with(&format!("give {public}")), "{said}");
        assert!(flags(&[&file("empty", "\n")]).over(None).is_err());
        assert!(flags(&[&"/nowhere".to_owned()]).over(None).unwrap_err().to_string().contains("cannot read /nowhere"));
    }
}
