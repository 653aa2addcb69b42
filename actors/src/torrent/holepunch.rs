//! Holepunching (BEP 55): peers that cannot be dialled are reached by way of one who is connected to both.
//!
//! Owns nothing: `protocol/src/holepunch.rs` decides whom to ask, what to pass on and whom to dial at this moment, and hears of
//! every connection that is introduced or gone. Whoever is dialled counts as found by `holepunch`. Nothing of it
//! happens for private torrents (BEP 27), where the user's list of plugins leaves it out, or without uTP.

use std::net::SocketAddr;

use actix::prelude::*;
use castanet_core::{PeerKey, PluginName, seams::discovery::PeerCandidate};
use castanet_protocol::{
    extension::Extension,
    holepunch::{Message, Output},
    swarm::DialFailure,
};

use super::{Torrent, is_allowed};
use crate::messages::torrent::Happening;

/// The name under which it is allowed, and its peers are counted.
pub(super) const NAME: &str = "holepunch";
/// The one transport whose first packet opens a NAT for the other side's.
pub(super) const UTP: &str = "utp";

impl Torrent {
    /// May it be done here?
    pub(super) fn punches_holes(&self) -> bool {
        let has_utp = || self.shared.transports.iter().any(|transport| transport.includes(UTP));
        !self.is_private() && is_allowed(&self.spec, &PluginName::from(NAME)) && has_utp()
    }

    /// A peer has said what it understands. Others may know it by where it accepts connections; over uTP that is where it
    /// dials from, which its NAT has opened.
    pub(super) fn could_relay(&mut self, peer: PeerKey) {
        let now = self.now();
        let Some(connected) = self.peers.get(&peer) else { return };
        let contact = connected.listens.filter(|_| connected.via != UTP).unwrap_or(connected.remote);
        let understands = connected.extensions.contains(&Extension::Holepunch);
        self.holepunch.joined(connected.remote, contact, understands, now);
    }

    /// A peer could not be reached. Perhaps who named it is connected to it, as neighbours in a swarm (BEP 11) are.
    pub(super) fn dial_in_vain(&mut self, target: SocketAddr, why: DialFailure, ctx: &mut Context<Self>) {
        let is_out_of_reach = matches!(why, DialFailure::TimedOut | DialFailure::Unreachable | DialFailure::Refused);
        if is_out_of_reach && self.punches_holes() {
            let now = self.now();
            let named_by = self.swarm.provenance(target).iter().filter_map(|source| source.instance.parse().ok());
            self.holepunch.failed(target, named_by, now);
            self.punch(ctx);
        }
    }

    /// A peer asks, or answers.
    pub(super) fn holepunch_said(&mut self, peer: PeerKey, payload: &[u8], ctx: &mut Context<Self>) {
        let Some(remote) = self.peers.get(&peer).map(|connected| connected.remote) else { return };
        if self.punches_holes() {
            self.punching.message_received(payload.len());
            self.holepunch.heard(remote, payload, self.shared.clock.now());
            self.punch(ctx);
        }
    }

    /// Does what the machine wants done.
    fn punch(&mut self, ctx: &mut Context<Self>) {
        let (now, plugin) = (self.now(), PluginName::from(NAME));
        while let Some(output) = self.holepunch.poll() {
            match output {
                Output::Say { to, message } => self.say_holepunch(to, &message),
                Output::Dial { to, relay } => {
                    let found = PeerCandidate { addr: to, peer_id: None, instance: relay.to_string().into() };
                    let instance = found.instance.clone();
                    if self.swarm.found(&plugin, vec![found], now) > 0 {
                        self.happened(Happening::PeerFound { addr: to, plugin: plugin.clone(), instance });
                    }
                    if let Some(dial) = self.swarm.dial_now(to).filter(|_| self.is_running()) {
                        self.begin_dial(dial, Some(UTP), ctx);
                    }
                }
            }
        }
    }

    fn say_holepunch(&self, to: SocketAddr, message: &Message) {
        self.say_extended(to, Extension::Holepunch, message.encode().into(), &self.punching);
    }
}
