//! Clients on another host: by tokens, by TLS and by certificates, over an address that others reach. The daemon is in a
//! network namespace of the test's own, the other host in another.

use std::path::Path;

use crate::callers::{Curled, curl, id_of, token};
use crate::support::{
    Daemon,
    netns::{Host, Peer, ip},
};
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::json;

const HERE: &str = "192.0.2.1";

/// Two hosts on a wire.
fn hosts() -> (Host, Peer) {
    let host = Host::leave();
    let other = Peer::new();
    other.connect("wire0", "wire1");
    ip(&format!("addr add {HERE}/24 dev wire0"));
    other.ip("addr add 192.0.2.2/24 dev wire1");
    (host, other)
}

fn from(host: &Peer, args: &[&str]) -> Curled {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    host.within(move || curl(&args.iter().map(String::as_str).collect::<Vec<_>>())).join().unwrap()
}

/// A daemon with a state directory that is there before it.
fn prepare(args: &[&str]) -> Daemon {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    daemon.add_args(args);
    std::fs::create_dir(daemon.state()).unwrap();
    daemon
}

/// The command by which it is reached from the other host.
fn outside(daemon: &Daemon) -> std::process::Command {
    let plain = daemon.command();
    let mut command = std::process::Command::new(plain.get_program());
    for arg in plain.get_args() {
        command.arg(if arg == "127.0.0.1:0" { format!("{HERE}:0").into() } else { arg.to_owned() });
    }
    command.current_dir(daemon.dir.path()).env("QHERD_LOG", "qherd=debug");
    command
}

#[tokio::test]
async fn an_address_that_others_reach_wants_something_that_they_are_known_by() {
    let (_host, other) = hosts();
    let mut daemon = prepare(&[]);
    let refused = outside(&daemon).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    for word in [HERE, "qherd token create", "--tls-client-ca", "--insecure-no-auth"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // A token that is good for nothing any more is none.
    token(&daemon.state(), &["create", "--role", "viewer", "--ttl", "1ms"]);
    assert_eq!(outside(&daemon).output().unwrap().status.code(), Some(1));

    let bearer = format!("Authorization: Bearer {}", token(&daemon.state(), &["create", "--role", "operator"]));
    daemon.run_as(outside(&daemon));
    assert!(daemon.url.starts_with(&format!("http://{HERE}:")), "{}", daemon.url);
    daemon.await_log("in the clear").await;
    let url = daemon.at("/vms");
    let nobody = from(&other, &[&url]);
    assert_eq!(nobody.status, 401, "{nobody:?}");
    assert!(nobody.head.contains("www-authenticate: bearer"), "{nobody:?}");
    assert_eq!(from(&other, &["-H", &bearer, &url]).status, 200);
    // This host reaches it by the same address, and is known as ever.
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    assert_eq!(daemon.get("/health").await.expect(200)["warnings"], json!([]));
    daemon.terminate();

    daemon.add_args(&["--insecure-no-auth"]);
    daemon.run_as(outside(&daemon));
    assert_eq!(from(&other, &[&daemon.at("/vms")]).status, 200);
    let health = daemon.get("/health").await.expect(200);
    assert!(health["warnings"][0].as_str().unwrap().contains("--insecure-no-auth"), "{health}");
    assert!(daemon.log_text().contains("WARN qherd::doors: --insecure-no-auth"));
}

struct Authority {
    key: KeyPair,
    cert: Certificate,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { cert: params.self_signed(&key).unwrap(), key }
    }

    /// Writes `NAME.pem` and `NAME.key`, for a host or a client of this name.
    fn sign(&self, folder: &Path, file: &str, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.cert, &self.key).unwrap();
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(folder.join(format!("{file}.pem")), cert.pem()).unwrap();
    }

    fn write(&self, folder: &Path, file: &str) {
        std::fs::write(folder.join(format!("{file}.pem")), self.cert.pem()).unwrap();
    }
}

#[tokio::test]
async fn clients_from_elsewhere_are_known_over_tls_by_token_or_certificate_and_a_renewed_one_counts_at_once() {
    let (_host, other) = hosts();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (ours, strangers) = (Authority::new("ours"), Authority::new("strangers"));
    ours.write(folder.path(), "ca");
    ours.sign(folder.path(), "host", HERE);
    ours.sign(folder.path(), "ci", "ci.example");
    ours.sign(folder.path(), "guest", "guest.example");
    strangers.sign(folder.path(), "stranger", "ci.example");
    let mut daemon = prepare(&["--tls-cert", &at("host.pem"), "--tls-key", &at("host.key")]);
    daemon.add_args(&["--tls-client-ca", &at("ca.pem"), "--allow", "certificate:ci.example=operator"]);
    daemon.run_as(outside(&daemon));
    let url = daemon.at("/vms");
    assert!(url.starts_with("https://"), "{url}");
    let ca = at("ca.pem");
    let shown = |name: &str| [at(&format!("{name}.pem")), at(&format!("{name}.key"))];
    let by = |name: &str, args: &[&str]| {
        let [cert, key] = shown(name);
        from(&other, &[&["--cacert", &ca, "--cert", &cert, "--key", &key], args, &[&url]].concat())
    };
    assert_eq!(by("ci", &[]).status, 200);
    let made = by("ci", &["-H", "Content-Type: application/json", "-d", "{}"]);
    assert_eq!(made.status, 400, "{made:?}");
    let guest = by("guest", &[]);
    assert_eq!(guest.status, 401, "{guest:?}");
    assert!(guest.body.to_string().contains("the certificate of guest.example has no role here"), "{guest:?}");
    // Of another authority, with the right name: the handshake fails.
    assert_eq!(by("stranger", &[]).status, 0);
    assert_eq!(from(&other, &["--cacert", &ca, &url]).status, 401);
    let viewer = token(&daemon.state(), &["create", "--role", "viewer"]);
    let bearer = format!("Authorization: Bearer {viewer}");
    assert_eq!(from(&other, &["--cacert", &ca, "-H", &bearer, &url]).status, 200);
    token(&daemon.state(), &["rm", id_of(&viewer)]);
    assert_eq!(from(&other, &["--cacert", &ca, "-H", &bearer, &url]).status, 401);
    // In the clear: this host may, another may not.
    let plain = url.replace("https://", "http://");
    assert_eq!(curl(&[&plain]).status, 200);
    let refused = from(&other, &[&plain]);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body.to_string().contains("use https"), "{refused:?}");

    // Another certificate, of another authority, in its place.
    let theirs = at("theirs.pem");
    strangers.write(folder.path(), "theirs");
    strangers.sign(folder.path(), "host", HERE);
    assert_eq!(from(&other, &["--cacert", &ca, &url]).status, 0);
    assert_eq!(from(&other, &["--cacert", &theirs, &url]).status, 401);
    // One that is broken is not taken.
    std::fs::write(at("host.pem"), "nothing").unwrap();
    assert_eq!(from(&other, &["--cacert", &theirs, &url]).status, 401);
    daemon.await_log("the one before still is").await;
    daemon.terminate();
    let output = outside(&daemon).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("host.pem"), "{text}");
}
