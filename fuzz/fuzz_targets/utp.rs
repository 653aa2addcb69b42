//! Two ends of a uTP connection (BEP 29) and whoever sits between them: what arrives late, twice, never, in another order,
//! cut, changed or made up.
//!
//! As long as nobody lies, what is read is what was written. Liar or not, nothing panics, what is kept is bounded, and once
//! both users have gone everything ends.
#![no_main]

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use arbitrary::Arbitrary;
use castanet_core::Moment;
use castanet_protocol::utp::{Event, Id, Read, Settings, Utp};
use libfuzzer_sys::fuzz_target;

/// Datagrams that are under way at once; what is sent beyond them is lost.
const MOST_UNDER_WAY: usize = 256;

/// What happens next. An end is the one that asked for the connection, or the other.
#[derive(Arbitrary, Debug)]
enum Step {
    Deliver { which: u8 },
    Lose { which: u8 },
    Double { which: u8 },
    Wait { milliseconds: u16 },
    Write { end: bool, length: u16 },
    Read { end: bool, length: u16 },
    Finish { end: bool },
    Close { end: bool },
    TooLarge { end: bool },
    // From here on, somebody lies.
    Cut { which: u8, length: u16 },
    Change { which: u8, at: u16, by: u8 },
    MakeUp { end: bool, stranger: bool, datagram: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Story {
    seed: u64,
    largest: u8,
    steps: Vec<Step>,
}

/// An end, and what its user has written and read.
struct End {
    utp: Utp,
    id: Option<Id>,
    written: u64,
    read: u64,
}

/// The byte at this place of what an end writes.
fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

fn addr(end: usize) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 0, end as u8), 1).into()
}

struct World {
    ends: [End; 2],
    under_way: VecDeque<(usize, Vec<u8>)>,
    now: Moment,
    is_honest: bool,
}

impl World {
    fn new(story: &Story) -> Self {
        let largest = 150 + usize::from(story.largest) * 6;
        let settings = Settings {
            receive_window: 1 << 14,
            send_buffer: 1 << 14,
            most_connections: 8,
            most_half_open: 4,
            largest_v4: largest,
            largest_v6: largest,
        };
        let ends = [0, 1].map(|end| {
            let mut utp = Utp::new(settings.clone(), story.seed.wrapping_add(end));
            utp.set_accept(end == 1);
            End { utp, id: None, written: 0, read: 0 }
        });
        let mut world = Self { ends, under_way: VecDeque::new(), now: Moment::ZERO, is_honest: true };
        world.ends[0].id = world.ends[0].utp.connect(addr(1), world.now).ok();
        world
    }

    /// Everything that an end has to send is sent, and what it tells is heard.
    fn settle(&mut self) {
        let mut datagram = Vec::new();
        for at in 0..2 {
            while self.ends[at].utp.transmit(self.now, &mut datagram).is_some() {
                let sent = std::mem::take(&mut datagram);
                if self.under_way.len() < MOST_UNDER_WAY {
                    self.under_way.push_back((1 - at, sent));
                }
            }
            while let Some(event) = self.ends[at].utp.event() {
                if let Event::Incoming(id, _) = event {
                    // Only one has a user here: the others are shown out.
                    match self.ends[at].id {
                        None => self.ends[at].id = Some(id),
                        Some(_) => self.ends[at].utp.close(id, self.now),
                    }
                }
            }
        }
    }

    fn take(&mut self, which: u8) -> Option<(usize, Vec<u8>)> {
        let which = usize::from(which) % self.under_way.len().max(1);
        self.under_way.remove(which)
    }

    fn hear(&mut self, taken: Option<(usize, Vec<u8>)>) {
        if let Some((to, datagram)) = taken {
            self.ends[to].utp.hear(addr(1 - to), &datagram, self.now);
        }
    }

    fn read(&mut self, end: usize, length: usize) -> bool {
        let (other, reader) = (self.ends[1 - end].written, &mut self.ends[end]);
        let Some(id) = reader.id else { return false };
        let mut into = vec![0; length.max(1)];
        let Read::Bytes(length) = reader.utp.read(id, &mut into, self.now) else { return false };
        for read in &into[..length] {
            assert!(!self.is_honest || (*read == byte(reader.read) && reader.read < other), "something else was read");
            reader.read += 1;
        }
        true
    }

    fn act(&mut self, step: Step) {
        self.is_honest &= !matches!(step, Step::Cut { .. } | Step::Change { .. } | Step::MakeUp { .. });
        match step {
            Step::Deliver { which } => {
                let taken = self.take(which);
                self.hear(taken);
            }
            Step::Lose { which } => drop(self.take(which)),
            Step::Double { which } => {
                let taken = self.take(which);
                self.hear(taken.clone());
                self.hear(taken);
            }
            Step::Wait { milliseconds } => {
                self.now += Duration::from_millis(milliseconds.into());
                let now = self.now;
                self.ends.iter_mut().for_each(|end| end.utp.tick(now));
            }
            Step::Write { end, length } => {
                let now = self.now;
                let writer = &mut self.ends[usize::from(end)];
                let Some(id) = writer.id else { return };
                let bytes: Vec<u8> = (0..u64::from(length)).map(|at| byte(writer.written + at)).collect();
                writer.written += writer.utp.write(id, &bytes, now) as u64;
            }
            Step::Read { end, length } => drop(self.read(usize::from(end), length.into())),
            Step::Finish { end } | Step::Close { end } => {
                let is_close = matches!(step, Step::Close { .. });
                let (now, end) = (self.now, &mut self.ends[usize::from(end)]);
                match end.id {
                    Some(id) if is_close => end.utp.close(id, now),
                    Some(id) => end.utp.finish(id, now),
                    None => {}
                }
            }
            Step::TooLarge { end } => {
                let end = usize::from(end);
                self.ends[end].utp.reachable_error(addr(1 - end), true, self.now);
            }
            Step::Cut { which, length } => {
                let mut taken = self.take(which);
                taken.iter_mut().for_each(|(_, datagram)| datagram.truncate(length.into()));
                self.hear(taken);
            }
            Step::Change { which, at, by } => {
                let mut taken = self.take(which);
                if let Some(byte) = taken.as_mut().and_then(|(_, datagram)| datagram.get_mut(usize::from(at))) {
                    *byte ^= by;
                }
                self.hear(taken);
            }
            Step::MakeUp { end, stranger, datagram } => {
                let from = if stranger { addr(9) } else { addr(1 - usize::from(end)) };
                self.ends[usize::from(end)].utp.hear(from, &datagram, self.now);
            }
        }
    }

    /// Both users go. Whatever there was comes to its end, and soon.
    fn end(&mut self) {
        for end in &mut self.ends {
            end.utp.set_accept(false);
            if let Some(id) = end.id {
                end.utp.close(id, self.now);
            }
        }
        for _ in 0..10_000 {
            self.settle();
            let taken = self.take(0);
            if taken.is_none() {
                let Some(due) = self.ends.iter().filter_map(|end| end.utp.due()).min() else { break };
                self.now = self.now.max(due);
                let now = self.now;
                self.ends.iter_mut().for_each(|end| end.utp.tick(now));
            }
            self.hear(taken);
        }
        assert!(
            self.ends.iter().all(|end| end.utp.is_idle()),
            "something is left: {:?}",
            self.ends.each_ref().map(|end| &end.utp)
        );
    }
}

fuzz_target!(|story: Story| {
    let mut world = World::new(&story);
    for step in story.steps {
        world.settle();
        world.act(step);
    }
    world.settle();
    for end in 0..2 {
        while world.read(end, 4096) {}
    }
    world.end();
});
