//! How an engine is put together.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use castanet_actors::{session::Registered, shared::Config};
use castanet_core::{
    PluginName,
    seams::{
        datagrams::DatagramFactory,
        discovery::{Build, Settings},
        hasher::{Hasher, SoftwareHasher},
        means::{Notebook, Resolve},
        resume::ResumeStore,
        storage::StorageFactory,
        transport::Transport,
    },
};
use castanet_plugins::{BUILTIN, OPENS_SOCKETS, OPT_IN, process};
use castanet_protocol::portmap::PortMapping;
use castanet_storage::files::FilesFactory;
use castanet_transports::{encrypted::Encryption, interface::Interface, socks::Proxy};

use crate::{
    engine::{Engine, Error},
    ways::Ways,
};

/// The port BitTorrent clients have always begun with.
const FIRST_PORT: u16 = 6881;
/// How many ports are tried before the system may choose one.
const PORTS: u16 = 9;
/// Files that may be open at once, over all torrents: far below the usual limit of 1024.
const MOST_OPEN_FILES: usize = 256;

/// Read buffers and events of a small engine.
const SMALL_READ: usize = 16 << 10;
const FEW_EVENTS: usize = 256;

/// Where an engine listens for peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Listen {
    /// On all interfaces, IPv4 and IPv6, port 6881 or the next free one.
    #[default]
    Everywhere,
    /// At these addresses; port 0 lets the system choose.
    At(Vec<SocketAddr>),
    /// Nowhere: only dial.
    Nowhere,
}

impl Listen {
    /// Sets of addresses to try in turn until one set can be had.
    pub(crate) fn attempts(&self) -> Vec<Vec<SocketAddr>> {
        let both = |port| {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            [vec![v4, v6], vec![v4]]
        };
        match self {
            Self::Everywhere => (FIRST_PORT..FIRST_PORT + PORTS).chain([0]).flat_map(both).collect(),
            Self::At(addrs) => vec![addrs.clone()],
            Self::Nowhere => vec![Vec::new()],
        }
    }
}

/// Settings of an engine; every one has a sensible default.
#[derive(Debug)]
pub struct EngineBuilder {
    pub(crate) config: Config,
    pub(crate) listen: Listen,
    pub(crate) state_folder: Option<PathBuf>,
    pub(crate) disk_threads: usize,
    pub(crate) torrent_threads: usize,
    pub(crate) seed: Option<u64>,
    pub(crate) plugins: Vec<Registered>,
    pub(crate) transports: Option<Vec<Arc<dyn Transport>>>,
    /// How trackers and web servers are reached, if not by the first of `transports`.
    pub(crate) dialer: Option<Arc<dyn Transport>>,
    /// The built-in transports to use; empty for all.
    pub(crate) only_transports: Vec<String>,
    pub(crate) encryption: Option<Encryption>,
    /// `None` if nobody said how, or that not.
    pub(crate) port_mapping: Option<Option<PortMapping>>,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) interface: Option<Arc<Interface>>,
    pub(crate) datagrams: Option<Arc<dyn DatagramFactory>>,
    pub(crate) resolver: Option<Arc<dyn Resolve>>,
    pub(crate) storage: Arc<dyn StorageFactory>,
    pub(crate) resume: Option<Arc<dyn ResumeStore>>,
    pub(crate) notebook: Option<Arc<dyn Notebook>>,
    pub(crate) hasher: Arc<dyn Hasher>,
    pub(crate) in_place: bool,
}

impl Default for EngineBuilder {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            config: Config::default(),
            listen: Listen::default(),
            state_folder: None,
            disk_threads: cores,
            torrent_threads: 1,
            seed: None,
            plugins: BUILTIN.iter().filter(|(name, _)| !OPT_IN.contains(name)).map(registered).collect(),
            transports: None,
            dialer: None,
            only_transports: Vec::new(),
            encryption: None,
            port_mapping: None,
            proxy: None,
            interface: None,
            datagrams: None,
            resolver: None,
            storage: Arc::new(FilesFactory::new(MOST_OPEN_FILES)),
            resume: None,
            notebook: None,
            hasher: Arc::new(SoftwareHasher),
            in_place: false,
        }
    }
}

fn registered(&(name, build): &(&str, Build)) -> Registered {
    Registered { name: PluginName::from(name), build, settings: Settings::default() }
}

impl EngineBuilder {
    /// Where to listen for peers.
    pub fn listen(mut self, listen: Listen) -> Self {
        self.listen = listen;
        self
    }
    /// Where resume data are kept. Without it nothing is remembered between two runs.
    pub fn state_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state_folder = Some(folder.into());
        self
    }
    /// Download limit of all torrents together, bytes per second.
    pub fn max_down(mut self, rate: Option<u64>) -> Self {
        self.config.limits.down = rate;
        self
    }
    /// Upload limit of all torrents together, bytes per second.
    pub fn max_up(mut self, rate: Option<u64>) -> Self {
        self.config.limits.up = rate;
        self
    }
    /// Download limit of each connection to a peer, bytes per second.
    pub fn max_down_per_peer(mut self, rate: Option<u64>) -> Self {
        self.config.limits.down_per_peer = rate;
        self
    }
    /// Upload limit of each connection to a peer, bytes per second.
    pub fn max_up_per_peer(mut self, rate: Option<u64>) -> Self {
        self.config.limits.up_per_peer = rate;
        self
    }
    /// Peers on this machine, in private networks and in the subnets of its interfaces neither count towards limits nor wait
    /// for them. Default: they do.
    pub fn exempt_lan(mut self, yes: bool) -> Self {
        self.config.exempt_lan = yes;
        self
    }
    /// Open connections of one torrent.
    pub fn most_connections(mut self, most: usize) -> Self {
        self.config.most_connections = most;
        self
    }
    /// Most peers that one torrent serves at once: never fewer than four, or nobody with 0, which others will repay in kind.
    /// Default: as many as the line feeds well.
    pub fn upload_slots(mut self, most: usize) -> Self {
        self.config.upload_slots = Some(most);
        self
    }
    /// Makes an engine small, for thousands of them in one process: it reads in smaller steps and keeps fewer events for
    /// observers that are behind.
    pub fn small(mut self) -> Self {
        (self.config.read_buffer, self.config.most_events) = (SMALL_READ, FEW_EVENTS);
        self
    }
    /// Bytes that may wait between sockets and disk.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.config.memory = bytes;
        self
    }
    /// Adds a discovery plugin, or replaces the one of that name.
    pub fn discovery(mut self, name: &str, build: Build) -> Self {
        let name = PluginName::from(name);
        self.plugins.retain(|plugin| plugin.name != name);
        self.plugins.push(Registered { name, build, settings: Settings::default() });
        self
    }
    /// Adds a discovery plugin that is another program, which speaks the protocol of docs/PLUGIN-PROTOCOL.md. `command`
    /// is the program and its arguments, divided as a shell does.
    pub fn process_plugin(mut self, name: &str, command: &str) -> Self {
        self = self.discovery(name, castanet_plugins::process::build);
        self.plugin_setting(name, "name", name).plugin_setting(name, "command", command)
    }
    /// Adds a built-in plugin that is off by default, such as `mainline`. Nothing happens if there is none such.
    pub fn enable_plugin(mut self, name: &str) -> Self {
        let is_there = self.plugins.iter().any(|plugin| &*plugin.name.0 == name);
        if let Some(builtin) = BUILTIN.iter().find(|(builtin, _)| *builtin == name && !is_there) {
            self.plugins.push(registered(builtin));
        }
        self
    }
    /// Sets one of a plugin's own settings; `castanet plugins` and the plugins' documentation name them.
    pub fn plugin_setting(mut self, plugin: &str, key: &str, value: &str) -> Self {
        for registered in self.plugins.iter_mut().filter(|registered| &*registered.name.0 == plugin) {
            registered.settings.0.insert(key.to_owned(), value.to_owned());
        }
        self
    }
    /// Keeps only the discovery plugins for which `keep` is true.
    pub fn retain_plugins(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.plugins.retain(|plugin| keep(&plugin.name.0));
        self
    }
    /// Uses only these of the built-in transports (`tcp`, `utp`) for peers, not all of them. Trackers are always reached
    /// over TCP.
    pub fn only_transports(mut self, names: &[&str]) -> Self {
        self.only_transports = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }
    pub(crate) fn is_used(&self, transport: &str) -> bool {
        self.only_transports.is_empty() || self.only_transports.iter().any(|name| name == transport)
    }
    /// Ways to peers, in order of preference, instead of the built-in ones; the first is also used to reach trackers, unless
    /// there is a [`EngineBuilder::dialer`].
    pub fn transports(mut self, transports: Vec<Arc<dyn Transport>>) -> Self {
        self.transports = Some(transports);
        self
    }
    /// How trackers and web servers are reached. Default: over TCP, or by the first of [`EngineBuilder::transports`].
    pub fn dialer(mut self, dialer: Arc<dyn Transport>) -> Self {
        self.dialer = Some(dialer);
        self
    }
    /// Whether connections to peers are encrypted (MSE/PE). Default: preferred, but not over transports of your own.
    pub fn encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = Some(encryption);
        self
    }
    /// How routers are asked to let peers in, by PCP, NAT-PMP or UPnP; `None`: they are not. Default: all three in turn, but
    /// nobody is asked with transports of your own.
    pub fn port_mapping(mut self, port_mapping: Option<PortMapping>) -> Self {
        self.port_mapping = Some(port_mapping);
        self
    }
    /// Sends everything through a SOCKS5 proxy, names to look up included. What it cannot carry is off: listening, and
    /// the search for neighbours. Plugins that are programs have sockets of their own and do as they like.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }
    /// Lets everything leave by this interface or not at all; while it is gone, everything waits. [`Listen::Everywhere`]
    /// is everywhere on it. Plugins that open sockets of their own are refused then, and so are transports, datagrams and
    /// a resolver of one's own.
    pub fn interface(mut self, interface: Interface) -> Self {
        self.interface = Some(Arc::new(interface));
        self
    }
    /// Datagrams instead of the system's UDP.
    pub fn datagrams(mut self, datagrams: Arc<dyn DatagramFactory>) -> Self {
        self.datagrams = Some(datagrams);
        self
    }
    /// Names instead of the system's resolver.
    pub fn resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.resolver = Some(resolver);
        self
    }
    /// Storage instead of files.
    pub fn storage(mut self, storage: Arc<dyn StorageFactory>) -> Self {
        self.storage = storage;
        self
    }
    /// Resume data elsewhere than in a folder.
    pub fn resume(mut self, resume: Arc<dyn ResumeStore>) -> Self {
        self.resume = Some(resume);
        self
    }
    /// What plugins remember elsewhere than in the state folder.
    pub fn notebook(mut self, notebook: Arc<dyn Notebook>) -> Self {
        self.notebook = Some(notebook);
        self
    }
    /// Hashing by another implementation.
    pub fn hasher(mut self, hasher: Arc<dyn Hasher>) -> Self {
        self.hasher = hasher;
        self
    }
    /// Threads for disk and hashing; 0 does that work on the engine's own thread. Default: one per core.
    pub fn disk_threads(mut self, threads: usize) -> Self {
        self.disk_threads = threads;
        self
    }
    /// Threads over which torrents are spread. Default: 1, which no single link outruns.
    pub fn torrent_threads(mut self, threads: usize) -> Self {
        self.torrent_threads = threads;
        self
    }
    /// Makes all of the engine's random choices those of this seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
    /// Runs on the calling thread, within its `LocalSet` or actor system, with no thread of its own: for simulations under
    /// paused time.
    pub fn in_place(mut self) -> Self {
        self.in_place = true;
        self.disk_threads = 0;
        self
    }
    /// Gets a file from an `http:` or `https:` URL, such as a .torrent file, by the ways out that the engine will use.
    ///
    /// # Errors
    /// With the reason in words, if the file cannot be had or has more than `largest` bytes.
    pub async fn fetch(&self, url: &str, largest: usize) -> Result<Vec<u8>, Error> {
        let Ways { means, .. } = Ways::of(self)?;
        castanet_plugins::http_tracker::fetch(&means, url, largest).await.map_err(Error::Fetch)
    }
    /// What could leave by another way than the interface, by its name.
    pub(crate) fn stray(&self) -> Option<&str> {
        let is_own = |plugin: &&Registered| {
            OPENS_SOCKETS.contains(&&*plugin.name.0) || std::ptr::fn_addr_eq(plugin.build, process::build as Build)
        };
        let plugin = self.plugins.iter().find(is_own).map(|plugin| &*plugin.name.0);
        let own = [
            (self.transports.is_some() || self.dialer.is_some(), "a transport of one's own"),
            (self.datagrams.is_some(), "datagrams of one's own"),
            (self.resolver.is_some(), "a resolver of one's own"),
        ];
        plugin.or_else(|| own.into_iter().find_map(|(is_there, what)| is_there.then_some(what)))
    }
    /// Starts the engine.
    ///
    /// # Errors
    /// If it cannot listen where it was told to, or the state folder cannot be used, or a plugin is wrongly set up, or a
    /// proxy cannot carry what was asked for by name.
    pub async fn start(self) -> Result<Engine, Error> {
        Engine::start(self.behind_its_proxy()?).await
    }
}
