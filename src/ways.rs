//! The ways out into the world: which transports, wrapped in what, and what plugins get of them.

use std::sync::Arc;

use castanet_core::seams::{
    datagrams::DatagramFactory,
    means::{Means, Notebook, Resolve, Scratchpad},
    transport::{Swarms, Transport},
};
use castanet_storage::notebook::FileNotebook;
use castanet_transports::{
    BUILTIN, Settings,
    encrypted::{Encrypted, Encryption},
    interface::Interface,
    race::Race,
    resolver::SystemResolver,
    tcp,
    udp::Udp,
    udp_mux::UdpMux,
};

use crate::{builder::EngineBuilder, clock, engine::Error, proxied::Proxied};

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
        let interface = builder.interface.clone();
        if let Some(interface) = &interface {
            confine(builder, interface).map_err(start)?;
        }
        let seed = builder.seed.unwrap_or_else(|| fastrand::u64(..));
        // Trackers and web servers know nothing of encryption as peers do it.
        let direct = match (&builder.dialer, &builder.transports) {
            (Some(dialer), _) => Some(dialer.clone()),
            (None, Some(transports)) => transports.first().cloned(),
            (None, None) => {
                let settings = Settings { interface: interface.clone(), ..Settings::default() };
                Some(tcp::build(&settings).map_err(|error| start(error.to_string()))?)
            }
        };
        let direct = direct.ok_or_else(|| start("an engine needs a transport".into()))?;
        let udp = || -> Arc<dyn DatagramFactory> { Arc::new(Udp { interface: interface.clone() }) };
        let mut datagrams = builder.datagrams.clone().unwrap_or_else(udp);
        let names = || -> Arc<dyn Resolve> { Arc::new(SystemResolver::by(interface.clone())) };
        let mut resolver = builder.resolver.clone().unwrap_or_else(names);
        let proxied = builder.proxy.as_ref().map(|proxy| Proxied::new(proxy.clone(), resolver.clone(), seed));
        if let Some(proxied) = &proxied {
            datagrams = proxied.datagrams(direct.clone(), datagrams);
            resolver = proxied.names();
        }
        let through = |way: Arc<dyn Transport>| match &proxied {
            Some(proxied) => proxied.transport(way),
            None => way,
        };
        let datagrams = Arc::new(UdpMux::new(datagrams));
        let settings = Settings { interface: interface.clone(), datagrams: datagrams.clone(), seed };
        let plain: Vec<Arc<dyn Transport>> = match &builder.transports {
            Some(transports) => transports.iter().cloned().map(through).collect(),
            None => {
                let used = BUILTIN.iter().filter(|(name, _)| builder.is_used(name));
                let built = used.map(|(_, build)| build(&settings)).collect::<Result<Vec<_>, _>>();
                let built = built.map_err(|error| start(error.to_string()))?;
                // uTP goes by the datagrams, which the proxy has already.
                let through = |way: Arc<dyn Transport>| if way.name() == "utp" { way } else { through(way) };
                raced(built.into_iter().map(through).collect())
            }
        };
        let dialer = through(direct);
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
            // Nothing that was learnt without the proxy, such as a DHT node's id, is shown to those behind it.
            (None, Some(folder)) if builder.proxy.is_some() => {
                Arc::new(FileNotebook::new(folder.join("plugins-proxied")))
            }
            (None, Some(folder)) => Arc::new(FileNotebook::new(folder.join("plugins"))),
            (None, None) => Arc::new(Scratchpad::default()),
        };
        let means = Means {
            datagrams,
            dialer,
            resolver,
            clock: clock::start(),
            seed,
            bind: ["0.0.0.0:0", "[::]:0"].iter().filter_map(|addr| addr.parse().ok()).collect(),
            listening: Arc::default(),
            mapped: Arc::default(),
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

/// Makes sure that everything can be held to the interface, and that it is there.
fn confine(builder: &EngineBuilder, interface: &Interface) -> Result<(), String> {
    if let Some(stray) = builder.stray() {
        let reason = "opens sockets of its own, which cannot be held to";
        return Err(format!("{stray} {reason} {interface}; leave one of them out"));
    }
    interface.check().map_err(|error| error.to_string())
}
