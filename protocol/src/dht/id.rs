//! Node ids: 160 bits in the space of info-hashes, compared by XOR (BEP 5).

use std::{fmt, net::SocketAddr};

/// The id of a node, or a target in the same space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub [u8; 20]);

impl NodeId {
    /// How far it is to `other`: smaller is nearer.
    pub fn distance(&self, other: &Self) -> Distance {
        let mut xor = [0; 20];
        for (at, byte) in xor.iter_mut().enumerate() {
            *byte = self.0[at] ^ other.0[at];
        }
        Distance(xor)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// The XOR of two ids, as a number of 160 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distance([u8; 20]);

impl Distance {
    /// Leading bits that both ids share, 0 to 160.
    pub fn shared_bits(&self) -> u32 {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        zeros as u32 * 8 + self.0.get(zeros).map_or(0, |byte| byte.leading_zeros())
    }
}

/// A node: who, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Its id, as it or another node claims.
    pub id: NodeId,
    /// Its UDP address, never IPv4-mapped.
    pub addr: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ids_share_leading_bits() {
        let zero = NodeId([0; 20]);
        let mut near = zero;
        near.0[19] = 1;
        let mut far = zero;
        far.0[0] = 0x10;
        assert!(zero.distance(&near) < zero.distance(&far));
        let shared = |id: &NodeId| zero.distance(id).shared_bits();
        assert_eq!((shared(&near), shared(&far), shared(&zero)), (159, 3, 160));
    }
}
