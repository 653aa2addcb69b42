//! An engine behind a SOCKS5 proxy: all that leaves goes through it, and what it cannot carry is off.
//!
//! Connections to peers, trackers and web servers are made by it, datagrams relayed, names looked up there. Off are
//! listening, the search for neighbours and whatever has sockets of its own.

use std::sync::Arc;

use castanet_core::seams::{datagrams::DatagramFactory, means::Resolve, transport::Transport};
use castanet_transports::socks::{NameBook, Proxy, ProxyNames, SocksDatagrams, SocksTransport};

use crate::{
    builder::{EngineBuilder, Listen},
    engine::Error,
};

/// The plugin that speaks to neighbours, by multicast.
const LSD: &str = "lsd";
/// The plugin that has a socket of its own.
const MAINLINE: &str = "mainline";
/// The plugin that is a DHT node: others could not ask it anything.
const DHT: &str = "dht";

/// What is wrapped, and in what.
pub(crate) struct Proxied {
    proxy: Proxy,
    /// Looks up the proxy's own name.
    resolver: Arc<dyn Resolve>,
    book: Arc<NameBook>,
}

impl Proxied {
    pub(crate) fn new(proxy: Proxy, resolver: Arc<dyn Resolve>, seed: u64) -> Self {
        Self { proxy, resolver, book: Arc::new(NameBook::new(seed)) }
    }

    fn socks(&self, inner: Arc<dyn Transport>) -> Arc<SocksTransport> {
        Arc::new(SocksTransport::new(self.proxy.clone(), inner, self.resolver.clone(), self.book.clone()))
    }

    /// A transport whose connections the proxy makes.
    pub(crate) fn transport(&self, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        self.socks(inner)
    }

    /// Datagrams that the proxy relays; it is asked for that over `streams`.
    pub(crate) fn datagrams(
        &self,
        streams: Arc<dyn Transport>,
        inner: Arc<dyn DatagramFactory>,
    ) -> Arc<dyn DatagramFactory> {
        Arc::new(SocksDatagrams::new(self.socks(streams), inner))
    }

    /// Names that the proxy looks up.
    pub(crate) fn names(&self) -> Arc<dyn Resolve> {
        Arc::new(ProxyNames(self.book.clone()))
    }
}

impl EngineBuilder {
    /// Turns off what no proxy carries, if there is one.
    ///
    /// # Errors
    /// If that was asked for by name.
    pub(crate) fn behind_its_proxy(mut self) -> Result<Self, Error> {
        if self.proxy.is_none() {
            return Ok(self);
        }
        let refused = |reason: &str| Err(Error::Start(reason.into()));
        if matches!(&self.listen, Listen::At(addrs) if !addrs.is_empty()) {
            return refused("a proxy lets nobody connect to us: leave it out, or the addresses to listen at");
        }
        if self.plugins.iter().any(|plugin| &*plugin.name.0 == MAINLINE) {
            return refused(
                "the plugin mainline has a socket of its own, which no proxy carries: leave one of them out",
            );
        }
        self.listen = Listen::Nowhere;
        self.port_mapping = Some(None);
        self.plugins.retain(|plugin| &*plugin.name.0 != LSD);
        for plugin in self.plugins.iter_mut().filter(|plugin| &*plugin.name.0 == DHT) {
            plugin.settings.0.entry("read_only".to_owned()).or_insert_with(|| "true".to_owned());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Engine;

    fn behind() -> EngineBuilder {
        Engine::builder().proxy("socks5://127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn what_no_proxy_carries_is_off() {
        let plain = Engine::builder().behind_its_proxy().unwrap();
        assert!(plain.plugins.iter().any(|plugin| &*plugin.name.0 == LSD) && plain.listen == Listen::Everywhere);
        let settled = behind().behind_its_proxy().unwrap();
        assert!(settled.plugins.iter().all(|plugin| &*plugin.name.0 != LSD) && settled.listen == Listen::Nowhere);
        let dht = settled.plugins.iter().find(|plugin| &*plugin.name.0 == DHT).unwrap();
        assert_eq!(dht.settings.0["read_only"], "true");
        let ours = behind().plugin_setting(DHT, "read_only", "false").behind_its_proxy().unwrap();
        let dht = ours.plugins.iter().find(|plugin| &*plugin.name.0 == DHT).unwrap();
        assert_eq!(dht.settings.0["read_only"], "false", "who asks for it gets it");
    }

    #[test]
    fn what_was_asked_for_by_name_is_refused_in_words() {
        let listening = behind().listen(Listen::At(vec!["127.0.0.1:0".parse().unwrap()]));
        for (builder, word) in [(listening, "to listen at"), (behind().enable_plugin(MAINLINE), "mainline")] {
            let error = builder.behind_its_proxy().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
