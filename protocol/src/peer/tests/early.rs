//! Connections that open before the metadata are known (BEP 9): what is said, kept, judged and refused.

use super::*;
use crate::wire::{Decoded, decode};

/// A machine without metadata.
fn early(fast: bool) -> PeerConfig {
    PeerConfig { geometry: None, have: Bitfield::new(0), ..config(fast, none()) }
}

/// The metadata come; we have pieces 2 and 3.
fn metadata() -> Input<'static> {
    let mut have = none();
    have.set(PieceIndex(2));
    have.set(PieceIndex(3));
    Input::Metadata { geometry: geometry(), have, size: 777 }
}

fn read(output: &Output) -> Vec<Message> {
    let Output::Send(frames) = output else { panic!("{output:?}") };
    let mut buffer = BytesMut::from(&frames[..]);
    std::iter::from_fn(|| match decode(&mut buffer, &Limits::general()) {
        Ok(Decoded::Message(message)) => Some(message),
        _ => None,
    })
    .collect()
}

fn metadata_size(message: &Message) -> Option<u32> {
    let Message::Extended { id: 0, payload } = message else { panic!("{message:?}") };
    ExtendedHandshake::decode(payload).unwrap().metadata_size
}

#[test]
fn it_introduces_itself_without_pieces_and_again_with_them() {
    for fast in [true, false] {
        let mut machine = PeerMachine::new(early(fast), Moment::ZERO);
        let first = read(&machine.poll().unwrap());
        assert_eq!(first.first() == Some(&Message::HaveNone), fast, "the fast extension wants it first: {first:?}");
        assert_eq!(first.len(), 1 + usize::from(fast));
        assert_eq!(metadata_size(&first[usize::from(fast)]), None);

        machine.handle(metadata(), Moment::ZERO).unwrap();
        let second = read(&machine.poll().unwrap());
        assert_eq!(metadata_size(&second[0]), Some(777));
        assert_eq!(second[1..3], [Message::Have(PieceIndex(2)), Message::Have(PieceIndex(3))]);
        let gifts = second[3..].iter().filter(|message| matches!(message, Message::AllowedFast(_))).count();
        assert_eq!((gifts, second.len()), if fast { (5, 8) } else { (0, 3) });

        machine.handle(metadata(), Moment::ZERO).unwrap();
        assert_eq!(machine.poll(), None, "they are known already");
    }
}

#[test]
fn what_the_remote_has_is_told_when_it_can_be_judged() {
    let mut bench = Bench::new(early(true));
    assert_eq!(bench.input(Input::Interest(true)), [sent(&[Message::Interested])]);
    let mut bits = none();
    bits.set(PieceIndex(0));
    let words = [
        Message::Bitfield(bits.to_bytes().into()),
        Message::Have(PieceIndex(20)),
        Message::Suggest(PieceIndex(20)),
        Message::Suggest(PieceIndex(21)),
        Message::AllowedFast(PieceIndex(21)),
        Message::Interested,
        Message::Unchoke,
    ];
    assert_eq!(bench.hears(&words), [Output::Interested(true), Output::Choked(false)]);
    let far = Duration::from_secs(10);
    assert!(bench.machine.deadline() > bench.now + far && bench.machine.room() == 0, "there is nothing to ask for");
    let outputs = bench.input(metadata());
    let expected = [
        Output::Has(Haves::Bitfield(bits)),
        Output::Has(Haves::Pieces(vec![PieceIndex(20)])),
        Output::Suggested(PieceIndex(20)),
    ];
    assert_eq!(outputs[..3], expected);
    assert!(matches!(outputs[3..], [Output::Send(_), Output::Room(FIRST_CREDIT)]), "{outputs:?}");
    let ask = [block(0, 0)];
    assert_eq!(bench.input(Input::Assign(&ask)), [sent(&[Message::Request(block(0, 0))])], "it goes on as any other");

    for (word, haves) in [(Message::HaveAll, Haves::All), (Message::HaveNone, Haves::None)] {
        let mut bench = Bench::new(early(true));
        assert_eq!(bench.hears(&[word]), []);
        assert_eq!(bench.input(metadata())[0], Output::Has(haves));
    }
}

#[test]
fn words_that_cannot_be_end_the_connection_when_that_is_known() {
    let bits = |bytes: &'static [u8]| Message::Bitfield(Bytes::from_static(bytes));
    for (word, reason) in [
        (bits(&[0xff; 4]), CloseReason::BadBitfield),
        (bits(&[0xff; 3]), CloseReason::BadBitfield),
        (bits(&[]), CloseReason::BadBitfield),
        (Message::Have(PieceIndex(21)), CloseReason::NoSuchPiece(PieceIndex(21))),
        (Message::Have(PieceIndex(u32::MAX)), CloseReason::NoSuchPiece(PieceIndex(u32::MAX))),
    ] {
        let mut bench = Bench::new(early(true));
        assert_eq!(bench.hears(&[word]), []);
        assert_eq!(bench.machine.handle(metadata(), bench.now), Err(reason));
    }
    assert_eq!(Bench::new(early(true)).fails(&[bits(&[0; 3]), bits(&[0; 4])]), CloseReason::BadBitfield);
    assert_eq!(Bench::new(early(true)).fails(&[bits(&[0; 3]), Message::HaveNone]), CloseReason::TookBack);
    assert_eq!(Bench::new(early(false)).fails(&[Message::HaveAll]), CloseReason::NotFast);
}

#[test]
fn nothing_is_asked_for_or_served() {
    for fast in [true, false] {
        let mut bench = Bench::new(early(fast));
        bench.input(Input::Interest(true));
        bench.input(Input::Choke(false));
        bench.hears(&[Message::Unchoke]);
        assert_eq!(bench.input(Input::Assign(&[block(0, 0)])), [Output::Lost(vec![block(0, 0)])]);
        assert_eq!(bench.input(Input::Announce(&[PieceIndex(0)])), []);
        let refusal = if fast { vec![sent(&[Message::Reject(block(0, 0))])] } else { vec![] };
        assert_eq!(bench.hears(&[Message::Request(block(0, 0))]), refusal);
        let absurd = BlockRef { length: u32::MAX, ..block(0, 0) };
        assert_eq!(bench.fails(&[Message::Request(absurd)]), CloseReason::BadRequest(absurd));
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let mut bench = Bench::new(early(true));
    let words = [vec![Message::Have(PieceIndex(1)); 10_000], vec![Message::Suggest(PieceIndex(1)); 10_000]].concat();
    (0..10).for_each(|_| assert_eq!(bench.hears(&words), []));
    let outputs = bench.input(metadata());
    let Output::Has(Haves::Pieces(pieces)) = &outputs[0] else { panic!("no pieces") };
    let suggested = outputs.iter().filter(|output| matches!(output, Output::Suggested(_))).count();
    assert_eq!((pieces.len(), suggested), (MOST_EARLY_HAVES, MOST_EARLY_SUGGESTIONS));
}

#[test]
fn a_flood_of_extended_messages_or_ports_ends_the_connection() {
    for word in [
        Message::Extended { id: Extension::Pex.id(), payload: Bytes::from_static(b"de") },
        Message::Extended { id: 0, payload: Bytes::from_static(b"de") },
        Message::Port(6881),
    ] {
        let mut bench = Bench::new(early(true));
        let most = vec![word.clone(); MOST_CHATTER as usize];
        assert_eq!(bench.hears(&most).len(), MOST_CHATTER as usize);
        assert_eq!(bench.fails(&[word]), CloseReason::Flood);
    }
    let mut bench = Bench::new(early(true));
    let ignored = Message::Extended { id: 77, payload: Bytes::from_static(b"de") };
    assert_eq!(bench.hears(&vec![ignored; 10_000]), [], "nobody is told of it");
}
