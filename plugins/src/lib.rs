//! Floor 3: the ways of finding peers, each behind the seam [`Discovery`](castanet_core::seams::discovery::Discovery).
//!
//! A plugin is one file (or folder) with a `build` function, and one line in [`BUILTIN`]. It owns no socket, clock or
//! dice of its own: those come with [`Means`](castanet_core::seams::means::Means), so an interface, a proxy or a simulated network holds for all of them
//! (but for `mainline`, which is off by default).
//! No plugin spawns a task: everything it does for a torrent lives in the stream that it returned, and ends with it.

mod announcer;
pub mod conformance;
pub mod dht;
mod driven;
pub mod fixed;
pub mod http_tracker;
pub mod lsd;
pub mod magnet;
#[cfg(feature = "mainline")]
pub mod mainline;
pub mod pex;
pub mod process;
mod sockets;
#[cfg(test)]
mod testing;
pub mod udp_tracker;
pub mod web;

use castanet_core::seams::discovery::{Build, DiscoveryError, Settings};

/// The plugins that every engine has, by name.
///
/// | name | finds peers by | needs of `Means` |
/// |---|---|---|
/// | `dht` | the DHT (BEP 5, 32, 33, 42, 43) | `datagrams`, `resolver`, `clock`, `seed`, `bind`, `listening`, `notebook` |
/// | `fixed` | the addresses the user named | `resolver` |
/// | `http-tracker` | `http:` and `https:` trackers (BEP 3, 7, 12, 23, 24, 31, 48) | `dialer`, `resolver`, `clock`, `bind`, `listening`, `seed`, `user_agent` |
/// | `lsd` | the neighbours in the local network (BEP 14) | `datagrams`, `listening`, `bind`, `clock`, `seed` |
/// | `magnet` | what the link says: `x.pe`, torrent files by `xs` and `as` (BEP 9), web seeds by `ws` (BEP 19) | `dialer`, `resolver`, `bind`, `user_agent` |
/// | `mainline` | the DHT (BEP 5), by the crate `mainline` and its own IPv4 socket | `listening`, `bind`, `resolver`, `clock` |
/// | `pex` | connected peers (BEP 11) | `clock` |
/// | `udp-tracker` | `udp:` trackers (BEP 12, 15, 41) | `datagrams`, `resolver`, `clock`, `bind`, `listening`, `seed` |
///
/// `dht` and `mainline` have settings, which their `build` names.
pub const BUILTIN: &[(&str, Build)] = &[
    (dht::NAME, dht::build),
    (fixed::NAME, fixed::build),
    (http_tracker::NAME, http_tracker::build),
    (lsd::NAME, lsd::build),
    (magnet::NAME, magnet::build),
    #[cfg(feature = "mainline")]
    (mainline::NAME, mainline::build),
    (pex::NAME, pex::build),
    (udp_tracker::NAME, udp_tracker::build),
];

/// Of [`BUILTIN`], those that are off unless they are asked for by name.
pub const OPT_IN: &[&str] = &["mainline"];

/// Of [`BUILTIN`], those that open sockets of their own, which no interface and no proxy holds. So do the programs that
/// [`process`] runs.
pub const OPENS_SOCKETS: &[&str] = &["mainline"];

/// A setting that nobody reads is a mistake the user should hear of.
fn refuse_settings(plugin: &str, settings: &Settings) -> Result<(), DiscoveryError> {
    match settings.0.keys().next() {
        Some(key) => Err(DiscoveryError::Unusable(format!("the plugin {plugin} has no setting {key}"))),
        None => Ok(()),
    }
}
