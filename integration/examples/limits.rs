//! How exactly rate limits hold in real time, over TCP on loopback: prints a table for docs/MEASUREMENTS.md.
//!
//! `cargo run --release -p castanet-integration --example limits [down|up]`, seven minutes for both. The engine speaks to
//! peers made here, which send zeros or drop what they get; nothing is stored. Bytes are counted between the engine and TCP.

use std::{
    io::IoSlice,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use castanet::{
    Engine, Listen, Metainfo, Torrent,
    seams::storage::{FileStamp, Layout, Storage, StorageError, StorageFactory},
};
use castanet_core::{
    BLOCK_LENGTH, BlockRef, PeerId, PieceIndex,
    digest::sha1,
    metainfo::write::{NewContent, NewTorrent, encode},
};
use castanet_integration::counted::{Count, Counted};
use castanet_protocol::wire::{Decoded, HANDSHAKE_LENGTH, Handshake, Limits, Message, PIECE_HEADER, Reserved, decode};
use castanet_transports::tcp::{Tcp, TcpConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PIECE: u32 = 1 << 20;
/// Windows of so many seconds are measured, one after the other, after a second to get going.
const WINDOW: u64 = 10;
const WINDOWS: usize = 3;

/// A disk on which everything is zero.
#[derive(Debug, Clone)]
struct Zeros {
    is_there: bool,
    length: u64,
}

impl StorageFactory for Zeros {
    fn open(&self, _: &Layout) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Storage for Zeros {
    fn prepare(&self) -> Result<(), StorageError> {
        Ok(())
    }
    fn read_at(&self, _: u64, into: &mut [u8]) -> Result<(), StorageError> {
        into.fill(0);
        Ok(())
    }
    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> Result<(), StorageError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }
    fn stamps(&self) -> Result<Vec<FileStamp>, StorageError> {
        let length = self.is_there.then_some(self.length);
        Ok(vec![FileStamp { length, modified: 1, inode: 1 }])
    }
}

fn zeros(length: u64) -> Result<Arc<Metainfo>> {
    let piece = sha1(&vec![0; PIECE as usize]).0;
    let pieces = std::iter::repeat_n(piece, (length / u64::from(PIECE)) as usize).flatten().collect();
    let torrent = NewTorrent {
        name: "zeros".into(),
        content: NewContent::File(length),
        piece_length: PIECE,
        pieces,
        ..NewTorrent::default()
    };
    Ok(Arc::new(Metainfo::parse(&encode(&torrent))?))
}

/// The other end of a connection.
struct Remote {
    stream: TcpStream,
    received: BytesMut,
}

impl Remote {
    async fn shake(mut stream: TcpStream, info_hash: [u8; 20], letter: u8) -> Result<Self> {
        let ours = Handshake { reserved: Reserved([0, 0, 0, 0, 0, 0, 0, 4]), info_hash, peer_id: PeerId([letter; 20]) };
        stream.set_nodelay(true)?;
        stream.write_all(&ours.to_bytes()).await?;
        let mut theirs = [0; HANDSHAKE_LENGTH];
        stream.read_exact(&mut theirs).await?;
        Ok(Self { stream, received: BytesMut::with_capacity(1 << 20) })
    }

    async fn say(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut frames = BytesMut::new();
        messages.into_iter().for_each(|message| message.encode(&mut frames));
        Ok(self.stream.write_all(&frames).await?)
    }

    async fn hear(&mut self) -> Result<Message> {
        loop {
            if let Decoded::Message(message) = decode(&mut self.received, &Limits::general())? {
                return Ok(message);
            }
            self.received.reserve(1 << 18);
            anyhow::ensure!(self.stream.read_buf(&mut self.received).await? > 0, "closed");
        }
    }

    /// Sends zeros to whoever asks.
    async fn source(mut self) -> Result<()> {
        self.say([Message::HaveAll, Message::Unchoke]).await?;
        let block = Bytes::from(vec![0; BLOCK_LENGTH as usize]);
        loop {
            if let Message::Request(asked) = self.hear().await? {
                let data = block.slice(..asked.length as usize);
                let mut frame = BytesMut::with_capacity(PIECE_HEADER + data.len());
                Message::Piece { block: asked, data }.encode(&mut frame);
                self.stream.write_all(&frame).await?;
            }
        }
    }

    /// Asks for the same piece over and over.
    async fn sink(mut self) -> Result<()> {
        self.say([Message::HaveNone, Message::Interested]).await?;
        while !matches!(self.hear().await?, Message::Unchoke) {}
        let blocks = PIECE / BLOCK_LENGTH;
        let ask = |at: u32| {
            let begin = at % blocks * BLOCK_LENGTH;
            Message::Request(BlockRef { piece: PieceIndex(0), begin, length: BLOCK_LENGTH })
        };
        self.say((0..256).map(ask)).await?;
        loop {
            let mut came = 0;
            if let Message::Piece { .. } = self.hear().await? {
                came += 1;
            }
            self.say((0..came).map(ask)).await?;
        }
    }
}

/// Measures one limit in one direction; prints a row.
async fn measure(is_download: bool, limit: Option<u64>, peers: u8) -> Result<()> {
    let seconds = 5 + WINDOW * WINDOWS as u64;
    let needed = if is_download { limit.unwrap_or(1 << 30) * seconds * 5 / 4 } else { 16 << 20 };
    let length = needed.div_ceil(PIECE.into()).max(64) * u64::from(PIECE);
    let (metainfo, count) = (zeros(length)?, Count::default());
    let transport = Counted::new(Arc::new(Tcp::new(TcpConfig::default())), count.clone());
    let limits = if is_download { (limit, None) } else { (None, limit) };
    let engine = Engine::builder()
        .listen(Listen::At(vec![SocketAddr::from(([127, 0, 0, 1], 0))]))
        .transports(vec![Arc::new(transport)])
        .storage(Arc::new(Zeros { is_there: !is_download, length }))
        .retain_plugins(|name| name == "fixed")
        .max_down(limits.0)
        .max_up(limits.1)
        .start()
        .await?;
    let info_hash = metainfo.info_hashes.wire();
    let mut torrent = Torrent::new(metainfo, "nowhere");
    let mut sources = Vec::new();
    for letter in 1..=if is_download { peers } else { 0 } {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        torrent = torrent.peers([listener.local_addr()?.to_string()]);
        sources.push(tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            Remote::shake(stream, info_hash, letter).await?.source().await
        }));
    }
    let mut handle = engine.add(torrent).await?;
    if !is_download {
        handle.completed().await.map_err(anyhow::Error::msg)?;
        let to = *engine.listening().first().context("it listens")?;
        for letter in 1..=peers {
            let stream = TcpStream::connect(to).await?;
            sources.push(tokio::spawn(async move { Remote::shake(stream, info_hash, letter).await?.sink().await }));
        }
    }
    let way = usize::from(!is_download);
    while count.all()[way] < 32 * 1024 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut rates = Vec::new();
    for _ in 0..WINDOWS {
        let (start, before) = (Instant::now(), count.all()[way]);
        tokio::time::sleep(Duration::from_secs(WINDOW)).await;
        rates.push((count.all()[way] - before) as f64 / start.elapsed().as_secs_f64());
    }
    let row = |rate: &f64| match limit {
        Some(limit) => format!("{:+.2} %", (rate / limit as f64 - 1.0) * 100.0),
        None => format!("{:.0} MiB/s", rate / f64::from(1 << 20)),
    };
    let name = limit.map_or("none".into(), |limit| format!("{} KiB/s", limit / 1024));
    let way = if is_download { "down" } else { "up" };
    println!("| {way} | {name} | {peers} | {} |", rates.iter().map(row).collect::<Vec<_>>().join(" | "));
    sources.iter().for_each(tokio::task::JoinHandle::abort);
    engine.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    println!("| direction | limit | connections | first {WINDOW} s | second | third |\n|---|---|---|---|---|---|");
    let asked = std::env::args().nth(1);
    let is_asked = |direction: &str| asked.as_ref().is_none_or(|asked| asked == direction);
    for is_download in [true, false].into_iter().filter(|down| is_asked(if *down { "down" } else { "up" })) {
        for limit in [10 << 10, 1 << 20, 500 << 20] {
            for peers in [1, 4] {
                measure(is_download, Some(limit), peers).await?;
            }
        }
    }
    measure(false, None, 1).await
}
