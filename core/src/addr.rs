//! Socket addresses in the compact form of trackers, PEX and the DHT (BEP 23, BEP 7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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

/// One name for one address: IPv4-mapped IPv6 becomes IPv4.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Can a peer be dialled there? Not port 0, not unspecified, multicast or broadcast.
pub fn is_dialable(addr: SocketAddr) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
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
        for bad in ["0.0.0.0:1", "1.2.3.4:0", "224.0.0.1:9", "255.255.255.255:9", "[::]:9"] {
            assert!(!is_dialable(bad.parse().unwrap()), "{bad}");
        }
        assert!(is_dialable("127.0.0.1:9".parse().unwrap()));
    }
}
