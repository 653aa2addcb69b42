//! A tracker's URL and its addresses.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use castanet_core::{
    addr::canonical,
    seams::means::{Means, Resolve},
};
use castanet_protocol::tracker::plain;
use tokio::time::timeout;
use url::Url;

use super::Failure;

/// How long a name may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(20);
/// The longest tracker URL that is used, in bytes.
const LONGEST_URL: usize = 4096;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A tracker's address, understood.
#[derive(Debug)]
pub(crate) struct Target {
    /// As it is shown to the user and named as the instance that found a peer.
    pub(crate) instance: Arc<str>,
    pub(crate) url: Url,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, Failure> {
        let instance = instance(url);
        if url.len() > LONGEST_URL {
            return Err(Failure::never(format!("{instance} is too long for a tracker's URL")));
        }
        let parsed = Url::parse(url);
        let url = parsed.map_err(|error| Failure::never(format!("{instance} is no tracker's URL: {error}")))?;
        Ok(Self { instance, url })
    }

    /// Its addresses, apart by those families that we have. At least one is there.
    pub(super) async fn addresses(&self, means: &Means) -> Result<Vec<Vec<SocketAddr>>, Failure> {
        let unusable = |what| Failure::never(format!("{} is no tracker's URL: {what}", self.instance));
        let host = self.url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| unusable("it has no host"))?;
        let port =
            self.url.port_or_known_default().filter(|port| *port != 0).ok_or_else(|| unusable("it has no port"))?;
        let found = resolve(&*means.resolver, &means.bind, host, port).await;
        let (v4, v6): (Vec<_>, Vec<_>) =
            found.map_err(|reason| Failure::unreachable(self, reason))?.into_iter().partition(SocketAddr::is_ipv4);
        let families: Vec<_> = [v4, v6].into_iter().filter(|addresses| !addresses.is_empty()).collect();
        let none = || Failure::unreachable(self, "it has no address of a family that we have");
        if families.is_empty() { Err(none()) } else { Ok(families) }
    }
}

/// A URL as it is shown.
pub(super) fn instance(url: &str) -> Arc<str> {
    plain(url.as_bytes()).into()
}

/// Resolves a host as URLs write it, keeps the families of `bind`, and says in words what went wrong.
pub(crate) async fn resolve(
    resolver: &dyn Resolve,
    bind: &[SocketAddr],
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = timeout(RESOLVE_LIMIT, resolver.resolve(host)).await;
    let found = found.map_err(|_| format!("looking up {host} took too long"))?.map_err(|error| error.to_string())?;
    let found = found.into_iter().map(|ip| canonical(SocketAddr::new(ip, port)));
    Ok(found.filter(|addr| bind.iter().any(|bind| bind.is_ipv4() == addr.is_ipv4())).collect())
}
