//! Where the daemon is and who asks it: the flags that every command of the client has.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use super::{
    exit::{Exit, Fail},
    output::{Format, Output},
};
use crate::{
    client::{Client, Target, TlsFiles},
    config::Settings,
};

#[derive(Args)]
#[command(next_help_heading = "Where the daemon is, and how it is shown")]
pub struct Connect {
    /// The daemon's address: http://HOST:PORT, https://HOST:PORT or unix:///PATH; QHERD_TOKEN is the token for it [default: the
    /// socket in the state directory]
    #[arg(long, env = "QHERD_URL", value_name = "URL", hide_env_values = true)]
    url: Option<String>,
    /// Who signs the daemon's certificate (PEM) [default: those that this host trusts]
    #[arg(long, env = "QHERD_CACERT", value_name = "FILE", hide_env_values = true)]
    cacert: Option<PathBuf>,
    /// The certificate to show to the daemon, with its chain (PEM)
    #[arg(long, env = "QHERD_CERT", value_name = "FILE", hide_env_values = true, requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "QHERD_KEY", value_name = "FILE", hide_env_values = true, requires = "cert")]
    key: Option<PathBuf>,
    /// The daemon's state directory [default: ./state]
    #[arg(long, env = "QHERD_STATE_DIR", value_name = "DIR", hide_env_values = true)]
    state_dir: Option<PathBuf>,
    /// The daemon's configuration file, which may name another state directory or socket [default: ./qherd.toml, if there]
    #[arg(long, env = "QHERD_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Ids alone of what is made or listed, else nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

impl Connect {
    pub fn output(&self) -> Output {
        Output::new(self.output, self.quiet)
    }

    /// # Errors
    /// A flag or a file that is not understood.
    pub fn client(self) -> Result<Client, Fail> {
        let token = token(std::env::var_os("QHERD_TOKEN").unwrap_or_default())?;
        let target = match self.url.filter(|url| !url.is_empty()) {
            Some(url) => {
                let files = TlsFiles { authorities: self.cacert, identity: self.cert.zip(self.key) };
                Target::parse(&url, &files)
                    .map_err(|why| Fail::usage(format!("{} cannot be asked: {why}", harmless(&url))))?
            }
            None => {
                let socket = std::env::var_os("QHERD_SOCKET").map(PathBuf::from);
                let settings = Settings { state_dir: self.state_dir, socket, ..Settings::default() };
                let config = settings.resolve(self.config.as_deref());
                let config = config.map_err(|error| Fail::new(Exit::Usage, format!("{error:#}")))?;
                Target::Unix(config.access.socket)
            }
        };
        if token.is_some() && target.is_open() {
            let at = target.name();
            // Where nobody hears it, it is no reason not to go on.
            let _ = writeln!(io::stderr(), "qherd: the token goes to {at} in the clear; https:// keeps it from others");
        }
        Ok(Client::new(target, token.as_deref()))
    }
}

/// An address as it may be shown: what stands before an @ or behind a ? may be a secret.
fn harmless(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    let Some((before, host)) = url.rsplit_once('@') else { return url.to_owned() };
    let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
    format!("{scheme}…@{host}")
}

/// None where it is empty.
fn token(given: OsString) -> Result<Option<String>, Fail> {
    match given.into_string() {
        Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Some(token).filter(|token| !token.is_empty()))
        }
        _ => Err(Fail::usage(
            "QHERD_TOKEN is no token: it has a space, a line end or another character that none has; give what qherd token \
             create has printed, by itself",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_an_address_is_not_shown() {
        for (url, shown) in [
            ("http://host:x", "http://host:x"),
            ("http://me:secret@host:80", "http://…@host:80"),
            ("http://me:sec/r@et@host/x", "http://…@host/x"),
            ("me:secret@host", "…@host"),
            ("http://host/?token=secret", "http://host/"),
        ] {
            assert_eq!(harmless(url), shown);
        }
    }

    #[test]
    fn what_is_no_token_is_said_before_anybody_is_asked() {
        let of = |text: &str| token(text.into()).map_err(|fail| (fail.exit, fail.text.contains("QHERD_TOKEN")));
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("qherd_Ab-9"), Ok(Some("qherd_Ab-9".to_owned())));
        for odd in ["one\n", "one\r\nX-Role: admin", "one two", "\u{fc}ber"] {
            assert_eq!(of(odd), Err((Exit::Usage, true)), "{odd:?}");
        }
    }
}
