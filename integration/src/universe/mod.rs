//! A universe: whole engines on one thread, in a network, on disks and in a time that are all simulated.
//!
//! [`universe`] runs a story in a world where nothing comes from outside: time is tokio's, paused, so that hours pass in
//! moments; hosts talk over a [`MemoryNet`]; everything drawn is drawn from one seed, which is printed if the story
//! fails. It answers with the log of what every torrent told: the same seed and the same story give the same log.
//!
//! When the story is over every engine is shut down, and the world is looked through for what should not be left:
//! panics, tasks, connections, memory.

mod host;
mod stranger;

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    panic,
    rc::Rc,
    sync::{Arc, Once},
    time::Duration,
};

use actix_rt::System;
use castanet::EngineBuilder;
use castanet_transports::{
    faulty::{Faults, Faulty, FaultyDatagrams},
    memory::{MemoryNet, MemoryTransport},
};
use futures_util::future::join_all;
use tokio::{
    runtime::Builder,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

pub use self::{
    host::Host,
    stranger::{Stranger, strange_id},
};

/// The longest that a story may last, in its own time.
pub const LONGEST_STORY: Duration = Duration::from_secs(24 * 3600);
/// How long an engine may take to shut down beyond the time for good-byes, and how long its tasks may outlive it.
pub const LAST_BREATH: Duration = Duration::from_secs(30);
/// Lines of its log that a world shows when it perishes.
const SHOWN: usize = 20;
/// The time for good-byes.
const GOOD_BYE: Duration = Duration::from_secs(5);

thread_local! {
    /// Panics on this thread: of actors too, which tokio catches and nobody else would hear of.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// The log of a world.
type Log = Rc<RefCell<Vec<String>>>;

/// A world.
#[derive(Debug)]
pub struct Universe {
    random: RefCell<fastrand::Rng>,
    net: MemoryNet,
    hosts: RefCell<Vec<Host>>,
    strangers: RefCell<Vec<JoinHandle<()>>>,
    addresses: Cell<u16>,
    log: Log,
    start: Instant,
}

/// Tells the seed of a world that perished, and what happened last.
struct Epitaph(u64, Log);

impl Drop for Epitaph {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this happened in the universe of seed {}; the end of its log:", self.0);
            let log = self.1.borrow();
            log[log.len().saturating_sub(SHOWN)..].iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Lets a story happen in a world of its own, looks through what it leaves, and answers with its log.
///
/// # Panics
/// If the story does, if it lasts longer than [`LONGEST_STORY`], or if anything is left behind.
pub fn universe(seed: u64, story: impl AsyncFnOnce(&Universe)) -> Vec<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
    PANICS.set(0);
    let log = Log::default();
    let _epitaph = Epitaph(seed, log.clone());
    let runtime = || Builder::new_current_thread().enable_time().start_paused(true).build();
    System::with_tokio_rt(|| runtime().expect("a runtime needs nothing that could be missing")).block_on(async move {
        let world = Universe::new(seed, log);
        timeout(LONGEST_STORY, story(&world)).await.expect("the story ends within a day of its own time");
        world.end().await;
        world.log.take()
    })
}

impl Universe {
    fn new(seed: u64, log: Log) -> Self {
        Self {
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            net: MemoryNet::new(seed),
            hosts: RefCell::default(),
            strangers: RefCell::default(),
            addresses: Cell::new(0),
            log,
            start: Instant::now(),
        }
    }

    /// The network: links can be made slow, lossy, and be cut.
    pub fn net(&self) -> &MemoryNet {
        &self.net
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A host with an engine.
    pub async fn host(&self) -> Host {
        self.host_with(|engine| engine).await
    }

    /// A host with an engine that is set up as told, also when it comes back after a kill.
    pub async fn host_with(&self, setup: impl Fn(EngineBuilder) -> EngineBuilder + 'static) -> Host {
        self.host_on(move |engine, _| setup(engine)).await
    }

    /// The same, set up with the host's access to the network.
    pub async fn host_on(&self, setup: impl Fn(EngineBuilder, &MemoryTransport) -> EngineBuilder + 'static) -> Host {
        self.settle(self.stranger(), setup).await
    }

    /// The same behind faults, which meet its datagrams, too, as far as they are those of a link.
    pub async fn faulty_host_with(
        &self,
        faults: Faults,
        setup: impl Fn(EngineBuilder) -> EngineBuilder + 'static,
    ) -> Host {
        let (place, seed) = (self.stranger(), self.seed());
        let plain = Arc::new(place.clone());
        let faulty = move |engine: EngineBuilder, _: &MemoryTransport| {
            let engine = engine.transports(vec![Arc::new(Faulty::new(plain.clone(), faults.clone(), seed))]);
            setup(match faults.link {
                Some(link) => {
                    let outages = faults.stalls.clone();
                    engine.datagrams(Arc::new(FaultyDatagrams::new(plain.clone(), link, outages, seed)))
                }
                None => engine,
            })
        };
        self.settle(place, faulty).await
    }

    /// A seed for something that draws, never the same.
    pub fn seed(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    async fn settle(
        &self,
        transport: MemoryTransport,
        setup: impl Fn(EngineBuilder, &MemoryTransport) -> EngineBuilder + 'static,
    ) -> Host {
        let host = self.resting_host(transport, setup);
        host.start().await;
        host
    }

    /// A host at this place, whose engine does not run yet.
    pub fn resting_host(
        &self,
        place: MemoryTransport,
        setup: impl Fn(EngineBuilder, &MemoryTransport) -> EngineBuilder + 'static,
    ) -> Host {
        // Drawn, since engines draw from their seed and the torrent's number: neighbours would meet.
        let host = Host::new(self.net.clone(), place, self.seed(), self.log.clone(), setup);
        self.hosts.borrow_mut().push(host.clone());
        host
    }

    /// Several hosts.
    pub async fn hosts(&self, count: usize) -> Vec<Host> {
        let mut hosts = Vec::with_capacity(count);
        for _ in 0..count {
            hosts.push(self.host().await);
        }
        hosts
    }

    /// The place at this address.
    pub fn place(&self, ip: IpAddr) -> MemoryTransport {
        self.net.host(ip)
    }

    /// The place of a stranger: an address without an engine.
    pub fn stranger(&self) -> MemoryTransport {
        self.addresses.set(self.addresses.get() + 1);
        let [high, low] = self.addresses.get().to_be_bytes();
        self.net.host(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)))
    }

    /// One of a few hundred places of strangers, the same for the same number.
    pub fn stranger_again(&self, number: usize) -> MemoryTransport {
        let [high, low] = ((number % usize::from(u16::MAX)) as u16).to_be_bytes();
        self.net.host(IpAddr::V4(Ipv4Addr::new(10, 1, high, low)))
    }

    /// Lets a stranger do something until the end of the world.
    pub fn let_live(&self, life: impl Future<Output = ()> + 'static) {
        self.strangers.borrow_mut().push(actix_rt::spawn(life));
    }

    /// Adds a line to the log.
    pub fn note(&self, line: impl std::fmt::Display) {
        let mut text = String::new();
        let _ = write!(text, "{:.9} {line}", self.elapsed().as_secs_f64());
        self.log.borrow_mut().push(text);
    }

    /// Shuts everything down and looks for what is left.
    async fn end(&self) {
        let hosts = self.hosts.take();
        join_all(hosts.iter().map(Host::rest)).await;
        // What is under way to a disk arrives.
        sleep(Duration::from_secs(10)).await;
        join_all(hosts.iter().map(Host::check_memory)).await;
        let before = Instant::now();
        join_all(hosts.iter().map(|host| host.shutdown(GOOD_BYE))).await;
        assert!(before.elapsed() <= GOOD_BYE + LAST_BREATH, "the hosts took {:?} to shut down", before.elapsed());
        for stranger in self.strangers.take() {
            stranger.abort();
            let _ = stranger.await;
        }
        // What was written last is still under way.
        sleep(Duration::from_secs(1)).await;
        assert_eq!(self.net.open_connections(), 0, "connections are left");
        assert_eq!(PANICS.get(), 0, "something panicked, see above");
    }
}
