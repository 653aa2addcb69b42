//! Socket addresses in the compact form of trackers, PEX and the DHT (BEP 23, BEP 7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Bytes of a compact IPv4 address and port.
pub const COMPACT_V4: usize = 6;
/// Bytes of a compact IPv6 address and port.
pub const COMPACT_V6: usize = 18;

/// Parses a list of 6-byte entries; a short tail is ignored. The caller caps the input.
pub fn parse_compact_v4(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> + '_ {
    bytes
        .chunks_exact(COMPACT_V4)
        .map(|c| SocketAddr::new(Ipv4Addr::new(c[0], c[1], c[2], c[3]).into(), u16::from_be_bytes([c[4], c[5]])))
}

/// Parses a list of 18-byte entries; a short tail is ignored. IPv4-mapped addresses become IPv4.
pub fn parse_compact_v6(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> + '_ {
    bytes.chunks_exact(COMPACT_V6).map(|c| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&c[..16]);
        canonical(SocketAddr::new(Ipv6Addr::from(octets).into(), u16::from_be_bytes([c[16], c[17]])))
    })
}

/// Appends the compact form: 6 bytes for IPv4, 18 for IPv6.
pub fn write_compact(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

/// One name for one address: IPv4-mapped IPv6 becomes IPv4. A link-local address keeps its zone, without which it means
/// nothing.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into()
        }
        addr => SocketAddr::new(addr.ip().to_canonical(), addr.port()),
    }
}

/// Can a peer be dialled there? Not port 0, not unspecified, multicast or broadcast, and not link-local without its zone, as
/// such an address is when it comes from afar. Reserved addresses can: they are stand-ins here ([`is_stand_in`]).
pub fn is_dialable(addr: SocketAddr) -> bool {
    let is_host = match canonical(addr) {
        SocketAddr::V4(v4) => v4.ip().octets()[0] != 0 && !v4.ip().is_broadcast(),
        SocketAddr::V6(v6) => !v6.ip().is_unicast_link_local() || v6.scope_id() != 0,
    };
    let ip = addr.ip().to_canonical();
    is_host && addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

/// Whose address it is, as far as limits go: of IPv6 a host has a whole /64.
pub fn host_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

/// Is this an address of the machine itself or of a private network: loopback, private, link-local, unique local?
pub fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Is it an address that nobody has, as names get which a proxy looks up? In 240.0.0.0/4 (reserved, RFC 1112) or
/// 100::/64 (for discarding, RFC 6666). It means something here alone, so nobody is told of it.
pub fn is_stand_in(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] >= 240,
        IpAddr::V6(ip) => ip.segments()[..4] == [0x100, 0, 0, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_round_trip() {
        for text in ["1.2.3.4:80", "[2001:db8::1]:6881"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut bytes = Vec::new();
            write_compact(addr, &mut bytes);
            let back: Vec<_> = match addr {
                SocketAddr::V4(_) => parse_compact_v4(&bytes).collect(),
                SocketAddr::V6(_) => parse_compact_v6(&bytes).collect(),
            };
            assert_eq!(back, [addr]);
        }
    }

    #[test]
    fn odd_addresses() {
        assert_eq!(canonical("[::ffff:1.2.3.4]:5".parse().unwrap()), "1.2.3.4:5".parse().unwrap());
        assert_eq!(canonical("[fe80::1%3]:5".parse().unwrap()), "[fe80::1%3]:5".parse().unwrap());
        let bad = ["0.0.0.0:1", "0.1.2.3:1", "1.2.3.4:0", "224.0.0.1:9", "255.255.255.255:9"];
        for bad in bad.into_iter().chain([
            "[::]:9",
            "[ff02::1]:9",
            "[fe80::1]:9",
            "[::ffff:0.0.0.0]:9",
            "[::ffff:224.0.0.1]:9",
        ]) {
            assert!(!is_dialable(bad.parse().unwrap()), "{bad}");
        }
        for good in ["127.0.0.1:9", "[::1]:9", "169.254.1.1:9", "[fe80::1%3]:9", "[::ffff:1.2.3.4]:9"] {
            assert!(is_dialable(good.parse().unwrap()), "{good}");
        }
        for (text, expected) in [("240.0.0.1", true), ("239.9.9.9", false), ("100::7", true), ("100:0:0:1::7", false)] {
            assert_eq!(is_stand_in(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn local_addresses() {
        for local in
            ["127.1.2.3", "10.0.0.1", "192.168.1.1", "169.254.1.1", "::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1"]
        {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for public in ["8.8.8.8", "100.64.0.1", "172.32.0.1", "2001:db8::1", "::ffff:1.1.1.1"] {
            assert!(!is_local(public.parse().unwrap()), "{public}");
        }
    }
}
