//! How each discovery plugin fares for a torrent: who of its instances answers, who fails and why, and its own words.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use castanet_core::{
    PluginName,
    seams::discovery::{DiscoveryError, SwarmSize},
};

use super::SourceFacts;

/// Instances (trackers, PEX neighbours, ...) of a plugin of which is remembered how they fare.
pub const MOST_INSTANCES: usize = 64;

/// How the plugins fare, by name.
#[derive(Debug, Default)]
pub struct Standings(BTreeMap<PluginName, Standing>);

#[derive(Debug, Default)]
struct Standing {
    condition: Option<String>,
    answered: BTreeSet<Arc<str>>,
    /// Those that failed last time, and why.
    failing: BTreeMap<Arc<str>, String>,
    sizes: BTreeMap<Arc<str>, SwarmSize>,
}

impl Standings {
    fn of(&mut self, plugin: &PluginName) -> &mut Standing {
        self.0.entry(plugin.clone()).or_default()
    }

    /// An instance has answered.
    pub fn answered(&mut self, plugin: &PluginName, instance: &Arc<str>) {
        let standing = self.of(plugin);
        standing.failing.remove(instance);
        if standing.answered.len() < MOST_INSTANCES {
            standing.answered.insert(instance.clone());
        }
    }

    /// An instance has failed, or the plugin as a whole.
    pub fn failed(&mut self, plugin: &PluginName, error: &DiscoveryError) {
        let (instance, reason) = match error {
            DiscoveryError::Refused { instance, message: reason }
            | DiscoveryError::Malformed { instance, what: reason }
            | DiscoveryError::Unreachable { instance, reason } => (instance, reason.clone()),
            other => (&plugin.0, other.to_string()),
        };
        let standing = self.of(plugin);
        standing.answered.remove(instance);
        if standing.failing.len() < MOST_INSTANCES || standing.failing.contains_key(instance) {
            standing.failing.insert(instance.clone(), reason);
        }
    }

    /// The plugin says how it fares; that replaces what it said before.
    pub fn says(&mut self, plugin: &PluginName, condition: String) {
        self.of(plugin).condition = Some(condition);
    }

    /// An instance has answered with the swarm's size.
    pub fn counted(&mut self, plugin: &PluginName, instance: Arc<str>, size: SwarmSize) {
        self.answered(plugin, &instance);
        let sizes = &mut self.of(plugin).sizes;
        if sizes.len() < MOST_INSTANCES || sizes.contains_key(&instance) {
            sizes.insert(instance, size);
        }
    }

    /// The plugin's own words.
    pub fn condition(&self, plugin: &PluginName) -> Option<&str> {
        self.0.get(plugin)?.condition.as_deref()
    }

    /// The largest size of the swarm that one of its instances told.
    pub fn swarm_size(&self, plugin: &PluginName) -> Option<SwarmSize> {
        let sizes = self.0.get(plugin)?.sizes.values();
        sizes.copied().max_by_key(|size| u64::from(size.seeds) + u64::from(size.leeches))
    }

    /// All of it as facts for [`super::diagnose`].
    pub fn facts(&self, plugin: &PluginName) -> SourceFacts {
        let standing = self.0.get(plugin);
        SourceFacts {
            plugin: plugin.clone(),
            answered: standing.map_or(0, |standing| standing.answered.len()),
            failing: standing.map(|standing| standing.failing.clone().into_iter().collect()).unwrap_or_default(),
            condition: standing.and_then(|standing| standing.condition.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_an_instance_counts_and_strangers_fill_no_memory() {
        let (mut standings, plugin) = (Standings::default(), PluginName::from("http-tracker"));
        let url = |n: usize| -> Arc<str> { format!("http://{n}.example/").into() };
        let fails = |n| DiscoveryError::Unreachable { instance: url(n), reason: "timeout".into() };
        standings.failed(&plugin, &fails(0));
        assert_eq!(standings.facts(&plugin).failing, [(url(0), "timeout".to_owned())]);
        let (small, large) = (SwarmSize::default(), SwarmSize { seeds: 7, ..SwarmSize::default() });
        standings.counted(&plugin, url(0), large);
        standings.counted(&plugin, url(1), small);
        let facts = standings.facts(&plugin);
        assert_eq!((facts.answered, facts.failing.len()), (2, 0));
        assert_eq!(standings.swarm_size(&plugin), Some(large));
        (0..1000).for_each(|n| standings.failed(&plugin, &fails(n)));
        (0..1000).for_each(|n| standings.counted(&plugin, url(n + 1000), small));
        let standing = &standings.0[&plugin];
        let sizes = [standing.answered.len(), standing.failing.len(), standing.sizes.len()];
        assert!(sizes.into_iter().all(|length| length == MOST_INSTANCES), "{sizes:?}");
        standings.failed(&plugin, &DiscoveryError::Unusable("no network".into()));
        assert_eq!(standings.facts(&"dht".into()).failing, []);
    }
}
