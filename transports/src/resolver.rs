//! Names to addresses, by asking the system's name servers ourselves (RFC 1035), in both families.
//!
//! Every look-up is a future of its own, so one slow name delays no other. Addresses in text and `localhost` are answered
//! without asking, the hosts file is honoured, and nothing is read or opened before the first name that needs it. Who is
//! asked is looked up anew when the system's list or the interface is another one.
//!
//! Held to an [`Interface`], it asks by that alone. A name server on this machine is not asked then, since it would ask
//! others by whatever way it likes; systemd-resolved keeps a list of those that it would ask, which are asked instead.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use castanet_core::seams::{
    datagrams::WaysOut,
    means::{Resolve, ResolveError},
};
use hickory_resolver::{
    Resolver, ResolverBuilder,
    config::{LookupIpStrategy, ResolverConfig},
    net::{
        NetError,
        runtime::{RuntimeProvider, TokioRuntimeProvider, iocompat::AsyncIoTokioAsStd},
    },
    system_conf::read_system_conf,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use crate::interface::Interface;

/// The longest name that is asked for, in bytes (RFC 1035 allows 253).
const LONGEST_NAME: usize = 253;

/// Most addresses taken from one answer.
const MOST_ADDRESSES: usize = 64;

/// The longest a look-up may take, over all name servers and retries. A tracker's announce waits for it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a name server may take to accept a connection, which large answers need.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where systemd-resolved lists the name servers that it asks.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Where the system lists the name servers that programs shall ask.
const CONFIGURATION: &str = "/etc/resolv.conf";

/// Asks the name servers that the operating system is configured with.
#[derive(Default)]
pub struct SystemResolver {
    asker: Mutex<Option<(Configured, Arc<Asker>)>>,
    interface: Option<Arc<Interface>>,
}

/// What the name servers depend on: another network has others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Configured {
    /// When the lists were last written, where there are such files.
    written: [Option<SystemTime>; 2],
    by: Option<WaysOut>,
}

struct Asker {
    resolver: Resolver<Sockets>,
    /// Why there are no name servers, if there are none; the hosts file still works.
    without_servers: Option<String>,
}

impl SystemResolver {
    /// A resolver that has not read any configuration yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that asks by this interface alone, if there is one.
    pub fn by(interface: Option<Arc<Interface>>) -> Self {
        Self { interface, ..Self::default() }
    }

    /// Whoever asks as the system is configured now.
    fn asker(&self) -> Result<Arc<Asker>, String> {
        let written =
            [CONFIGURATION, BEHIND_RESOLVED].map(|file| fs::metadata(file).and_then(|file| file.modified()).ok());
        let configured = Configured { written, by: self.interface.as_ref().map(|interface| interface.ways_out()) };
        let mut known = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((then, asker)) if *then == configured => Ok(asker.clone()),
            _ => {
                let asker = Arc::new(Asker::new(self.interface.clone())?);
                *known = Some((configured, asker.clone()));
                Ok(asker)
            }
        }
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let asker = self.asker()?;
        match timeout(LOOKUP_TIMEOUT, asker.resolver.lookup_ip(name)).await {
            Ok(Ok(answer)) => Ok(answer.iter().collect()),
            Ok(Err(error)) => Err(asker.without_servers.clone().unwrap_or_else(|| words(&error))),
            Err(_) => Err(format!("no name server answered within {} s", LOOKUP_TIMEOUT.as_secs())),
        }
    }
}

impl Asker {
    fn new(interface: Option<Arc<Interface>>) -> Result<Self, String> {
        let nobody = || ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        let (config, options, mut without_servers) = match read_system_conf() {
            Ok((config, options)) => (config, Some(options), None),
            Err(error) => (nobody(), None, Some(format!("the system's name servers are not known ({error})"))),
        };
        let config = match &interface {
            Some(interface) if without_servers.is_none() => askable(config, interface).unwrap_or_else(|| {
                let reason = "the system's name servers are on this machine, and would not ask by";
                without_servers = Some(format!("{reason} {interface} alone"));
                nobody()
            }),
            _ => config,
        };
        let mut builder: ResolverBuilder<Sockets> =
            Resolver::builder_with_config(config, Sockets { inner: TokioRuntimeProvider::default(), interface });
        if let Some(options) = options {
            *builder.options_mut() = options;
        }
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().map_err(|error| format!("the resolver cannot start ({error})"))?;
        Ok(Self { resolver, without_servers })
    }
}

/// The name servers that may be asked by this interface, if there are any.
fn askable(config: ResolverConfig, interface: &Interface) -> Option<ResolverConfig> {
    let keep = |mut config: ResolverConfig| {
        config.name_servers.retain(|server| interface.leads_to(server.ip));
        (!config.name_servers.is_empty()).then_some(config)
    };
    keep(config).or_else(|| behind_resolved().and_then(keep))
}

#[cfg(target_os = "linux")]
fn behind_resolved() -> Option<ResolverConfig> {
    let text = fs::read(BEHIND_RESOLVED).ok()?;
    Some(hickory_resolver::system_conf::parse_resolv_conf(text).ok()?.0)
}

#[cfg(not(target_os = "linux"))]
fn behind_resolved() -> Option<ResolverConfig> {
    None
}

/// Opens the resolver's sockets.
#[derive(Clone)]
struct Sockets {
    inner: TokioRuntimeProvider,
    interface: Option<Arc<Interface>>,
}

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.inner.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let Some(interface) = self.interface.clone() else { return self.inner.connect_tcp(server, from, within) };
        Box::pin(async move {
            let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            interface.hold_towards(SockRef::from(&socket), server, 0)?;
            let connecting = timeout(within.unwrap_or(DIAL_TIMEOUT), socket.connect(server));
            Ok(AsyncIoTokioAsStd(connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??))
        })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let Some(interface) = self.interface.clone() else { return self.inner.bind_udp(local, server) };
        Box::pin(async move {
            let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            interface.hold_towards(SockRef::from(&socket), server, local.port())?;
            UdpSocket::from_std(socket.into())
        })
    }
}

/// What went wrong, for a person.
fn words(error: &NetError) -> String {
    if error.is_nx_domain() {
        return "there is no such name".into();
    }
    if error.is_no_records_found() {
        return "the name has no address".into();
    }
    match error {
        NetError::Timeout => "no name server answered".into(),
        NetError::NoConnections => "no name server can be reached".into(),
        // Whatever is not a name fails here, before anything is sent.
        NetError::Proto(reason) => format!("this is not a valid name ({reason})"),
        other => other.to_string(),
    }
}

impl std::fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemResolver").finish_non_exhaustive()
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(known) = without_asking(host) {
            return Ok(known);
        }
        let fail = |reason: String| ResolveError { host: shown(host), reason };
        if host.is_empty() || host.len() > LONGEST_NAME {
            return Err(fail("this is not a name".into()));
        }
        let addresses = distinct(self.lookup(host).await.map_err(fail)?);
        if addresses.is_empty() { Err(fail("the name has no address".into())) } else { Ok(addresses) }
    }
}

/// Names that are known beforehand, for tests and simulations; addresses in text and `localhost` work as well.
#[derive(Debug, Clone, Default)]
pub struct FixedResolver(pub BTreeMap<String, Vec<IpAddr>>);

#[async_trait]
impl Resolve for FixedResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let known = without_asking(host).or_else(|| self.0.get(host).cloned()).filter(|found| !found.is_empty());
        known.ok_or_else(|| ResolveError { host: shown(host), reason: "there is no such name".into() })
    }
}

/// Addresses in text, also in an URL's brackets, and the names that mean this machine (RFC 6761).
fn without_asking(host: &str) -> Option<Vec<IpAddr>> {
    let text = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(vec![ip.to_canonical()]);
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_local = name == "localhost" || name.ends_with(".localhost");
    is_local.then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// Canonical, each once, not more than are useful.
fn distinct(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for ip in found.into_iter().map(|ip| ip.to_canonical()) {
        if addresses.len() < MOST_ADDRESSES && !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    addresses
}

/// A stranger's name, fit for a message.
fn shown(host: &str) -> String {
    host.chars().take(LONGEST_NAME).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_needs_no_asking_is_not_asked() {
        let resolver = SystemResolver::new();
        for (host, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(resolver.resolve(host).await.unwrap(), [expected.parse::<IpAddr>().unwrap()], "{host}");
        }
        for host in ["localhost", "LocalHost.", "tracker.localhost"] {
            let both: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
            assert_eq!(resolver.resolve(host).await.unwrap(), both, "{host}");
        }
        assert!(resolver.asker.lock().unwrap().is_none(), "no configuration was read");
    }

    #[tokio::test]
    async fn nonsense_is_refused_in_words_without_asking() {
        let resolver = SystemResolver::new();
        for host in [String::new(), "a".repeat(LONGEST_NAME + 1)] {
            let error = resolver.resolve(&host).await.unwrap_err();
            assert!(error.to_string().ends_with("this is not a name"), "{error}");
        }
        assert!(resolver.asker.lock().unwrap().is_none());
        assert_eq!(shown("a\nb"), "a\\nb");
    }

    #[tokio::test]
    async fn fixed_names() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let resolver = FixedResolver([("tracker.test".to_owned(), vec![ip])].into());
        assert_eq!(resolver.resolve("tracker.test").await.unwrap(), [ip]);
        assert_eq!(resolver.resolve("10.0.0.1").await.unwrap(), [ip]);
        let error = resolver.resolve("other.test").await.unwrap_err();
        assert_eq!(error.to_string(), "cannot resolve other.test: there is no such name");
    }

    #[test]
    fn answers_are_canonical_and_distinct() {
        let found = ["1.2.3.4", "::ffff:1.2.3.4", "::1"].map(|text| text.parse().unwrap());
        assert_eq!(distinct(found.to_vec()).len(), 2);
    }
}
