//! A link between two machines, emulated for programs that know nothing of it: whatever IP packets go into one tun device
//! come out of the other, late or never, as a [`Link`] has it.
//!
//! The devices may lie in different network namespaces: one is where the thread was that [opened](open) it, and can be
//! moved (`ip link set NAME netns PID`). Not every kernel has netem, and netem does not replay: here the same seed and the
//! same packets have the same fates. An emulator ends when its future is dropped, and the devices with it.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use castanet_core::Moment;
use castanet_transports::link::{Fate, Line, Loss, Transit};
pub use castanet_transports::link::{Link, Outages};
use tokio::{
    select,
    time::{Instant, sleep_until},
};
pub use tokio_tun::Tun;

/// The largest IP packet.
const LARGEST: usize = 65_535;

/// From this size in bytes on a packet carries payload; acknowledgements are smaller.
const FULL: usize = 1000;

/// A tun device of this name, down and without an address, in the network namespace of the calling thread.
///
/// Must be called within a runtime. Errors if there is no `/dev/net/tun`, without the right to it, or if the name is taken.
pub fn open(name: &str) -> anyhow::Result<Tun> {
    let opened = Tun::builder().name(name).build().with_context(|| format!("no tun device {name}"))?;
    opened.into_iter().next().with_context(|| format!("no tun device {name}"))
}

/// What became of the packets of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Packets that arrived, or will.
    pub arrived: u64,
    /// Packets that did so twice.
    pub doubled: u64,
    /// Packets lost to chance.
    pub by_chance: u64,
    /// Packets that found the queue full.
    pub queue_full: u64,
    /// Packets that did not fit.
    pub too_large: u64,
    /// Packets sent while the link was down.
    pub outage: u64,
    /// When the first and the last of those arrived that are large enough to carry payload.
    pub payload: Option<(Moment, Moment)>,
}

impl Tally {
    fn count(&mut self, size: usize, fate: Fate) {
        match fate {
            Fate::Arrives { at, again } => {
                self.arrived += 1;
                self.doubled += u64::from(again.is_some());
                if size >= FULL {
                    let (first, last) = self.payload.unwrap_or((at, at));
                    self.payload = Some((first.min(at), last.max(at)));
                }
            }
            Fate::Lost(Loss::Chance) => self.by_chance += 1,
            Fate::Lost(Loss::QueueFull) => self.queue_full += 1,
            Fate::Lost(Loss::TooLarge) => self.too_large += 1,
            Fate::Lost(Loss::Outage) => self.outage += 1,
        }
    }
}

impl fmt::Display for Tally {
    /// As a JSON object; `payload_seconds` from the first to the last of the packets that carry payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arrived, doubled, by_chance, queue_full, too_large, outage, payload } = self;
        let seconds = payload.map_or(Duration::ZERO, |(first, last)| last.since(first)).as_secs_f64();
        write!(f, r#"{{"arrived":{arrived},"doubled":{doubled},"by_chance":{by_chance},"queue_full":{queue_full},"#)?;
        write!(f, r#""too_large":{too_large},"outage":{outage},"payload_seconds":{seconds}}}"#)
    }
}

/// A link between two devices: what each end of it sends is the direction of the same index.
pub struct Emulator {
    ends: [Tun; 2],
    lines: [Line; 2],
    start: Instant,
    tallies: [Mutex<Tally>; 2],
}

impl Emulator {
    /// A link that is the same in both directions, with chances drawn by `seed`; outages count from now. Drawn ones are drawn
    /// for each direction.
    pub fn new(ends: [Tun; 2], link: Link, outages: &Outages, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let lines = [random.fork(), random.fork()];
        let lines = lines.map(|random| Line::new(link, random).with_outages(outages, Moment::ZERO));
        Self { ends, lines, start: Instant::now(), tallies: Default::default() }
    }

    /// What became of the packets so far, by direction.
    pub fn tallies(&self) -> [Tally; 2] {
        [0, 1].map(|side| *self.tallies[side].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Carries packets until one of the devices is gone.
    pub async fn run(&self) -> io::Result<()> {
        tokio::try_join!(self.carry(0), self.carry(1)).map(|_: ((), ())| ())
    }

    async fn carry(&self, side: usize) -> io::Result<()> {
        let (from, to) = (&self.ends[side], &self.ends[1 - side]);
        let mut transit: Transit<Bytes> = Transit::new(self.lines[side].clone());
        let mut space = vec![0; LARGEST];
        loop {
            while let Some(packet) = transit.receive(self.now()) {
                // A device that is down or gone takes nothing: that end is not there, and the packet is lost.
                let _ = to.send(&packet).await;
            }
            let due = transit.due().map(|due| self.start + due.since(Moment::ZERO));
            select! {
                biased;
                received = from.recv(&mut space) => {
                    let size = received?;
                    let fate = transit.send(self.now(), size, Bytes::copy_from_slice(&space[..size]));
                    self.tallies[side].lock().unwrap_or_else(PoisonError::into_inner).count(size, fate);
                }
                () = sleep_until(due.unwrap_or(self.start)), if due.is_some() => {}
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::ZERO + self.start.elapsed()
    }
}
