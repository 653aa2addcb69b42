//! Mapping by PCP or NAT-PMP: one question at a time, sent again until it is answered or given up.
//!
//! What is granted is renewed after half of its lifetime. In between the router is asked now and then how long it has been
//! up: when it has forgotten everything (its epoch has gone backwards), all is asked for anew.

use std::{collections::VecDeque, time::Duration};

use castanet_core::Moment;

use super::{
    Granted, Layer, Method, OpenPort, Place, Standing,
    packet::{About, Answer, Nonce, Question, Trouble, encode, parse},
};

/// How long the first answer may take; it doubles with every try.
const FIRST_PATIENCE: Duration = Duration::from_millis(250);
/// How often a question is sent; the answer may take almost two seconds in all.
const TRIES: u32 = 3;
/// How often it is looked whether the router has forgotten us.
const PROBE_EVERY: Duration = Duration::from_secs(120);
/// The shortest lifetime that is believed: nobody makes us ask more often than every five seconds.
const SHORTEST: Duration = Duration::from_secs(10);
/// The pause before a router that has forgotten us is asked again; it doubles, so many times.
const FORGOTTEN_PAUSE: Duration = Duration::from_secs(1);
const MOST_DOUBLINGS: u32 = 8;
/// The shortest pause before a renewal that nobody answered is tried again.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// What is wanted of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    /// How it is.
    Look,
    /// To map.
    Map(Layer),
    /// To do so no more.
    Unmap(Layer),
}

#[derive(Debug)]
struct Asked {
    errand: Errand,
    tries: u32,
    again: Moment,
}

/// The machine, for one router.
#[derive(Debug)]
pub(super) struct Control {
    method: Method,
    place: Place,
    lifetime: Duration,
    nonce: Nonce,
    errands: VecDeque<Errand>,
    asked: Option<Asked>,
    granted: Granted,
    renew_at: Moment,
    expires_at: Moment,
    probe_at: Moment,
    /// What the router's clock showed, and when that was.
    epoch: Option<(u32, Moment)>,
    /// How often in a row its clock has shown that it has forgotten us.
    forgotten: u32,
    standing: Standing,
}

impl Control {
    pub(super) fn new(method: Method, place: Place, lifetime: Duration, nonce: Nonce) -> Self {
        let mut control = Self {
            method,
            place,
            lifetime,
            nonce,
            errands: VecDeque::new(),
            asked: None,
            granted: Granted::default(),
            renew_at: Moment::NEVER,
            expires_at: Moment::NEVER,
            probe_at: Moment::NEVER,
            epoch: None,
            forgotten: 0,
            standing: Standing::Asking,
        };
        control.ask_for_all();
        control
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn deadline(&self) -> Moment {
        match (&self.standing, &self.asked) {
            (Standing::Failed(_) | Standing::Over, _) => Moment::NEVER,
            (_, Some(asked)) => asked.again,
            (_, None) if !self.errands.is_empty() => Moment::ZERO,
            _ => self.renew_at.min(self.probe_at),
        }
    }

    /// Takes back what was granted.
    pub(super) fn leave(&mut self) {
        // What was asked for and not answered yet may be granted all the same.
        let asked = self.asked.take().map(|asked| asked.errand);
        let is_there = |layer: &Layer| self.granted.of(*layer).is_some() || asked == Some(Errand::Map(*layer));
        let granted = Layer::BOTH.into_iter().filter(is_there);
        self.errands = granted.map(Errand::Unmap).collect();
        self.standing = if self.errands.is_empty() { Standing::Over } else { Standing::Asking };
    }

    /// The next datagram, if one is due.
    pub(super) fn poll(&mut self, now: Moment) -> Option<Vec<u8>> {
        while self.deadline() <= now {
            if self.asked.is_none() && self.errands.is_empty() {
                if self.renew_at <= now {
                    self.ask_for_all();
                } else {
                    self.errands.push_back(Errand::Look);
                }
                self.probe_at = now + PROBE_EVERY;
            }
            let asked = match self.asked.take() {
                Some(asked) if asked.tries >= TRIES => {
                    self.refused(asked.errand, "it does not answer", true, now);
                    continue;
                }
                Some(asked) => Some((asked.errand, asked.tries)),
                None => self.errands.pop_front().map(|errand| (errand, 0)),
            };
            let (errand, tries) = asked?;
            self.asked = Some(Asked { errand, tries: tries + 1, again: now + FIRST_PATIENCE * 2u32.pow(tries) });
            return Some(encode(self.method, self.question(errand), self.place.client, &self.nonce));
        }
        None
    }

    /// A datagram came from the router.
    pub(super) fn handle(&mut self, datagram: &[u8], now: Moment) {
        let Some(errand) = self.asked.as_ref().map(|asked| asked.errand) else { return };
        match parse(self.method, datagram, &self.nonce) {
            Ok(answer) if self.is_about(errand, &answer) => {
                self.asked = None;
                self.answered(errand, answer, now);
            }
            Ok(_) | Err(Trouble::Noise) => {}
            Err(Trouble::Version) => {
                let reason = format!("it does not speak {}", self.method);
                self.asked = None;
                self.refused(errand, &reason, false, now);
            }
            Err(Trouble::Refused(reason)) => {
                self.asked = None;
                self.refused(errand, reason, false, now);
            }
        }
    }

    fn question(&self, errand: Errand) -> Question {
        let port = self.place.port;
        match errand {
            Errand::Look => Question::About,
            Errand::Map(layer) => {
                // UDP wants the port that TCP has got.
                let suggested = self.granted.of(layer).or(self.granted.tcp).unwrap_or(port);
                Question::Map { layer, port, suggested, lifetime: self.lifetime }
            }
            Errand::Unmap(layer) => Question::Map { layer, port, suggested: 0, lifetime: Duration::ZERO },
        }
    }

    fn is_about(&self, errand: Errand, answer: &Answer) -> bool {
        match (errand, answer.about) {
            (Errand::Look, About::Itself(_)) => true,
            (Errand::Map(asked), About::Mapped { layer, port, lifetime, .. }) => {
                layer == asked && port == self.place.port && !lifetime.is_zero()
            }
            (Errand::Unmap(asked), About::Mapped { layer, port, .. }) => layer == asked && port == self.place.port,
            _ => false,
        }
    }

    fn ask_for_all(&mut self) {
        // By PCP the address comes with each mapping.
        let look = (self.method == Method::NatPmp).then_some(Errand::Look);
        self.errands = look.into_iter().chain(Layer::BOTH.map(Errand::Map)).collect();
        self.renew_at = Moment::NEVER;
    }

    fn answered(&mut self, errand: Errand, answer: Answer, now: Moment) {
        let has_forgotten =
            self.epoch.replace((answer.epoch, now)).is_some_and(|then| !is_later(then, answer.epoch, now));
        match answer.about {
            About::Itself(address) => self.granted.address = address.or(self.granted.address),
            About::Mapped { layer, external, address, lifetime, .. } if !lifetime.is_zero() => {
                self.granted.set(layer, external);
                self.granted.address = address.or(self.granted.address);
                let lifetime = lifetime.min(self.lifetime).max(SHORTEST);
                if layer == Layer::Tcp {
                    (self.renew_at, self.expires_at) = (now + lifetime / 2, now + lifetime);
                } else {
                    self.renew_at = self.renew_at.min(now + lifetime / 2);
                }
            }
            About::Mapped { .. } => {}
        }
        self.settle(errand, now);
        if has_forgotten && !matches!(errand, Errand::Unmap(_)) {
            // A clock that is odd is no reason to ask on and on.
            self.renew_at = self.renew_at.min(now + FORGOTTEN_PAUSE * 2u32.pow(self.forgotten));
            self.forgotten = (self.forgotten + 1).min(MOST_DOUBLINGS);
        } else if errand == Errand::Look {
            self.forgotten = 0;
        }
    }

    /// It went wrong, perhaps only because nobody answered.
    fn refused(&mut self, errand: Errand, reason: &str, is_silence: bool, now: Moment) {
        let is_open = matches!(self.standing, Standing::Open(_));
        match errand {
            Errand::Map(Layer::Udp) => self.granted.udp = None,
            Errand::Unmap(_) => {}
            // Some do not say how they are; the renewals will tell.
            Errand::Look if is_open && self.renew_at != Moment::NEVER => {
                // One that did not answer this time may be starting anew.
                let is_new = is_silence && self.epoch.is_some();
                self.probe_at = if is_new { now + PROBE_EVERY } else { Moment::NEVER };
                return;
            }
            _ if is_open && is_silence && now < self.expires_at => {
                self.errands.clear();
                self.renew_at = now + (self.expires_at.since(now) / 2).max(RENEWAL_PAUSE);
                return;
            }
            _ => return self.standing = Standing::Failed(reason.to_owned()),
        }
        self.settle(errand, now);
    }

    /// Is this all there was to do?
    fn settle(&mut self, errand: Errand, now: Moment) {
        if !self.errands.is_empty() {
            return;
        }
        if matches!(errand, Errand::Unmap(_)) {
            return self.standing = Standing::Over;
        }
        if self.probe_at == Moment::NEVER && !matches!(self.standing, Standing::Open(_)) {
            self.probe_at = now + PROBE_EVERY;
        }
        self.standing = match self.open() {
            Some(open) => Standing::Open(open),
            None => Standing::Failed("it tells no address".to_owned()),
        };
    }

    fn open(&self) -> Option<OpenPort> {
        self.granted.open(self.place.port, self.method)
    }
}

/// Has the router's clock gone on with ours since, give or take what RFC 6887, 8.5, allows?
fn is_later((epoch, then): (u32, Moment), epoch_now: u32, now: Moment) -> bool {
    let (theirs, ours) = (i64::from(epoch_now) - i64::from(epoch), now.since(then).as_secs() as i64);
    theirs >= -1 && ours + 2 >= theirs - theirs / 16 && theirs + 2 >= ours - ours / 16
}
