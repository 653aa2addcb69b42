//! The DHT: peers of any public torrent, from nodes all over the world and without a tracker (BEP 5, 32, 33, 42, 43).
//!
//! The node itself is [`castanet_protocol::dht::Dht`]; here is what connects it with the world. [`Discovery::run`] owns
//! the sockets and moves datagrams (`running`), joins the network (`bootstrap`) and keeps the table for next time. Each
//! torrent's stream starts look-ups (`torrent`) when its `plan` says so. Both meet in the `Node`, behind one lock.

mod bootstrap;
mod node;
mod plan;
mod running;
mod sockets;
#[cfg(test)]
mod tests;
mod torrent;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use castanet_core::{
    PluginName,
    seams::{
        discovery::{Discovery, DiscoveryError, FoundStream, News, Settings, Swarm, SwarmInfo},
        means::Means,
    },
};

use self::{bootstrap::Hosts, node::Node};
use crate::driven::driven;

/// The name under which it is registered, and its page in the notebook.
pub const NAME: &str = "dht";

/// Makes the plugin.
///
/// | setting | means | default |
/// |---|---|---|
/// | `always` | `true`: join the network and serve others without any torrent, too | `false` |
/// | `bootstrap` | nodes to begin with, HOST:PORT, separated by commas; empty for none | the well-known ones |
/// | `read_only` | `true`: ask others, but answer nobody (BEP 43) | `false` |
///
/// # Errors
/// If a setting is unknown or makes no sense.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    let mut settings = settings.clone();
    let hosts = match settings.0.remove("bootstrap") {
        Some(list) => Hosts::parse(&list).map_err(DiscoveryError::Unusable)?,
        None => Hosts::well_known(),
    };
    let mut is_on = |key| match settings.0.remove(key).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            let text = format!("the plugin {NAME} has {key} either true or false, not {other:?}");
            Err(DiscoveryError::Unusable(text))
        }
    };
    let (read_only, always) = (is_on("read_only")?, is_on("always")?);
    crate::refuse_settings(NAME, &settings)?;
    let node = Arc::new(Node::new(means.clone(), hosts, read_only));
    if always {
        node.need();
    }
    Ok(Arc::new(DhtPlugin { node }))
}

#[derive(Debug)]
struct DhtPlugin {
    node: Arc<Node>,
}

#[async_trait]
impl Discovery for DhtPlugin {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        if !self.serves(&swarm.info) {
            return Err(DiscoveryError::Unusable("a private torrent is served by its trackers alone".into()));
        }
        let node = self.node.clone();
        node.need();
        Ok(driven(move |finds| torrent::serve(node, swarm, finds)))
    }
    async fn run(&self) {
        running::run(&self.node).await;
    }
    fn hear(&self, news: &News) {
        self.node.hear(news);
    }
    async fn close(&self, _within: Duration) {
        self.node.save();
    }
    fn dht_port(&self) -> Option<u16> {
        self.node.status().borrow().port
    }
}
