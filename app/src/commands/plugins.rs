//! `castanet plugins`: the ways of finding peers.

use anyhow::Result;
use castanet::BUILTIN_PLUGINS;

use crate::output;

/// Lists the plugins that are built in.
pub(crate) fn run() -> Result<()> {
    for (name, _) in BUILTIN_PLUGINS {
        let (finds, needs) = match *name {
            "fixed" => ("the peers named with --peer", "nothing"),
            "http-tracker" => ("peers by http: and https: trackers", "a tracker in the torrent or --tracker"),
            "udp-tracker" => ("peers by udp: trackers", "a tracker in the torrent or --tracker, UDP"),
            _ => ("peers", "nothing"),
        };
        output::print(&format!("{name:<14} built in; finds {finds}; needs {needs}"))?;
    }
    Ok(())
}
