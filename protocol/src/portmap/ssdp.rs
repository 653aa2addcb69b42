//! Finding a router by UPnP's Simple Service Discovery Protocol, and the places it names.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The group that all devices hear.
pub(super) const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// What is searched for. Devices of version 2 answer for version 1, and a few only for the services in them.
const TARGETS: [&str; 3] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// The longest path that is believed, in bytes.
const LONGEST_PATH: usize = 512;

/// The datagrams that search for a router, to be sent to [`GROUP`].
pub(super) fn searches() -> impl Iterator<Item = Vec<u8>> {
    TARGETS.into_iter().map(|target| {
        format!("M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n")
            .into_bytes()
    })
}

/// A page of a router's web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) at: SocketAddrV4,
    pub(super) path: String,
}

/// Where the device that answered from `from` describes itself. `None` if this is no answer, or leads to somebody else.
pub(super) fn parse(datagram: &[u8], from: Ipv4Addr) -> Option<Page> {
    let text = std::str::from_utf8(datagram).ok()?;
    let mut lines = text.lines();
    let status = lines.next()?;
    if !status.starts_with("HTTP/1.") || status.split(' ').nth(1) != Some("200") {
        return None;
    }
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let mut found = None;
    let mut is_router = false;
    for (name, value) in headers {
        let value = value.trim();
        if name.trim().eq_ignore_ascii_case("location") {
            found = page(value);
        } else if name.trim().eq_ignore_ascii_case("st") {
            is_router = TARGETS.contains(&value);
        }
    }
    found.filter(|page| is_router && *page.at.ip() == from)
}

/// What an `http:` URL without a name names.
fn page(url: &str) -> Option<Page> {
    let rest = url.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &url[7..])?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let at = match host.parse::<SocketAddrV4>() {
        Ok(at) => at,
        Err(_) => SocketAddrV4::new(host.parse().ok()?, 80),
    };
    let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    (at.port() != 0 && is_path(&path)).then_some(Page { at, path })
}

/// Can it stand in the first line of a request?
fn is_path(path: &str) -> bool {
    path.len() <= LONGEST_PATH
        && path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

impl Page {
    /// What `url`, found on this page, names. `None` if it leads to another host.
    pub(super) fn join(&self, url: &str) -> Option<Page> {
        if url.contains("://") {
            return page(url).filter(|page| page.at.ip() == self.at.ip());
        }
        let path = if url.starts_with('/') {
            url.to_owned()
        } else {
            let folder = self.path.split('?').next().unwrap_or_default();
            format!("{}/{url}", folder.rsplit_once('/').map_or("", |(folder, _)| folder))
        };
        is_path(&path).then_some(Page { at: self.at, path })
    }
}
