//! The ways out into the world: which transports, wrapped in what, and what plugins get of them.

use std::sync::Arc;

use castanet_core::seams::{
    means::{Means, Notebook, Scratchpad},
    transport::{Swarms, Transport},
};
use castanet_storage::notebook::FileNotebook;
use castanet_transports::{
    BUILTIN, Settings,
    encrypted::{Encrypted, Encryption},
    race::Race,
    tcp,
    udp_mux::UdpMux,
};

use crate::{builder::EngineBuilder, clock, engine::Error};

/// The ways out that a builder describes.
pub(crate) struct Ways {
    /// Ways to peers, in order of preference.
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    /// What plugins get.
    pub(crate) means: Means,
    /// Where the transports look which swarms are served.
    pub(crate) swarms: Swarms,
}

impl Ways {
    pub(crate) fn of(builder: &EngineBuilder) -> Result<Self, Error> {
        let start = |reason: String| Error::Start(reason);
        let seed = builder.seed.unwrap_or_else(|| fastrand::u64(..));
        let datagrams = Arc::new(UdpMux::new(builder.datagrams.clone()));
        let settings = Settings { bind: Vec::new(), datagrams: datagrams.clone(), seed };
        // Trackers and web servers know nothing of encryption as peers do it.
        let (plain, dialer) = match &builder.transports {
            Some(transports) => (transports.clone(), transports.first().cloned()),
            None => {
                let names = BUILTIN.iter().filter(|(name, _)| builder.is_used(name));
                let built = names.map(|(_, build)| build(&settings)).collect::<Result<Vec<_>, _>>();
                let built = built.and_then(|built| Ok((raced(built), Some(tcp::build(&settings)?))));
                built.map_err(|error| start(error.to_string()))?
            }
        };
        let needs_one = || start("an engine needs a transport".into());
        let dialer = dialer.filter(|_| !plain.is_empty()).ok_or_else(needs_one)?;
        let default = if builder.transports.is_some() { Encryption::Disable } else { Encryption::Prefer };
        let encryption = builder.encryption.unwrap_or(default);
        let swarms = Swarms::default();
        let wrap = |transport| -> Arc<dyn Transport> {
            match encryption {
                Encryption::Disable => transport,
                _ => Arc::new(Encrypted::new(transport, encryption, swarms.clone(), seed)),
            }
        };
        let transports = plain.into_iter().map(wrap).collect();
        let notebook: Arc<dyn Notebook> = match (&builder.notebook, &builder.state_folder) {
            (Some(notebook), _) => notebook.clone(),
            (None, Some(folder)) => Arc::new(FileNotebook::new(folder.join("plugins"))),
            (None, None) => Arc::new(Scratchpad::default()),
        };
        let means = Means {
            datagrams,
            dialer,
            resolver: builder.resolver.clone(),
            clock: clock::start(),
            seed,
            bind: ["0.0.0.0:0", "[::]:0"].iter().filter_map(|addr| addr.parse().ok()).collect(),
            listening: Arc::default(),
            notebook,
            user_agent: concat!("Castanet/", env!("CARGO_PKG_VERSION")).into(),
        };
        Ok(Self { transports, means, swarms })
    }
}

/// Several ways as one that tries them all.
fn raced(ways: Vec<Arc<dyn Transport>>) -> Vec<Arc<dyn Transport>> {
    if ways.len() > 1 { vec![Arc::new(Race::new(ways))] } else { ways }
}
