//! Several ways to a peer, raced: the first that connects is used, and tried first the next time (as in RFC 8305).
//!
//! A way that connects to a peer which then hangs up is tried last soon after. Dialling begins with the preferred way; the next joins in when it has failed or taken a quarter of a second, and whoever
//! is late is given up. Listening is on all ways at one port, as peers expect.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::seams::transport::{Connection, DialOptions, Listener, Transport, TransportError};
use futures_util::{
    StreamExt as _,
    stream::{FuturesUnordered, select_all},
};
use tokio::time::{Instant, sleep, timeout};

/// How long a way may take before the next is tried beside it: the "connection attempt delay" of RFC 8305.
const HEAD_START: Duration = Duration::from_millis(250);
/// Peers of which it is remembered what worked.
const MOST_REMEMBERED: usize = 4096;
/// Who is dialled again so soon has not stayed: the way that worked led to nothing.
const SOON: Duration = Duration::from_secs(300);
/// How often another port is tried when the system's choice for the first way is taken for another.
const PORTS: usize = 16;

/// The wrapper.
pub struct Race {
    ways: Vec<Arc<dyn Transport>>,
    memory: Mutex<Memory>,
}

/// What worked for whom, the latest last in `order`.
#[derive(Default)]
struct Memory {
    worked: BTreeMap<SocketAddr, (usize, Instant)>,
    order: VecDeque<SocketAddr>,
}

impl Memory {
    fn remember(&mut self, peer: SocketAddr, way: usize) {
        if self.worked.insert(peer, (way, Instant::now())).is_none() {
            self.order.push_back(peer);
        }
        if self.order.len() > MOST_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.worked.remove(&oldest);
        }
    }
}

impl Race {
    /// `ways` in order of preference.
    pub fn new(ways: Vec<Arc<dyn Transport>>) -> Self {
        Self { ways, memory: Mutex::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        act(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The ways by their numbers, the one that worked for this peer first; last if it did so just now. Of all, or of this
    /// name alone.
    fn order(&self, to: SocketAddr, only: Option<&str>) -> VecDeque<usize> {
        let worked = self.with(|memory| memory.worked.get(&to).copied());
        let may = |way: &usize| only.is_none_or(|name| self.ways[*way].includes(name));
        let others = (0..self.ways.len()).filter(|way| worked.is_none_or(|(worked, _)| worked != *way));
        match worked {
            Some((way, at)) if at.elapsed() < SOON => others.chain([way]).filter(may).collect(),
            Some((way, _)) => [way].into_iter().chain(others).filter(may).collect(),
            None => others.filter(may).collect(),
        }
    }

    async fn listen_once(&self, on: SocketAddr) -> Result<Vec<Listener>, TransportError> {
        let mut at = on;
        let mut listeners = Vec::new();
        for way in &self.ways {
            let listener = way.listen(at).await?;
            at.set_port(listener.local.port());
            listeners.push(listener);
        }
        Ok(listeners)
    }
}

impl fmt::Debug for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Race").field(&self.ways).finish()
    }
}

/// Which of two failures says more about the peer: an answer says more than silence, silence more than "not by this way".
fn worse(one: TransportError, other: TransportError) -> TransportError {
    let tells = |error: &TransportError| match error {
        TransportError::Unsupported { .. } => 0,
        TransportError::Timeout(_) => 1,
        TransportError::Io(_) => 2,
        _ => 3,
    };
    if tells(&other) > tells(&one) { other } else { one }
}

#[async_trait]
impl Transport for Race {
    fn name(&self) -> &'static str {
        "race"
    }

    fn includes(&self, name: &str) -> bool {
        self.ways.iter().any(|way| way.includes(name))
    }

    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        let patience = options.timeout;
        let racing = async {
            let mut waiting = self.order(to, options.only);
            let mut running = FuturesUnordered::new();
            let mut failure = None;
            loop {
                if let Some(way) = waiting.pop_front() {
                    let dialling = self.ways[way].dial(to, options.clone());
                    running.push(async move { (way, dialling.await) });
                }
                let next = tokio::select! {
                    biased;
                    next = running.next() => next,
                    () = sleep(HEAD_START), if !waiting.is_empty() => continue,
                };
                match next {
                    Some((way, Ok(connection))) => {
                        self.with(|memory| memory.remember(to, way));
                        return Ok(connection);
                    }
                    Some((_, Err(error))) => {
                        failure = Some(match failure {
                            None => error,
                            Some(earlier) => worse(earlier, error),
                        });
                    }
                    None if waiting.is_empty() => {
                        return Err(failure.unwrap_or(TransportError::Unsupported { transport: "race", to }));
                    }
                    None => {}
                }
            }
        };
        timeout(patience, racing).await.unwrap_or(Err(TransportError::Timeout(patience)))
    }

    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let mut attempts = if on.port() == 0 { PORTS } else { 1 };
        let listeners = loop {
            attempts -= 1;
            match self.listen_once(on).await {
                Err(TransportError::Io(error)) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                done => break done?,
            }
        };
        let local = listeners.first().map_or(on, |listener| listener.local);
        let incoming = select_all(listeners.into_iter().map(|listener| listener.incoming));
        Ok(Listener { local, incoming: Box::pin(incoming) })
    }
}

#[cfg(test)]
mod tests {
    use castanet_core::seams::transport::BoxStream;
    use futures_util::{StreamExt as _, stream};
    use tokio::io::duplex;

    use super::*;

    /// Connects after `after`, or fails then.
    #[derive(Debug)]
    struct Way {
        name: &'static str,
        after: Duration,
        works: bool,
        begun: Arc<Mutex<Vec<(&'static str, Duration)>>>,
        epoch: Instant,
    }

    /// Tells who was given up.
    struct Guard(Arc<Mutex<Vec<(&'static str, Duration)>>>, Option<&'static str>);

    impl Drop for Guard {
        fn drop(&mut self) {
            if let Some(name) = self.1 {
                self.0.lock().unwrap().push((name, Duration::MAX));
            }
        }
    }

    #[async_trait]
    impl Transport for Way {
        fn name(&self) -> &'static str {
            self.name
        }
        fn includes(&self, name: &str) -> bool {
            name == self.name()
        }
        async fn dial(&self, to: SocketAddr, _: DialOptions) -> Result<Connection, TransportError> {
            self.begun.lock().unwrap().push((self.name, self.epoch.elapsed()));
            let mut guard = Guard(self.begun.clone(), Some(self.name));
            sleep(self.after).await;
            guard.1 = None;
            match self.works {
                true => Ok(connection(to, self.name)),
                false => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            }
        }
        async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
            let local = SocketAddr::new(on.ip(), if on.port() == 0 { 7 } else { on.port() });
            let incoming: BoxStream<_> = Box::pin(stream::iter([Ok(connection(local, self.name))]));
            Ok(Listener { local, incoming })
        }
    }

    /// A stream that nobody uses.
    struct Unused(tokio::io::DuplexStream);
    impl tokio::io::AsyncRead for Unused {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::pin::Pin::new(&mut self.0).poll_read(cx, into)
        }
    }
    impl tokio::io::AsyncWrite for Unused {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            from: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::pin::Pin::new(&mut self.0).poll_write(cx, from)
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
    impl castanet_core::seams::transport::Duplex for Unused {
        fn split(
            self: Box<Self>,
        ) -> (castanet_core::seams::transport::ReadHalf, castanet_core::seams::transport::WriteHalf) {
            let (read, write) = tokio::io::split(self.0);
            (Box::new(read), Box::new(write))
        }
        fn rehome(self: Box<Self>) -> io::Result<Box<dyn castanet_core::seams::transport::Duplex>> {
            Ok(self)
        }
    }

    fn connection(remote: SocketAddr, via: &'static str) -> Connection {
        Connection { io: Box::new(Unused(duplex(1).0)), remote, local: remote, via }
    }

    /// A race of a first and a second way, each with how long it takes and whether it works.
    struct Course {
        race: Race,
        begun: Arc<Mutex<Vec<(&'static str, Duration)>>>,
        epoch: Instant,
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn course(first: (u64, bool), second: (u64, bool)) -> Course {
        let (begun, epoch) = (Arc::<Mutex<Vec<_>>>::default(), Instant::now());
        let way = |name, (after, works)| -> Arc<dyn Transport> {
            Arc::new(Way { name, after: ms(after), works, begun: begun.clone(), epoch })
        };
        let race = Race::new(vec![way("first", first), way("second", second)]);
        Course { race, begun, epoch }
    }

    impl Course {
        async fn run(&self) -> Result<&'static str, String> {
            let to = "192.0.2.1:6881".parse().unwrap();
            let dialled = self.race.dial(to, DialOptions::default()).await;
            dialled.map(|connection| connection.via).map_err(|error| error.to_string())
        }
        fn begun(&self) -> Vec<(&'static str, Duration)> {
            std::mem::take(&mut self.begun.lock().unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_quick_runs_alone() {
        let course = course((100, true), (0, true));
        assert_eq!(course.run().await, Ok("first"));
        assert_eq!(course.begun(), [("first", ms(0))]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_is_overtaken_and_given_up_and_comes_second_the_next_time() {
        let course = course((5_000, true), (100, true));
        assert_eq!(course.run().await, Ok("second"));
        assert_eq!(course.begun(), [("first", ms(0)), ("second", HEAD_START), ("first", Duration::MAX)]);
        sleep(SOON).await;
        let then = course.epoch.elapsed();
        assert_eq!(course.run().await, Ok("second"));
        assert_eq!(course.begun(), [("second", then)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_connects_but_does_not_stay_is_tried_last() {
        let course = course((10, true), (10, true));
        assert_eq!(course.run().await, Ok("first"));
        sleep(ms(1000)).await;
        assert_eq!(course.run().await, Ok("second"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_is_followed_at_once_and_if_all_fail_that_is_said() {
        let course = course((10, false), (10, false));
        assert_eq!(course.run().await, Err("connection refused".into()));
        assert_eq!(course.begun(), [("first", ms(0)), ("second", ms(10))]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_way_alone_is_tried_if_that_is_asked_for() {
        let Course { race, begun, .. } = course((0, true), (0, true));
        let only = |name| DialOptions { only: Some(name), ..DialOptions::default() };
        let to = "192.0.2.1:6881".parse().unwrap();
        assert_eq!(race.dial(to, only("second")).await.unwrap().via, "second");
        assert!(race.includes("second") && !race.includes("third") && !race.includes("race"));
        let none = race.dial(to, only("third")).await;
        assert!(matches!(none, Err(TransportError::Unsupported { .. })));
        assert_eq!(begun.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_in_time_is_a_timeout() {
        assert_eq!(course((60_000, true), (60_000, true)).run().await, Err("no answer within 10 s".into()));
    }

    #[tokio::test]
    async fn all_ways_listen_at_one_port() {
        let Course { race, .. } = course((0, true), (0, true));
        let Listener { local, incoming } = race.listen("192.0.2.1:0".parse().unwrap()).await.unwrap();
        let mut heard: Vec<_> = incoming.map(|found| found.map(|c| (c.via, c.remote.port())).unwrap()).collect().await;
        heard.sort_unstable();
        assert_eq!((local.port(), heard), (7, vec![("first", 7), ("second", 7)]));
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        for n in 0..2 * MOST_REMEMBERED as u32 {
            memory.remember(SocketAddr::new(std::net::Ipv4Addr::from(n).into(), 1), 0);
        }
        assert_eq!((memory.worked.len(), memory.order.len()), (MOST_REMEMBERED, MOST_REMEMBERED));
    }
}
