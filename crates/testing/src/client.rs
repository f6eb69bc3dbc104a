//! HTTP requests and responses.

use std::net::SocketAddr;

use reqwest::{Method, header::HeaderMap};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::wait::PATIENCE;

/// The body of the example payment.
pub const PAYMENT: &str = r#"{"user_id": "user_1", "amount": 100}"#;

/// The body of a refund of the remaining amount.
pub const REMAINING: &str = r#"{"remaining": true}"#;

/// A complete response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Response {
    /// Reads a response; an error if the connection ends before its end.
    pub async fn read(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, body: response.text().await? })
    }

    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// A field of the body, as text; empty if there is none.
    pub fn field(&self, name: &str) -> String {
        match self.json().get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }

    /// Asserts that this is a problem with this status and code, in the documented format.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.field("code").as_str()), (status, code), "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.field("type"), format!("/problems/{code}"));
        assert_eq!(self.field("status"), status.to_string());
        assert_eq!(self.field("error"), self.field("title"));
        assert!(!self.field("title").is_empty());
        let detail = self.field("detail");
        let sentence = detail.starts_with(|first: char| first.is_uppercase());
        assert!(sentence && detail.ends_with('.'), "{detail}");
        let instance = self.field("instance");
        let uuid =
            instance.strip_prefix("urn:uuid:").unwrap_or_else(|| panic!("instance: {instance}"));
        uuid.parse::<uuid::Uuid>().unwrap();
        let retry = match code {
            "not-found" if !self.header("idempotent-replayed").is_empty() => "new_key",
            "not-found" if !self.header("idempotency-key").is_empty() => "corrected_request",
            "not-found"
            | "method-not-allowed"
            | "idempotency-key-expired"
            | "idempotency-key-reused" => "none",
            "refund-refused" | "too-many-webhook-endpoints" | "idempotency-key-voided" => "new_key",
            _ if status >= 500 || matches!(status, 408 | 409 | 429) => "same_request",
            _ => "corrected_request",
        };
        assert_eq!(self.field("retry"), retry);
        let seconds: u32 = self.header("retry-after").parse().unwrap_or(0);
        let expected = if retry == "same_request" { 1..=10 } else { 0..=0 };
        assert!(expected.contains(&seconds), "Retry-After: {seconds}");
    }

    /// The pointers of all errors that the problem lists.
    pub fn pointers(&self) -> Vec<String> {
        let json = self.json();
        let errors =
            json["errors"].as_array().unwrap_or_else(|| panic!("no errors: {}", self.body));
        for error in errors {
            // Each error says what was expected.
            assert!(error["detail"].as_str().unwrap().contains("expected"), "{error}");
        }
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}

/// An HTTP client that sends these headers with each request, and has a time-out.
pub fn http_client(headers: HeaderMap) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().default_headers(headers);
    client.timeout(2 * PATIENCE).build().unwrap()
}

/// Sends requests to one server, with the same headers.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub http: reqwest::Client,
}

impl Client {
    /// Sends a request with these headers.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        self.try_request(method, path, headers, body).await.unwrap()
    }

    /// As [`request`](Self::request), but returns an error if the connection fails.
    pub async fn try_request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response, reqwest::Error> {
        let mut request = self.http.request(method, format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Response::read(request.body(body.to_owned()).send().await?).await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path, &[], "").await
    }

    /// `POST /payment` with a key.
    pub async fn pay(&self, key: &str, body: &str) -> Response {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.request(Method::POST, "/payment", &headers, body).await
    }

    /// `POST /payment/{transaction_id}/refund` with a key.
    pub async fn refund(&self, payment: &str, key: &str, body: &str) -> Response {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.request(Method::POST, &format!("/payment/{payment}/refund"), &headers, body).await
    }

    /// `GET /idempotency-key`.
    pub async fn state(&self, key: &str) -> Response {
        self.request(Method::GET, "/idempotency-key", &[("idempotency-key", key)], "").await
    }

    /// `POST /idempotency-key/void`.
    pub async fn void(&self, key: &str) -> Response {
        self.request(Method::POST, "/idempotency-key/void", &[("idempotency-key", key)], "").await
    }

    /// A connection on which the test writes every byte itself.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.address).await
    }

    /// Creates a payment of this amount, and returns its id.
    pub async fn paid(&self, key: &str, amount: i64) -> String {
        let response =
            self.pay(key, &format!(r#"{{"user_id": "user_1", "amount": {amount}}}"#)).await;
        assert_eq!(response.status, 201, "{}", response.body);
        response.field("transaction_id")
    }
}

/// A connection without an HTTP client.
pub struct Wire {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), unread: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends `POST /payment` with these header lines and this body. Content-Length is added.
    pub async fn send_payment(&mut self, head: &str, body: &str) {
        let length = body.len();
        self.send(format!(
            "POST /payment HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// The head and body of the next response. `None` if the connection ends.
    pub async fn response(&mut self) -> Option<(String, String)> {
        let head_end = loop {
            if let Some(place) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break place + 4;
            }
            self.read_more().await?;
        };
        let head =
            String::from_utf8(self.unread.drain(..head_end).collect()).unwrap().to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        while self.unread.len() < length {
            self.read_more().await?;
        }
        Some((head, String::from_utf8(self.unread.drain(..length).collect()).unwrap()))
    }

    /// The status of the next response; 0 if the connection ends.
    pub async fn status(&mut self) -> u16 {
        match self.response().await {
            Some((head, _)) => head.split(' ').nth(1).unwrap().parse().unwrap(),
            None => 0,
        }
    }

    async fn read_more(&mut self) -> Option<()> {
        let mut chunk = [0; 4096];
        let read = timeout(PATIENCE, self.stream.read(&mut chunk)).await;
        let count = read.expect("a response, or the end of the connection").unwrap_or(0);
        self.unread.extend_from_slice(&chunk[..count]);
        (count > 0).then_some(())
    }
}
