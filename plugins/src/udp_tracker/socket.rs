//! One socket for many exchanges: whoever waits for an answer reads for all, and answers are told apart by their
//! transaction id and sender (BEP 15). So there is no reading task that could outlive its use.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use castanet_core::{addr::canonical, seams::datagrams::Datagrams};
use castanet_protocol::tracker::udp::{LARGEST_DATAGRAM, transaction_of, wait};
use tokio::{sync::oneshot, time::sleep};

#[derive(Debug)]
pub(super) struct Socket {
    datagrams: Arc<dyn Datagrams>,
    waiting: Mutex<BTreeMap<u32, Waiting>>,
    /// The buffer of whoever reads.
    reader: tokio::sync::Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Waiting {
    from: SocketAddr,
    reply: oneshot::Sender<Vec<u8>>,
}

impl Socket {
    pub(super) fn new(datagrams: Arc<dyn Datagrams>) -> Self {
        Self { datagrams, waiting: Mutex::default(), reader: Vec::new().into() }
    }

    /// It can be used no more.
    pub(super) fn is_lost(&self) -> bool {
        self.datagrams.is_lost()
    }

    /// Sends `datagram`, again and again with growing pauses, until `to` answers with the same transaction id. It does
    /// not give up by itself.
    pub(super) async fn exchange(&self, to: SocketAddr, transaction: u32, datagram: &[u8]) -> io::Result<Vec<u8>> {
        let (reply, mut answer) = oneshot::channel();
        self.with_waiting(|waiting| waiting.insert(transaction, Waiting { from: to, reply }));
        let _forget = Forget { socket: self, transaction };
        let mut attempt = 0;
        loop {
            self.datagrams.send_to(datagram, to).await?;
            tokio::select! {
                biased;
                Ok(answer) = &mut answer => return Ok(answer),
                error = self.read() => return Err(error),
                () = sleep(wait(attempt)) => attempt += 1,
            }
        }
    }

    /// Reads for everyone, if nobody else does; ends only with an error.
    async fn read(&self) -> io::Error {
        let mut buffer = self.reader.lock().await;
        buffer.resize(LARGEST_DATAGRAM, 0);
        loop {
            match self.datagrams.recv_from(&mut buffer).await {
                Ok((length, from)) => self.sort(&buffer[..length.min(LARGEST_DATAGRAM)], canonical(from)),
                // Some systems tell the socket that an earlier datagram found nobody.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused) => {}
                Err(error) => return error,
            }
        }
    }

    /// Gives an answer to whom it belongs. Anything else, and anything from someone who was not asked, is dropped.
    fn sort(&self, datagram: &[u8], from: SocketAddr) {
        let Some(transaction) = transaction_of(datagram) else { return };
        self.with_waiting(|waiting| {
            if waiting.get(&transaction).is_some_and(|waiting| waiting.from == from)
                && let Some(waiting) = waiting.remove(&transaction)
            {
                // Whoever gave up in this moment does not need it.
                let _ = waiting.reply.send(datagram.to_vec());
            }
        });
    }

    fn with_waiting<R>(&self, f: impl FnOnce(&mut BTreeMap<u32, Waiting>) -> R) -> R {
        f(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes an exchange off the list when it ends in whatever way.
struct Forget<'a> {
    socket: &'a Socket,
    transaction: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.socket.with_waiting(|waiting| waiting.remove(&self.transaction));
    }
}
