//! A daemon that is reached by its address: over TLS, with a token.

use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::{
    screen::{Ran, bare, done, ran},
    support::Daemon,
};

/// A certificate for `localhost`, and one for a client, signed by an authority of their own: the files of authority, certificate
/// and key, and of the client's certificate and key.
fn certificate(daemon: &Daemon) -> [String; 5] {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority, &authority_key).unwrap();
    let client_key = KeyPair::generate().unwrap();
    let client = CertificateParams::new(["ci.example".to_owned()]).unwrap();
    let client = client.signed_by(&client_key, &authority, &authority_key).unwrap();
    let file = |name: &str, text: String| {
        let path = daemon.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let authority = file("ca.pem", authority.pem());
    let (cert, key) = (file("cert.pem", signed.pem()), file("key.pem", key.serialize_pem()));
    [authority, cert, key, file("client.pem", client.pem()), file("client-key.pem", client_key.serialize_pem())]
}

#[test]
fn a_token_and_a_certificate_lead_to_a_daemon_by_its_address() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let [authority, cert, key, ..] = certificate(&daemon);
    daemon.add_args(&["--tls-cert", &cert, "--tls-key", &key]);
    daemon.run();
    let url = daemon.url.replace("http://127.0.0.1", "https://localhost");
    let state = daemon.state().display().to_string();
    let token = done(&daemon, &["token", "create", "--role", "viewer", "--state-dir", &state]);
    let ask = |token: &str, args: &[&str]| -> Ran {
        let mut command: Command = bare(args);
        command.env("QHERD_URL", &url).env("QHERD_TOKEN", token).env("QHERD_CACERT", &authority);
        ran(command)
    };
    assert_eq!(ask(token.trim(), &["ls"]).expect(0).out, "NAME  STATUS  ID\n");
    let refused = ask(token.trim(), &["create", "--image", "blank.raw"]).expect(5);
    assert!(refused.err.contains("a token of a higher role"), "{}", refused.err);
    let unknown = ask("qht_nonsense", &["ls"]).expect(5);
    assert!(unknown.err.contains("QHERD_TOKEN"), "{}", unknown.err);

    // Signed by nobody who is trusted here.
    let mut stranger = bare(&["ls", "--url", &url]);
    stranger.env("QHERD_TOKEN", token.trim());
    assert_eq!(ran(stranger).expect(6).out, "");
}

#[test]
fn a_certificate_of_the_clients_says_who_asks() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let [authority, cert, key, client, client_key] = certificate(&daemon);
    let allow = "certificate:ci.example=viewer";
    daemon.add_args(&["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &authority, "--allow", allow]);
    daemon.run();
    let url = daemon.url.replace("http://127.0.0.1", "https://localhost");
    let ask = |args: &[&str]| {
        let mut command: Command = bare(args);
        command.env("QHERD_URL", &url).env("QHERD_CACERT", &authority);
        command.env("QHERD_CERT", &client).env("QHERD_KEY", &client_key);
        ran(command)
    };
    assert_eq!(ask(&["ls"]).expect(0).out, "NAME  STATUS  ID\n");
    let refused = ask(&["create", "--image", "blank.raw"]).expect(5);
    assert!(refused.err.contains("certificate ci.example has the role viewer"), "{}", refused.err);
    let other = ask(&["ls", "--key", &key]).expect(2);
    assert!(other.err.contains(&format!("cannot use {client}")), "{}", other.err);
    let none = ask(&["ls", "--cert", "/nowhere"]).expect(2);
    assert!(none.err.contains("cannot use /nowhere"), "{}", none.err);
    let mut alone = bare(&["ls", "--url", &url, "--cert", &client]);
    assert!(
        ran({
            alone.env("QHERD_CACERT", &authority);
            alone
        })
        .expect(2)
        .err
        .contains("--key")
    );
}
