//! A client of the REST API, KVM dialect: requests with the API's own types, over connections that are kept. Every answer has
//! a deadline, and side by side there are as many as there are places. What is asked, and what is shown, is the command's.

mod connection;
mod console;
mod error;
mod upload;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};

use crate::api::kvm::bodies::{ErrorBody, OperationBody};
use connection::{Body, Sender};

pub use connection::{Target, TlsFiles};
pub use console::{Console, Heard};
pub use error::Failure;

/// Connections at a time. Waiting for a guest takes one, so there are enough for a herd.
const PLACES: usize = 64;
/// For an answer that waits for nothing but the daemon.
pub const SOON: Duration = Duration::from_secs(30);
/// For one that may have to copy an image.
pub const LONG: Duration = Duration::from_secs(3600);
/// Bytes of the largest answer that is taken whole.
const MOST_BYTES: usize = 256 << 20;

pub struct Client {
    target: Target,
    /// The value of the header `Authorization`.
    bearer: Option<String>,
    idle: Mutex<Vec<Sender>>,
    places: Semaphore,
}

impl Client {
    pub fn new(target: Target, token: Option<&str>) -> Self {
        let bearer = token.map(|token| format!("Bearer {token}"));
        Self { target, bearer, idle: Mutex::default(), places: Semaphore::new(PLACES) }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// # Errors
    /// [`Failure`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.get_within(path, SOON).await
    }

    /// # Errors
    /// [`Failure`].
    pub async fn get_within<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Result<T, Failure> {
        self.exchange(Method::GET, path, None, time).await
    }

    /// # Errors
    /// [`Failure`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        time: Duration,
    ) -> Result<T, Failure> {
        self.exchange(Method::POST, path, Some(self.written(body)?), time).await
    }

    /// # Errors
    /// [`Failure`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.exchange(Method::PUT, path, Some(self.written(body)?), LONG).await
    }

    /// # Errors
    /// [`Failure`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Result<T, Failure> {
        self.exchange(Method::DELETE, path, None, time).await
    }

    /// An answer that lasts, piece by piece.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn stream(&self, path: &str) -> Result<Stream, Failure> {
        let (_, response) = self.send(self.request(Method::GET, path, None)?, SOON).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        Ok(Stream { at: self.target.name(), body: response.into_body() })
    }

    fn written(&self, body: &impl Serialize) -> Result<Bytes, Failure> {
        serde_json::to_vec(body).map(Bytes::from).map_err(|error| self.garbled(&error))
    }

    fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Request<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.target.host());
        if let Some(bearer) = &self.bearer {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(body.unwrap_or_default()).map_err(|never| match never {}).boxed_unsync();
        request.body(body).map_err(|error| self.garbled(&error))
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        time: Duration,
    ) -> Result<T, Failure> {
        // There is always one in the end, as nobody closes it.
        let _place = self.places.acquire().await;
        let request = self.request(method, path, body)?;
        Ok(self.answered(request, time).await?.1)
    }

    /// A request whose work may take long.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn begin<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<Begun<T>, Failure> {
        let _place = self.places.acquire().await;
        let mut request = self.request(Method::POST, path, Some(self.written(body)?))?;
        request.headers_mut().insert("prefer", HeaderValue::from_static("respond-async"));
        let (status, answer) = self.answered::<Value>(request, SOON).await?;
        let read = match status {
            StatusCode::ACCEPTED => {
                serde_json::from_value(answer).map(|operation| Begun::Operation(Box::new(operation)))
            }
            _ => serde_json::from_value(answer).map(Begun::Done),
        };
        read.map_err(|error| self.garbled(&error))
    }

    async fn answered<T: DeserializeOwned>(
        &self,
        request: Request<Body>,
        time: Duration,
    ) -> Result<(StatusCode, T), Failure> {
        let (sender, response) = self.send(request, time).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refusal(response).await);
        }
        let body = self.whole(response.into_body(), time).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok((status, serde_json::from_slice(&body).map_err(|error| self.not_understood(&body, &error))?))
    }

    /// Over a connection that is kept, where one still stands.
    async fn send(&self, request: Request<Body>, time: Duration) -> Result<(Sender, Response<Incoming>), Failure> {
        let unreachable = |why| Failure::Unreachable { at: self.target.name(), why };
        let mut sender = loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(mut kept) => {
                    if kept.ready().await.is_ok() {
                        break kept;
                    }
                }
                None => break self.target.connect().await.map_err(unreachable)?,
            }
        };
        match timeout(time, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok((sender, response)),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(_) => Err(Failure::Late { at: self.target.name(), after: time }),
        }
    }

    async fn whole(&self, mut body: Incoming, time: Duration) -> Result<Vec<u8>, Failure> {
        let mut whole = Vec::new();
        let read = async {
            while let Some(frame) = body.frame().await {
                let piece = frame.map_err(|error| self.lost(&error))?.into_data().unwrap_or_default();
                whole.extend_from_slice(&piece);
                if whole.len() > MOST_BYTES {
                    return Err(self.garbled(&"its answer has no end"));
                }
            }
            Ok(())
        };
        timeout(time, read).await.map_err(|_| Failure::Late { at: self.target.name(), after: time })??;
        Ok(whole)
    }

    async fn refusal(&self, response: Response<Incoming>) -> Failure {
        let status = response.status();
        let body = match self.whole(response.into_body(), SOON).await {
            Ok(body) => body,
            Err(failure) => return failure,
        };
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => Failure::Refused { status, message: error.message, detail: error.detail },
            Err(_) => self.not_understood(&body, &format!("it answers {status}")),
        }
    }

    fn lost(&self, why: &hyper::Error) -> Failure {
        let why = if why.is_incomplete_message() || why.is_canceled() || why.is_closed() {
            "it was closed before the answer was whole".to_owned()
        } else {
            why.to_string()
        };
        Failure::Lost { at: self.target.name(), why }
    }

    /// The other dialect has its own way with names, and with errors.
    fn not_understood(&self, body: &[u8], why: &dyn std::fmt::Display) -> Failure {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let one = value.get(0).unwrap_or(&value);
        let is_of_hyperv = one.get("Id").is_some() || value.get("error").is_some_and(serde_json::Value::is_string);
        if is_of_hyperv { Failure::OtherDialect { at: self.target.name() } } else { self.garbled(why) }
    }

    fn garbled(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::Garbled { at: self.target.name(), why: why.to_string() }
    }
}

/// What came of a request that was not waited for.
pub enum Begun<T> {
    Done(T),
    Operation(Box<OperationBody>),
}

/// An answer that lasts.
pub struct Stream {
    at: String,
    body: Incoming,
}

impl Stream {
    /// What comes next; `None` at its end.
    ///
    /// # Errors
    /// [`Failure::Lost`] of one that ends in the middle.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Lost { at: self.at.clone(), why: error.to_string() }),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => return Ok(Some(piece)),
                    _ => {}
                },
            }
        }
    }
}
