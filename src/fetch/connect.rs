//! A connection to the server of a place: its name is resolved here, and what is connected to is an address that was looked
//! at, so that no name leads elsewhere in between.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto, pki_types::ServerName},
};

use super::{FetchError, Fetcher, Place, place::is_allowed};

pub(super) type Sender = SendRequest<Empty<Bytes>>;

/// Addresses of a server that are tried.
const ADDRESSES: usize = 4;

/// Why there is no connection.
pub(super) enum NoWay {
    /// It stays so.
    For(FetchError),
    /// It may be another the next time.
    Now(String),
}

impl Fetcher {
    /// # Errors
    /// [`NoWay`].
    pub(super) async fn connect(&self, place: &Place) -> Result<Sender, NoWay> {
        let mut why = String::new();
        for address in self.addresses(place).await? {
            match timeout(self.patience.connect, self.reach(place, address)).await {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(Reached::Itself)) => return Err(NoWay::For(not_there(place, address.ip()))),
                Ok(Err(Reached::Not(error))) => why = format!("{} ({}): {error}", place.host(), address.ip()),
                Err(_) => why = format!("{} ({}) does not answer", place.host(), address.ip()),
            }
        }
        Err(NoWay::Now(why))
    }

    /// Of the server, those that may be gone to.
    async fn addresses(&self, place: &Place) -> Result<Vec<SocketAddr>, NoWay> {
        let looked = timeout(self.patience.connect, lookup_host((place.bare_host(), place.port()))).await;
        let found = match looked {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                return Err(NoWay::Now(format!("the name {} has no address: {error}", place.bare_host())));
            }
            Err(_) => return Err(NoWay::Now(format!("nobody says which address {} has", place.bare_host()))),
        };
        let Some(first) = found.first() else {
            return Err(NoWay::Now(format!("the name {} has no address", place.bare_host())));
        };
        let refused = not_there(place, first.ip());
        let allowed = found.into_iter().filter(|address| is_allowed(address.ip(), &self.allowed));
        let allowed: Vec<SocketAddr> = allowed.take(ADDRESSES).collect();
        if allowed.is_empty() { Err(NoWay::For(refused)) } else { Ok(allowed) }
    }

    async fn reach(&self, place: &Place, address: SocketAddr) -> Result<Sender, Reached> {
        let stream = TcpStream::connect(address).await?;
        // A public address may be this host's own, whose services take what comes from it for their owner's.
        let is_listed = self.allowed.iter().any(|network| network.contains(&address.ip().to_canonical()));
        if stream.local_addr()?.ip() == stream.peer_addr()?.ip() && !is_listed {
            return Err(Reached::Itself);
        }
        if !place.is_by_tls() {
            return Ok(speak(stream).await?);
        }
        let name = ServerName::try_from(place.bare_host().to_owned()).map_err(io::Error::other)?;
        let config = spawn_blocking(tls).await.map_err(io::Error::other)??;
        Ok(speak(TlsConnector::from(config).connect(name, stream).await?).await?)
    }
}

enum Reached {
    /// The address is one of this host's.
    Itself,
    Not(io::Error),
}

impl From<io::Error> for Reached {
    fn from(error: io::Error) -> Self {
        Self::Not(error)
    }
}

fn not_there(place: &Place, address: IpAddr) -> FetchError {
    FetchError::Unsuitable(format!(
        "lead to a public address, and {} is at {address}; the administrator allows others with --pull-from",
        place.host()
    ))
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // What goes wrong is told to who waits for the answer, and it ends with them.
    tokio::spawn(connection);
    Ok(sender)
}

/// With the authorities that this host trusts today. Blocks.
fn tls() -> io::Result<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One that is of no use is no reason to do without the others.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
        return Err(io::Error::other(format!(
            "this host trusts no authority of certificates ({why}); install the package ca-certificates"
        )));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
