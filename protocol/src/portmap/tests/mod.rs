//! The machines, against what routers and liars say.

mod control;
mod igd;
mod packets;

use std::net::SocketAddrV4;

use castanet_core::Moment;
use proptest::prelude::*;

use super::{
    packet::{About, Nonce, Question, Trouble, encode, parse},
    soap::{self, Action},
    ssdp::{self, Page},
    xml::{Piece, pieces, text_of, unescaped},
    *,
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(11, 2, 3, 4);
const PLACE: Place = Place { client: CLIENT, gateway: Some(ROUTER), port: 6881 };
const HOUR: Duration = Duration::from_secs(3600);

fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ROUTER, port)
}

fn mapper(methods: &[Method]) -> Mapper {
    let settings = PortMapping { methods: methods.to_vec(), ..PortMapping::default() };
    Mapper::new(PLACE, settings, 1, Moment::ZERO)
}

/// All there is to do now.
fn drain(mapper: &mut Mapper, now: Moment) -> Vec<Output> {
    std::iter::from_fn(|| mapper.poll(now)).collect()
}

/// The one datagram that there is to send now.
fn sent(mapper: &mut Mapper, now: Moment) -> Vec<u8> {
    match drain(mapper, now).as_slice() {
        [Output::Send { to, datagram }] if *to == at(5351) => datagram.clone(),
        other => panic!("{other:?}"),
    }
}

fn hear(mapper: &mut Mapper, payload: &[u8], now: Moment) {
    mapper.handle(Input::Datagram { from: at(5351), payload }, now);
}

/// A PCP answer that grants what was asked, for so long.
fn granted(question: &[u8], external: u16, lifetime: u32, epoch: u32) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[1] |= 0x80;
    answer[4..8].copy_from_slice(&lifetime.to_be_bytes());
    answer[8..12].copy_from_slice(&epoch.to_be_bytes());
    answer[12..24].fill(0);
    answer[42..44].copy_from_slice(&external.to_be_bytes());
    answer[44..60].copy_from_slice(&WORLD.to_ipv6_mapped().octets());
    answer
}

/// Both layers are granted for an hour by PCP.
fn opened(epoch: u32) -> Mapper {
    let mut mapper = mapper(&[Method::Pcp]);
    for _ in 0..2 {
        let question = sent(&mut mapper, Moment::ZERO);
        hear(&mut mapper, &granted(&question, 7000, 3600, epoch), Moment::ZERO);
    }
    let open = OpenPort { port: 6881, external: SocketAddrV4::new(WORLD, 7000), method: Method::Pcp, udp: true };
    assert_eq!(drain(&mut mapper, Moment::ZERO), [Output::Report(Report::Open(open))]);
    mapper
}

#[test]
fn people_are_told_what_it_means() {
    let open = OpenPort { port: 1, external: "100.64.0.1:2".parse().unwrap(), method: Method::NatPmp, udp: false };
    let text = "Port 1 is open to the world as 100.64.0.1:2 by NAT-PMP, for TCP only; but 100.64.0.1 is no address of the \
                world: another router stands before this one";
    assert_eq!(open.to_string(), text);
}

proptest! {
    /// Whatever comes, in whatever order: nothing panics, and what is sent is bounded by time and by what was heard.
    #[test]
    fn nothing_a_stranger_says_makes_us_talk_without_end(
        steps in proptest::collection::vec((0..5u8, proptest::collection::vec(any::<u8>(), 0..80), 0..3000u64), 0..100)
    ) {
        let mut mapper = mapper(&Method::ALL);
        let (mut now, mut outputs, mut last) = (Moment::ZERO, 0, Vec::new());
        for (kind, bytes, pause) in &steps {
            now += Duration::from_millis(*pause);
            match kind {
                0 => hear(&mut mapper, bytes, now),
                1 => mapper.handle(Input::Datagram { from: at(1900), payload: bytes }, now),
                2 => mapper.handle(Input::Answered(Ok((200, &String::from_utf8_lossy(bytes)))), now),
                // Nearly an answer.
                3 if last.len() >= 60 => {
                    let mut answer = granted(&last, 7000, u32::from(bytes.len() as u8), 1);
                    let at = bytes.first().map_or(0, |byte| usize::from(*byte) % answer.len());
                    answer[at] = bytes.last().copied().unwrap_or_default();
                    hear(&mut mapper, &answer, now);
                }
                _ => {}
            }
            for output in drain(&mut mapper, now) {
                outputs += 1;
                if let Output::Send { datagram, .. } = output {
                    last = datagram;
                }
            }
            prop_assert!(mapper.deadline() > now);
        }
        prop_assert!(outputs <= 40 + steps.len() * 4, "{} in {} steps", outputs, steps.len());
    }
}
