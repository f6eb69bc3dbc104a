//! One connection to a server, with the codec of the server itself: actix-http has both sides.
//!
//! It is used again after a whole answer, and never after anything less: an exchange takes the connection
//! and gives it back. So whoever drops an exchange in the middle has hung up.

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

    /// Whether the server has neither closed it nor said anything.
    pub(super) fn is_idle(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends a request and reads its answer; with that comes the connection, where it can be used again.
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

    /// Reads a body. One that ends with its connection is refused: nobody could tell whether it is whole.
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
        0 => {
            Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection ended before its answer"))
        }
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

    /// What a client makes of an answer: its body and whether the connection can be used again; `None` where
    /// it isn't whole. The server hangs up after it.
    async fn heard(answer: &'static str) -> Option<(String, bool)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let ask = async {
            let connection = Connection::open(&address, ServiceConfig::default()).await.unwrap();
            connection.exchange(RequestHead::default(), &Bytes::from_static(b"{}")).await.ok()
        };
        let ((), answer) = tokio::join!(serve, ask);
        let (_, body, connection) = answer?;
        if let Some(connection) = &connection {
            connection.stream.readable().await.unwrap();
            assert!(!connection.is_idle(), "the server has closed it");
        }
        Some((String::from_utf8(body).unwrap(), connection.is_some()))
    }

    #[actix_web::test]
    async fn an_answer_counts_when_it_is_whole() {
        for (answer, expected) in [
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
            assert_eq!(heard(answer).await, expected, "{answer}");
        }
    }
}
