//! TLS, by rustls: the certificate that is shown, and those that clients show. The files are looked at for each connection,
//! so that a certificate that was renewed counts at once; one that cannot be read keeps the one before in use.

#![allow(clippy::disallowed_methods, reason = "at the daemon's start, then on a thread that may wait")]

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use tokio_rustls::server::TlsStream;

/// Where everything is, as PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// Ours, with its chain.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Authorities whose certificates clients may show. They need not.
    pub client_ca: Option<PathBuf>,
}

/// What is in force of them.
pub struct Tls {
    files: Files,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// Of the files when they were last read, also where that came to nothing.
    stamp: Vec<Stamp>,
    config: Arc<ServerConfig>,
}

/// What tells one version of a file from the next: device, inode, size, changes of contents and of the rest.
type Stamp = Option<(u64, u64, u64, [i64; 4])>;

impl Tls {
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(files: Files) -> io::Result<Arc<Self>> {
        let loaded = Loaded { stamp: files.stamp(), config: files.read()? };
        Ok(Arc::new(Self { files, loaded: Mutex::new(loaded) }))
    }

    /// Shakes hands; with the DNS names of the certificate that the client has shown.
    ///
    /// # Errors
    /// Of a client that does not, or shows a certificate of nobody's.
    pub(super) async fn accept(self: Arc<Self>, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Vec<String>)> {
        let config = tokio::task::spawn_blocking(move || self.config()).await.map_err(io::Error::other)?;
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = shown.map(names).unwrap_or_default();
        Ok((stream, names))
    }

    fn config(&self) -> Arc<ServerConfig> {
        // Whole at any time, so a panic leaves nothing half done.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.files.stamp();
        if stamp != loaded.stamp {
            loaded.stamp = stamp;
            match self.files.read() {
                Ok(config) => {
                    tracing::info!(cert = %self.files.cert.display(), "the certificate was read anew");
                    loaded.config = config;
                }
                Err(error) => tracing::warn!(%error, "the changed certificate cannot be used; the one before still is"),
            }
        }
        Arc::clone(&loaded.config)
    }
}

impl Files {
    fn stamp(&self) -> Vec<Stamp> {
        let of = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
            Some((found.dev(), found.ino(), found.size(), times))
        };
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().map(of).collect()
    }

    fn read(&self) -> io::Result<Arc<ServerConfig>> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| at(&self.key, &error))?;
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).map_err(|error| at(path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                // Who shows none may still show a token.
                let verifier = verifier.allow_unauthenticated().build().map_err(|error| at(path, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| at(&self.cert, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| at(path, &error))?;
    if found.is_empty() {
        return Err(io::Error::other(format!("{}: there is no certificate in it", path.display())));
    }
    Ok(found)
}

fn at(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// That an authority of ours has signed it was looked at before.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    certificate.valid_dns_names().map(str::to_ascii_lowercase).collect()
}
