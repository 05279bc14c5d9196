//! Images that are pulled: from servers that break off, are slow, lie about the length and the sum, redirect for ever, or are
//! where nobody is to be sent; over TLS; on a disk that is full; and while the daemon is killed.

use std::{
    io::Write,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    filesystem::Mount,
    operations_of as operations,
    support::{Answer, Daemon, PATIENCE},
    web::{Web, send},
};
use serde_json::{Value, json};

const HERE: &[&str] = &["--accel", "tcg", "--pull-from", "127.0.0.0/8"];

/// A raw disk with something in it.
fn disk(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| if at % 7 == 0 { (at / 4096) as u8 } else { 0 }).collect()
}

fn sum(folder: &Path, bytes: &[u8]) -> String {
    let path = folder.join("to-be-summed");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new("sha256sum").arg(&path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

async fn pull(daemon: &Daemon, body: Value) -> Answer {
    daemon.post("/images", body).await
}

fn unfinished(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.state().join("layers/unfinished")).unwrap().count()
}

async fn nothing_is_left(daemon: &Daemon) {
    let deadline = Instant::now() + PATIENCE;
    while unfinished(daemon) > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(daemon.get("/images").await.expect(200), json!([]));
    let layers = std::fs::read_dir(daemon.state().join("layers")).unwrap().flatten();
    assert_eq!(layers.filter(|entry| entry.path().is_file()).count(), 0);
}

#[tokio::test]
async fn what_breaks_off_goes_on_and_is_an_image_with_its_sum() {
    let daemon = Daemon::start_with(HERE);
    let file = disk(5 << 20);
    let served = file.clone();
    // Twice it breaks off, each time a little later.
    let web = Web::serve(move |number, request, stream| {
        let most = if number < 2 { 2 << 20 } else { served.len() };
        send(&served, request, most, stream);
    });
    let url = web.url("disk.raw?signature=secret");
    let image = pull(&daemon, json!({ "name": "pulled:1", "url": url })).await.expect(201);
    let expected = sum(daemon.dir.path(), &file);
    assert_eq!(image["sha256"], json!(expected), "the one that came is told");
    let source = json!({ "type": "url", "path": null, "url": web.url("disk.raw"), "vm_id": null, "disk": null });
    assert_eq!(image["source"], source, "without what may let whoever knows it in");
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "qcow2"]).arg(daemon.dir.path().join("to-be-summed"));
    let output = compare.arg(image["layer"]["file"].as_str().unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let requests = web.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[2].contains("range: bytes=") && requests[2].contains("if-range: \"one\""), "{requests:?}");

    // What is here already does not come again.
    let again = json!({ "name": "pulled:2", "url": web.url("disk.raw"), "sha256": expected });
    let again = pull(&daemon, again).await.expect(201);
    assert_eq!((&again["layer"], web.requests().len()), (&image["layer"], 3));
    let disk = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "pulled:2" });
    daemon.post("/vms", disk).await.expect(201);
}

#[tokio::test]
async fn what_lies_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start_with(HERE);
    let file = disk(1 << 20);
    let served = file.clone();
    let web = Web::serve(move |_, request, stream| {
        let path = request.split(' ').nth(1).unwrap();
        let _ = match path {
            // Of more than it says, or less, and more than there is room for.
            "/shorter" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", served.len() - 1),
            "/longer" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", served.len() + 1),
            "/endless" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 4),
            "/untold" => write!(stream, "HTTP/1.1 200 OK\r\n\r\n"),
            "/page" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n<html>404</html>"),
            "/gone" => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            "/again" => write!(stream, "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"),
            "/secrets" => write!(
                stream,
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n"
            ),
            _ => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", served.len()),
        };
        if !matches!(path, "/page" | "/gone" | "/again" | "/secrets") {
            let _ = stream.write_all(&served);
        }
    });
    let right = sum(daemon.dir.path(), &file);
    let wrong = "a".repeat(64);
    for (path, sha256, status, said) in [
        ("ok", Some(&wrong), 400, format!("sha256 must be the sum of what is imported, which is {right}")),
        ("shorter", Some(&right), 400, "sha256 must be the sum of what is imported".to_owned()),
        ("longer", None, 502, "it was begun 3 times".to_owned()),
        ("endless", None, 507, (u64::MAX / 4).to_string()),
        ("untold", None, 400, "url must be given with the sha256 of the file".to_owned()),
        ("page", None, 400, "url must be the image of a disk, not an HTML".to_owned()),
        ("gone", None, 400, "answers 404 Not Found".to_owned()),
        ("again", None, 400, "url must lead to a file within 10 redirects".to_owned()),
        ("secrets", None, 400, "is at 169.254.169.254".to_owned()),
    ] {
        let mut body = json!({ "name": "ok", "url": web.url(path) });
        sha256.into_iter().for_each(|sum| body["sha256"] = json!(sum));
        let answer = pull(&daemon, body).await;
        assert!(answer.status == status && answer.message().contains(&said), "{path}: {answer:?}");
    }
    for (body, said) in [
        (json!({ "name": "ok", "url": "file:///etc/shadow" }), "url must begin with https"),
        (json!({ "name": "ok", "url": "http://me:word@127.0.0.1/x" }), "url must hold no user name"),
        (json!({ "name": "ok", "url": "nonsense" }), "url must be a URL"),
        (json!({ "name": "ok", "url": web.url("ok"), "path": "blank.raw" }), "be given, one of them alone"),
        (json!({ "name": "ok", "url": "http://nowhere.invalid/x" }), "nowhere.invalid"),
        (json!({ "name": "ok", "url": "http://127.0.0.1:1/x" }), "127.0.0.1"),
        (json!({ "name": "unheard-of" }), "those are"),
    ] {
        let answer = pull(&daemon, body.clone()).await;
        assert!(answer.status == 400 && answer.message().contains(said), "{body}: {answer:?}");
    }
    nothing_is_left(&daemon).await;
    pull(&daemon, json!({ "name": "ok", "url": web.url("ok"), "sha256": right.to_uppercase() })).await.expect(201);
}

#[tokio::test]
async fn a_slow_pull_tells_how_far_it_is_and_is_taken_back() {
    let mut daemon = Daemon::start_with(HERE);
    let file = disk(4 << 20);
    let goes_on = Arc::new(AtomicBool::new(false));
    let (served, all) = (file.clone(), goes_on.clone());
    let web = Web::serve(move |_, request, stream| {
        if all.load(Ordering::SeqCst) {
            return send(&served, request, served.len(), stream);
        }
        send(&served, request, 1 << 20, stream);
        let (mut slow, served) = (stream.try_clone().unwrap(), served.clone());
        std::thread::spawn(move || {
            for piece in served[1 << 20..].chunks(1000) {
                std::thread::sleep(Duration::from_millis(100));
                if slow.write_all(piece).is_err() {
                    break;
                }
            }
        });
    });
    let wish = json!({ "name": "slow", "url": web.url("disk") });
    let place = operations::post(&daemon, "/images", wish.clone()).await;
    loop {
        let phase = operations::in_phase(&daemon, &place, "download").await;
        if phase["bytes"]["done"].as_u64().is_some_and(|done| done >= 1 << 20) {
            assert_eq!(phase["bytes"]["total"], json!(4 << 20));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let operation = daemon.get(&place).await.expect(200);
    assert_eq!((&operation["kind"], &operation["name"]), (&json!("importImage"), &json!("slow:latest")));
    let answer = pull(&daemon, wish.clone()).await;
    assert!(answer.status == 409 && answer.message().contains("is being imported already"), "{answer:?}");
    operations::cancel(&daemon, &place).await;
    nothing_is_left(&daemon).await;

    // Killed in the middle.
    let place = operations::post(&daemon, "/images", wish.clone()).await;
    operations::in_phase(&daemon, &place, "download").await;
    while unfinished(&daemon) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.kill();
    daemon.run();
    nothing_is_left(&daemon).await;
    let ended = operations::end(&daemon, &place).await;
    assert!(ended["interrupted"].as_str().unwrap().contains("taken back"), "{ended:#}");
    goes_on.store(true, Ordering::SeqCst);
    pull(&daemon, wish).await.expect(201);
}

#[tokio::test]
async fn nobody_is_sent_to_the_hosts_own_services_unless_the_administrator_says_so() {
    let daemon = Daemon::start();
    let web = Web::of_file(disk(1 << 20));
    for url in [
        web.url("disk"),
        web.url("disk").replace("127.0.0.1", "localhost"),
        web.url("disk").replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        web.url("disk").replace("127.0.0.1", "0x7f.1"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://10.0.0.1/disk".to_owned(),
        daemon.at("/openapi.json"),
    ] {
        let answer = pull(&daemon, json!({ "name": "ok", "url": url })).await;
        assert!(answer.status == 400 && answer.message().contains("--pull-from"), "{url}: {answer:?}");
    }
    assert!(web.requests().is_empty());
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_well_known_image_needs_no_more_than_its_name() {
    let web = Web::of_file(disk(1 << 20));
    let folder = tempfile::tempdir().unwrap();
    let list = format!("\"small:1\" = \"{}\"\n", web.url("small.raw"));
    std::fs::write(folder.path().join("images.toml"), list).unwrap();
    let templates = folder.path().to_str().unwrap();
    let daemon = Daemon::start_with(&[HERE, &["--templates-dir", templates]].concat());
    let known = daemon.get("/known-images").await.expect(200);
    let of = |name: &str, tag: &str| {
        let mut all = known.as_array().unwrap().iter();
        all.find(|image| image["name"] == name && image["tag"] == tag).cloned().unwrap()
    };
    assert!(of("debian", "12")["url"].as_str().unwrap().starts_with("https://"));
    assert_eq!((&of("small", "1")["url"], &of("small", "1")["here"]), (&json!(web.url("small.raw")), &json!(false)));
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "small:1" });
    let answer = daemon.post("/vms", wish.clone()).await;
    assert!(answer.status == 404 && answer.message().contains("qherd image pull small:1"), "{answer:?}");
    let image = pull(&daemon, json!({ "name": "small:1" })).await.expect(201);
    assert_eq!(image["source"]["url"], json!(web.url("small.raw")));
    daemon.post("/vms", wish).await.expect(201);
    let known = daemon.get("/known-images").await.expect(200);
    assert!(known.as_array().unwrap().iter().any(|image| image["name"] == "small" && image["here"] == true), "{known}");
}

#[tokio::test]
async fn a_full_disk_ends_a_pull_with_the_figures_and_leaves_nothing() {
    let mut daemon = Daemon::prepare(HERE);
    let layers = daemon.state().join("layers");
    let _small = Mount::tmpfs(&layers, 300);
    daemon.run();
    let web = Web::serve(|_, request, stream| {
        let piece = vec![7; 1 << 20];
        if request.starts_with("get /told") {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 100 << 20);
        } else {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        }
        for _ in 0..100 {
            let sent = write!(stream, "100000\r\n").and_then(|()| stream.write_all(&piece));
            if sent.and_then(|()| stream.write_all(b"\r\n")).is_err() {
                break;
            }
        }
    });
    for path in ["told", "untold"] {
        let answer = pull(&daemon, json!({ "name": "large", "url": web.url(path) })).await;
        assert!(answer.status == 507 && answer.message().contains("bytes"), "{path}: {answer:?}");
        nothing_is_left(&daemon).await;
    }
    let small = Web::of_file(disk(1 << 20));
    pull(&daemon, json!({ "name": "small", "url": small.url("disk") })).await.expect(201);
}

#[tokio::test]
async fn over_tls_a_server_is_who_it_says_it_is() {
    let mut daemon = Daemon::prepare(HERE);
    let file = disk(1 << 20);
    let (url, authority) = tls::serve(file.clone()).await;
    let trusted = daemon.dir.path().join("authority.pem");
    std::fs::write(&trusted, authority).unwrap();
    let wish = json!({ "name": "safe", "url": url });
    daemon.run();
    let answer = pull(&daemon, wish.clone()).await;
    assert!(answer.status == 400 && answer.message().contains("certificate"), "{answer:?}");
    daemon.kill();
    let mut command = daemon.command();
    command.env("SSL_CERT_FILE", &trusted);
    daemon.run_as(command);
    let image = pull(&daemon, wish).await.expect(201);
    assert_eq!(image["sha256"], json!(sum(daemon.dir.path(), &file)));
    // Not by another of its names.
    let wish = json!({ "name": "other", "url": url.replace("localhost", "127.0.0.1") });
    let answer = pull(&daemon, wish).await;
    assert!(answer.status == 400 && answer.message().contains("certificate"), "{answer:?}");
}

/// A server of one file by https, and whose word it has.
mod tls {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, crypto, pki_types::PrivateKeyDer},
    };

    pub async fn serve(file: Vec<u8>) -> (String, String) {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = own.signed_by(&key, &authority, &authority_key).unwrap();
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![own.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, file) = (acceptor.clone(), file.clone());
                tokio::spawn(async move {
                    // A client that does not trust it hangs up.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(&file).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        (format!("https://localhost:{port}/disk.raw"), authority.pem())
    }
}
