//! What the machine says and does, case by case; `pair` and `strangers` shake it as a whole.

mod early;
mod pair;
mod strangers;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use castanet_core::{Bitfield, BlockRef, Geometry, Moment, PieceIndex};

use super::*;
use crate::wire::{Limits, Message, WireError};

/// 21 pieces of 5 blocks each; the last piece has 2 blocks, the last block 77 bytes.
fn geometry() -> Geometry {
    Geometry::new(20 * 81_920 + 16_384 + 77, 81_920).unwrap()
}

fn config(fast: bool, have: Bitfield) -> PeerConfig {
    PeerConfig {
        geometry: Some(geometry()),
        have,
        metadata_size: None,
        fast,
        extended: true,
        remote: "127.0.0.1".parse().unwrap(),
        info_hash: [7; 20],
        listen_port: 6881,
        dht_port: None,
        extensions: vec![Extension::Pex],
        timing: PeerTiming::default(),
        gifts: true,
        first_credit: FIRST_CREDIT,
    }
}

fn none() -> Bitfield {
    Bitfield::new(geometry().pieces())
}

fn full() -> Bitfield {
    Bitfield::full(geometry().pieces())
}

fn block(piece: u32, n: u32) -> BlockRef {
    geometry().block(PieceIndex(piece), n)
}

/// What the torrent holds there.
fn content(range: BlockRef) -> Bytes {
    let start = geometry().offset_of_block(range);
    (start..start + u64::from(range.length)).map(|at| (at * 31 % 251) as u8).collect()
}

fn wire(messages: &[Message]) -> BytesMut {
    let mut bytes = BytesMut::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

fn piece(block: BlockRef) -> Message {
    Message::Piece { block, data: content(block) }
}

/// A machine and what it has put out.
struct Bench {
    machine: PeerMachine,
    now: Moment,
}

impl Bench {
    fn new(config: PeerConfig) -> Self {
        let mut bench = Self { machine: PeerMachine::new(config, Moment::ZERO), now: Moment::ZERO };
        bench.outputs();
        bench
    }
    /// One that may ask and has asked for all blocks of piece 0.
    fn downloading(fast: bool) -> Self {
        let mut bench = Self::new(config(fast, none()));
        bench.input(Input::Interest(true));
        bench.hears(&[Message::Unchoke]);
        let blocks: Vec<_> = (0..5).map(|n| block(0, n)).collect();
        bench.input(Input::Assign(&blocks));
        bench
    }
    /// One that has everything and has unchoked the remote.
    fn uploading(fast: bool) -> Self {
        let mut bench = Self::new(config(fast, full()));
        bench.input(Input::Choke(false));
        bench
    }
    fn outputs(&mut self) -> Vec<Output> {
        self.machine.check_invariants();
        std::iter::from_fn(|| self.machine.poll()).collect()
    }
    fn input(&mut self, input: Input<'_>) -> Vec<Output> {
        self.machine.handle(input, self.now).unwrap();
        self.outputs()
    }
    fn hears(&mut self, messages: &[Message]) -> Vec<Output> {
        self.input(Input::Received(&mut wire(messages)))
    }
    fn fails(&mut self, messages: &[Message]) -> CloseReason {
        self.machine.handle(Input::Received(&mut wire(messages)), self.now).unwrap_err()
    }
    fn wait(&mut self, seconds: u64) -> Result<Vec<Output>, CloseReason> {
        self.now += Duration::from_secs(seconds);
        self.machine.handle(Input::Timeout, self.now)?;
        Ok(self.outputs())
    }
}

fn sent(messages: &[Message]) -> Output {
    Output::Send(wire(messages).freeze())
}

#[test]
fn it_introduces_itself_as_agreed() {
    let first = |config| {
        let mut machine = PeerMachine::new(config, Moment::ZERO);
        let Some(Output::Send(frames)) = machine.poll() else { panic!("nothing to send") };
        let (mut buffer, mut messages) = (BytesMut::from(frames), Vec::new());
        while let Ok(crate::wire::Decoded::Message(message)) =
            crate::wire::decode(&mut buffer, &Limits::of(&geometry()))
        {
            messages.push(message);
        }
        messages
    };
    assert_eq!(first(config(true, full()))[0], Message::HaveAll);
    assert_eq!(first(config(true, none()))[0], Message::HaveNone);
    assert_eq!(first(config(false, full()))[0], Message::Bitfield(full().to_bytes().into()));
    let quiet = first(PeerConfig { dht_port: Some(9), ..config(false, none()) });
    assert!(matches!(quiet[..], [Message::Extended { id: 0, .. }, Message::Port(9)]), "{quiet:?}");
    let mut some = none();
    some.set(PieceIndex(4));
    assert_eq!(first(config(true, some.clone()))[0], Message::Bitfield(some.to_bytes().into()));
    let last = first(config(true, full())).pop();
    assert!(matches!(last, Some(Message::AllowedFast(_))));
}

#[test]
fn the_remote_tells_its_pieces_and_consecutive_haves_are_one_event() {
    let mut bench = Bench::new(config(true, none()));
    let haves = [Message::HaveNone, Message::Have(PieceIndex(3)), Message::Have(PieceIndex(1))];
    let both = vec![PieceIndex(3), PieceIndex(1)];
    assert_eq!(bench.hears(&haves), [Output::Has(Haves::None), Output::Has(Haves::Pieces(both))]);
    assert_eq!(bench.hears(&[Message::HaveAll]), [Output::Has(Haves::All)], "later, in place of many haves");
    assert_eq!(bench.fails(&[Message::HaveNone]), CloseReason::TookBack);
}

#[test]
fn room_comes_with_interest_and_unchoke_only() {
    let mut bench = Bench::new(config(true, none()));
    assert_eq!(bench.input(Input::Interest(true)), [sent(&[Message::Interested])]);
    assert_eq!(bench.input(Input::Interest(true)), []);
    assert_eq!(bench.hears(&[Message::Unchoke]), [Output::Choked(false), Output::Room(FIRST_CREDIT)]);
    assert_eq!(bench.machine.room(), FIRST_CREDIT);
    assert_eq!(bench.input(Input::Assign(&[])), []);
    assert_eq!(bench.wait(1).unwrap(), [Output::Room(FIRST_CREDIT)], "it asks again after a second");
    assert_eq!(bench.input(Input::Assign(&[block(0, 0)])), [sent(&[Message::Request(block(0, 0))])]);
    let heard = bench.hears(&[piece(block(0, 0))]);
    let came = Output::Block { block: block(0, 0), data: content(block(0, 0)) };
    assert_eq!(heard, [came, Output::Room(FIRST_CREDIT)], "there is room again");
    assert_eq!(bench.machine.downloaded(), 16_384);
}

#[test]
fn a_choke_loses_all_requests_but_with_the_fast_extension_each_is_rejected() {
    let mut plain = Bench::downloading(false);
    let all: Vec<_> = (0..5).rev().map(|n| block(0, n)).collect();
    assert_eq!(plain.hears(&[Message::Choke]), [Output::Choked(true), Output::Lost(all)]);
    assert_eq!(plain.input(Input::Assign(&[block(1, 0)])), [Output::Lost(vec![block(1, 0)])]);
    let late = plain.hears(&[piece(block(0, 1))]);
    assert_eq!(late, [Output::Block { block: block(0, 1), data: content(block(0, 1)) }], "late, and welcome");

    let mut fast = Bench::downloading(true);
    assert_eq!(fast.hears(&[Message::Choke]), [Output::Choked(true)]);
    let rejects = [Message::Reject(block(0, 0)), Message::Reject(block(0, 1)), Message::Reject(block(9, 9))];
    assert_eq!(fast.hears(&rejects), [Output::Lost(vec![block(0, 0), block(0, 1)])]);
    assert_eq!(fast.machine.outstanding(), 3);
}

#[test]
fn while_choked_the_allowed_pieces_can_be_had() {
    let mut bench = Bench::new(config(true, none()));
    bench.input(Input::Interest(true));
    let offer = Output::FastRoom { blocks: FIRST_CREDIT, pieces: vec![PieceIndex(2)] };
    assert_eq!(bench.hears(&[Message::AllowedFast(PieceIndex(2)), Message::AllowedFast(PieceIndex(999))]), []);
    assert_eq!(bench.wait(4).unwrap(), [], "we may be unchoked soon");
    assert_eq!(bench.wait(1).unwrap(), [offer]);
    let answer = bench.input(Input::Assign(&[block(2, 0), block(3, 0)]));
    assert_eq!(answer, [Output::Lost(vec![block(3, 0)]), sent(&[Message::Request(block(2, 0))])]);
    bench.hears(&[Message::Reject(block(2, 0))]);
    assert_eq!(bench.wait(2).unwrap(), [], "the remote did not mean it");
}

#[test]
fn cancels_are_sent_and_late_blocks_accepted() {
    let mut bench = Bench::downloading(true);
    assert_eq!(bench.input(Input::Cancel(&[block(0, 0), block(7, 0)])), [sent(&[Message::Cancel(block(0, 0))])]);
    assert_eq!(bench.machine.outstanding(), 4);
    assert!(matches!(bench.hears(&[piece(block(0, 0))])[..], [Output::Block { .. }, ..]));
    let rest = bench.hears(&[piece(block(0, 0))]);
    assert!(!rest.iter().any(|output| matches!(output, Output::Block { .. })), "once is enough: {rest:?}");
}

#[test]
fn blocks_that_nobody_asked_for_end_the_connection_at_last() {
    let mut bench = Bench::downloading(true);
    let stray = piece(block(5, 0));
    for _ in 0..63 {
        assert_eq!(bench.hears(std::slice::from_ref(&stray)), []);
    }
    assert!(matches!(bench.fails(&[stray]), CloseReason::Unasked(_)));
    let short = Message::Piece { block: block(0, 0), data: Bytes::from_static(b"short") };
    let wrong = BlockRef { length: 5, ..block(0, 0) };
    assert_eq!(Bench::downloading(true).fails(&[short]), CloseReason::WrongBlockLength(wrong));
}

#[test]
fn a_silent_uploader_is_snubbed() {
    let mut bench = Bench::downloading(true);
    let lost = (1..5).rev().map(|n| block(0, n)).collect();
    assert_eq!(bench.wait(60).unwrap(), [Output::Snubbed(true), Output::Lost(lost)]);
    assert!(bench.machine.is_snubbed() && bench.machine.room() == 0);
    let outputs = bench.hears(&[piece(block(0, 0))]);
    assert!(matches!(outputs[..], [Output::Snubbed(false), Output::Block { .. }, Output::Room(_)]), "{outputs:?}");
}

#[test]
fn silence_is_broken_and_ends() {
    let mut bench = Bench::new(config(true, none()));
    assert_eq!(bench.machine.deadline(), Moment::from_secs(110));
    assert_eq!(bench.wait(110).unwrap(), [sent(&[Message::KeepAlive])]);
    assert_eq!(bench.machine.deadline(), Moment::from_secs(190));
    assert_eq!(bench.hears(&[Message::KeepAlive]), []);
    assert_eq!(bench.wait(110).unwrap(), [sent(&[Message::KeepAlive])]);
    assert_eq!(bench.wait(80), Err(CloseReason::Silent));
}

#[test]
fn a_request_becomes_a_read_and_then_blocks() {
    let mut bench = Bench::uploading(true);
    let asked: Vec<_> = (0..4).map(|n| Message::Request(block(0, n))).collect();
    let range = BlockRef { piece: PieceIndex(0), begin: 0, length: 65_536 };
    assert_eq!(bench.hears(&asked), [Output::Read(range)]);
    assert_eq!(bench.hears(&[Message::Cancel(block(0, 1))]), [sent(&[Message::Reject(block(0, 1))])]);
    assert_eq!(bench.hears(&[Message::Cancel(block(0, 1))]), [], "it is not there any more");
    let outputs = bench.input(Input::Data { range, data: content(range) });
    assert_eq!(outputs.len(), 3);
    let mut stream = BytesMut::new();
    for output in outputs {
        let Output::SendBlock { header, data } = output else { panic!("{output:?}") };
        stream.extend_from_slice(&header);
        stream.extend_from_slice(&data);
    }
    assert_eq!(stream, wire(&[piece(block(0, 0)), piece(block(0, 2)), piece(block(0, 3))]));
    assert_eq!(bench.machine.uploaded(), 3 * 16_384);
}

#[test]
fn a_failed_or_short_read_is_refused() {
    for short in [false, true] {
        let mut bench = Bench::uploading(true);
        bench.hears(&[Message::Request(block(0, 0))]);
        let outputs = match short {
            true => bench.input(Input::Data { range: block(0, 0), data: Bytes::from_static(b"too short") }),
            false => bench.input(Input::ReadFailed(block(0, 0))),
        };
        assert_eq!(outputs, [sent(&[Message::Reject(block(0, 0))])]);
    }
}

#[test]
fn our_choke_refuses_what_waits() {
    let asked = Message::Request(block(20, 0));
    let mut fast = Bench::uploading(true);
    fast.hears(std::slice::from_ref(&asked));
    let refusal = sent(&[Message::Choke, Message::Reject(block(20, 0))]);
    assert_eq!(fast.input(Input::Choke(true)), [refusal]);
    assert_eq!(fast.hears(std::slice::from_ref(&asked)), [sent(&[Message::Reject(block(20, 0))])]);
    assert_eq!(fast.input(Input::Data { range: block(20, 0), data: content(block(20, 0)) }), []);

    let mut plain = Bench::uploading(false);
    plain.hears(std::slice::from_ref(&asked));
    assert_eq!(plain.input(Input::Choke(true)), [sent(&[Message::Choke])]);
    assert_eq!(plain.hears(&[asked]), []);
}

#[test]
fn a_choked_newcomer_gets_the_allowed_pieces_once() {
    let set = allowed_fast("127.0.0.1".parse().unwrap(), [7; 20], geometry().pieces(), 5);
    let mut bench = Bench::new(config(true, full()));
    let mut served = 0;
    for _ in 0..3 {
        for piece in &set {
            for n in 0..geometry().blocks_in(*piece) {
                let outputs = bench.hears(&[Message::Request(geometry().block(*piece, n))]);
                if let [Output::Read(range)] = outputs[..] {
                    served += range.length;
                    bench.input(Input::Data { range, data: content(range) });
                    bench.input(Input::Written(range.length as usize + 13));
                }
            }
        }
    }
    assert_eq!(served, set.iter().map(|piece| geometry().length_of(*piece)).sum::<u32>());
}

#[test]
fn hostile_messages_end_the_connection() {
    let beyond = PieceIndex(21);
    let request = |begin, length| BlockRef { piece: PieceIndex(20), begin, length };
    let spare = Message::Bitfield(vec![0xff, 0xff, 0xff].into());
    for (fast, message, reason) in [
        (true, Message::Have(beyond), CloseReason::NoSuchPiece(beyond)),
        (true, spare, CloseReason::BadBitfield),
        (true, Message::Bitfield(vec![0, 0].into()), CloseReason::BadBitfield),
        (true, Message::Request(request(0, 0)), CloseReason::BadRequest(request(0, 0))),
        (true, Message::Request(request(0, 131_073)), CloseReason::BadRequest(request(0, 131_073))),
        (true, Message::Request(request(16_384, 78)), CloseReason::BadRequest(request(16_384, 78))),
        (true, Message::Request(request(u32::MAX, u32::MAX)), CloseReason::BadRequest(request(u32::MAX, u32::MAX))),
        (false, Message::HaveAll, CloseReason::NotFast),
        (false, Message::Reject(block(0, 0)), CloseReason::NotFast),
        (false, Message::AllowedFast(beyond), CloseReason::NotFast),
    ] {
        assert_eq!(Bench::new(config(fast, none())).fails(&[message]), reason);
    }
    let mut bench = Bench::new(config(true, none()));
    let frame = &mut BytesMut::from(&[0x7f, 0, 0, 0][..]);
    let result = bench.machine.handle(Input::Received(frame), bench.now);
    assert!(matches!(result, Err(CloseReason::Wire(WireError::TooLong { .. }))));
}

#[test]
fn one_who_asks_and_never_reads_is_left() {
    let mut bench = Bench::new(config(true, none()));
    let refused = vec![Message::Request(block(0, 0)); 10_000];
    let reason = (0..100).find_map(|_| bench.machine.handle(Input::Received(&mut wire(&refused)), bench.now).err());
    assert_eq!(reason, Some(CloseReason::DoesNotRead));
    bench.outputs();
    assert!(bench.machine.queued() <= MOST_REMOTE_REQUESTS);
}

#[test]
fn haves_are_announced_once_and_extensions_pass() {
    let mut bench = Bench::new(config(true, none()));
    let news = [PieceIndex(1), PieceIndex(1), PieceIndex(20), PieceIndex(21)];
    let told = sent(&[Message::Have(PieceIndex(1)), Message::Have(PieceIndex(20))]);
    assert_eq!(bench.input(Input::Announce(&news)), [told]);
    let say = |id, text: &'static str| Message::Extended { id, payload: Bytes::from_static(text.as_bytes()) };
    let hi = || Input::Extended { extension: Extension::Pex, payload: b"hi" };
    assert_eq!(bench.input(hi()), [], "the remote offers no such extension yet");
    let hello = "d1:md6:ut_pexi9ee4:reqqi1ee";
    let outputs = bench.hears(&[say(2, "ho"), say(1, "not offered"), say(0, hello), say(0, "junk"), Message::Port(7)]);
    let [
        Output::Extended { extension: Extension::Pex, payload },
        Output::ExtendedHandshake(theirs),
        Output::DhtPort(7),
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(bench.input(hi()), [sent(&[say(9, "hi")])]);
    bench.hears(&[say(0, "d1:me")]);
    assert_eq!(bench.machine.offers().collect::<Vec<_>>(), [Extension::Pex], "what is not mentioned is as it was");
    bench.hears(&[say(0, "d1:md6:ut_pexi0eee")]);
    assert_eq!(bench.input(hi()), [], "taken back");
    assert_eq!((&payload[..], theirs.queue), (&b"ho"[..], Some(1)));
    bench.input(Input::Interest(true));
    assert_eq!(bench.hears(&[Message::Unchoke])[1], Output::Room(1), "the remote holds one request");
}
