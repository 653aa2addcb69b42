//! A peer by hand: speaks the wire protocol (BEP 3, BEP 6) as a story tells it, rightly or wrongly.

use std::{io, net::SocketAddr};

use bytes::BytesMut;
use castanet_core::{
    BlockRef, PeerId,
    seams::transport::{Connection, DialOptions, Listener, Transport},
};
use castanet_protocol::wire::{Decoded, HANDSHAKE_LENGTH, Handshake, Limits, Message, Reserved, decode};
use castanet_transports::memory::MemoryTransport;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::payload::Payload;

/// An open connection of a peer that is no engine.
#[derive(Debug)]
pub struct Stranger {
    connection: Connection,
    received: BytesMut,
    limits: Limits,
}

/// What strangers call themselves; each is known by a letter.
pub fn strange_id(letter: u8) -> PeerId {
    PeerId([letter; 20])
}

impl Stranger {
    /// Opens a connection, without a word.
    ///
    /// # Errors
    /// If there is nobody.
    pub async fn dial(from: &MemoryTransport, to: SocketAddr) -> io::Result<Self> {
        let connection = from.dial(to, DialOptions::default()).await.map_err(io::Error::other)?;
        Ok(Self::over(connection))
    }

    /// Listens at a host.
    ///
    /// # Panics
    /// If it listens already.
    pub async fn listen(at: &MemoryTransport, port: u16) -> Listener {
        at.listen(SocketAddr::new(at.ip(), port)).await.expect("a stranger listens once")
    }

    /// The next who dials.
    pub async fn accept(listener: &mut Listener) -> io::Result<Self> {
        match listener.incoming.next().await {
            Some(Ok(connection)) => Ok(Self::over(connection)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn over(connection: Connection) -> Self {
        Self { connection, received: BytesMut::new(), limits: Limits::general() }
    }

    /// Says a handshake for this info-hash and hears the other's.
    ///
    /// # Errors
    /// If the other hangs up.
    pub async fn shake(&mut self, info_hash: [u8; 20], me: PeerId, fast: bool) -> io::Result<Handshake> {
        let reserved = if fast { Reserved([0, 0, 0, 0, 0, 0, 0, 4]) } else { Reserved::default() };
        self.shake_as(info_hash, me, reserved).await
    }

    /// The same, claiming to understand what `reserved` says.
    ///
    /// # Errors
    /// If the other hangs up.
    pub async fn shake_as(&mut self, info_hash: [u8; 20], me: PeerId, reserved: Reserved) -> io::Result<Handshake> {
        self.say_raw(&Handshake { reserved, info_hash, peer_id: me }.to_bytes()).await?;
        loop {
            if let Some(theirs) = Handshake::parse(&self.received).map_err(io::Error::other)? {
                let _ = self.received.split_to(HANDSHAKE_LENGTH);
                return Ok(theirs);
            }
            self.fill().await?;
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the other has hung up.
    pub async fn say_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.io.write_all(bytes).await
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the other has hung up.
    pub async fn say(&mut self, message: Message) -> io::Result<()> {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        self.say_raw(&frame).await
    }

    /// The next message.
    ///
    /// # Errors
    /// If the other hangs up.
    pub async fn hear(&mut self) -> io::Result<Message> {
        loop {
            match decode(&mut self.received, &self.limits).map_err(io::Error::other)? {
                Decoded::Message(message) => return Ok(message),
                Decoded::Need(_) => self.fill().await?,
            }
        }
    }

    /// Claims to have everything, lets itself be asked, and answers every request with what `answer` makes of the
    /// right bytes, until the other hangs up.
    ///
    /// # Errors
    /// With the reason why it ended.
    pub async fn serve(&mut self, payload: &Payload, mut answer: impl FnMut(BlockRef, &mut Vec<u8>)) -> io::Result<()> {
        let data: Vec<u8> = payload.files.iter().flat_map(|(_, data)| data.iter().copied()).collect();
        self.say(Message::HaveAll).await?;
        self.say(Message::Unchoke).await?;
        loop {
            if let Message::Request(block) = self.hear().await? {
                let begin = payload.metainfo.info.geometry().offset_of_block(block) as usize;
                let mut bytes = data[begin..begin + block.length as usize].to_vec();
                answer(block, &mut bytes);
                self.say(Message::Piece { block, data: bytes.into() }).await?;
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.connection.io.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
