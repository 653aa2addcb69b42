//! What the tests of several actors need: a clock on tokio's time, pipes for sockets, a disk with moods.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use castanet_core::{
    Metainfo, Moment,
    digest::sha1,
    metainfo::write::{NewContent, NewTorrent, encode},
    seams::{
        means::Clock,
        storage::{FileStamp, Layout, Storage, StorageError, StorageFactory},
        transport::{Connection, Duplex, ReadHalf, WriteHalf},
    },
};
use castanet_protocol::wire::{Decoded, Handshake, Limits, Message, decode};
use castanet_storage::memory::MemoryFactory;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    sync::mpsc::UnboundedReceiver,
};

/// A clock that runs with tokio's.
pub(crate) fn clock() -> Clock {
    let start = tokio::time::Instant::now();
    Clock::new(move || Moment(start.elapsed().as_nanos() as u64))
}

/// The next message; panics if everything comes to rest without one. For paused time.
pub(crate) async fn hear<M>(heard: &mut UnboundedReceiver<M>) -> M {
    tokio::time::timeout(Duration::from_secs(3600), heard.recv())
        .await
        .expect("nothing was heard")
        .expect("the probe is gone")
}

/// Lets everything happen that can happen now. For paused time.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// All that has been heard so far.
pub(crate) fn drain<M>(heard: &mut UnboundedReceiver<M>) -> Vec<M> {
    std::iter::from_fn(|| heard.try_recv().ok()).collect()
}

/// A torrent with one file named "file", and its bytes.
pub(crate) fn torrent(length: u64, piece_length: u32) -> (Arc<Metainfo>, Vec<u8>) {
    let mut random = fastrand::Rng::with_seed(length);
    let data: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
    let file = encode(&NewTorrent {
        name: "file".into(),
        content: NewContent::File(length),
        piece_length,
        pieces: data.chunks(piece_length as usize).flat_map(|piece| sha1(piece).0).collect(),
        ..NewTorrent::default()
    });
    (Arc::new(Metainfo::parse(&file).unwrap()), data)
}

/// An address of the documentation range.
pub(crate) fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 6881))
}

/// One end of a pipe as a connection.
pub(crate) struct Pipe(pub(crate) DuplexStream);

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}
impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
impl Duplex for Pipe {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (reader, writer) = tokio::io::split(self.0);
        (Box::new(reader), Box::new(writer))
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        Ok(self)
    }
}

/// A connection to `remote` and the remote's end of it; `room` bytes fit into each direction.
pub(crate) fn connection(remote: SocketAddr, room: usize) -> (Connection, Remote) {
    let (ours, theirs) = tokio::io::duplex(room);
    let connection = Connection { io: Box::new(Pipe(ours)), remote, local: address(1), via: "pipe" };
    (connection, Remote { io: theirs, buffer: BytesMut::new() })
}

/// The other side of a connection, played by the test.
pub(crate) struct Remote {
    pub(crate) io: DuplexStream,
    buffer: BytesMut,
}

impl Remote {
    pub(crate) async fn send(&mut self, message: Message) {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        self.io.write_all(&frame).await.unwrap();
    }
    /// The next message; `None` when the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            let limits = Limits { bitfield: 1 << 20, ..Limits::general() };
            match decode(&mut self.buffer, &limits).unwrap() {
                Decoded::Message(message) => return Some(message),
                _ => match self.io.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                },
            }
        }
    }
    /// The next message that `want` is interested in.
    pub(crate) async fn until<T>(&mut self, want: impl Fn(Message) -> Option<T>) -> Option<T> {
        while let Some(message) = self.next().await {
            if let Some(wanted) = want(message) {
                return Some(wanted);
            }
        }
        None
    }
    /// Says its handshake and hears ours.
    pub(crate) async fn shake(&mut self, ours: Handshake) -> Option<Handshake> {
        self.io.write_all(&ours.to_bytes()).await.ok()?;
        let mut theirs = [0; 68];
        self.io.read_exact(&mut theirs).await.ok()?;
        Handshake::parse(&theirs).unwrap()
    }
    /// Serves whatever is asked for, until the end; `spoil` may change what it sends.
    pub(crate) async fn serve(mut self, data: Arc<Vec<u8>>, piece_length: u64, spoil: impl Fn(u32, &mut Vec<u8>)) {
        self.send(Message::HaveAll).await;
        self.send(Message::Unchoke).await;
        while let Some(message) = self.next().await {
            let Message::Request(block) = message else { continue };
            let at = (u64::from(block.piece.0) * piece_length + u64::from(block.begin)) as usize;
            let mut bytes = data[at..at + block.length as usize].to_vec();
            spoil(block.piece.0, &mut bytes);
            let mut frame = BytesMut::new();
            Message::Piece { block, data: bytes.into() }.encode(&mut frame);
            if self.io.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
}

/// How a disk feels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Every write is refused.
    Refusing,
    /// Every write panics.
    Panicking,
    /// Every write and flush blocks its thread until the mood changes.
    Hanging,
}

/// A disk in memory that has moods.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) memory: MemoryFactory,
    mood: Arc<(Mutex<Mood>, std::sync::Condvar)>,
}

impl Disk {
    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.0.lock().unwrap() = mood;
        self.mood.1.notify_all();
    }
    fn feel(&self) -> Result<(), StorageError> {
        let mood = self.mood.0.lock().unwrap();
        let mood = *self.mood.1.wait_while(mood, |mood| *mood == Mood::Hanging).unwrap();
        match mood {
            Mood::Refusing => Err(StorageError::Io {
                action: "cannot write",
                path: "file".into(),
                source: io::ErrorKind::StorageFull.into(),
            }),
            Mood::Panicking => panic!("the disk panics, as the test wants it"),
            _ => Ok(()),
        }
    }
}

impl StorageFactory for Disk {
    fn open(&self, layout: &Layout) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(Moody { files: self.memory.open(layout)?, disk: self.clone() }))
    }
}

#[derive(Debug)]
struct Moody {
    files: Arc<dyn Storage>,
    disk: Disk,
}

impl Storage for Moody {
    fn prepare(&self) -> Result<(), StorageError> {
        self.files.prepare()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.files.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, from: &[IoSlice<'_>]) -> Result<(), StorageError> {
        self.disk.feel()?;
        self.files.write_at(offset, from)
    }
    fn flush(&self) -> Result<(), StorageError> {
        self.disk.feel()?;
        self.files.flush()
    }
    fn stamps(&self) -> Result<Vec<FileStamp>, StorageError> {
        self.files.stamps()
    }
}
