//! The first 68 bytes of a connection: who is there, and for which torrent (BEP 3).
//!
//! Runs as a task before there is a peer actor. A connection that says nothing useful in time costs one task and a few
//! hundred bytes.

use std::time::Duration;

use bytes::BytesMut;
use castanet_core::seams::transport::Connection;
use castanet_protocol::wire::Handshake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a handshake may take from the connection's first moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// More than a handshake: what a remote may send behind it without waiting.
const ROOM: usize = 1024;

/// Shakes hands on a connection that we opened; `ours` is what we say.
pub(crate) async fn outbound(connection: &mut Connection, ours: Handshake) -> Result<(Handshake, BytesMut), String> {
    let shaking = async {
        connection.io.write_all(&ours.to_bytes()).await.map_err(broke)?;
        let (theirs, early) = read(connection, BytesMut::with_capacity(ROOM)).await?;
        if theirs.info_hash != ours.info_hash {
            return Err("the peer answered for another torrent".into());
        }
        Ok((theirs, early))
    };
    tokio::time::timeout(PATIENCE, shaking)
        .await
        .unwrap_or_else(|_| Err("the peer did not finish the handshake".into()))
}

/// Shakes hands on a connection that came in; `ours` is what we say if we serve that torrent.
pub(crate) async fn inbound(
    connection: &mut Connection,
    ours: impl Fn(&[u8; 20]) -> Option<Handshake>,
) -> Result<(Handshake, BytesMut), String> {
    let shaking = async {
        let mut buffer = BytesMut::with_capacity(ROOM);
        let info_hash = loop {
            if let Some((_, info_hash)) = Handshake::peek(&buffer).map_err(|error| error.to_string())? {
                break info_hash;
            }
            fill(connection, &mut buffer).await?;
        };
        let answer = ours(&info_hash).ok_or("the peer asked for a torrent that is not served here")?;
        connection.io.write_all(&answer.to_bytes()).await.map_err(broke)?;
        read(connection, buffer).await
    };
    tokio::time::timeout(PATIENCE, shaking)
        .await
        .unwrap_or_else(|_| Err("the peer did not finish the handshake".into()))
}

async fn read(connection: &mut Connection, mut buffer: BytesMut) -> Result<(Handshake, BytesMut), String> {
    loop {
        if let Some(theirs) = Handshake::parse(&buffer).map_err(|error| error.to_string())? {
            let early = buffer.split_off(castanet_protocol::wire::HANDSHAKE_LENGTH);
            return Ok((theirs, early));
        }
        fill(connection, &mut buffer).await?;
    }
}

async fn fill(connection: &mut Connection, buffer: &mut BytesMut) -> Result<(), String> {
    // A whole buffer without a handshake cannot happen: it is parsed, or refused, after 68 bytes.
    match connection.io.read_buf(buffer).await.map_err(broke)? {
        0 => Err("the peer closed the connection during the handshake".into()),
        _ => Ok(()),
    }
}

fn broke(error: std::io::Error) -> String {
    format!("the connection broke during the handshake: {error}")
}

#[cfg(test)]
mod tests;
