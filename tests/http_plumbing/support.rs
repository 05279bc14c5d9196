//! A toy service with two dialects over a real socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qherd::api::http::{
    Gate, HttpError, Limits, Load, QueryParam, Reply, Report, Request, Response, Route, Shutdown, Table, dispatch,
    serve,
};
use qherd::model::Role;
use qherd::service::access::{Access, Rules};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use warp::http::StatusCode;

/// Room for answers that are not taken.
pub const ANSWERS: u64 = 32 << 20;
/// Bytes of a large one.
pub const LARGE: usize = 8 << 20;

#[derive(Default)]
pub struct State {
    pub finished: AtomicUsize,
    pub entered: Notify,
    pub release: Notify,
    pub lasting: crate::lasting::Lasting,
}
type S = Arc<State>;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct Make {
    pub name: String,
    pub vcpus: i64,
}

#[derive(Debug, Default, Deserialize)]
struct Stop {
    timeout: Option<i64>,
}

async fn list(_: S, _: Request) -> Reply {
    Reply::json(StatusCode::OK, &json!([])).next_page("/vms?page_token=x")
}
/// The order of checks: the id, existence, the body.
async fn make(_: S, req: Request) -> Result<Reply, HttpError> {
    if req.param("id") == "missing" {
        return Err(HttpError::NoSuchPath);
    }
    let body: Make = req.json()?;
    Ok(Reply::json(StatusCode::CREATED, &json!({"name": body.name, "vcpus": body.vcpus})))
}
async fn stop(_: S, req: Request) -> Result<Reply, HttpError> {
    let query: Stop = req.query()?;
    let body: Stop = req.json_or_default()?;
    let timeout = query.timeout.or(body.timeout);
    Ok(Reply::json(StatusCode::OK, &json!({"id": req.param("id"), "timeout": timeout})))
}
async fn echo(_: S, req: Request) -> Reply {
    Reply::json(StatusCode::OK, &json!({"param": req.param("name")}))
}
async fn slow(state: S, _: Request) -> Reply {
    state.entered.notify_one();
    state.release.notified().await;
    state.finished.fetch_add(1, Ordering::SeqCst);
    Reply::text(StatusCode::OK, "done")
}
/// What a client must not lose.
async fn count(state: S, _: Request) -> Reply {
    state.finished.fetch_add(1, Ordering::SeqCst);
    Reply::json(StatusCode::CREATED, &json!({"counted": true}))
}
async fn large(_: S, _: Request) -> Reply {
    Reply::text(StatusCode::OK, "x".repeat(LARGE))
}
async fn panics(_: S, _: Request) -> Reply {
    panic!("on purpose")
}

const TIMEOUT: QueryParam = QueryParam::integer("timeout", "Seconds.");

fn routes() -> Vec<Route<S>> {
    let mut routes = crate::lasting::routes();
    routes.extend(brief());
    routes
}

fn brief() -> Vec<Route<S>> {
    vec![
        Route::get("/vms", "listVMs", list).role(Role::Viewer),
        Route::post("/vms/{id}/make", "makeVM", make).at_once().role(Role::Viewer).input::<Make>(),
        Route::post("/vms/{id}/stop", "stopVM", stop).at_once().role(Role::Viewer).query(&[TIMEOUT]),
        Route::get("/vms/by-name/{name}", "byName", echo).role(Role::Viewer),
        Route::get("/vms/{name}/{part}", "part", list).role(Role::Viewer),
        Route::post("/slow", "slow", slow).at_once().role(Role::Viewer),
        Route::post("/count", "count", count).at_once().role(Role::Viewer),
        Route::get("/large", "large", large).role(Role::Viewer),
        Route::get("/panic", "panics", panics).role(Role::Viewer),
    ]
}

fn kvm(error: HttpError) -> Response {
    let status = error.status();
    let body = json!({"error": {"code": status.as_u16(), "message": error.message(), "detail": error.detail()}});
    Reply::json(status, &body).build()
}
fn hyperv(error: HttpError) -> Response {
    Reply::json(error.status(), &json!({"error": error.message()})).build()
}

pub struct Server {
    pub addr: SocketAddr,
    pub state: S,
    pub shutdown: Shutdown,
    task: JoinHandle<Report>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Limits { header_timeout: Duration::from_secs(5), ..Limits::default() }).await
    }

    pub async fn with(limits: Limits) -> Self {
        let state = S::default();
        let tables = vec![
            ("", Table::new(state.clone(), routes()).errors(kvm)),
            ("/hyperv", Table::new(state.clone(), routes()).errors(hyperv)),
        ];
        assert!(tables.iter().all(|(_, table)| table.problems().is_empty()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = Shutdown::default();
        // Of this host's users, as any: the tests' own. `a` is what they call it.
        let access = Access::new(Rules::default(), Arc::new(Vec::new));
        let gate = Gate::new(access, vec!["a".to_owned()], Vec::new(), false);
        let load = Load::new(ANSWERS, limits.standing);
        let task = tokio::spawn(serve(listener, dispatch::service(tables, None, gate, load), shutdown.clone(), limits));
        Self { addr, state, shutdown, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Asks the server to end and waits for that.
    pub async fn stop(self) -> Report {
        self.shutdown.ask();
        self.ended().await
    }

    pub async fn ended(self) -> Report {
        tokio::time::timeout(Duration::from_secs(20), self.task).await.unwrap().unwrap()
    }

    /// Sends the text as it is, and reads until the server closes.
    pub async fn raw(&self, text: &str) -> String {
        let mut socket = self.connect().await;
        socket.write_all(text.as_bytes()).await.unwrap();
        read_all(&mut socket).await
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = reqwest::Client::new().post(self.url(path)).header("content-type", "application/json").body(body);
        answer(request).await
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

pub async fn read_all(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = socket.read_to_end(&mut bytes);
    tokio::time::timeout(Duration::from_secs(15), reading).await.expect("the server closes").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// One answer off a connection that stays open.
pub async fn read_one(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") {
        if socket.read(&mut byte).await.unwrap() == 0 {
            return text;
        }
        text.push(byte[0] as char);
    }
    let length = text
        .to_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(|n| n.parse::<usize>().unwrap()))
        .unwrap_or(0);
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    text + &String::from_utf8(body).unwrap()
}

pub fn message(body: &Value) -> &str {
    body["error"]["message"].as_str().unwrap_or_default()
}
