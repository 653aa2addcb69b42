//! The datagrams of PCP (RFC 6887) and NAT-PMP (RFC 6886), which share port 5351 of the router.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{Layer, Method, is_host};

/// Where routers listen.
pub(super) const PORT: u16 = 5351;
/// What tells two mappings of PCP apart that would look the same.
pub(super) type Nonce = [u8; 12];

const PCP_VERSION: u8 = 2;
const NAT_PMP_VERSION: u8 = 0;
/// The bit of the opcode that makes it an answer.
const ANSWER: u8 = 0x80;
const PCP_HEADER: usize = 24;
const PCP_MAP: usize = 60;
const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;
/// "Unsupported version", which both protocols number so.
const UNSUPPORTED_VERSION: u16 = 1;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// How long it has been up, and by NAT-PMP the address that the world sees.
    About,
    /// To map a port; for a lifetime of zero, to do so no more.
    Map { layer: Layer, port: u16, suggested: u16, lifetime: Duration },
}

/// What a router answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Seconds since it began to remember mappings.
    pub(super) epoch: u32,
    pub(super) about: About,
}

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Itself; by NAT-PMP with its address.
    Itself(Option<Ipv4Addr>),
    /// A mapping; by PCP with the address.
    Mapped { layer: Layer, port: u16, external: u16, address: Option<Ipv4Addr>, lifetime: Duration },
}

/// Why a datagram is not the answer that was hoped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is none at all, and says nothing.
    Noise,
    /// The router does not speak this protocol.
    Version,
    /// It refuses, for a reason that a user can read.
    Refused(&'static str),
}

/// The datagram.
pub(super) fn encode(method: Method, question: Question, client: Ipv4Addr, nonce: &Nonce) -> Vec<u8> {
    match method {
        Method::Pcp => encode_pcp(question, client, nonce),
        _ => encode_nat_pmp(question),
    }
}

fn seconds(lifetime: Duration) -> [u8; 4] {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes()
}

fn encode_pcp(question: Question, client: Ipv4Addr, nonce: &Nonce) -> Vec<u8> {
    let (opcode, lifetime) = match question {
        Question::About => (ANNOUNCE, Duration::ZERO),
        Question::Map { lifetime, .. } => (MAP, lifetime),
    };
    let mut out = vec![PCP_VERSION, opcode, 0, 0];
    out.extend(seconds(lifetime));
    out.extend(client.to_ipv6_mapped().octets());
    if let Question::Map { layer, port, suggested, .. } = question {
        out.extend(nonce);
        out.extend([protocol(layer), 0, 0, 0]);
        out.extend(port.to_be_bytes());
        out.extend(suggested.to_be_bytes());
        // No address in particular, but one of IPv4.
        out.extend(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    }
    out
}

fn encode_nat_pmp(question: Question) -> Vec<u8> {
    match question {
        Question::About => vec![NAT_PMP_VERSION, 0],
        Question::Map { layer, port, suggested, lifetime } => {
            let opcode = match layer {
                Layer::Udp => 1,
                Layer::Tcp => 2,
            };
            let mut out = vec![NAT_PMP_VERSION, opcode, 0, 0];
            out.extend(port.to_be_bytes());
            out.extend(suggested.to_be_bytes());
            out.extend(seconds(lifetime));
            out
        }
    }
}

/// The number of a protocol in IP.
fn protocol(layer: Layer) -> u8 {
    match layer {
        Layer::Tcp => 6,
        Layer::Udp => 17,
    }
}

fn u16_at(datagram: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(datagram.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(datagram: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(datagram.get(at..at + 4)?.try_into().ok()?))
}

/// Reads an answer by `method`.
pub(super) fn parse(method: Method, datagram: &[u8], nonce: &Nonce) -> Result<Answer, Trouble> {
    let parsed = match method {
        Method::Pcp => parse_pcp(datagram, nonce),
        _ => parse_nat_pmp(datagram),
    };
    parsed.unwrap_or(Err(Trouble::Noise))
}

/// `None` if it is cut off.
fn parse_pcp(datagram: &[u8], nonce: &Nonce) -> Option<Result<Answer, Trouble>> {
    let (version, opcode) = (*datagram.first()?, *datagram.get(1)?);
    if opcode & ANSWER == 0 {
        return None;
    }
    if version != PCP_VERSION {
        // A router that knows NAT-PMP alone says so in its own way.
        return (u16_at(datagram, 2)? & 0xff == UNSUPPORTED_VERSION).then_some(Err(Trouble::Version));
    }
    let code = *datagram.get(3)?;
    let (lifetime, epoch) = (u32_at(datagram, 4)?, u32_at(datagram, 8)?);
    if datagram.len() < PCP_HEADER {
        return None;
    }
    match opcode & !ANSWER {
        _ if u16::from(code) == UNSUPPORTED_VERSION => return Some(Err(Trouble::Version)),
        ANNOUNCE if code == 0 => return Some(Ok(Answer { epoch, about: About::Itself(None) })),
        MAP if datagram.len() >= PCP_MAP && datagram.get(24..36)? == nonce => {}
        _ => return None,
    }
    if code != 0 {
        return Some(Err(Trouble::Refused(pcp_reason(code))));
    }
    let layer = layer(*datagram.get(36)?)?;
    let (port, external) = (u16_at(datagram, 40)?, u16_at(datagram, 42)?);
    let address: [u8; 16] = datagram.get(44..60)?.try_into().ok()?;
    let Some(address) = Ipv6Addr::from(address).to_ipv4_mapped() else {
        return Some(Err(Trouble::Refused("it gives an IPv6 address for one of IPv4")));
    };
    // An answer to a question about nothing is about nothing.
    let address = (lifetime > 0).then_some(address);
    Some(mapped(epoch, layer, port, external, address, lifetime))
}

fn layer(protocol: u8) -> Option<Layer> {
    match protocol {
        6 => Some(Layer::Tcp),
        17 => Some(Layer::Udp),
        _ => None,
    }
}

fn parse_nat_pmp(datagram: &[u8]) -> Option<Result<Answer, Trouble>> {
    let (version, opcode) = (*datagram.first()?, *datagram.get(1)?);
    if opcode & ANSWER == 0 {
        return None;
    }
    let code = u16_at(datagram, 2)?;
    if version != NAT_PMP_VERSION {
        return (code & 0xff == UNSUPPORTED_VERSION).then_some(Err(Trouble::Version));
    }
    match code {
        0 => {}
        UNSUPPORTED_VERSION => return Some(Err(Trouble::Version)),
        code => return Some(Err(Trouble::Refused(nat_pmp_reason(code)))),
    }
    let epoch = u32_at(datagram, 4)?;
    let layer = match opcode & !ANSWER {
        0 => {
            let address: [u8; 4] = datagram.get(8..12)?.try_into().ok()?;
            let address = Ipv4Addr::from(address);
            let about = About::Itself(Some(address));
            let is_sound = is_host(address);
            return Some(if is_sound { Ok(Answer { epoch, about }) } else { Err(NO_ADDRESS) });
        }
        1 => Layer::Udp,
        2 => Layer::Tcp,
        _ => return None,
    };
    Some(mapped(epoch, layer, u16_at(datagram, 8)?, u16_at(datagram, 10)?, None, u32_at(datagram, 12)?))
}

const NO_ADDRESS: Trouble = Trouble::Refused("it has no address in the world");

fn mapped(
    epoch: u32,
    layer: Layer,
    port: u16,
    external: u16,
    address: Option<Ipv4Addr>,
    lifetime: u32,
) -> Result<Answer, Trouble> {
    if lifetime > 0 && external == 0 {
        return Err(Trouble::Refused("it gives no port"));
    }
    if address.is_some_and(|address| !is_host(address)) {
        return Err(NO_ADDRESS);
    }
    let lifetime = Duration::from_secs(lifetime.into());
    Ok(Answer { epoch, about: About::Mapped { layer, port, external, address, lifetime } })
}

/// The result codes of RFC 6887, in words.
fn pcp_reason(code: u8) -> &'static str {
    match code {
        2 => "it does not allow this, or the port belongs to somebody else",
        3 | 6 => "it does not understand the question",
        4 | 5 => "it does not know how to map ports",
        7 => "it has a network failure",
        8 => "it has no room for more ports",
        9 => "it does not map this protocol",
        10 => "we have all the ports that one may have",
        11 => "it has no port to give",
        12 => "another router stands between it and us",
        _ => "it refuses",
    }
}

/// The result codes of RFC 6886, in words.
fn nat_pmp_reason(code: u16) -> &'static str {
    match code {
        2 => "it does not allow this",
        3 => "it has a network failure",
        4 => "it has no room for more ports",
        5 => "it does not know how to map ports",
        _ => "it refuses",
    }
}
