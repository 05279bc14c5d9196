//! A daemon that is reached by its address: over TLS, with a token.

use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::{
    screen::{Ran, bare, done, ran},
    support::Daemon,
};

/// A certificate for `localhost`, signed by an authority of its own: the files of authority, certificate and key.
fn certificate(daemon: &Daemon) -> [String; 3] {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority, &authority_key).unwrap();
    let file = |name: &str, text: String| {
        let path = daemon.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    [file("ca.pem", authority.pem()), file("cert.pem", signed.pem()), file("key.pem", key.serialize_pem())]
}

#[test]
fn a_token_and_a_certificate_lead_to_a_daemon_by_its_address() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let [authority, cert, key] = certificate(&daemon);
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
