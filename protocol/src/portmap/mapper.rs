//! The whole: which way of asking is tried when, what is told of it, and the good-bye.

use std::{collections::VecDeque, net::SocketAddrV4, time::Duration};

use castanet_core::Moment;

use super::{
    Method, OpenPort, Place, PortMapping, Standing,
    control::Control,
    igd::Igd,
    packet::{self, Nonce},
    soap::Ask,
    ssdp,
};

/// The first pause when no way works; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(1800);
/// The pause before all ways are tried again when one that worked does not any more.
const SHORT_PAUSE: Duration = Duration::from_secs(5);

/// What the machine is told.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A datagram came.
    Datagram {
        /// From whom.
        from: SocketAddrV4,
        /// What it holds.
        payload: &'a [u8],
    },
    /// The answer to an [`Ask`]: the status and the body, or why there is none.
    Answered(Result<(u16, &'a str), &'a str>),
    /// To take back what is open.
    Leave,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To send a datagram.
    Send {
        /// Whom to.
        to: SocketAddrV4,
        /// What.
        datagram: Vec<u8>,
    },
    /// To ask a web server. There is one such question at a time.
    Ask(Ask),
    /// To tell the session.
    Report(Report),
}

/// What the session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The port is open, or is so elsewhere now.
    Open(OpenPort),
    /// It is not, or no more; a reason that a user can read.
    Closed(String),
}

#[derive(Debug)]
enum Way {
    Control(Box<Control>),
    Igd(Box<Igd>),
    Rest(Moment),
    Over,
}

/// The machine, for one [`Place`].
#[derive(Debug)]
pub struct Mapper {
    place: Place,
    settings: PortMapping,
    nonce: Nonce,
    seed: u64,
    /// Which of the methods is tried.
    at: usize,
    way: Way,
    /// Why it is given up, while what it has granted is taken back.
    failing: Option<String>,
    /// What came of those before.
    failures: Vec<String>,
    pause: Duration,
    reports: VecDeque<Report>,
    open: Option<OpenPort>,
    is_leaving: bool,
}

impl Way {
    /// Takes back what is granted, and is over then.
    fn leave(&mut self) {
        match self {
            Self::Control(control) => control.leave(),
            Self::Igd(igd) => igd.leave(),
            Self::Rest(_) | Self::Over => *self = Self::Over,
        }
    }
}

impl Mapper {
    /// Maps the port of `place`. With the same seed a router knows us again.
    pub fn new(place: Place, settings: PortMapping, seed: u64, now: Moment) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ u64::from(place.port));
        let mut nonce = Nonce::default();
        random.fill(&mut nonce);
        Self {
            place,
            settings,
            nonce,
            seed,
            at: 0,
            way: Way::Rest(now),
            failing: None,
            failures: Vec::new(),
            pause: FIRST_PAUSE,
            reports: VecDeque::new(),
            open: None,
            is_leaving: false,
        }
    }

    /// Nothing more will be done.
    pub fn is_over(&self) -> bool {
        matches!(self.way, Way::Over)
    }

    /// When to poll next, if nothing comes before.
    pub fn deadline(&self) -> Moment {
        match &self.way {
            Way::Control(control) => control.deadline(),
            Way::Igd(igd) => igd.deadline(),
            Way::Rest(until) => *until,
            Way::Over => Moment::NEVER,
        }
    }

    /// Tells it what happened; poll after it.
    pub fn handle(&mut self, input: Input<'_>, now: Moment) {
        match (input, &mut self.way) {
            (Input::Datagram { from, payload }, Way::Control(control)) => {
                let is_gateway = self.place.gateway == Some(*from.ip()) && from.port() == packet::PORT;
                if is_gateway {
                    control.handle(payload, now);
                }
            }
            (Input::Datagram { from, payload }, Way::Igd(igd)) => igd.handle(payload, from),
            (Input::Answered(answer), Way::Igd(igd)) => igd.answered(answer, now),
            (Input::Leave, way) => {
                self.is_leaving = true;
                way.leave();
            }
            _ => {}
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self, now: Moment) -> Option<Output> {
        loop {
            if let Some(report) = self.reports.pop_front() {
                return Some(Output::Report(report));
            }
            let standing = match &mut self.way {
                Way::Control(control) => {
                    if let (Some(datagram), Some(gateway)) = (control.poll(now), self.place.gateway) {
                        let to = SocketAddrV4::new(gateway, packet::PORT);
                        return Some(Output::Send { to, datagram });
                    }
                    control.standing()
                }
                Way::Igd(igd) => {
                    if let Some(datagram) = igd.poll(now) {
                        return Some(Output::Send { to: ssdp::GROUP, datagram });
                    }
                    if let Some(ask) = igd.ask() {
                        return Some(Output::Ask(ask));
                    }
                    igd.standing()
                }
                Way::Rest(until) if *until <= now => {
                    self.failures.clear();
                    self.begin(0, now);
                    continue;
                }
                Way::Rest(_) | Way::Over => return None,
            };
            match standing.clone() {
                Standing::Failed(_) | Standing::Over if self.is_leaving => self.way = Way::Over,
                Standing::Open(open) if self.open != Some(open) && !self.is_leaving => {
                    self.open = Some(open);
                    self.pause = FIRST_PAUSE;
                    self.reports.push_back(Report::Open(open));
                }
                // What it has granted is taken back before another way is tried.
                Standing::Failed(reason) if self.failing.is_none() => {
                    self.failing = Some(reason);
                    self.way.leave();
                }
                Standing::Failed(_) | Standing::Over => {
                    let reason = self.failing.take().unwrap_or_default();
                    self.failed(&reason, now);
                }
                _ => return None,
            }
        }
    }

    /// Tries the method of this number, or rests if there is none.
    fn begin(&mut self, at: usize, now: Moment) {
        let (place, lifetime) = (self.place, self.settings.lifetime);
        self.at = at;
        match self.settings.methods.get(at).copied() {
            Some(Method::Upnp) => self.way = Way::Igd(Box::new(Igd::new(place, lifetime, self.seed, now))),
            Some(method) if place.gateway.is_some() => {
                self.way = Way::Control(Box::new(Control::new(method, place, lifetime, self.nonce)));
            }
            Some(method) => {
                self.failures.push(format!("{method}: the router is not known"));
                self.begin(at + 1, now);
            }
            None => {
                let reasons = self.failures.join("; ");
                self.reports.push_back(Report::Closed(format!("No router opens port {}: {reasons}", place.port)));
                self.way = Way::Rest(now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    fn failed(&mut self, reason: &str, now: Moment) {
        let Some(method) = self.settings.methods.get(self.at) else { return };
        let reason = format!("{method}: {reason}");
        if let Some(OpenPort { port, .. }) = self.open.take() {
            self.reports.push_back(Report::Closed(format!("Port {port} is no longer open to the world: {reason}")));
            self.way = Way::Rest(now + SHORT_PAUSE);
            return;
        }
        self.failures.push(reason);
        self.begin(self.at + 1, now);
    }
}
