//! Canonical peer priority (BEP 40): a number on which both ends of a connection agree without talking, so that every
//! peer of a crowded swarm has an equal chance and nobody can fill all slots of a swarm from one network.

use std::net::{IpAddr, SocketAddr};

/// The priority of a connection between two addresses, the same from both ends; higher is better.
///
/// `None` between an IPv4 and an IPv6 address, which can have no connection.
pub fn priority(one: SocketAddr, other: SocketAddr) -> Option<u32> {
    if one.ip() == other.ip() {
        return Some(sorted_crc(&one.port().to_be_bytes(), &other.port().to_be_bytes()));
    }
    match (one.ip(), other.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some(masked_crc(a.octets(), b.octets(), 2)),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some(masked_crc(a.octets(), b.octets(), 6)),
        _ => None,
    }
}

/// Of each address `whole` bytes count, or one more than both have in common if that is more; of the others every
/// second bit does.
fn masked_crc<const N: usize>(mut a: [u8; N], mut b: [u8; N], whole: usize) -> u32 {
    let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let kept = if common >= whole { common + 1 } else { whole };
    a.iter_mut().chain(&mut b).enumerate().filter(|(i, _)| i % N >= kept).for_each(|(_, byte)| *byte &= 0x55);
    sorted_crc(&a, &b)
}

fn sorted_crc(a: &[u8], b: &[u8]) -> u32 {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    crc32c(low.iter().chain(high))
}

/// CRC-32C (Castagnoli), reflected, bit by bit: 32 bytes once per address known need no table.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(one: &str, other: &str) -> Option<u32> {
        let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
        assert_eq!(priority(one, other), priority(other, one), "both ends agree");
        priority(one, other)
    }

    #[test]
    fn crc32c_check_value() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
    }

    #[test]
    fn the_vectors_of_the_bep() {
        assert_eq!(of("123.213.32.10:1", "98.76.54.32:2"), Some(0xec2d_7224));
        assert_eq!(of("123.213.32.10:1", "123.213.32.234:2"), Some(0x9956_8189));
    }

    #[test]
    fn masks_widen_as_addresses_come_closer() {
        let v4 = |b: [u8; 8]| Some(crc32c(b.iter()));
        assert_eq!(of("10.20.255.255:1", "10.30.255.255:1"), v4([10, 20, 0x55, 0x55, 10, 30, 0x55, 0x55]));
        assert_eq!(of("10.20.30.255:1", "10.20.40.255:1"), v4([10, 20, 30, 0x55, 10, 20, 40, 0x55]));
        let v6 = |low: [u8; 16], high: [u8; 16]| Some(crc32c(low.iter().chain(&high)));
        let mut low = [0x55; 16];
        low[..6].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 1]);
        let mut high = low;
        high[5] = 2;
        let tail = "ffff:ffff:ffff:ffff:ffff";
        assert_eq!(of(&format!("[2001:db8:1:{tail}]:1"), &format!("[2001:db8:2:{tail}]:1")), v6(low, high));
        (high[5], low[6], high[6]) = (1, 0xee, 0xff);
        let eeff = "eeff:ffff:ffff:ffff:ffff";
        assert_eq!(of(&format!("[2001:db8:1:{eeff}]:1"), &format!("[2001:db8:1:{tail}]:1")), v6(low, high));
    }

    #[test]
    fn one_host_is_told_apart_by_ports_and_families_do_not_mix() {
        assert_eq!(of("127.0.0.1:258", "127.0.0.1:772"), Some(crc32c([1, 2, 3, 4].iter())));
        assert_eq!(of("127.0.0.1:1", "[::1]:1"), None);
    }
}
