//! Over loopback sockets, in a simulated network, and the machine by itself.

mod machine;
mod simulated;
mod sockets;

const HASH: [u8; 20] = [7; 20];

/// The target of an announce for [`HASH`].
fn announce(port: u16, more: &str) -> String {
    format!("/announce?info_hash={}&peer_id={}&port={port}&{more}", "%07".repeat(20), "p".repeat(20))
}
