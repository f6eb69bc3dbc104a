//! Connects to receivers: the guard checks the host of each new connection, which then goes to one of the addresses
//! that were checked.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::Guard;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Opens connections through a [`Guard`].
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) guard: Guard,
    pub(super) tls: Arc<ClientConfig>,
    /// The time for a connection. It outlives a call that gave up, because another call may use it.
    pub(super) timeout: Duration,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, BoxError> {
        let encrypted = uri.scheme_str() == Some("https");
        let addresses = self.guard.addresses(uri.host().unwrap_or_default(), encrypted).await?;
        let mut tcp = HttpConnector::new_with_resolver(Checked(addresses));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        HttpsConnector::from((tcp, self.tls)).call(uri).await
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connect = timeout(self.timeout, self.clone().connect(uri));
        Box::pin(async { connect.await? })
    }
}

/// The addresses that were checked, in place of another look-up.
#[derive(Clone)]
struct Checked(Vec<IpAddr>);

impl Service<Name> for Checked {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        // The connector sets the port.
        let addresses = self.0.iter().map(|address| SocketAddr::new(*address, 0));
        ready(Ok(addresses.collect::<Vec<_>>().into_iter()))
    }
}
