//! One connection to a server. actix-http has the codec for both sides.
//!
//! An exchange takes the connection and returns it after a complete response only. A caller that drops the exchange closes
//! the connection.

use std::io::{self, ErrorKind};

use actix_codec::{Decoder, Encoder};
use actix_http::{
    RequestHead, ResponseHead, ServiceConfig,
    body::BodySize,
    h1::{ClientCodec, Message, MessageType},
};
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(super) struct Connection {
    stream: TcpStream,
    codec: ClientCodec,
    unread: BytesMut,
}

impl Connection {
    pub(super) async fn open(address: &str, config: ServiceConfig) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, codec: ClientCodec::new(config), unread: BytesMut::new() })
    }

    /// Returns whether the server has neither closed it nor sent anything.
    pub(super) fn is_idle(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends a request and reads the response. The connection comes with it if it can be reused.
    pub(super) async fn exchange(
        mut self,
        head: RequestHead,
        body: &Bytes,
    ) -> io::Result<(ResponseHead, Vec<u8>, Option<Self>)> {
        self.send(head, body).await?;
        let head = loop {
            match self.codec.decode(&mut self.unread).map_err(io::Error::other)? {
                Some(head) => break head,
                None => self.read().await?,
            }
        };
        let mut received = Vec::new();
        if self.codec.message_type() != MessageType::None {
            self = self.receive(&mut received).await?;
        }
        let open = self.codec.keep_alive() && self.unread.is_empty();
        Ok((head, received, open.then_some(self)))
    }

    async fn send(&mut self, head: RequestHead, body: &Bytes) -> io::Result<()> {
        let mut sent = BytesMut::new();
        let size = match u64::try_from(body.len()).map_err(io::Error::other)? {
            0 => BodySize::None,
            length => BodySize::Sized(length),
        };
        self.codec.encode(Message::Item((head.into(), size)), &mut sent)?;
        if !body.is_empty() {
            self.codec.encode(Message::Chunk(Some(body.clone())), &mut sent)?;
        }
        self.stream.write_all(&sent).await
    }

    /// Reads a body. One that ends with the connection is refused, since it may be incomplete.
    async fn receive(self, body: &mut Vec<u8>) -> io::Result<Self> {
        let Self { mut stream, codec, mut unread } = self;
        let mut codec = codec.into_payload_codec();
        loop {
            match codec.decode(&mut unread).map_err(io::Error::other)? {
                Some(Some(chunk)) => body.extend_from_slice(&chunk),
                Some(None) => break,
                None => more(&mut stream, &mut unread).await?,
            }
        }
        Ok(Self { stream, codec: codec.into_message_codec(), unread })
    }

    async fn read(&mut self) -> io::Result<()> {
        more(&mut self.stream, &mut self.unread).await
    }
}

async fn more(stream: &mut TcpStream, unread: &mut BytesMut) -> io::Result<()> {
    match stream.read_buf(unread).await? {
        0 => Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "the connection ended before the response",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use actix_http::{RequestHead, ServiceConfig};
    use bytes::Bytes;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::Connection;

    /// The body of a response and whether the connection can be reused; `None` if the response is incomplete. The server
    /// closes the connection after it.
    async fn receive(response: &'static str) -> Option<(String, bool)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(response.as_bytes()).await.unwrap();
        };
        let ask = async {
            let connection = Connection::open(&address, ServiceConfig::default()).await.unwrap();
            connection.exchange(RequestHead::default(), &Bytes::from_static(b"{}")).await.ok()
        };
        let ((), received) = tokio::join!(serve, ask);
        let (_, body, connection) = received?;
        if let Some(connection) = &connection {
            connection.stream.readable().await.unwrap();
            assert!(!connection.is_idle(), "the server has closed it");
        }
        Some((String::from_utf8(body).unwrap(), connection.is_some()))
    }

    #[actix_web::test]
    async fn only_a_complete_response_counts() {
        for (response, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmade", Some(("made", true))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some(("", true))),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nma\r\n2\r\nde\r\n0\r\n\r\n",
                Some(("made", true)),
            ),
            (
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nmade",
                Some(("made", false)),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nma", None),
            ("HTTP/1.1 200 OK\r\ncontent-le", None),
            ("HTTP/1.0 200 OK\r\n\r\nmade until the end", None),
            ("SSH-2.0\r\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(body, open)| (body.to_owned(), open));
            assert_eq!(receive(response).await, expected, "{response}");
        }
    }
}
