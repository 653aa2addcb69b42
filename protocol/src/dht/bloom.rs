//! A set of IP addresses in 256 bytes, of which sets of several nodes can be united and counted (BEP 33).

use std::{fmt, net::IpAddr};

use castanet_core::digest::sha1;

/// Bytes of a filter.
pub const BLOOM_LENGTH: usize = 256;
const BITS: usize = BLOOM_LENGTH * 8;

/// A Bloom filter of 2,048 bits, two for each address. It counts well up to about 6,000 addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Bloom(Box<[u8; BLOOM_LENGTH]>);

impl Default for Bloom {
    fn default() -> Self {
        Self(Box::new([0; BLOOM_LENGTH]))
    }
}

impl Bloom {
    /// A filter as it comes in a message; `None` unless it has [`BLOOM_LENGTH`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Box::new(bytes.try_into().ok()?)))
    }

    /// As it goes into a message.
    pub fn as_bytes(&self) -> &[u8; BLOOM_LENGTH] {
        &self.0
    }

    /// Adds an address. Ports do not count.
    pub fn insert(&mut self, ip: IpAddr) {
        for bit in bits(ip) {
            self.0[bit / 8] |= 1 << (bit % 8);
        }
    }

    /// May the address be in the set? If not, it is not.
    pub fn contains(&self, ip: IpAddr) -> bool {
        bits(ip).iter().all(|bit| self.0[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Adds all addresses of another set.
    pub fn unite(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(ours, theirs)| *ours |= theirs);
    }

    /// About how many addresses are in the set; 0 to 7,806.
    pub fn estimate(&self) -> f64 {
        let zeros: u32 = self.0.iter().map(|byte| byte.count_zeros()).sum();
        let bits = BITS as f64;
        // A full filter would be infinite, an empty one is 0 and not what rounding makes of it.
        match zeros as usize {
            BITS => 0.0,
            zeros => (zeros.max(1) as f64 / bits).ln() / (2.0 * (1.0 - 1.0 / bits).ln()),
        }
    }
}

fn bits(ip: IpAddr) -> [usize; 2] {
    let hash = match ip.to_canonical() {
        IpAddr::V4(v4) => sha1(&v4.octets()),
        IpAddr::V6(v6) => sha1(&v6.octets()),
    };
    [0, 2].map(|at| usize::from(u16::from_le_bytes([hash.0[at], hash.0[at + 1]])) % BITS)
}

impl fmt::Debug for Bloom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bloom(about {:.0})", self.estimate())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// The test vector of BEP 33.
    const VECTOR: &str = "
        F6C3F5EA A07FFD91 BDE89F77 7F26FB2B FF37BDB8 FB2BBAA2 FD3DDDE7 BACFFF75 EE7CCBAE
        FE5EEDB1 FBFAFF67 F6ABFF5E 43DDBCA3 FD9B9FFD F4FFD3E9 DFF12D1B DF59DB53 DBE9FA5B
        7FF3B8FD FCDE1AFB 8BEDD7BE 2F3EE71E BBBFE93B CDEEFE14 8246C2BC 5DBFF7E7 EFDCF24F
        D8DC7ADF FD8FFFDF DDFFF7A4 BBEEDF5C B95CE81F C7FCFF1F F4FFFFDF E5F7FDCB B7FD79B3
        FA1FC77B FE07FFF9 05B7B7FF C7FEFEFF E0B8370B B0CD3F5B 7F2BD93F EB4386CF DD6F7FD5
        BFAF2E9E BFFFFEEC D67ADBF7 C67F17EF D5D75EBA 6FFEBA7F FF47A91E B1BFBB53 E8ABFB57
        62ABE8FF 237279BF EFBFEEF5 FFC5FEBF DFE5ADFF ADFEE1FB 737FFFFB FD9F6AEF FEEE76B6
        FD8F72EF";

    fn v4(n: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, n).into()
    }
    fn v6(n: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()
    }

    #[test]
    fn the_vector_of_bep_33() {
        let mut filter = Bloom::default();
        (0..=255).for_each(|n| filter.insert(v4(n)));
        (0..=0x3e7).for_each(|n| filter.insert(v6(n)));
        let hex: String = filter.as_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(hex, VECTOR.split_whitespace().collect::<String>());
        assert!((filter.estimate() - 1224.9308).abs() < 0.001, "{filter:?}");
        assert_eq!(Bloom::from_bytes(filter.as_bytes()), Some(filter));
    }

    #[test]
    fn sets_are_united_and_counted() {
        let (mut left, mut right) = (Bloom::default(), Bloom::default());
        assert_eq!(left.estimate(), 0.0);
        (0..100).for_each(|n| left.insert(v4(n)));
        (50..150).for_each(|n| right.insert(v4(n)));
        assert!(!left.contains(v4(149)));
        left.unite(&right);
        assert!((0..150).all(|n| left.contains(v4(n))));
        assert!((140.0..160.0).contains(&left.estimate()), "{left:?}");
    }

    #[test]
    fn a_full_filter_is_not_infinite() {
        let full = Bloom::from_bytes(&[0xff; BLOOM_LENGTH]).unwrap();
        assert!((7000.0..7807.0).contains(&full.estimate()), "{full:?}");
        assert_eq!(Bloom::from_bytes(&[0; 255]), None);
    }
}
