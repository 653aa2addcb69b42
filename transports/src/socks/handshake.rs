//! What is said to a SOCKS5 proxy before it carries anything (RFC 1928, RFC 1929), as a pure machine.
//!
//! It names how many bytes it wants next, and is fed exactly those: nothing of what the proxy carries afterwards is taken.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use castanet_core::addr::canonical;

use super::proxy::Login;

/// The longest name that fits into a request.
pub(super) const LONGEST_NAME: usize = 255;

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const BY_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// What is asked of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// A stream to the target.
    Connect = 1,
    /// A relay of datagrams; the target is where ours come from, zeros if that is not known.
    Associate = 3,
}

/// Someone whom the proxy can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Address(SocketAddr),
    /// The proxy looks it up. At most [`LONGEST_NAME`] bytes.
    Name(Arc<str>, u16),
}

impl Target {
    /// Kind of address, address, port.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Address(SocketAddr::V4(addr)) => {
                out.push(V4);
                out.extend_from_slice(&addr.ip().octets());
            }
            Self::Address(SocketAddr::V6(addr)) => {
                out.push(V6);
                out.extend_from_slice(&addr.ip().octets());
            }
            Self::Name(name, _) => {
                let name = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
                out.extend_from_slice(&[NAME, name.len() as u8]);
                out.extend_from_slice(name);
            }
        }
        let port = match self {
            Self::Address(addr) => addr.port(),
            Self::Name(_, port) => *port,
        };
        out.extend_from_slice(&port.to_be_bytes());
    }

    /// Reads one, and what follows it; `None` if it is cut off, or of an unknown kind, or a name that is no text.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (kind, rest) = bytes.split_first()?;
        let (host, rest): (Result<IpAddr, &[u8]>, _) = match *kind {
            V4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Ok(IpAddr::from(*ip)), rest))?,
            V6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (Ok(IpAddr::from(*ip)), rest))?,
            NAME => {
                let (length, rest) = rest.split_first()?;
                rest.split_at_checked(usize::from(*length)).map(|(name, rest)| (Err(name), rest))?
            }
            _ => return None,
        };
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        let target = match host {
            Ok(ip) => Self::Address(canonical(SocketAddr::new(ip, port))),
            Err(name) => Self::Name(std::str::from_utf8(name).ok()?.into(), port),
        };
        Some((target, rest))
    }
}

/// Why the proxy does not do it. The text goes behind the proxy's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("does not speak SOCKS5")]
    NotSocks,
    #[error("wants a user and a password")]
    WantsLogin,
    #[error("takes neither the user and password nor nobody")]
    NoMethod,
    #[error("does not accept the user and password")]
    Login,
    #[error("{}", words(*.0))]
    Reply(u8),
}

fn words(reply: u8) -> String {
    let known = match reply {
        1 => "failed",
        2 => "does not allow it",
        3 => "has no way to that network",
        4 => "cannot reach that host",
        5 => "was refused by that host",
        6 => "found that host too far away",
        7 => "does not know that command",
        8 => "does not know that kind of address",
        _ => return format!("failed for a reason that SOCKS5 does not know ({reply})"),
    };
    known.to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Method,
    Login,
    /// Version, reply, a reserved byte, kind of address.
    Reply,
    /// How long the name is by which the proxy calls its end.
    NameLength,
    /// The proxy's end, of a kind that is known by now.
    End(u8),
}

/// The machine.
#[derive(Debug)]
pub(super) struct Handshake {
    stage: Stage,
    login: Option<Login>,
    command: Command,
    target: Target,
    needs: usize,
}

impl Handshake {
    /// Begins, with what is to be said first.
    pub(super) fn new(login: Option<Login>, command: Command, target: Target, say: &mut Vec<u8>) -> Self {
        match &login {
            Some(_) => say.extend_from_slice(&[VERSION, 2, BY_PASSWORD, NO_LOGIN]),
            None => say.extend_from_slice(&[VERSION, 1, NO_LOGIN]),
        }
        Self { stage: Stage::Method, login, command, target, needs: 2 }
    }

    /// How many bytes it wants to hear next, 1 to 257.
    pub(super) fn needs(&self) -> usize {
        self.needs
    }

    /// Hears [`Handshake::needs`] bytes. In the end returns the proxy's end: where its relay is, after
    /// [`Command::Associate`]. A proxy that gives a name there leaves us with the port.
    ///
    /// # Errors
    /// If nothing comes of it.
    pub(super) fn hear(&mut self, heard: &[u8], say: &mut Vec<u8>) -> Result<Option<SocketAddr>, Refused> {
        match (self.stage, heard) {
            (Stage::Method, [VERSION, method]) => match (*method, &self.login) {
                (NO_LOGIN, _) => self.request(say),
                (BY_PASSWORD, Some(login)) => {
                    say.push(LOGIN_VERSION);
                    for part in [&login.user, &login.password] {
                        say.push(part.len() as u8);
                        say.extend_from_slice(part);
                    }
                    (self.stage, self.needs) = (Stage::Login, 2);
                }
                (NO_METHOD, None) => return Err(Refused::WantsLogin),
                (NO_METHOD, Some(_)) => return Err(Refused::NoMethod),
                _ => return Err(Refused::NotSocks),
            },
            // Some proxies give the version of SOCKS here, so it is not looked at.
            (Stage::Login, [_, 0]) => self.request(say),
            (Stage::Login, [_, _]) => return Err(Refused::Login),
            (Stage::Reply, [VERSION, 0, _, kind]) => {
                (self.stage, self.needs) = match *kind {
                    V4 => (Stage::End(V4), 6),
                    V6 => (Stage::End(V6), 18),
                    NAME => (Stage::NameLength, 1),
                    _ => return Err(Refused::NotSocks),
                };
            }
            (Stage::Reply, [VERSION, reply, ..]) => return Err(Refused::Reply(*reply)),
            (Stage::NameLength, [length]) => (self.stage, self.needs) = (Stage::End(NAME), usize::from(*length) + 2),
            (Stage::End(NAME), [.., high, low]) => {
                let port = u16::from_be_bytes([*high, *low]);
                return Ok(Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)));
            }
            (Stage::End(kind), end) => {
                return match Target::read(&[&[kind], end].concat()) {
                    Some((Target::Address(addr), _)) => Ok(Some(addr)),
                    _ => Err(Refused::NotSocks),
                };
            }
            _ => return Err(Refused::NotSocks),
        }
        Ok(None)
    }

    fn request(&mut self, say: &mut Vec<u8>) {
        say.extend_from_slice(&[VERSION, self.command as u8, 0]);
        self.target.write(say);
        (self.stage, self.needs) = (Stage::Reply, 4);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login() -> Option<Login> {
        Some(Login { user: b"me".to_vec(), password: b"pass".to_vec() })
    }

    fn begin(login: Option<Login>, target: Target) -> (Handshake, Vec<u8>) {
        let mut said = Vec::new();
        let handshake = Handshake::new(login, Command::Connect, target, &mut said);
        (handshake, said)
    }

    fn anyone() -> Target {
        Target::Address("1.2.3.4:80".parse().unwrap())
    }

    /// Feeds all of `script` as it is wanted.
    fn run(handshake: &mut Handshake, mut script: &[u8], said: &mut Vec<u8>) -> Result<Option<SocketAddr>, Refused> {
        while let Some((heard, rest)) = script.split_at_checked(handshake.needs()) {
            if let Some(end) = handshake.hear(heard, said)? {
                assert!(rest.is_empty(), "nothing but the handshake is taken");
                return Ok(Some(end));
            }
            script = rest;
        }
        assert!(script.is_empty(), "{} bytes are too few or too many", script.len());
        Ok(None)
    }

    #[test]
    fn an_address_without_a_login() {
        let (mut handshake, mut said) = begin(None, anyone());
        let end = run(&mut handshake, &[5, 0, 5, 0, 0, 1, 9, 8, 7, 6, 0, 99], &mut said);
        assert_eq!(end, Ok(Some("9.8.7.6:99".parse().unwrap())));
        assert_eq!(said, [5, 1, 0, 5, 1, 0, 1, 1, 2, 3, 4, 0, 80]);
    }

    #[test]
    fn a_name_with_a_login() {
        let (mut handshake, mut said) = begin(login(), Target::Name("ab.c".into(), 443));
        let mut script = vec![5, 2, 1, 0, 5, 0, 0, 4];
        script.extend([0; 15]);
        script.extend([1, 0, 7]);
        assert_eq!(run(&mut handshake, &script, &mut said), Ok(Some("[::1]:7".parse().unwrap())));
        let login = [&[1, 2][..], b"me", &[4], b"pass"].concat();
        assert_eq!(said, [&[5, 2, 2, 0], &login[..], &[5, 1, 0, 3, 4], b"ab.c", &[1, 187]].concat());
    }

    #[test]
    fn who_has_a_login_need_not_be_asked_for_it() {
        let (mut handshake, mut said) = begin(login(), anyone());
        assert_eq!(run(&mut handshake, &[5, 0], &mut said), Ok(None));
        assert_eq!(said[4..7], [5, 1, 0]);
    }

    #[test]
    fn a_proxy_may_call_its_end_by_a_name() {
        let (mut handshake, mut said) = begin(None, anyone());
        let end = run(&mut handshake, &[5, 0, 5, 0, 0, 3, 2, b'h', b'i', 1, 0], &mut said);
        assert_eq!(end, Ok(Some("0.0.0.0:256".parse().unwrap())));
        let (mut handshake, mut said) = begin(None, anyone());
        assert!(run(&mut handshake, &[5, 0, 5, 0, 0, 3, 0, 1, 0], &mut said).unwrap().is_some());
    }

    #[test]
    fn refusals_are_told_apart() {
        for (login, script, refused) in [
            (None, &[5, 0xff][..], Refused::WantsLogin),
            (None, &[5, 2], Refused::NotSocks),
            (None, &[5, 1], Refused::NotSocks),
            (None, &[4, 0], Refused::NotSocks),
            (None, b"HT", Refused::NotSocks),
            (login(), &[5, 0xff], Refused::NoMethod),
            (login(), &[5, 2, 1, 1], Refused::Login),
            (login(), &[5, 2, 5, 0xff], Refused::Login),
            (None, &[5, 0, 4, 0, 0, 1], Refused::NotSocks),
            (None, &[5, 0, 5, 0, 0, 2], Refused::NotSocks),
            (None, &[5, 0, 5, 0, 0, 0], Refused::NotSocks),
        ] {
            let (mut handshake, mut said) = begin(login, anyone());
            assert_eq!(run(&mut handshake, script, &mut said), Err(refused), "{script:?}");
        }
        let mut texts = std::collections::BTreeSet::new();
        for reply in 1..=255 {
            let (mut handshake, mut said) = begin(None, anyone());
            let refused = run(&mut handshake, &[5, 0, 5, reply, 0, 1], &mut said).unwrap_err();
            assert_eq!(refused, Refused::Reply(reply));
            assert!(texts.insert(refused.to_string()), "{refused}");
        }
    }

    #[test]
    fn targets_come_back_and_say_what_follows() {
        let long: Arc<str> = "n".repeat(LONGEST_NAME).into();
        for target in [anyone(), Target::Address("[2001:db8::1]:65535".parse().unwrap()), Target::Name(long, 1)] {
            let mut bytes = Vec::new();
            target.write(&mut bytes);
            assert!((0..bytes.len()).all(|cut| Target::read(&bytes[..cut]).is_none()));
            bytes.extend_from_slice(b"rest");
            assert_eq!(Target::read(&bytes), Some((target, &b"rest"[..])));
        }
    }

    proptest! {
        #[test]
        fn whatever_a_proxy_says_ends_soon_and_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            let (mut handshake, mut said) = begin(login(), anyone());
            let mut rest = &bytes[..];
            for _ in 0..6 {
                prop_assert!((1..=257).contains(&handshake.needs()));
                let Some((heard, after)) = rest.split_at_checked(handshake.needs()) else { return Ok(()) };
                rest = after;
                if !matches!(handshake.hear(heard, &mut said), Ok(None)) {
                    return Ok(());
                }
            }
            prop_assert!(false, "it goes on for ever");
        }

        #[test]
        fn targets_are_read_from_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some((target, rest)) = Target::read(&bytes) {
                let mut again = Vec::new();
                target.write(&mut again);
                prop_assert!(rest.len() < bytes.len());
                prop_assert!(Target::read(&again).is_some());
            }
        }
    }
}
