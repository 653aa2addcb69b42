//! The allowed-fast set: pieces that a peer may fetch while choked, so that a newcomer gets something to trade (BEP 6).

use std::net::IpAddr;

use castanet_core::{PieceIndex, digest::sha1};

/// The set of at most `most` pieces for a remote at this address, in the order in which BEP 6 finds them.
///
/// It depends on the address's first three bytes only, so that nobody gains by reconnecting from next door. IPv6
/// peers, for which BEP 6 defines nothing, get none.
pub fn allowed_fast(remote: IpAddr, info_hash: [u8; 20], pieces: u32, most: usize) -> Vec<PieceIndex> {
    let IpAddr::V4(v4) = remote.to_canonical() else { return Vec::new() };
    let [a, b, c, _] = v4.octets();
    let mut state = [&[a, b, c, 0][..], &info_hash].concat();
    let most = most.min(pieces as usize);
    let mut set = Vec::with_capacity(most);
    while set.len() < most {
        let digest = sha1(&state).0;
        for word in digest.as_chunks::<4>().0 {
            let piece = PieceIndex(u32::from_be_bytes(*word) % pieces);
            if set.len() < most && !set.contains(&piece) {
                set.push(piece);
            }
        }
        state = digest.to_vec();
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_bep_6() {
        let remote = "80.4.4.200".parse().unwrap();
        let set = allowed_fast(remote, [0xaa; 20], 1313, 9);
        assert_eq!(
            set.iter().map(|piece| piece.0).collect::<Vec<_>>(),
            [1059, 431, 808, 1217, 287, 376, 1188, 353, 508]
        );
        assert_eq!(allowed_fast(remote, [0xaa; 20], 1313, 7), set[..7]);
        assert_eq!(allowed_fast("::ffff:80.4.4.9".parse().unwrap(), [0xaa; 20], 1313, 9), set, "same network");
    }

    #[test]
    fn small_torrents_and_ipv6() {
        let remote = "80.4.4.200".parse().unwrap();
        assert_eq!(allowed_fast(remote, [1; 20], 0, 10), []);
        let mut all = allowed_fast(remote, [1; 20], 3, 10);
        all.sort();
        assert_eq!(all, [PieceIndex(0), PieceIndex(1), PieceIndex(2)]);
        assert_eq!(allowed_fast("2001:db8::1".parse().unwrap(), [1; 20], 3, 10), []);
    }
}
