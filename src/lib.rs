//! Castanet: a BitTorrent engine of actors, with pluggable discovery and transports.
//!
//! The façade: [`Engine`] runs in a thread of its own and is spoken to from any async runtime. No actor type shows
//! through. It is the one place that joins plugins, transports and storage to the actors.
//!
//! ```no_run
//! use castanet::{Engine, Metainfo, Torrent};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let metainfo = Metainfo::parse(&std::fs::read("debian.torrent")?)?;
//!     println!("{}: {} bytes", metainfo.info.name, metainfo.info.length);
//!
//!     let engine = Engine::builder()
//!         .state_folder("/var/lib/example") // resume data; without it nothing is remembered
//!         .max_up(Some(512 * 1024)) // bytes per second
//!         .start()
//!         .await?;
//!
//!     let mut download = engine.add(Torrent::new(metainfo, "downloads")).await?;
//!     while let Some(state) = download.next_state().await {
//!         println!("{:>3} % from {} peers", state.percent(), state.peers);
//!         if state.is_complete() {
//!             break;
//!         }
//!         if let castanet::Phase::Failed(reason) = state.phase {
//!             return Err(reason.into());
//!         }
//!     }
//!
//!     // Says good-bye to the trackers and saves what is needed to go on later.
//!     engine.shutdown(std::time::Duration::from_secs(5)).await;
//!     Ok(())
//! }
//! ```

mod builder;
mod clock;
mod engine;
mod proxied;
mod torrent;
mod ways;

pub use builder::{EngineBuilder, Listen};
pub use castanet_actors::messages::torrent::{
    Happening, Phase, PluginReport, TorrentEvent, TorrentSnapshot as TorrentState,
};
pub use castanet_actors::metered::Cost;
pub use castanet_actors::shared::Limits;
pub use castanet_core::{
    Bitfield, Geometry, InfoHashes, Metainfo, Moment, PeerId, PieceIndex, PluginName, TorrentId,
    addr::is_dialable,
    magnet::{self, Magnet},
    metainfo, seams,
    seams::storage::Allocation,
};
pub use castanet_plugins::{BUILTIN as BUILTIN_PLUGINS, OPT_IN as OPT_IN_PLUGINS, conformance};
pub use castanet_protocol::{
    diagnosis::Diagnosis,
    picker::Priority,
    portmap::{Method as MappingMethod, OpenPort, PortMapping, Report as PortReport},
    rate::eta,
    swarm::Worth,
    timeline::{self, Timeline},
};
pub use castanet_transports::{
    encrypted::Encryption,
    interface::Interface,
    socks::{Proxy, ProxyError},
};
pub use engine::{Engine, Error, SessionState};
pub use torrent::{Torrent, TorrentHandle, selected};
