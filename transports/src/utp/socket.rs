//! One UDP socket's uTP connections: a machine behind a lock, and the one task that moves its datagrams.
//!
//! Streams call the machine under the lock and wake the task when there is something to send. The task holds the socket
//! weakly enough to see its last user go: then it says what is left to say and ends.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use castanet_core::{Moment, addr::canonical, seams::datagrams::Datagrams};
use castanet_protocol::utp::{End, Event, Id, Settings, Utp};
use futures_util::FutureExt as _;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

/// Connections that may wait to be accepted; those beyond are closed.
const MOST_WAITING: usize = 256;
/// Datagrams heard before what they led to is said: one acknowledgement may then stand for several.
const HEARD_AT_ONCE: usize = 64;
/// The largest datagram that uTP makes or takes.
const LARGEST: usize = 2048;
/// Rest after the socket failed.
const REST: Duration = Duration::from_millis(100);
/// What systems answer when a datagram is larger than the way: `EMSGSIZE` of Linux, of the BSDs, and of Windows.
const TOO_LARGE: [i32; 3] = [90, 40, 10040];

/// A UDP socket with uTP on it. Dropping the last one ends its task.
pub(super) struct Socket {
    inner: Arc<Inner>,
}

/// What the task and the users share.
pub(super) struct Inner {
    local: SocketAddr,
    epoch: Instant,
    state: Mutex<State>,
    /// There is something to send, or nobody is left.
    news: Notify,
}

pub(super) struct State {
    pub(super) utp: Utp,
    waiting: BTreeMap<Id, Waiting>,
    strangers: VecDeque<Stranger>,
    /// Wakes the listener, if there is one.
    accept: Option<Waker>,
    is_listening: bool,
    /// Handles of the socket. Without any the task ends once everything is said.
    users: usize,
    /// The task has ended.
    is_over: bool,
    /// The system's socket is no good any more, for good.
    is_lost: bool,
}

/// Who waits for a connection, and how it ended if it has.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) read: Option<Waker>,
    pub(super) write: Option<Waker>,
    pub(super) is_connected: bool,
    pub(super) end: Option<End>,
    /// Nothing more may be written.
    pub(super) is_finished: bool,
}

/// A connection that came in.
pub(super) struct Stranger {
    pub(super) id: Id,
    pub(super) remote: SocketAddr,
}

impl Socket {
    /// Runs uTP on `datagrams`, in a task of the calling runtime.
    pub(super) fn start(datagrams: Arc<dyn Datagrams>, seed: u64) -> Arc<Self> {
        let state = State {
            utp: Utp::new(Settings::default(), seed),
            waiting: BTreeMap::new(),
            strangers: VecDeque::new(),
            accept: None,
            is_listening: false,
            users: 0,
            is_over: false,
            is_lost: false,
        };
        let inner = Arc::new(Inner {
            local: canonical(datagrams.local_addr()),
            epoch: Instant::now(),
            state: Mutex::new(state),
            news: Notify::new(),
        });
        tokio::spawn(run(inner.clone(), datagrams));
        let users = &mut inner.lock().users;
        *users += 1;
        Arc::new(Self { inner: inner.clone() })
    }

    /// One more handle of a socket that may have none left: `None` if it is over.
    pub(super) fn of(inner: Arc<Inner>) -> Option<Self> {
        {
            let mut state = inner.lock();
            if state.is_over || state.is_lost {
                return None;
            }
            state.users += 1;
        }
        Some(Self { inner })
    }

    /// What another handle can be made of, as long as it is there.
    pub(super) fn inner(&self) -> Weak<Inner> {
        Arc::downgrade(&self.inner)
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.inner.local
    }

    /// Is this the socket at that address?
    pub(super) fn is_at(&self, at: SocketAddr) -> bool {
        self.local() == at && !self.inner.lock().is_lost
    }

    /// Can `to` be reached from here?
    pub(super) fn leads_to(&self, to: SocketAddr) -> bool {
        let ip = self.local().ip();
        !self.inner.lock().is_lost
            && ip.is_ipv4() == to.is_ipv4()
            && (ip.is_unspecified() || ip.is_loopback() == to.ip().is_loopback())
    }

    /// Acts on the machine; the task then sends what came of it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State, Moment) -> T) -> T {
        let now = self.inner.now();
        let (done, has_news) = {
            let mut state = self.inner.lock();
            let before = state.utp.due();
            let done = act(&mut state, now);
            // The task sleeps until what was due before.
            let is_sooner = state.utp.due().is_some_and(|due| before.is_none_or(|before| due < before));
            (done, is_sooner || state.utp.has_something_to_send())
        };
        if has_news {
            self.inner.news.notify_one();
        }
        done
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.inner.lock().users -= 1;
        self.inner.news.notify_one();
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "utp at {}", self.local())
    }
}

impl State {
    /// The entry of a connection that somebody uses.
    pub(super) fn waiting(&mut self, id: Id) -> &mut Waiting {
        self.waiting.entry(id).or_default()
    }

    /// Nobody uses it any more.
    pub(super) fn forget(&mut self, id: Id, now: Moment) {
        self.waiting.remove(&id);
        self.utp.close(id, now);
    }

    /// Passes on what happened; returns who is to be woken.
    fn dispatch(&mut self, now: Moment) -> Vec<Waker> {
        let mut wake = Vec::new();
        while let Some(event) = self.utp.event() {
            match event {
                Event::Incoming(id, remote) => {
                    if self.is_listening && self.strangers.len() < MOST_WAITING {
                        self.waiting(id).is_connected = true;
                        self.strangers.push_back(Stranger { id, remote });
                        wake.extend(self.accept.take());
                    } else {
                        self.utp.close(id, now);
                    }
                }
                Event::Connected(id) | Event::Readable(id) | Event::Writable(id) | Event::Ended(id, _) => {
                    // Who has no entry has gone.
                    let Some(waiting) = self.waiting.get_mut(&id) else { continue };
                    let (mut wakes_reader, mut wakes_writer) = (false, true);
                    match event {
                        Event::Connected(_) => waiting.is_connected = true,
                        Event::Readable(_) => (wakes_reader, wakes_writer) = (true, false),
                        Event::Ended(_, end) => (waiting.end, wakes_reader) = (Some(end), true),
                        _ => {}
                    }
                    wake.extend(waiting.read.take_if(|_| wakes_reader));
                    wake.extend(waiting.write.take_if(|_| wakes_writer));
                }
            }
        }
        wake
    }
}

impl Inner {
    fn now(&self) -> Moment {
        Moment::ZERO + self.epoch.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket is lost, and all connections with it.
    fn lose(&self) {
        let wake: Vec<Waker> = {
            let mut state = self.lock();
            state.is_lost = true;
            let end = |waiting: &mut Waiting| {
                waiting.end.get_or_insert(End::Reset);
                [waiting.read.take(), waiting.write.take()]
            };
            state.waiting.values_mut().flat_map(end).flatten().collect()
        };
        wake.into_iter().for_each(Waker::wake);
    }

    /// Acts on the machine as the task, and wakes whom it concerns.
    fn happen(&self, act: impl FnOnce(&mut Utp, Moment)) {
        let now = self.now();
        let wake = {
            let mut state = self.lock();
            act(&mut state.utp, now);
            state.dispatch(now)
        };
        wake.into_iter().for_each(Waker::wake);
    }
}

/// Moves datagrams until nobody needs them.
async fn run(inner: Arc<Inner>, datagrams: Arc<dyn Datagrams>) {
    let mut buffer = vec![0; LARGEST];
    let mut packet = Vec::with_capacity(LARGEST);
    loop {
        say(&inner, &*datagrams, &mut packet).await;
        let due = {
            let mut state = inner.lock();
            if state.users == 0 && state.utp.is_idle() {
                state.is_over = true;
                return;
            }
            state.utp.due()
        };
        let until = due.map(|due| inner.epoch + due.since(Moment::ZERO));
        tokio::select! {
            biased;
            heard = datagrams.recv_from(&mut buffer) => match heard {
                Ok((length, from)) => hear(&inner, &*datagrams, &mut buffer, (length, from)),
                Err(error) if datagrams.is_lost() => {
                    tracing::debug!(%error, "a uTP socket is lost");
                    return inner.lose();
                }
                Err(error) => {
                    tracing::debug!(%error, "uTP cannot receive");
                    sleep(REST).await;
                }
            },
            () = inner.news.notified() => {}
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
        }
        inner.happen(|utp, now| utp.tick(now));
    }
}

/// Hears a datagram, and those that have arrived besides.
fn hear(inner: &Inner, datagrams: &dyn Datagrams, buffer: &mut [u8], first: (usize, SocketAddr)) {
    let mut heard = Some(first);
    for _ in 0..HEARD_AT_ONCE {
        let Some((length, from)) = heard else { return };
        inner.happen(|utp, now| utp.hear(canonical(from), &buffer[..length], now));
        heard = datagrams.recv_from(buffer).now_or_never().and_then(Result::ok);
    }
    if let Some((length, from)) = heard {
        inner.happen(|utp, now| utp.hear(canonical(from), &buffer[..length], now));
    }
}

/// Says all there is to say.
async fn say(inner: &Inner, datagrams: &dyn Datagrams, packet: &mut Vec<u8>) {
    loop {
        packet.clear();
        let Some(to) = inner.lock().utp.transmit(inner.now(), packet) else { break };
        if let Err(error) = datagrams.send_to(packet, to).await {
            // Any other failure is a lost datagram, which uTP is made for.
            let is_too_large = error.raw_os_error().is_some_and(|code| TOO_LARGE.contains(&code));
            inner.happen(|utp, now| utp.reachable_error(to, is_too_large, now));
        }
    }
    // Sending makes room.
    inner.happen(|_, _| {});
}

/// The right to accept a socket's connections.
pub(super) struct Accepting {
    socket: Arc<Socket>,
}

impl Accepting {
    pub(super) fn on(socket: Arc<Socket>) -> io::Result<Self> {
        let was_listening = socket.with(|state, _| {
            state.utp.set_accept(true);
            std::mem::replace(&mut state.is_listening, true)
        });
        match was_listening {
            true => Err(io::ErrorKind::AddrInUse.into()),
            false => Ok(Self { socket }),
        }
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(super) async fn next(&self) -> Stranger {
        let accept = |cx: &mut Context<'_>| {
            self.socket.with(|state, _| match state.strangers.pop_front() {
                Some(stranger) => Poll::Ready(stranger),
                None => {
                    state.accept = Some(cx.waker().clone());
                    Poll::Pending
                }
            })
        };
        pin!(poll_fn(accept)).await
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.socket.with(|state, now| {
            state.is_listening = false;
            state.utp.set_accept(false);
            for Stranger { id, .. } in std::mem::take(&mut state.strangers) {
                state.forget(id, now);
            }
        });
    }
}
