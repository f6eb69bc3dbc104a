//! A connection pooler in transaction mode: all clients share one session of PostgreSQL, each for one transaction at a time.

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Result},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

/// The code of a request for TLS, in place of a protocol version.
const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

const AUTHENTICATION_OK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];

/// The shared session.
struct Session {
    stream: TcpStream,
    /// Its parameters, as PostgreSQL sent them.
    greeting: Vec<u8>,
}

/// Starts a pooler in front of a database, and returns how to reach it.
pub async fn start(database: &PgConnectOptions) -> PgConnectOptions {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = format!("{}:{}", database.get_host(), database.get_port());
    let session = Arc::new(Mutex::new(None));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, server.clone(), Arc::clone(&session)));
        }
    });
    database.clone().host("127.0.0.1").port(port)
}

/// Serves a client until it ends the connection.
async fn serve(
    mut client: TcpStream,
    server: String,
    session: Arc<Mutex<Option<Session>>>,
) -> Result<()> {
    let startup = loop {
        let (length, body) = read_body(&mut client).await?;
        if body != SSL_REQUEST {
            break [&length[..], &body].concat();
        }
        client.write_all(b"N").await?;
    };
    let mut shared = session.lock().await;
    match &*shared {
        Some(Session { greeting, .. }) => client.write_all(greeting).await?,
        None => *shared = Some(open(&mut client, &server, &startup).await?),
    }
    drop(shared);
    loop {
        let (mut kind, mut message) = read_message(&mut client).await?;
        let mut shared = session.lock().await;
        let Some(Session { stream, .. }) = &mut *shared else { return Ok(()) };
        // Until the transaction has ended.
        loop {
            if kind == b'X' {
                return Ok(());
            }
            stream.write_all(&message).await?;
            if matches!(kind, b'Q' | b'S') && pass_response(stream, &mut client).await? == b'I' {
                break;
            }
            (kind, message) = read_message(&mut client).await?;
        }
    }
}

/// Opens the session with the startup message and the password of the first client.
async fn open(client: &mut TcpStream, server: &str, startup: &[u8]) -> Result<Session> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(startup).await?;
    let mut greeting = AUTHENTICATION_OK.to_vec();
    loop {
        let (kind, message) = read_message(&mut stream).await?;
        client.write_all(&message).await?;
        match kind {
            // It asks for a password, or for the next step of SCRAM.
            b'R' if !matches!(message[5..9], [0, 0, 0, 0 | 12]) => {
                let (_, response) = read_message(client).await?;
                stream.write_all(&response).await?;
            }
            b'S' | b'K' => greeting.extend(message),
            b'Z' => {
                greeting.extend(message);
                return Ok(Session { stream, greeting });
            }
            _ => {}
        }
    }
}

/// Passes a response on, and returns the state of the transaction after it.
async fn pass_response(server: &mut TcpStream, client: &mut TcpStream) -> Result<u8> {
    loop {
        let (kind, message) = read_message(server).await?;
        client.write_all(&message).await?;
        if kind == b'Z' {
            return Ok(message[5]);
        }
    }
}

/// A message: its kind, and all of its bytes.
async fn read_message(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let (length, body) = read_body(stream).await?;
    Ok((kind, [&[kind][..], &length, &body].concat()))
}

/// A length, which includes itself, and the bytes after it.
async fn read_body(stream: &mut TcpStream) -> Result<([u8; 4], Vec<u8>)> {
    let length = stream.read_u32().await?;
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await?;
    Ok((length.to_be_bytes(), body))
}
