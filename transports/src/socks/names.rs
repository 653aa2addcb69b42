//! Names that the proxy looks up. Who asks for addresses gets a stand-in, an address that nobody has; whoever goes through
//! the proxy turns it back into the name.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use castanet_core::{
    addr::{canonical, is_stand_in},
    seams::means::{Resolve, ResolveError},
};

use super::handshake::{LONGEST_NAME, Target};

/// Names that are remembered. Beyond, the one goes that was not used for the longest time.
const MOST_NAMES: usize = 4096;
/// 240.0.0.0/4 without 255.255.255.255, and 100::/64.
const FIRST_V4: u32 = 0xf000_0000;
const LAST_V4: u32 = 0xffff_fffe;
const FIRST_V6: u128 = 0x100 << 112;

/// Which name each stand-in is for.
pub struct NameBook(Mutex<Pages>);

struct Pages {
    random: fastrand::Rng,
    by_name: BTreeMap<Arc<str>, IpAddr>,
    by_stand_in: BTreeMap<IpAddr, Entry>,
    uses: u64,
}

struct Entry {
    name: Arc<str>,
    /// Larger is later.
    used: u64,
}

impl NameBook {
    /// An empty one; `seed` decides which stand-ins names get.
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self(Mutex::new(Pages { random, by_name: BTreeMap::new(), by_stand_in: BTreeMap::new(), uses: 0 }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Pages) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What stands in for a name: IPv4, unless [`NameBook::is_of_other_family`] was said of it.
    fn stand_in(&self, name: &str) -> IpAddr {
        let name: Arc<str> = name.to_ascii_lowercase().into();
        self.with(|pages| match pages.by_name.get(&name).copied() {
            Some(known) => {
                pages.touch(known);
                known
            }
            None => pages.write(name, false),
        })
    }

    /// Who is meant by an address; `None` if it stands in for a name that is not known any more.
    pub(super) fn target(&self, to: SocketAddr) -> Option<Target> {
        let to = canonical(to);
        if !is_stand_in(to.ip()) {
            return Some(Target::Address(to));
        }
        self.with(|pages| pages.touch(to.ip()).map(|name| Target::Name(name, to.port())))
    }

    /// The address by which someone is known here, whom the proxy names; `None` for a name that nobody asked for.
    pub(super) fn known_as(&self, target: Target) -> Option<SocketAddr> {
        match target {
            Target::Address(addr) => Some(addr),
            Target::Name(name, port) => {
                let known = self.with(|pages| pages.by_name.get(&*name.to_ascii_lowercase()).copied());
                known.map(|ip| SocketAddr::new(ip, port))
            }
        }
    }

    /// The proxy reaches the name behind this stand-in over the other family: from now on it gets one of that, since what
    /// is said by datagrams can depend on it.
    pub(super) fn is_of_other_family(&self, stand_in: IpAddr) {
        self.with(|pages| {
            if let Some(entry) = pages.by_stand_in.remove(&stand_in) {
                pages.write(entry.name, stand_in.is_ipv4());
            }
        });
    }
}

impl Pages {
    /// The name, which was used just now.
    fn touch(&mut self, stand_in: IpAddr) -> Option<Arc<str>> {
        let entry = self.by_stand_in.get_mut(&stand_in)?;
        self.uses += 1;
        entry.used = self.uses;
        Some(entry.name.clone())
    }

    fn write(&mut self, name: Arc<str>, v6: bool) -> IpAddr {
        if self.by_stand_in.len() >= MOST_NAMES
            && let Some(oldest) = self.by_stand_in.iter().min_by_key(|(_, entry)| entry.used).map(|(ip, _)| *ip)
            && let Some(entry) = self.by_stand_in.remove(&oldest)
        {
            self.by_name.remove(&entry.name);
        }
        let stand_in = loop {
            let drawn: IpAddr = match v6 {
                false => Ipv4Addr::from_bits(self.random.u32(FIRST_V4..=LAST_V4)).into(),
                true => Ipv6Addr::from_bits(FIRST_V6 | u128::from(self.random.u64(1..))).into(),
            };
            if !self.by_stand_in.contains_key(&drawn) {
                break drawn;
            }
        };
        self.uses += 1;
        self.by_stand_in.insert(stand_in, Entry { name: name.clone(), used: self.uses });
        self.by_name.insert(name, stand_in);
        stand_in
    }
}

impl fmt::Debug for NameBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameBook({} names)", self.with(|pages| pages.by_name.len()))
    }
}

/// Resolves every name to its stand-in, without asking anybody.
#[derive(Debug, Clone)]
pub struct ProxyNames(pub Arc<NameBook>);

#[async_trait]
impl Resolve for ProxyNames {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let text = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(vec![ip.to_canonical()]);
        }
        let is_name = !host.is_empty() && host.len() <= LONGEST_NAME && !host.contains(char::is_control);
        if is_name {
            return Ok(vec![self.0.stand_in(host)]);
        }
        let host = host.chars().take(LONGEST_NAME).flat_map(char::escape_debug).collect();
        Err(ResolveError { host, reason: "this is no name that a proxy can look up".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str, port: u16) -> Option<Target> {
        Some(Target::Name(text.into(), port))
    }

    #[tokio::test]
    async fn names_get_stand_ins_and_addresses_stay() {
        let book = Arc::new(NameBook::new(1));
        let names = ProxyNames(book.clone());
        let one = names.resolve("Tracker.Example").await.unwrap()[0];
        assert_eq!(names.resolve("tracker.example").await.unwrap(), [one]);
        let other = names.resolve("localhost").await.unwrap()[0];
        assert!(is_stand_in(one) && is_stand_in(other) && one != other && one.is_ipv4());
        assert_eq!(book.target(SocketAddr::new(one, 80)), name("tracker.example", 80));
        for (text, ip) in [("10.0.0.1", "10.0.0.1"), ("[::1]", "::1"), ("::ffff:1.2.3.4", "1.2.3.4")] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(names.resolve(text).await.unwrap(), [ip]);
            assert_eq!(book.target(SocketAddr::new(ip, 1)), Some(Target::Address(SocketAddr::new(ip, 1))));
        }
        let stranger: SocketAddr = "250.1.2.3:80".parse().unwrap();
        assert_eq!(book.target(stranger), None, "nobody asked for such a name");
        for bad in [String::new(), "a\nb".into(), "n".repeat(LONGEST_NAME + 1)] {
            let error = names.resolve(&bad).await.unwrap_err().to_string();
            assert!(error.ends_with("this is no name that a proxy can look up") && !error.contains('\n'), "{error}");
        }
        assert_eq!(NameBook::new(1).stand_in("tracker.example"), one, "one seed, the same stand-ins");
    }

    #[test]
    fn what_the_proxy_calls_by_name_is_known_by_its_stand_in() {
        let book = NameBook::new(2);
        let ip = book.stand_in("a.example");
        assert_eq!(book.known_as(Target::Name("A.example".into(), 5)), Some(SocketAddr::new(ip, 5)));
        assert_eq!(book.known_as(Target::Name("b.example".into(), 5)), None);
        book.is_of_other_family(ip);
        let v6 = book.stand_in("a.example");
        assert!(v6.is_ipv6() && is_stand_in(v6));
        assert_eq!(book.target(SocketAddr::new(v6, 5)), name("a.example", 5));
        assert_eq!(book.target(SocketAddr::new(ip, 5)), None);
        book.is_of_other_family(v6);
        assert!(book.stand_in("a.example").is_ipv4(), "and back");
    }

    #[test]
    fn the_book_is_bounded_and_keeps_what_is_used() {
        let book = NameBook::new(3);
        let kept = book.stand_in("kept.example");
        let lost = book.stand_in("lost.example");
        for number in 0..MOST_NAMES - 1 {
            book.stand_in(&format!("{number}.example"));
            assert!(book.target(SocketAddr::new(kept, 1)).is_some());
        }
        assert_eq!(book.target(SocketAddr::new(lost, 1)), None);
        book.with(|pages| {
            assert_eq!((pages.by_name.len(), pages.by_stand_in.len()), (MOST_NAMES, MOST_NAMES));
        });
    }
}
