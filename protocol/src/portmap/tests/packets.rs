//! The datagrams, and what is none of them.

use super::*;

const NONCE: Nonce = *b"twelve bytes";
const MAP: Question = Question::Map { layer: Layer::Tcp, port: 6881, suggested: 6882, lifetime: HOUR };

#[test]
fn the_layout_is_that_of_rfc_6887() {
    let datagram = encode(Method::Pcp, MAP, CLIENT, &NONCE);
    let wanted = [
        &[2, 1, 0, 0, 0, 0, 0x0e, 0x10],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2][..],
        &NONCE,
        &[6, 0, 0, 0, 0x1a, 0xe1, 0x1a, 0xe2],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
    ];
    assert_eq!(datagram, wanted.concat());
    let answer = parse(Method::Pcp, &granted(&datagram, 7000, 120, 9), &NONCE).unwrap();
    let (lifetime, address) = (Duration::from_secs(120), Some(WORLD));
    let about = About::Mapped { layer: Layer::Tcp, port: 6881, external: 7000, address, lifetime };
    assert_eq!((answer.epoch, answer.about), (9, about));
    assert_eq!(encode(Method::Pcp, Question::About, CLIENT, &NONCE).len(), 24);
}

#[test]
fn the_layout_is_that_of_rfc_6886() {
    let datagram = encode(Method::NatPmp, MAP, CLIENT, &NONCE);
    assert_eq!(datagram, [0, 2, 0, 0, 0x1a, 0xe1, 0x1a, 0xe2, 0, 0, 0x0e, 0x10]);
    assert_eq!(encode(Method::NatPmp, Question::About, CLIENT, &NONCE), [0, 0]);
    let answer = [0, 0x80 + 1, 0, 0, 0, 0, 0, 9, 0x1a, 0xe1, 0x1b, 0x58, 0, 0, 0, 60];
    let answer = parse(Method::NatPmp, &answer, &NONCE).unwrap();
    let lifetime = Duration::from_secs(60);
    let about = About::Mapped { layer: Layer::Udp, port: 6881, external: 7000, address: None, lifetime };
    assert_eq!((answer.epoch, answer.about), (9, about));
    let address = parse(Method::NatPmp, &[0, 0x80, 0, 0, 0, 0, 0, 9, 11, 2, 3, 4], &NONCE).unwrap();
    assert_eq!(address.about, About::Itself(Some(WORLD)));
}

#[test]
fn what_is_no_answer_is_noise() {
    let question = encode(Method::Pcp, MAP, CLIENT, &NONCE);
    let good = granted(&question, 7000, 60, 1);
    let noise = |datagram: &[u8]| assert_eq!(parse(Method::Pcp, datagram, &NONCE), Err(Trouble::Noise), "{datagram:?}");
    noise(&question);
    (0..good.len()).for_each(|end| noise(&good[..end]));
    let spoilt = |at: usize, byte: u8| [&good[..at], &[byte], &good[at + 1..]].concat();
    noise(&spoilt(30, 0));
    noise(&spoilt(36, 41));
    for (at, byte) in [(44, 0x20), (3, 2), (3, 99)] {
        assert!(matches!(parse(Method::Pcp, &spoilt(at, byte), &NONCE), Err(Trouble::Refused(_))), "{at} {byte}");
    }
    let refused = |datagram: &[u8]| matches!(parse(Method::Pcp, datagram, &NONCE), Err(Trouble::Refused(_)));
    assert!(refused(&granted(&question, 0, 60, 1)), "no port");
    assert!(refused(&[&good[..56], &[0; 4]].concat()), "no address");
    assert!(refused(&[&good[..56], &[224, 0, 0, 1]].concat()), "nobody's address");
    // Each tells the other's client that it is of another kind.
    assert_eq!(parse(Method::Pcp, &[0, 0x81, 0, 1, 0, 0, 0, 0], &NONCE), Err(Trouble::Version));
    assert_eq!(parse(Method::NatPmp, &[2, 0x81, 0, 1, 0, 0, 0, 0], &NONCE), Err(Trouble::Version));
    assert_eq!(parse(Method::NatPmp, &[0, 0x80, 0, 0, 0, 0, 0, 9, 11, 2], &NONCE), Err(Trouble::Noise));
}
