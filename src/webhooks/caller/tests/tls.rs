//! The identity of receivers.

use std::{io, net::IpAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::future::BoxFuture;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{AMPLE, Caller, Guard, Heard, Resolver, heard};

/// A certificate for `receiver.test` alone, in base64, valid until 2126: openssl req -x509 -newkey ed25519 -nodes -days
/// 36500 -subj /CN=receiver.test -addext subjectAltName=DNS:receiver.test -addext basicConstraints=critical,CA:FALSE
const CERTIFICATE: &str = "\
    MIIBXjCCARCgAwIBAgIUREtUR4GuABeGO/XZUIU37oV1cx4wBQYDK2VwMBgxFjAUBgNVBAMMDXJlY2VpdmVyLnRlc3\
    QwIBcNMjYxMjAxMTY0NDI5WhgPMjEyNjExMDcxNjQ0MjlaMBgxFjAUBgNVBAMMDXJlY2VpdmVyLnRlc3QwKjAFBgMr\
    ZXADIQBPYRdc0KQZ65mX8nHQY2cZ8/3VHA2JJP2OPMiPpcpVIqNqMGgwHQYDVR0OBBYEFHLMZNu8z8Sk6+aZBFEMTx\
    i6yY1YMB8GA1UdIwQYMBaAFHLMZNu8z8Sk6+aZBFEMTxi6yY1YMBgGA1UdEQQRMA+CDXJlY2VpdmVyLnRlc3QwDAYD\
    VR0TAQH/BAIwADAFBgMrZXADQQDcezZP4OseUsv1xeh9Gv7eYChoCgiT+sZCCHYM9JIiKl+j1LmHWMjBk+9AHbeEUP\
    HfKmnIPc2sIyxIx2VKUmkB";

/// Its private key, which protects nothing but this test.
const KEY: &str = "\
    MC4CAQAwBQYDK2VwBCIEIBVbb+o5uD4KEczSPo5+V0KiyG3EsYevGqvp68Z61xhm";

/// Resolves every name to this machine.
struct Here;

impl Resolver for Here {
    fn resolve(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(vec![[127, 0, 0, 1].into()]) })
    }
}

/// Starts a receiver named `receiver.test` on a port, and returns the roots that vouch for it.
async fn start() -> (u16, RootCertStore) {
    let certificate = CertificateDer::from(BASE64_STANDARD.decode(CERTIFICATE).unwrap());
    let key = PrivateKeyDer::try_from(BASE64_STANDARD.decode(KEY).unwrap()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() && byte != *b"}" {}
            let response = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            // The caller may have gone.
            let _ = stream.write_all(response).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, roots)
}

async fn call(host: &str, port: u16, roots: RootCertStore) -> Heard {
    let guard = Guard::new("127.0.0.0/8".parse().unwrap(), Here);
    let caller = Caller::with(guard, roots, AMPLE).unwrap();
    heard(&caller, &format!("https://{host}:{port}/")).await
}

#[tokio::test]
async fn a_receiver_must_prove_its_name() {
    let (port, roots) = start().await;
    assert_eq!(call("receiver.test", port, roots.clone()).await, Heard::Accepted(204));
    for (host, roots, expected) in [
        ("receiver.test", RootCertStore::empty(), "invalid peer certificate: UnknownIssuer"),
        ("other.test", roots.clone(), "certificate not valid for name \"other.test\""),
        ("127.0.0.1", roots, "certificate not valid for name \"127.0.0.1\""),
    ] {
        let Heard::Failed(error) = call(host, port, roots).await else { panic!("{host}") };
        assert!(error.starts_with("connection failed: ") && error.contains(expected), "{error}");
    }
}
