//! From options to a running engine.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use castanet::{BUILTIN_PLUGINS, Engine, EngineBuilder, Listen, Torrent};

use crate::{
    args::{Network, TransportName},
    output,
};

/// The plugins that ask trackers.
const TRACKERS: [&str; 2] = ["http-tracker", "udp-tracker"];
/// The plugin that knows the peers the user named.
const FIXED: &str = "fixed";

/// Describes the engine that the options ask for.
pub(crate) fn engine(network: &Network, state: Option<PathBuf>) -> Result<EngineBuilder> {
    if let Some(option) = network.later.refused() {
        bail!("{option} is not built yet; leave it out");
    }
    ensure!(!network.transport.contains(&TransportName::Utp), "--transport utp is not built yet; leave it out");
    let names = || BUILTIN_PLUGINS.iter().map(|(name, _)| *name);
    for name in network.plugins.iter().flatten() {
        let known = names().collect::<Vec<_>>().join(", ");
        ensure!(
            names().any(|known| known == name),
            "there is no discovery plugin `{}`; there are: {known}",
            name.escape_debug()
        );
    }
    let limit = |rate: Option<u64>| rate.filter(|rate| *rate > 0);
    let mut builder = Engine::builder().max_down(limit(network.max_down)).max_up(limit(network.max_up));
    builder = builder.retain_plugins(|name| {
        let is_chosen = network.plugins.as_ref().is_none_or(|chosen| chosen.iter().any(|chosen| chosen == name));
        let is_named_peer = name == FIXED && !network.peer.is_empty();
        (is_chosen || is_named_peer) && !(network.no_trackers && TRACKERS.contains(&name))
    });
    if !network.listen.is_empty() {
        builder = builder.listen(Listen::At(network.listen.clone()));
    }
    match state {
        Some(folder) => builder = builder.state_folder(folder),
        None => output::say("There is no home folder, so nothing is remembered; --state DIR names a folder."),
    }
    Ok(builder)
}

/// Gives a torrent the peers and trackers of the options.
pub(crate) fn complete(torrent: Torrent, network: &Network) -> Torrent {
    torrent.peers(network.peer.iter().cloned()).trackers(network.tracker.iter().cloned())
}
