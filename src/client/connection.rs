//! A connection to the daemon: over its Unix socket, TCP, or TLS. It knows no request.

#![allow(clippy::disallowed_methods, reason = "a command, which serves nobody")]

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// How long it may take to be let in.
const CONNECT: Duration = Duration::from_secs(10);
/// Where Debian and those that follow it keep the authorities that are trusted.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What is sent: whole, or piece by piece.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
pub type Sender = SendRequest<Body>;

/// Where the daemon is.
#[derive(Clone)]
pub enum Target {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, config: Arc<ClientConfig> },
}

/// What TLS takes, as PEM.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Who signs the daemon's certificate; without one those that this host trusts.
    pub authorities: Option<PathBuf>,
    /// The certificate that is shown, with its chain, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// `unix:///PATH`, `http://HOST[:PORT]` or `https://HOST[:PORT]`; the files are for the last.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(url: &str, files: &TlsFiles) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("it begins with http://, https:// or unix://")?;
        if scheme == "unix" {
            return Ok(Self::Unix(rest.into()));
        }
        let rest = rest.trim_end_matches('/');
        if rest.ends_with("/hyperv") {
            return Err("commands speak the other dialect; leave out /hyperv".to_owned());
        }
        let authority: http::uri::Authority = rest.parse().map_err(|_| "after :// comes a host, with its port")?;
        if authority.as_str().contains('@') {
            return Err("nobody is named in it; a token is given by QHERD_TOKEN, a certificate by --cert".to_owned());
        }
        let host = authority.host().to_owned();
        // A port that is mistyped is not the usual one: somebody else may listen there, and would be sent the token.
        let port = |usual| match authority.as_str().strip_prefix(&host).unwrap_or_default() {
            "" => Ok(usual),
            rest => {
                let text = rest.strip_prefix(':').unwrap_or(rest);
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let port = text.parse().ok().filter(|port| digits && *port != 0);
                port.ok_or_else(|| format!("{text:?} is no port; those are 1 to 65535"))
            }
        };
        match scheme {
            "http" => Ok(Self::Tcp { port: port(80)?, host }),
            "https" => {
                let port = port(443)?;
                Ok(Self::Tls { host, port, config: tls(files)? })
            }
            _ => Err("it begins with http://, https:// or unix://".to_owned()),
        }
    }

    /// For people.
    pub fn name(&self) -> String {
        match self {
            Self::Unix(path) => path.display().to_string(),
            Self::Tcp { host, port } => format!("http://{host}:{port}"),
            Self::Tls { host, port, .. } => format!("https://{host}:{port}"),
        }
    }

    /// What a request calls it.
    pub fn host(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port } | Self::Tls { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// Whether it runs on the host that this runs on, as far as the address tells.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } | Self::Tls { host, .. } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// Whether what is sent there can be read on the way.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Tcp { .. }) && !self.is_here()
    }

    pub(super) async fn connect(&self) -> io::Result<Sender> {
        let connected = async {
            match self {
                Self::Unix(path) => speak(UnixStream::connect(path).await?).await,
                Self::Tcp { host, port } => speak(tcp(host, *port).await?).await,
                Self::Tls { host, port, config } => {
                    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                    let name = ServerName::try_from(bare).map_err(io::Error::other)?;
                    let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp(host, *port).await?).await?;
                    speak(stream).await
                }
            }
        };
        timeout(CONNECT, connected).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host.trim_start_matches('[').trim_end_matches(']'), port)).await?;
    // Keys that are typed are not to wait for more of them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // What goes wrong is told to who waits for the answer.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

fn tls(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let authorities = files.authorities.as_deref().unwrap_or(Path::new(AUTHORITIES));
    let of_file =
        |why: &dyn std::fmt::Display| format!("cannot use the authorities in {}: {why}", authorities.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authorities).map_err(|error| of_file(&error))? {
        // One that is of no use is no reason to do without the others.
        let _ = roots.add(certificate.map_err(|error| of_file(&error))?);
    }
    if roots.is_empty() {
        return Err(of_file(&"there is none"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let config = config.with_root_certificates(roots);
    let Some((cert, key)) = &files.identity else { return Ok(Arc::new(config.with_no_client_auth())) };
    let of = |path: &Path, why: &dyn std::fmt::Display| format!("cannot use {}: {why}", path.display());
    let chain = CertificateDer::pem_file_iter(cert).and_then(|chain| chain.collect::<Result<Vec<_>, _>>());
    let chain = chain.map_err(|error| of(cert, &error))?;
    if chain.is_empty() {
        return Err(of(cert, &"there is no certificate in it"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| of(key, &error))?;
    Ok(Arc::new(config.with_client_auth_cert(chain, secret).map_err(|error| of(cert, &error))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<String, String> {
        Target::parse(url, &TlsFiles::default()).map(|target| target.name())
    }

    #[test]
    fn a_port_is_the_one_that_is_named_or_the_usual_one_and_never_another() {
        assert_eq!(parsed("http://127.0.0.1:8080").as_deref(), Ok("http://127.0.0.1:8080"));
        assert_eq!(parsed("http://[::1]:8080/").as_deref(), Ok("http://[::1]:8080"));
        assert_eq!(parsed("http://host").as_deref(), Ok("http://host:80"));
        assert_eq!(parsed("http://[::1]").as_deref(), Ok("http://[::1]:80"));
        for host in ["127.0.0.1", "[::1]", "host"] {
            for port in [":99999", ":", ":-1", ":18414abc", ":0", ":+80", ":8080:", "::80"] {
                for scheme in ["http", "https"] {
                    let url = format!("{scheme}://{host}{port}");
                    let why = parsed(&url).expect_err(&url);
                    assert!(why.contains("is no port") || why.contains("comes a host"), "{url}: {why}");
                }
            }
        }
    }

    #[test]
    fn nobody_is_named_in_an_address() {
        for url in ["http://me:secret@127.0.0.1:8080", "https://me@host", "http://127.0.0.1:80@evil"] {
            let why = parsed(url).expect_err(url);
            assert!(why.contains("QHERD_TOKEN") && !why.contains("secret"), "{url}: {why}");
        }
    }
}
