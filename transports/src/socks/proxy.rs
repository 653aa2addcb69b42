//! Which proxy: `socks5://[USER:PASSWORD@]HOST:PORT`, read. The password is in nothing that is printed.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;

/// The port of SOCKS (RFC 1928), if the URL names none.
const USUAL_PORT: u16 = 1080;
/// The longest user and password in bytes (RFC 1929).
const LONGEST_LOGIN: usize = 255;
/// The longest host in bytes: what a name may have (RFC 1035).
const LONGEST_HOST: usize = 253;

/// A SOCKS5 proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// A name or an address; an IPv6 address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: Option<Login>,
}

/// Who we are (RFC 1929).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// 1 to 255 bytes.
    pub(super) user: Vec<u8>,
    /// At most 255 bytes.
    pub(super) password: Vec<u8>,
}

/// Why a text names no proxy. It does not repeat the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It is no URL, or one of something else.
    #[error("only SOCKS5 proxies are known, written socks5://[USER:PASSWORD@]HOST:PORT")]
    Scheme,
    /// There is no host, or one that cannot be.
    #[error("the proxy's host is missing or no name or address (an IPv6 address needs brackets: socks5://[::1]:1080)")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the proxy's port is no number from 1 to 65535")]
    Port,
    /// User or password are too long, or there is no user.
    #[error("the proxy's user needs 1 to {LONGEST_LOGIN} bytes, its password at most {LONGEST_LOGIN}")]
    Login,
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(ProxyError::Scheme)?;
        // They differ in who resolves names, which here is always the proxy.
        if !["socks5", "socks5h"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(ProxyError::Scheme);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(read_login(login)?), place),
            None => (None, rest),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(ProxyError::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| ProxyError::Host)?;
                let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(ProxyError::Port)?) };
                (host, port)
            }
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let is_strange = |c: char| c.is_whitespace() || c.is_control() || "/?#\\%".contains(c);
        if host.is_empty() || host.len() > LONGEST_HOST || host.contains(is_strange) {
            return Err(ProxyError::Host);
        }
        let port = port.map_or(Ok(USUAL_PORT), str::parse).map_err(|_| ProxyError::Port)?;
        if port == 0 {
            return Err(ProxyError::Port);
        }
        Ok(Self { host: host.to_owned(), port, login })
    }
}

fn read_login(text: &str) -> Result<Login, ProxyError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let [user, password] = [user, password].map(|part| percent_decode_str(part).collect::<Vec<u8>>());
    let fits = !user.is_empty() && user.len() <= LONGEST_LOGIN && password.len() <= LONGEST_LOGIN;
    if fits { Ok(Login { user, password }) } else { Err(ProxyError::Login) }
}

/// Where it is, and nothing of who we are there.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_as_people_write_them() {
        let login = |user: &[u8], password: &[u8]| Some(Login { user: user.into(), password: password.into() });
        for (text, host, port, who) in [
            ("socks5://proxy.example:1081", "proxy.example", 1081, None),
            ("SOCKS5H://10.0.0.1", "10.0.0.1", 1080, None),
            ("socks5://[2001:db8::1]:9050/", "2001:db8::1", 9050, None),
            ("socks5://[::1]", "::1", 1080, None),
            ("socks5://me:pass@h:1", "h", 1, login(b"me", b"pass")),
            ("socks5://me@h:1", "h", 1, login(b"me", b"")),
            ("socks5://a%40b:p%3A%20%ff%2f@h:1", "h", 1, login(b"a@b", b"p: \xff/")),
            ("socks5://me:p@ss:w@h:1", "h", 1, login(b"me", b"p@ss:w")),
        ] {
            let proxy: Proxy = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((proxy.host.as_str(), proxy.port, proxy.login), (host, port, who), "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_being_repeated() {
        let long = format!("socks5://{}:x@h:1", "u".repeat(256));
        for (text, error) in [
            ("", ProxyError::Scheme),
            ("proxy:1080", ProxyError::Scheme),
            ("http://me:secret@proxy:1080", ProxyError::Scheme),
            ("socks4://proxy:1080", ProxyError::Scheme),
            ("socks5://", ProxyError::Host),
            ("socks5://me:secret@", ProxyError::Host),
            ("socks5://me:secret@[::1", ProxyError::Host),
            ("socks5://[h]:1", ProxyError::Host),
            ("socks5://h h:1", ProxyError::Host),
            ("socks5://h/path", ProxyError::Host),
            ("socks5://h:", ProxyError::Port),
            ("socks5://h:0", ProxyError::Port),
            ("socks5://h:65536", ProxyError::Port),
            ("socks5://::1:80", ProxyError::Host),
            ("socks5://[::1]80", ProxyError::Port),
            ("socks5://:secret@h:1", ProxyError::Login),
            (&long, ProxyError::Login),
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(error), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn nothing_printed_holds_the_password() {
        let proxy: Proxy = "socks5://me:secret@[::1]:1".parse().unwrap();
        assert_eq!(format!("{proxy}, {proxy:?}, {:?}", proxy.login), "[::1]:1, Proxy([::1]:1), Some(Login)");
    }
}
