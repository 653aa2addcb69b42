//! The one interface by which everything leaves, if the user named one: what it is at this moment, and sockets that
//! leave by it or not at all.
//!
//! On Linux and Android a socket is bound to the device itself (`SO_BINDTODEVICE`), whatever the routes say, and to an
//! address of it; elsewhere to the address alone, and the system must be told by routes or a firewall what may leave with
//! it. Nothing here waits or watches: who makes a socket looks, and so does whoever asks for the ways out. What changed is
//! told to the sockets made before.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use castanet_core::seams::datagrams::{Only, WaysOut};
use socket2::{SockRef, Socket};
use tokio::sync::watch;

/// The longest name of a device, in bytes: Linux allows 15, Windows more.
const LONGEST_NAME: usize = 256;
/// Addresses of an interface that are known at most.
const MOST_ADDRESSES: usize = 64;

/// An interface, by the name or the address that the user gave.
#[derive(Debug)]
pub struct Interface {
    asked: Asked,
    /// What the last look found.
    seen: watch::Sender<Option<There>>,
    /// How often that was something else, of what sockets depend on.
    changes: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Device(String),
    Address(IpAddr),
}

/// What is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct There {
    /// What the system calls the device; it has another number when it was gone in between.
    device: String,
    number: Option<u32>,
    /// Its addresses that may be used, the best of each family first.
    addresses: Vec<IpAddr>,
}

/// The place of a socket on the interface: an address of a device. It is lost with either.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    name: String,
    number: Option<u32>,
    ip: IpAddr,
    seen: watch::Receiver<Option<There>>,
}

impl FromStr for Interface {
    type Err = String;

    /// The name of a device, or an address that the machine has.
    fn from_str(text: &str) -> Result<Self, String> {
        let asked = match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                return Err(format!("{ip} is no address of an interface"));
            }
            Ok(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
                return Err(format!(
                    "{ip} is a link-local address, which several interfaces may have; name the device"
                ));
            }
            Ok(ip) => Asked::Address(ip),
            Err(_) => {
                let is_odd = |c: char| c.is_control() || c == '/';
                if text.trim().is_empty() || text.len() > LONGEST_NAME || text.contains(is_odd) {
                    return Err("this is neither the name of a device nor an address".into());
                }
                Asked::Device(text.to_owned())
            }
        };
        Ok(Self { asked, seen: watch::Sender::default(), changes: AtomicU64::default() })
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.asked {
            Asked::Device(name) => write!(f, "{}", name.escape_debug()),
            Asked::Address(ip) => write!(f, "{ip}"),
        }
    }
}

impl Interface {
    /// Is it there, up, and with an address?
    ///
    /// # Errors
    /// `NetworkDown` with a sentence if it is not.
    pub fn check(&self) -> io::Result<()> {
        self.look().map(drop)
    }

    /// The addresses that everything leaves from; none while it is gone.
    pub(crate) fn ways_out(&self) -> WaysOut {
        let there = self.look().ok();
        let from = [false, true].map(|v6| there.as_ref().and_then(|there| there.best(v6)));
        let device = there.and_then(|there| there.number);
        WaysOut {
            from,
            only: Some(Only { name: self.to_string().into(), device, changes: self.changes.load(Relaxed) }),
        }
    }

    /// Binds a socket where others shall reach it; an unspecified address is the interface's own.
    pub(crate) fn hold(&self, socket: &Socket, at: SocketAddr) -> io::Result<Place> {
        let there = self.look()?;
        let ip = self.own(&there, at.ip())?;
        self.bind(SockRef::from(socket), &there, SocketAddr::new(ip, at.port()))
    }

    /// Binds a socket that will speak to `to`, at this port of ours.
    ///
    /// # Errors
    /// `Unsupported` if that cannot be reached by this interface.
    pub(crate) fn hold_towards(&self, socket: SockRef<'_>, to: SocketAddr, port: u16) -> io::Result<Place> {
        let there = self.look()?;
        let ip = there.towards(to.ip()).ok_or_else(|| self.lacks_way(to))?;
        self.bind(socket, &there, SocketAddr::new(ip, port))
    }

    /// Lets a socket hear a group by this interface alone, and says by which of its addresses to join.
    pub(crate) fn hold_group(&self, socket: &Socket, wanted: IpAddr) -> io::Result<IpAddr> {
        let there = self.look()?;
        self.bind_device(&SockRef::from(socket), &there.device)?;
        self.own(&there, wanted)
    }

    /// The address of the interface that is meant.
    fn own(&self, there: &There, wanted: IpAddr) -> io::Result<IpAddr> {
        match wanted {
            any if any.is_unspecified() => there.best(any.is_ipv6()).ok_or_else(|| self.lacks(any.is_ipv6())),
            ip if there.addresses.contains(&ip) => Ok(ip),
            ip => {
                let reason = format!("{ip} is not an address of {self}, and nothing goes another way");
                Err(io::Error::new(io::ErrorKind::AddrNotAvailable, reason))
            }
        }
    }

    /// May this be reached by it, as far as addresses say?
    pub(crate) fn leads_to(&self, to: IpAddr) -> bool {
        !to.is_loopback() || self.look().is_ok_and(|there| there.towards(to).is_some())
    }

    fn bind(&self, socket: SockRef<'_>, there: &There, at: SocketAddr) -> io::Result<Place> {
        self.bind_device(&socket, &there.device)?;
        socket.bind(&at.into())?;
        Ok(Place { name: self.to_string(), number: there.number, ip: at.ip(), seen: self.seen.subscribe() })
    }

    /// Lets a socket hear and leave by the device alone.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn bind_device(&self, socket: &SockRef<'_>, device: &str) -> io::Result<()> {
        socket.bind_device(Some(device.as_bytes())).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let reason = format!("this system lets only its administrator bind to {self} (Linux before 5.7)");
                io::Error::new(error.kind(), reason)
            }
            // It went in this moment.
            _ => self.gone(),
        })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn bind_device(&self, _: &SockRef<'_>, _: &str) -> io::Result<()> {
        Ok(())
    }

    /// Looks, and tells the sockets that were made before.
    fn look(&self) -> io::Result<There> {
        let there = find(&self.asked, &if_addrs::get_if_addrs()?);
        self.seen.send_if_modified(|seen| {
            let is_new = *seen != there;
            if is_new {
                // What nobody had seen before is lost to nobody.
                if !seen.as_ref().is_some_and(|before| there.as_ref().is_some_and(|there| there.continues(before))) {
                    self.changes.fetch_add(1, Relaxed);
                }
                seen.clone_from(&there);
            }
            is_new
        });
        there.ok_or_else(|| self.gone())
    }

    fn gone(&self) -> io::Error {
        let reason = match &self.asked {
            Asked::Device(_) => {
                format!("there is no interface {self} that is up and has an address, and nothing goes another way")
            }
            Asked::Address(_) => {
                format!("no interface that is up has the address {self}, and nothing goes another way")
            }
        };
        io::Error::new(io::ErrorKind::NetworkDown, reason)
    }

    fn lacks(&self, v6: bool) -> io::Error {
        let reason = format!("{self} has no IPv{} address", if v6 { 6 } else { 4 });
        io::Error::new(io::ErrorKind::Unsupported, reason)
    }

    fn lacks_way(&self, to: SocketAddr) -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, format!("{} cannot be reached by {self}", to.ip()))
    }
}

impl There {
    /// Do all sockets go on that were bound to what was there before?
    fn continues(&self, before: &Self) -> bool {
        self.number == before.number && before.addresses.iter().all(|ip| self.addresses.contains(ip))
    }

    fn best(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| ip.is_ipv6() == v6)
    }

    /// From where to speak to `to`. This machine is reached by what is on this machine alone: other devices would carry
    /// the datagram away.
    fn towards(&self, to: IpAddr) -> Option<IpAddr> {
        let mut fitting = self.addresses.iter().copied().filter(|ip| ip.is_ipv6() == to.is_ipv6());
        if to.is_loopback() { fitting.find(IpAddr::is_loopback) } else { fitting.next() }
    }
}

impl Place {
    fn is_in(&self, there: Option<&There>) -> bool {
        there.is_some_and(|there| there.number == self.number && there.addresses.contains(&self.ip))
    }

    /// The device is gone, is another one, or has lost the address.
    pub(crate) fn is_lost(&self) -> bool {
        !self.is_in(self.seen.borrow().as_ref())
    }

    /// Waits until it is lost.
    pub(crate) async fn lost(&self) -> io::Error {
        let mut seen = self.seen.clone();
        // Of an interface that nobody looks at any more nothing is heard.
        if seen.wait_for(|there| !self.is_in(there.as_ref())).await.is_err() {
            return std::future::pending().await;
        }
        self.why_lost()
    }

    /// The error of a socket that is lost.
    pub(crate) fn why_lost(&self) -> io::Error {
        io::Error::new(io::ErrorKind::NetworkDown, format!("{} is gone, or another one by now", self.name))
    }
}

/// The interface among all that the system lists, if it can be used.
fn find(asked: &Asked, all: &[if_addrs::Interface]) -> Option<There> {
    let up = || all.iter().filter(|one| one.is_oper_up());
    match asked {
        Asked::Device(name) => {
            let first = up().find(|one| one.name == *name)?;
            let mut addresses: Vec<_> =
                up().filter(|one| one.name == *name).map(|one| one.ip()).filter(|ip| rank(*ip) < NEVER).collect();
            // Of equals the first one in IPv4, which is the primary one; in IPv6 the last, which is the oldest.
            addresses.sort_by_key(|ip| ip.is_ipv6());
            let v6 = addresses.partition_point(IpAddr::is_ipv4);
            addresses[v6..].reverse();
            addresses.sort_by_key(|ip| rank(*ip));
            addresses.truncate(MOST_ADDRESSES);
            let there = There { device: name.clone(), number: first.index, addresses };
            (!there.addresses.is_empty()).then_some(there)
        }
        Asked::Address(ip) => {
            let exactly = up().find(|one| one.ip() == *ip);
            // Any address of 127.0.0.0/8 is the machine's own, listed or not.
            let is_own = |one: &&if_addrs::Interface| one.is_loopback() && ip.is_loopback() && ip.is_ipv4();
            let one = exactly.or_else(|| up().find(is_own))?;
            Some(There { device: one.name.clone(), number: one.index, addresses: vec![*ip] })
        }
    }
}

/// The rank of an address that is never used.
const NEVER: u8 = u8::MAX;

/// Addresses that reach further come first.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => NEVER,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => NEVER,
        IpAddr::V4(ip) if ip.is_link_local() => 2,
        IpAddr::V6(ip) if ip.is_unique_local() => 1,
        ip if ip.is_loopback() => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn asked(text: &str) -> Asked {
        text.parse::<Interface>().unwrap().asked
    }

    fn listed(name: &str, index: u32, ip: &str, oper_status: IfOperStatus) -> if_addrs::Interface {
        let addr = match ip.parse().unwrap() {
            IpAddr::V4(ip) => IfAddr::V4(Ifv4Addr { ip, netmask: ip, prefixlen: 24, broadcast: None }),
            IpAddr::V6(ip) => IfAddr::V6(Ifv6Addr { ip, netmask: ip, prefixlen: 64, broadcast: None }),
        };
        if_addrs::Interface {
            name: name.into(),
            addr,
            index: Some(index),
            oper_status,
            is_p2p: false,
            #[cfg(windows)]
            adapter_name: String::new(),
        }
    }

    fn machine() -> Vec<if_addrs::Interface> {
        let up = |name, index, ip| listed(name, index, ip, IfOperStatus::Up);
        vec![
            up("lo", 1, "127.0.0.1"),
            up("lo", 1, "::1"),
            up("eth0", 2, "192.0.2.7"),
            up("wg0", 5, "169.254.1.1"),
            up("wg0", 5, "10.8.0.2"),
            up("wg0", 5, "fe80::1"),
            up("wg0", 5, "fd00::2"),
            up("wg0", 5, "2001:db8::9"),
            up("wg0", 5, "2001:db8::2"),
            listed("tun0", 6, "10.9.0.2", IfOperStatus::Unknown),
        ]
    }

    #[test]
    fn a_device_speaks_from_the_address_that_reaches_furthest() {
        let there = find(&asked("wg0"), &machine()).unwrap();
        assert_eq!((there.number, there.device.as_str()), (Some(5), "wg0"));
        let best = |v6| there.best(v6).unwrap().to_string();
        assert_eq!([best(false), best(true)], ["10.8.0.2", "2001:db8::2"]);
        assert!(!there.addresses.contains(&"fe80::1".parse().unwrap()));
        assert_eq!(find(&asked("tun0"), &machine()), None, "it is down");
        assert_eq!(find(&asked("wg1"), &machine()), None);
    }

    #[test]
    fn an_address_is_that_one_alone() {
        let there = find(&asked("10.8.0.2"), &machine()).unwrap();
        assert_eq!((there.device.as_str(), there.addresses.len()), ("wg0", 1));
        assert_eq!(there.towards("2001:db8::1".parse().unwrap()), None);
        assert_eq!(find(&asked("127.0.0.9"), &machine()).unwrap().device, "lo");
        assert_eq!(find(&asked("10.8.0.3"), &machine()), None);
    }

    #[test]
    fn nothing_is_carried_away_that_is_meant_for_this_machine() {
        let to = |device: &str, ip: &str| find(&asked(device), &machine()).unwrap().towards(ip.parse().unwrap());
        assert_eq!(to("wg0", "127.0.0.1"), None);
        assert_eq!(to("lo", "127.0.0.53"), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(to("wg0", "198.51.100.1"), Some("10.8.0.2".parse().unwrap()));
    }

    #[test]
    fn what_names_no_interface_is_refused() {
        for text in ["", " ", "a/b", "e\nth0", "0.0.0.0", "::", "224.0.0.1", "fe80::1", &"x".repeat(300)] {
            assert!(text.parse::<Interface>().is_err(), "{text:?}");
        }
        assert_eq!(asked("::ffff:10.8.0.2"), asked("10.8.0.2"));
    }

    #[test]
    fn an_absence_between_two_looks_is_noticed() {
        let interface: Interface = "127.0.0.1".parse().unwrap();
        let before = interface.ways_out();
        assert_eq!(before, interface.ways_out());
        // Somebody else looked when it was gone.
        interface.seen.send_replace(None);
        let after = interface.ways_out();
        assert_eq!(before.from, after.from);
        assert!(before.are_over(&after), "its sockets are lost");
    }

    #[tokio::test]
    async fn a_socket_is_lost_with_its_device_or_its_address() {
        let interface: Interface = "127.0.0.1".parse().unwrap();
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        let place = interface.hold(&socket, "0.0.0.0:0".parse().unwrap()).unwrap();
        assert_eq!(place.ip, Ipv4Addr::LOCALHOST);
        assert!(!place.is_lost());
        let there = interface.seen.borrow().clone().unwrap();
        let others = [
            None,
            Some(There { number: Some(99), ..there.clone() }),
            Some(There { addresses: vec!["127.0.0.2".parse().unwrap()], ..there.clone() }),
        ];
        for other in others {
            interface.seen.send_replace(other);
            assert!(place.is_lost());
            assert!(place.lost().await.to_string().starts_with("127.0.0.1 is gone"));
            interface.seen.send_replace(Some(there.clone()));
        }
        let elsewhere = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        let error = interface.hold(&elsewhere, "127.0.0.2:0".parse().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("127.0.0.2 is not an address of 127.0.0.1"), "{error}");
    }
}
