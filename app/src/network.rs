//! From options to a running engine.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use castanet::{BUILTIN_PLUGINS, Engine, EngineBuilder, Listen, Proxy, Torrent};

use crate::{
    args::{Network, PortMapping, Way},
    output,
    values::PluginSetting,
};

/// The plugins that ask trackers.
const TRACKERS: [&str; 2] = ["http-tracker", "udp-tracker"];
/// The plugins that use the DHT.
const DHT: [&str; 2] = ["dht", "mainline"];
/// The plugin that knows the peers the user named.
const FIXED: &str = "fixed";
/// The plugins that no proxy carries: one speaks to neighbours, the other has a socket of its own.
const UNPROXIED: [&str; 2] = ["lsd", "mainline"];

/// Describes the engine that the options ask for.
pub(crate) fn engine(network: &Network, state: Option<PathBuf>) -> Result<EngineBuilder> {
    let builtin = || BUILTIN_PLUGINS.iter().map(|(name, _)| *name);
    let names = || builtin().chain(network.plugin.iter().map(|(name, _)| name.as_str()));
    for name in network.plugins.iter().flatten() {
        let known = names().collect::<Vec<_>>().join(", ");
        ensure!(
            names().any(|known| known == name),
            "there is no discovery plugin `{}`; there are: {known}",
            name.escape_debug()
        );
    }
    let limit = |rate: Option<u64>| rate.filter(|rate| *rate > 0);
    if network.way.proxy.is_some() {
        ensure!(network.listen.is_empty(), "nobody can connect to us through a proxy: leave out --listen or --proxy");
        let named = network.plugins.iter().flatten().find(|name| UNPROXIED.contains(&name.as_str()));
        if let Some(name) = named {
            bail!("the plugin {name} cannot go through a proxy: leave it or --proxy out");
        }
    }
    let mut builder = web(&network.way)?
        .max_down(limit(network.max_down))
        .max_up(limit(network.max_up))
        .exempt_lan(network.exempt_lan);
    let transports: Vec<_> = network.transport.iter().map(|transport| transport.name()).collect();
    builder = builder.only_transports(&transports);
    if let Some(encryption) = network.encryption {
        builder = builder.encryption(encryption.into());
    }
    for (name, command) in &network.plugin {
        builder = builder.process_plugin(name, command);
    }
    for name in network.plugins.iter().flatten() {
        builder = builder.enable_plugin(name);
    }
    for PluginSetting { plugin, key, value } in &network.plugin_setting {
        ensure!(
            names().any(|known| known == plugin),
            "--plugin-setting {plugin}.{key}: there is no discovery plugin `{}`",
            plugin.escape_debug()
        );
        builder = builder.plugin_setting(plugin, key, value);
    }
    if !network.dht_bootstrap.is_empty() {
        for plugin in DHT {
            builder = builder.plugin_setting(plugin, "bootstrap", &network.dht_bootstrap.join(","));
        }
    }
    let is_off = |name: &str| {
        (network.no_trackers && TRACKERS.contains(&name))
            || (network.no_dht && DHT.contains(&name))
            || (network.no_pex && name == "pex")
            || (network.no_lsd && name == "lsd")
    };
    builder = builder.retain_plugins(|name| {
        let is_chosen = network.plugins.as_ref().is_none_or(|chosen| chosen.iter().any(|chosen| chosen == name));
        // Who names a plugin's program or a peer wants it used.
        let is_named_peer = name == FIXED && !network.peer.is_empty();
        let is_named_plugin = network.plugin.iter().any(|(named, _)| named == name);
        (is_chosen || is_named_peer || is_named_plugin) && !is_off(name)
    });
    let methods = network.port_mapping.unwrap_or(PortMapping::On).methods();
    let lifetime = network.port_mapping_lifetime.unwrap_or(castanet::PortMapping::default().lifetime);
    builder = builder.port_mapping(methods.map(|methods| castanet::PortMapping { methods, lifetime }));
    if !network.listen.is_empty() {
        builder = builder.listen(Listen::At(network.listen.clone()));
    }
    match state {
        Some(folder) => builder = builder.state_folder(folder),
        None => output::say("There is no home folder, so nothing is remembered; --state DIR names a folder."),
    }
    Ok(builder)
}

/// Describes an engine that leaves by the way that the options say.
pub(crate) fn web(way: &Way) -> Result<EngineBuilder> {
    let mut builder = Engine::builder();
    if let Some(interface) = &way.interface {
        let interface = interface.parse().map_err(|reason: String| anyhow!("--interface {interface}: {reason}"))?;
        builder = builder.interface(interface);
    }
    if let Some(url) = &way.proxy {
        let proxy =
            url.parse::<Proxy>().context("--proxy (or CASTANET_PROXY, or `proxy` in the configuration file)")?;
        builder = builder.proxy(proxy);
    }
    Ok(builder)
}

/// Gives a torrent the peers and trackers of the options.
pub(crate) fn complete(torrent: Torrent, network: &Network) -> Torrent {
    torrent.peers(network.peer.iter().cloned()).trackers(network.tracker.iter().cloned())
}
