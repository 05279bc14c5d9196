//! The settings about who may use the API, judged together: some of them mean nothing without others.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::Settings;
use crate::model::{Grant, Who};

/// Who may use the API, and how it is reached.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    pub socket: PathBuf,
    pub grants: Vec<Grant>,
    /// In lower case.
    pub host_names: Vec<String>,
    /// In lower case, without a slash at the end.
    pub cors_origins: Vec<String>,
    pub tls: Option<TlsFiles>,
    /// Whoever reaches the address may do everything.
    pub open: bool,
}

/// Read again whenever they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

impl AccessSettings {
    /// # Errors
    /// Settings that mean nothing by themselves, or cannot be what they are to be.
    pub(super) fn of(mine: &mut Settings, file: &Settings) -> anyhow::Result<Self> {
        let list = |mine: &[String], file: &[String]| -> Vec<String> {
            let chosen = if mine.is_empty() { file } else { mine };
            chosen.iter().map(|text| text.trim_end_matches('/').to_ascii_lowercase()).collect()
        };
        let path = |mine: &Option<PathBuf>, file: &Option<PathBuf>| mine.clone().or_else(|| file.clone());
        let host_names = list(&mine.host_names, &file.host_names);
        for name in &host_names {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            ensure!(
                !name.is_empty() && name.chars().all(good),
                "the host name {name:?} must be a name, without a port"
            );
        }
        let cors_origins = list(&mine.cors_origins, &file.cors_origins);
        for origin in &cors_origins {
            let host = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
            ensure!(
                host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', '@', ' '])),
                "the origin {origin:?} must read http://HOST or https://HOST, with a port where it is not the usual one"
            );
        }
        let (cert, key) = (path(&mine.tls_cert, &file.tls_cert), path(&mine.tls_key, &file.tls_key));
        let client_ca = path(&mine.tls_client_ca, &file.tls_client_ca);
        let tls = match (cert, key, client_ca) {
            (Some(cert), Some(key), client_ca) => Some(TlsFiles { cert, key, client_ca }),
            (None, None, None) => None,
            _ => anyhow::bail!("TLS takes both --tls-cert and --tls-key, also for --tls-client-ca"),
        };
        let grants = if mine.allow.is_empty() { file.allow.clone() } else { mine.allow.clone() };
        let by_certificate = grants.iter().any(|grant| matches!(grant.who, Who::Certificate(_)));
        let with_authority = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        ensure!(
            !by_certificate || with_authority,
            "--allow certificate:… takes --tls-client-ca, --tls-cert and --tls-key"
        );
        Ok(Self {
            socket: path(&mine.socket, &file.socket).unwrap_or_default(),
            grants,
            host_names,
            cors_origins,
            tls,
            open: mine.insecure_no_auth.or(file.insecure_no_auth).unwrap_or(false),
        })
    }

    /// With the socket in its usual place, where no other was chosen.
    pub(super) fn at(mut self, state_dir: &Path) -> Self {
        if self.socket.as_os_str().is_empty() {
            self.socket = state_dir.join("api.sock");
        }
        self
    }

    /// Users beside root and the daemon's own may have a role.
    pub fn knows_other_users(&self) -> bool {
        self.open || self.grants.iter().any(|grant| !matches!(grant.who, Who::Certificate(_)))
    }

    /// Somebody who is not on this host can show who they are.
    pub fn knows_others_by_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }
}
