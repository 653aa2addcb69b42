//! Two sockets, a link between them that a seed spoils, and who writes and reads at both ends.

use std::{collections::BTreeSet, time::Duration};

use super::super::*;

/// How a link treats datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) lost: f64,
    pub(super) doubled: f64,
    /// Bytes a second, and bytes that may wait for their turn.
    pub(super) rate: Option<(f64, f64)>,
    /// Larger datagrams vanish.
    pub(super) widest: usize,
    /// Of every second the called side sleeps so long, and its socket keeps so many datagrams until it wakes.
    pub(super) naps: Option<(Duration, usize)>,
    /// Bytes of what has arrived out of order that the called side tells of.
    pub(super) sack: usize,
}

pub(super) const PERFECT: Link = Link {
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    lost: 0.0,
    doubled: 0.0,
    rate: None,
    widest: usize::MAX,
    naps: None,
    sack: packet::LONGEST_SACK,
};

pub(super) struct World {
    pub(super) ends: [Utp; 2],
    pub(super) link: Link,
    random: fastrand::Rng,
    pub(super) now: Moment,
    /// Datagrams under way: when they arrive, an order, where, and what.
    pub(super) way: BTreeSet<(Moment, u64, usize, Vec<u8>)>,
    order: u64,
    /// When each direction's link is free.
    pub(super) free: [Moment; 2],
    pub(super) events: [Vec<Event>; 2],
    pub(super) datagrams: u64,
    pub(super) longest: usize,
}

pub(super) fn addr(end: usize) -> SocketAddr {
    SocketAddr::new([192, 0, 2, end as u8].into(), 6881)
}

impl World {
    pub(super) fn new(link: Link, seed: u64) -> Self {
        let mut ends = [Utp::new(Settings::default(), seed), Utp::new(Settings::default(), seed + 1)];
        ends[1].set_accept(true);
        Self {
            ends,
            link,
            random: fastrand::Rng::with_seed(seed + 2),
            now: Moment::from_secs(4000),
            way: BTreeSet::new(),
            order: 0,
            free: [Moment::ZERO; 2],
            events: [Vec::new(), Vec::new()],
            datagrams: 0,
            longest: 0,
        }
    }

    fn send(&mut self, from: usize, datagram: &[u8]) {
        let link = self.link;
        self.datagrams += 1;
        if self.random.f64() < link.lost || datagram.len() > link.widest {
            return;
        }
        self.longest = self.longest.max(datagram.len());
        let mut datagram = datagram.to_vec();
        if from == 1 && link.sack < packet::LONGEST_SACK {
            let (mut header, payload) = Header::read(&datagram).expect("it was written here");
            header.sack.shorten(link.sack);
            let mut shortened = Vec::new();
            header.write(0, &mut shortened);
            shortened.extend_from_slice(payload);
            datagram = shortened;
        }
        let mut leaves = self.now;
        if let Some((rate, queue)) = link.rate {
            let waits = self.free[from].since(self.now).as_secs_f64();
            if waits * rate > queue {
                return;
            }
            leaves = self.free[from].max(self.now) + Duration::from_secs_f64((datagram.len() + 28) as f64 / rate);
            self.free[from] = leaves;
        }
        for _ in 0..if self.random.f64() < link.doubled { 2 } else { 1 } {
            let mut at = leaves + link.delay + link.jitter.mul_f64(self.random.f64());
            if let (Some((nap, most)), 0) = (link.naps, from) {
                let second = Moment::from_secs(at.0 / 1_000_000_000);
                at = at.max(second + nap);
                if self.way.iter().filter(|(.., to, _)| *to == 1).count() >= most {
                    return;
                }
            }
            self.order += 1;
            self.way.insert((at, self.order, 1 - from, datagram.clone()));
        }
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        for end in 0..2 {
            loop {
                out.clear();
                let Some(to) = self.ends[end].transmit(self.now, &mut out) else { break };
                assert_eq!(to, addr(1 - end));
                let datagram = std::mem::take(&mut out);
                self.send(end, &datagram);
            }
            while let Some(event) = self.ends[end].event() {
                self.events[end].push(event);
            }
        }
    }

    /// Goes on to what happens next; `false` if nothing does.
    pub(super) fn step(&mut self) -> bool {
        self.flush();
        let arrives = self.way.first().map(|(at, ..)| *at);
        let due = self.ends.iter().filter_map(Utp::due).min();
        let Some(next) = arrives.into_iter().chain(due).min() else { return false };
        self.now = self.now.max(next);
        while self.way.first().is_some_and(|(at, ..)| *at <= self.now) {
            let Some((_, _, to, datagram)) = self.way.pop_first() else { break };
            self.ends[to].hear(addr(1 - to), &datagram, self.now);
        }
        self.ends.iter_mut().for_each(|end| end.tick(self.now));
        self.flush();
        true
    }

    pub(super) fn connect(&mut self) -> Id {
        self.ends[0].connect(addr(1), self.now).unwrap()
    }

    pub(super) fn incoming(&self) -> Option<Id> {
        self.events[1].iter().find_map(|event| match event {
            Event::Incoming(id, _) => Some(*id),
            _ => None,
        })
    }
}

/// One side of a transfer.
pub(super) struct Side {
    pub(super) id: Option<Id>,
    pub(super) sends: Vec<u8>,
    pub(super) sent: usize,
    pub(super) got: Vec<u8>,
    pub(super) is_finished: bool,
}

impl Side {
    pub(super) fn new(bytes: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let sends = std::iter::repeat_with(|| random.u8(..)).take(bytes).collect();
        Self { id: None, sends, sent: 0, got: Vec::new(), is_finished: false }
    }

    pub(super) fn act(&mut self, utp: &mut Utp, now: Moment) {
        let Some(id) = self.id else { return };
        self.sent += utp.write(id, &self.sends[self.sent..], now);
        if self.sent == self.sends.len() {
            utp.finish(id, now);
        }
        let mut buffer = [0; 16 * 1024];
        loop {
            match utp.read(id, &mut buffer, now) {
                Read::Bytes(length) => self.got.extend_from_slice(&buffer[..length]),
                Read::Empty => return,
                Read::Finished => {
                    self.is_finished = true;
                    return;
                }
                Read::Ended(end) => panic!("{end}"),
            }
        }
    }
}

/// Both send so many bytes at once; returns the world at the end.
pub(super) fn transfer(link: Link, bytes: [usize; 2], seed: u64) -> World {
    let mut world = World::new(link, seed);
    let mut sides = [Side::new(bytes[0], seed + 10), Side::new(bytes[1], seed + 11)];
    sides[0].id = Some(world.connect());
    let began = world.now;
    while !sides.iter().all(|side| side.is_finished) {
        assert!(world.step(), "nothing happens any more");
        assert!(world.now.since(began) < Duration::from_secs(3600), "it takes for ever");
        sides[1].id = sides[1].id.or(world.incoming());
        for (side, utp) in sides.iter_mut().zip(&mut world.ends) {
            side.act(utp, world.now);
        }
    }
    assert!(sides[0].got == sides[1].sends && sides[1].got == sides[0].sends, "what arrived is what was sent");
    for (side, utp) in sides.iter().zip(&mut world.ends) {
        utp.close(side.id.unwrap(), world.now);
    }
    while world.step() {}
    assert!(world.ends.iter().all(Utp::is_idle), "nothing is left behind");
    world
}

pub(super) fn rate_of(link: Link, bytes: usize, seed: u64) -> (f64, World) {
    let world = transfer(link, [bytes, 0], seed);
    // The end comes after the last byte by one linger at most; the way's own time is small against the transfer.
    let seconds = world.now.since(Moment::from_secs(4000)).as_secs_f64();
    (bytes as f64 / seconds, world)
}
