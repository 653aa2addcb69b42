//! Links as numbers: what becomes of that which is handed to one direction of a link, without sending anything.
//!
//! [`Link`] says what a link is like, [`Line`] is one direction of it at work: handed a moment and a size, it answers
//! when that arrives, or why it never does. [`Transit`] keeps what is under way until then. All three are pure: time is a
//! [`Moment`], chance a generator made from a seed, so the same seed and the same calls give the same fates. The memory
//! network, the wrappers in [`faulty`](crate::faulty) and the link emulator stand on them.

mod outages;
mod transit;

#[cfg(test)]
mod tests;

use std::time::Duration;

use castanet_core::Moment;

use self::outages::Calendar;
pub(crate) use self::outages::draw;
pub use self::{
    outages::Outages,
    transit::{MOST_UNDER_WAY, Transit},
};

/// The longest that what was sent keeps a line busy, so that no bandwidth makes time overflow.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// What one direction of a link is like.
///
/// What goes over it waits in a queue for the bandwidth, then travels for the latency and the jitter. Packets may get
/// lost at every stage; a stream loses nothing and is late instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Time from one end to the other.
    pub latency: Duration,
    /// The most that a packet, or a part of a stream, is late besides. Those behind it do not overtake it for that.
    pub jitter: Duration,
    /// Bytes a second, shared by all that goes this way; `None` for no limit.
    pub bandwidth: Option<u64>,
    /// Most bytes that wait for the bandwidth: a packet that finds the queue full is lost. Streams wait outside of it.
    pub queue: u64,
    /// Share of packets that are lost on the way, 0 to 1.
    pub loss: f64,
    /// Share of packets that arrive twice, 0 to 1.
    pub doubled: f64,
    /// Share of packets that are held back for up to the latency and the jitter once more, 0 to 1: others overtake them.
    pub overtaken: f64,
    /// Bytes of the largest packet that fits (MTU); larger ones vanish. Streams always fit.
    pub largest: usize,
}

impl Link {
    /// As good as no link: all that it is handed arrives at once. Where it is given a limit, a MiB may wait for it.
    pub const FLAWLESS: Self = Self {
        latency: Duration::ZERO,
        jitter: Duration::ZERO,
        bandwidth: None,
        queue: 1 << 20,
        loss: 0.0,
        doubled: 0.0,
        overtaken: 0.0,
        largest: usize::MAX,
    };
}

impl Default for Link {
    /// 10 ms, no limit, no loss: a calm city network. Where there is a limit, a MiB may wait for it.
    fn default() -> Self {
        Self { latency: Duration::from_millis(10), ..Self::FLAWLESS }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and perhaps a second time.
    Arrives {
        /// When.
        at: Moment,
        /// When again: at the same time or later.
        again: Option<Moment>,
    },
    /// It never does.
    Lost(Loss),
}

/// Why a packet is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// It fell to chance ([`Link::loss`]).
    Chance,
    /// Too much waited before it ([`Link::queue`], [`MOST_UNDER_WAY`]).
    QueueFull,
    /// It is larger than what fits ([`Link::largest`]).
    TooLarge,
    /// The link was down ([`Outages`]).
    Outage,
}

/// Something that bytes pass one after the other, such as the uplink that all links of a host share.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gate {
    busy_until: Moment,
}

impl Gate {
    /// When `size` bytes that come now have passed, at so many bytes a second.
    pub(crate) fn pass(&mut self, now: Moment, size: usize, bandwidth: u64) -> Moment {
        let nanos = size as u128 * 1_000_000_000 / u128::from(bandwidth.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(FOREVER);
        self.busy_until = now.max(self.busy_until) + takes;
        self.busy_until
    }

    /// Bytes that wait or are just passing.
    fn waiting(&self, now: Moment, bandwidth: u64) -> u64 {
        let bytes = self.busy_until.since(now).as_nanos() * u128::from(bandwidth.max(1)) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// One direction of a link at work.
#[derive(Debug, Clone)]
pub struct Line {
    link: Link,
    calendar: Calendar,
    random: fastrand::Rng,
    gate: Gate,
    /// When the last of it arrives: nothing overtakes but by [`Link::overtaken`].
    last: Moment,
}

impl Line {
    /// A line that begins now; `random` decides what is left to chance.
    pub fn new(link: Link, random: fastrand::Rng) -> Self {
        Self { link, calendar: Calendar::default(), random, gate: Gate::default(), last: Moment::ZERO }
    }

    /// The same with outages, whose times count from `begin`.
    pub fn with_outages(mut self, outages: &Outages, begin: Moment) -> Self {
        self.calendar = Calendar::new(outages, begin, self.random.fork());
        self
    }

    /// Another link from now on. What is under way stays what it was.
    pub fn set(&mut self, link: Link) {
        self.link = link;
    }

    /// What becomes of a packet of `size` bytes that is sent now. Time must not run backwards from call to call.
    pub fn carry(&mut self, now: Moment, size: usize) -> Fate {
        let Link { queue, loss, doubled, overtaken, largest, bandwidth, .. } = self.link;
        if size > largest {
            return Fate::Lost(Loss::TooLarge);
        }
        if self.calendar.down_until(now).is_some() {
            return Fate::Lost(Loss::Outage);
        }
        let waiting = bandwidth.map_or(0, |bandwidth| self.gate.waiting(now, bandwidth));
        if waiting > 0 && waiting.saturating_add(size as u64) > queue {
            return Fate::Lost(Loss::QueueFull);
        }
        let sent = self.send(now, size);
        if self.happens(loss) {
            // It used the line all the same.
            return Fate::Lost(Loss::Chance);
        }
        if self.happens(overtaken) {
            let late = self.up_to(self.link.latency + self.link.jitter);
            let at = sent + self.link.latency + self.late() + late;
            return Fate::Arrives { at, again: None };
        }
        let at = self.arrive(sent);
        let again = self.happens(doubled).then(|| self.arrive(sent));
        Fate::Arrives { at, again }
    }

    /// When `size` bytes of a stream that are sent now arrive: nothing is lost, and an outage holds them up. Time must not
    /// run backwards from call to call.
    pub fn pour(&mut self, now: Moment, size: usize) -> Moment {
        let mut sent = self.send(now, size);
        if let Some(until) = self.calendar.down_until(sent) {
            sent = until;
        }
        self.arrive(sent)
    }

    /// When what comes now has left.
    fn send(&mut self, now: Moment, size: usize) -> Moment {
        match self.link.bandwidth {
            Some(bandwidth) => self.gate.pass(now, size, bandwidth),
            None => now,
        }
    }

    fn arrive(&mut self, sent: Moment) -> Moment {
        self.last = self.last.max(sent + self.link.latency + self.late());
        self.last
    }

    fn late(&mut self) -> Duration {
        self.up_to(self.link.jitter)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 { Duration::ZERO } else { Duration::from_nanos(self.random.u64(..=nanos)) }
    }

    fn happens(&mut self, share: f64) -> bool {
        // What cannot happen draws nothing.
        share > 0.0 && self.random.f64() < share
    }
}
