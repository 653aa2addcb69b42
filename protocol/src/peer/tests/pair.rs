//! Two machines exchange a torrent over byte streams that are cut at random, while both choke and unchoke; one, or
//! both, may learn the metadata only on the way.

use std::collections::BTreeSet;

use super::*;

struct Pair {
    sides: [Side; 2],
    now: Moment,
    random: fastrand::Rng,
}

struct Side {
    machine: PeerMachine,
    have: Bitfield,
    /// What the other side said it has.
    told: Bitfield,
    wanted: Vec<BlockRef>,
    got: BTreeSet<BlockRef>,
    /// Bytes on their way to the other side, and those that arrived there.
    line: BytesMut,
    arrived: BytesMut,
}

impl Pair {
    fn new(fast: bool, early: [bool; 2], seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut left, mut right) = (none(), none());
        for piece in geometry().all_pieces() {
            if random.bool() {
                left.set(piece)
            } else {
                right.set(piece)
            };
        }
        let side = |have: &Bitfield, other: &Bitfield, early: bool| {
            let wanted = other.iter().flat_map(|piece| (0..geometry().blocks_in(piece)).map(move |n| (piece, n)));
            let known = config(fast, have.clone());
            let unknown = PeerConfig { geometry: None, have: Bitfield::new(0), ..known.clone() };
            Side {
                machine: PeerMachine::new(if early { unknown } else { known }, Moment::ZERO),
                have: have.clone(),
                told: none(),
                wanted: wanted.map(|(piece, n)| geometry().block(piece, n)).collect(),
                got: BTreeSet::new(),
                line: BytesMut::new(),
                arrived: BytesMut::new(),
            }
        };
        Self { sides: [side(&left, &right, early[0]), side(&right, &left, early[1])], now: Moment::ZERO, random }
    }

    fn step(&mut self, at: usize) {
        let [a, b] = &mut self.sides;
        let (side, other) = if at == 0 { (a, b) } else { (b, a) };
        let cut = self.random.usize(0..=other.line.len().min(40_000));
        side.arrived.unsplit(other.line.split_to(cut));
        side.machine.handle(Input::Received(&mut side.arrived), self.now).unwrap();
        other.machine.handle(Input::Written(cut), self.now).unwrap();
        assert!(side.machine.missing() > 0);
        if self.random.u8(..) < 3 {
            side.machine.handle(Input::Choke(self.random.bool()), self.now).unwrap();
        }
        if side.machine.deadline() <= self.now {
            side.machine.handle(Input::Timeout, self.now).unwrap();
        }
        while let Some(output) = side.machine.poll() {
            match output {
                Output::Send(frames) => side.line.extend_from_slice(&frames),
                Output::SendBlock { header, data } => {
                    side.line.extend_from_slice(&header);
                    side.line.extend_from_slice(&data);
                }
                Output::Read(range) => {
                    side.machine.handle(Input::Data { range, data: content(range) }, self.now).unwrap();
                }
                Output::Block { block, data } => {
                    assert_eq!(data, content(block));
                    side.got.insert(block);
                }
                Output::Has(haves) => {
                    let pieces = match haves {
                        Haves::Bitfield(pieces) => pieces.iter().collect(),
                        Haves::Pieces(pieces) => pieces,
                        Haves::All | Haves::None => Vec::new(),
                    };
                    for piece in pieces {
                        side.told.set(piece);
                    }
                }
                Output::Lost(blocks) => side.wanted.extend(blocks),
                Output::Room(room) => {
                    let rest = side.wanted.len().saturating_sub(room);
                    let work: Vec<_> = side.wanted.drain(rest..).filter(|block| !side.got.contains(block)).collect();
                    side.machine.handle(Input::Assign(&work), self.now).unwrap();
                }
                _ => {}
            }
        }
        side.machine.check_invariants();
    }
}

#[test]
fn two_machines_exchange_a_torrent_however_the_bytes_are_cut() {
    for seed in 0..32 {
        let early = [seed & 2 != 0, seed & 4 != 0];
        let mut pair = Pair::new(seed % 2 == 0, early, seed);
        let counts = [0, 1].map(|at: usize| pair.sides[at].wanted.len());
        for at in 0..2 {
            let (now, machine) = (pair.now, &mut pair.sides[at].machine);
            machine.handle(Input::Interest(true), now).unwrap();
            machine.handle(Input::Choke(false), now).unwrap();
        }
        let mut steps = 0;
        while [0, 1].map(|at: usize| pair.sides[at].got.len()) != counts {
            pair.now += Duration::from_millis(10);
            pair.step(steps % 2);
            steps += 1;
            // Each side learns the metadata at another time; it changes nothing for one that knew them.
            for (side, _) in pair.sides.iter_mut().zip([100, 250]).filter(|(_, at)| *at == steps) {
                let input = Input::Metadata { geometry: geometry(), have: side.have.clone(), size: 1 };
                side.machine.handle(input, pair.now).unwrap();
            }
            // Chokes must not last, or nothing would be left to show.
            if steps % 50 == 0 {
                let now = pair.now;
                pair.sides.iter_mut().for_each(|side| side.machine.handle(Input::Choke(false), now).unwrap());
            }
            assert!(steps < 100_000, "seed {seed}: no progress");
        }
        let [a, b] = &pair.sides;
        assert_eq!((&a.told, &b.told), (&b.have, &a.have), "seed {seed}: each knows what the other has");
    }
}
