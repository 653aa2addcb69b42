//! Mapping by UPnP: the router is searched for, describes itself, and is told one action at a time.
//!
//! A router that only maps for ever is told so, and gets the port back at the end; one whose port is taken is asked for
//! others. All is said anew well before it runs out, so a router that forgot everything is put right, too.

use std::{collections::VecDeque, net::SocketAddrV4, time::Duration};

use castanet_core::Moment;

use super::{
    Granted, Layer, Method, Place, Standing,
    soap::{self, Action, Ask, Service},
    ssdp::{self, Page},
};

/// How often the search is sent.
const SEARCHES: u32 = 3;
/// Between two searches. Devices may take a second to answer.
const SEARCH_EVERY: Duration = Duration::from_millis(1500);
/// Devices that may describe themselves before no more are listened to.
const MOST_DEVICES: usize = 8;
/// Ports that are tried if the first is taken.
const MOST_PORTS: u32 = 4;
/// How often everything is said anew at least: a router that has restarted knows nothing of us.
const RENEW_EVERY: Duration = Duration::from_secs(600);
const SHORTEST: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    Map(Layer),
    Unmap(Layer),
    Address,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Igd {
    place: Place,
    lifetime: Duration,
    random: fastrand::Rng,
    searches: u32,
    search_at: Moment,
    /// Search datagrams to send.
    outbox: VecDeque<Vec<u8>>,
    /// Devices that have answered: those to ask yet, and all.
    devices: VecDeque<Page>,
    known: Vec<Page>,
    service: Option<Service>,
    errands: VecDeque<Errand>,
    /// A question is out.
    is_asking: bool,
    /// The page that is being read.
    reading: Option<Page>,
    current: Option<Errand>,
    granted: Granted,
    /// The port that is tried, and how many were.
    external: u16,
    tried: u32,
    renew_at: Moment,
    is_leaving: bool,
    standing: Standing,
}

impl Igd {
    pub(super) fn new(place: Place, lifetime: Duration, seed: u64, now: Moment) -> Self {
        Self {
            place,
            lifetime: lifetime.max(SHORTEST),
            random: fastrand::Rng::with_seed(seed),
            searches: 0,
            search_at: now,
            outbox: VecDeque::new(),
            devices: VecDeque::new(),
            known: Vec::new(),
            service: None,
            errands: VecDeque::new(),
            is_asking: false,
            reading: None,
            current: None,
            granted: Granted::default(),
            external: place.port,
            tried: 0,
            renew_at: Moment::NEVER,
            is_leaving: false,
            standing: Standing::Asking,
        }
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn deadline(&self) -> Moment {
        match self.standing {
            Standing::Failed(_) | Standing::Over => Moment::NEVER,
            _ if !self.outbox.is_empty() => Moment::ZERO,
            _ if self.service.is_none() && !self.is_leaving => self.search_at,
            _ => self.renew_at,
        }
    }

    /// Takes back what was granted.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
        self.outbox.clear();
        self.renew_at = Moment::NEVER;
        if self.current.is_some() {
            // What is granted in this moment is taken back, too.
            return self.errands.clear();
        }
        let granted = Layer::BOTH.into_iter().filter(|layer| self.granted.of(*layer).is_some());
        self.errands = granted.map(Errand::Unmap).collect();
        self.standing = if self.errands.is_empty() { Standing::Over } else { Standing::Asking };
    }

    /// The next datagram to [`ssdp::GROUP`], if one is due.
    pub(super) fn poll(&mut self, now: Moment) -> Option<Vec<u8>> {
        if self.deadline() <= now && self.service.is_none() && self.outbox.is_empty() {
            self.search(now);
        }
        if self.renew_at <= now {
            self.ask_for_all();
        }
        self.outbox.pop_front()
    }

    fn search(&mut self, now: Moment) {
        if self.searches >= SEARCHES {
            // Whoever is asked in this moment may still turn out to be the one.
            self.search_at = Moment::NEVER;
            if !self.is_asking && self.devices.is_empty() {
                let nobody = if self.known.is_empty() { "no router answers" } else { "no router maps ports" };
                self.standing = Standing::Failed(nobody.to_owned());
            }
            return;
        }
        self.searches += 1;
        self.search_at = now + SEARCH_EVERY;
        self.outbox.extend(ssdp::searches());
    }

    /// A datagram came.
    pub(super) fn handle(&mut self, datagram: &[u8], from: SocketAddrV4) {
        let is_believed = self.place.gateway.is_none_or(|gateway| gateway == *from.ip());
        if self.service.is_some() || self.is_leaving || !is_believed || self.known.len() >= MOST_DEVICES {
            return;
        }
        if let Some(page) = ssdp::parse(datagram, *from.ip()).filter(|page| !self.known.contains(page)) {
            self.known.push(page.clone());
            self.devices.push_back(page);
        }
    }

    /// The next question, if one is due. Its answer goes to [`Igd::answered`] before there is another.
    pub(super) fn ask(&mut self) -> Option<Ask> {
        if self.is_asking || matches!(self.standing, Standing::Failed(_) | Standing::Over) {
            return None;
        }
        let ask = match &self.service {
            None => {
                let page = self.devices.pop_front()?;
                self.reading = Some(page.clone());
                Ask::page(page)
            }
            Some(service) => {
                let errand = self.errands.pop_front()?;
                self.current = Some(errand);
                service.ask(self.action(errand))
            }
        };
        self.is_asking = true;
        Some(ask)
    }

    fn action(&self, errand: Errand) -> Action {
        let Place { client, port, .. } = self.place;
        match errand {
            Errand::Address => Action::Address,
            Errand::Map(layer) => Action::Map { layer, external: self.external, port, client, lifetime: self.lifetime },
            Errand::Unmap(layer) => Action::Unmap { layer, external: self.granted.of(layer).unwrap_or(port) },
        }
    }

    fn ask_for_all(&mut self) {
        self.errands = Layer::BOTH.into_iter().map(Errand::Map).chain([Errand::Address]).collect();
        self.renew_at = Moment::NEVER;
    }

    /// What came of the question: the status and the body, or why there is none.
    pub(super) fn answered(&mut self, answer: Result<(u16, &str), &str>, now: Moment) {
        self.is_asking = false;
        let (reading, current) = (self.reading.take(), self.current.take());
        match (reading, current) {
            (Some(page), _) => self.read(&page, answer),
            (None, Some(errand)) => {
                self.told(errand, answer);
                self.settle(errand, now);
            }
            (None, None) => {}
        }
    }

    fn read(&mut self, page: &Page, answer: Result<(u16, &str), &str>) {
        let description = answer.ok().filter(|(status, _)| *status == 200).map(|(_, body)| body);
        self.service = description.and_then(|description| soap::service(description, page));
        if self.service.is_some() {
            if !self.is_leaving {
                self.ask_for_all();
            }
        } else if self.search_at == Moment::NEVER && self.devices.is_empty() {
            self.standing = Standing::Failed("no router maps ports".to_owned());
        }
    }

    fn told(&mut self, errand: Errand, answer: Result<(u16, &str), &str>) {
        let failure = match answer {
            Ok((200, body)) => {
                match errand {
                    Errand::Map(layer) => self.granted.set(layer, self.external),
                    Errand::Address => self.granted.address = soap::address(body),
                    Errand::Unmap(_) => {}
                }
                return;
            }
            Ok((_, body)) => soap::error(body).ok_or("it answers nonsense"),
            Err(reason) => Err(reason),
        };
        let Errand::Map(layer) = errand else { return };
        if self.is_leaving {
            return;
        }
        match failure {
            // It maps for ever only, so it is told to, and told to stop at the end.
            Ok(725) if !self.lifetime.is_zero() => {
                self.lifetime = Duration::ZERO;
                self.errands.push_front(errand);
            }
            Ok(718) if layer == Layer::Tcp && self.tried < MOST_PORTS => {
                self.tried += 1;
                self.external = self.random.u16(10_000..60_000);
                self.errands.push_front(errand);
            }
            _ if layer == Layer::Udp => self.granted.udp = None,
            failure => {
                self.granted.tcp = None;
                self.standing = Standing::Failed(failure.map_or_else(str::to_owned, soap::reason));
            }
        }
    }

    fn settle(&mut self, errand: Errand, now: Moment) {
        if !self.errands.is_empty() || matches!(self.standing, Standing::Failed(_)) {
            return;
        }
        if matches!(errand, Errand::Unmap(_)) {
            return self.standing = Standing::Over;
        }
        if self.is_leaving {
            return self.leave();
        }
        let pause = if self.lifetime.is_zero() { RENEW_EVERY } else { (self.lifetime / 2).min(RENEW_EVERY) };
        self.renew_at = now + pause;
        self.standing = match self.granted.open(self.place.port, Method::Upnp) {
            Some(open) => Standing::Open(open),
            None => Standing::Failed("it tells no address".to_owned()),
        };
    }
}
