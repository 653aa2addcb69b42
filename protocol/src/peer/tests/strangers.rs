//! Arbitrary messages, bytes and wishes in any order: nothing panics, no bound is broken, no deadline stands still.

use proptest::prelude::*;

use super::*;

fn stranger() -> impl Strategy<Value = Message> {
    let piece = || (0u32..23).prop_map(PieceIndex);
    let block = || {
        (piece(), 0u32..8, 1u32..3).prop_map(|(piece, n, half)| BlockRef {
            piece,
            begin: n * 8192,
            length: half * 8192,
        })
    };
    prop_oneof![
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::HaveAll),
        Just(Message::Port(1)),
        piece().prop_map(Message::Have),
        prop::collection::vec(any::<u8>(), 2..5).prop_map(|bits| Message::Bitfield(bits.into())),
        Just(Message::Bitfield(vec![0xff, 0, 0x08].into())),
        piece().prop_map(Message::AllowedFast),
        piece().prop_map(Message::Suggest),
        block().prop_map(Message::Request),
        block().prop_map(Message::Cancel),
        block().prop_map(Message::Reject),
        block().prop_map(|block| Message::Piece { block, data: vec![0; block.length as usize].into() }),
        (0u8..4, prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(id, bytes)| Message::Extended { id, payload: bytes.into() }),
    ]
}

#[derive(Debug, Clone)]
enum Act {
    Hear(Vec<Message>),
    Bytes(Vec<u8>),
    Assign(Vec<(u32, u32)>),
    Cancel(u32, u32),
    Choke(bool),
    Interest(bool),
    Data(bool),
    Written(usize),
    Metadata,
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => prop::collection::vec(stranger(), 0..6).prop_map(Act::Hear),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Act::Bytes),
        3 => prop::collection::vec((0u32..23, 0u32..6), 0..30).prop_map(Act::Assign),
        1 => (0u32..23, 0u32..6).prop_map(|(piece, n)| Act::Cancel(piece, n)),
        1 => any::<bool>().prop_map(Act::Choke),
        1 => any::<bool>().prop_map(Act::Interest),
        2 => any::<bool>().prop_map(Act::Data),
        1 => (0usize..300_000).prop_map(Act::Written),
        1 => Just(Act::Metadata),
        2 => (0u64..70).prop_map(Act::Wait),
    ]
}

proptest! {
    #[test]
    fn nothing_a_stranger_does_panics_or_breaks_a_bound(
        fast: bool,
        mut early: bool,
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let unknown = PeerConfig { geometry: None, have: Bitfield::new(0), ..config(fast, full()) };
        let mut machine = PeerMachine::new(if early { unknown } else { config(fast, full()) }, Moment::ZERO);
        let (mut now, mut buffer, mut reads) = (Moment::ZERO, BytesMut::new(), Vec::new());
        for act in acts {
            let result = match act {
                Act::Hear(messages) => {
                    buffer.extend_from_slice(&wire(&messages));
                    machine.handle(Input::Received(&mut buffer), now)
                }
                Act::Bytes(bytes) => {
                    buffer.extend_from_slice(&bytes);
                    machine.handle(Input::Received(&mut buffer), now)
                }
                Act::Assign(blocks) => {
                    let blocks: Vec<_> = blocks.into_iter().map(|(piece, n)| block(piece, n)).collect();
                    machine.handle(Input::Assign(&blocks), now)
                }
                Act::Cancel(piece, n) => machine.handle(Input::Cancel(&[block(piece, n)]), now),
                Act::Choke(choke) => machine.handle(Input::Choke(choke), now),
                Act::Interest(interest) => machine.handle(Input::Interest(interest), now),
                Act::Data(fine) => match reads.pop() {
                    Some(range) if fine => machine.handle(Input::Data { range, data: content(range) }, now),
                    Some(range) => machine.handle(Input::ReadFailed(range), now),
                    None => Ok(()),
                },
                Act::Written(bytes) => machine.handle(Input::Written(bytes), now),
                Act::Metadata => {
                    early = false;
                    machine.handle(Input::Metadata { geometry: geometry(), have: full(), size: 1 }, now)
                }
                Act::Wait(seconds) => {
                    now = machine.deadline().min(now + Duration::from_secs(seconds)).max(now);
                    let due = machine.deadline() <= now;
                    let result = machine.handle(Input::Timeout, now);
                    prop_assert!(!due || result.is_err() || machine.deadline() > now, "the machine would spin");
                    result
                }
            };
            machine.check_invariants();
            while let Some(output) = machine.poll() {
                match output {
                    Output::Read(range) => {
                        prop_assert!(geometry().is_within(range) && range.length <= LARGEST_READ);
                        reads.push(range);
                    }
                    Output::Has(_) | Output::Room(_) | Output::FastRoom { .. } | Output::Suggested(_) => {
                        prop_assert!(!early, "nobody can work with that yet");
                    }
                    Output::Block { block, data } => prop_assert_eq!(data.len(), block.length as usize),
                    _ => {}
                }
            }
            if result.is_err() {
                break;
            }
        }
    }
}
