//! Dials: begun as the swarm proposes, by one transport after another until a handshake succeeds.

use actix::prelude::*;
use castanet_core::seams::{discovery::Milestone, transport::DialOptions};
use castanet_protocol::{
    swarm::{Dial, DialFailure},
    wire::{Handshake, Reserved},
};

use super::Torrent;
use crate::{
    mail::tell,
    messages::torrent::{DialFailed, DialOpened, Happening, PeerArrived},
    shake,
};

impl Torrent {
    /// Dials whomever the swarm proposes, until it has had enough.
    pub(super) fn dial(&mut self, ctx: &mut Context<Self>) {
        while self.is_running()
            && self.shared.away().is_none()
            && let Some(dial) = self.swarm.next_dial(self.now())
        {
            if !self.may_meet(dial.addr) {
                self.swarm.dial_failed(dial.addr, DialFailure::Other, self.now());
                continue;
            }
            self.begin_dial(dial, None, ctx);
        }
        self.feed_back();
    }

    /// Dials a peer, by every transport in turn or by this one alone.
    pub(super) fn begin_dial(&mut self, dial: Dial, only: Option<&'static str>, ctx: &mut Context<Self>) {
        let (transports, info_hash, me) = (self.shared.transports.clone(), self.info_hash, self.me);
        let (arrived, failed) = (ctx.address().recipient(), ctx.address().recipient());
        let opened = ctx.address().recipient();
        let reserved = Reserved::ours().with_dht(self.dht_port().is_some());
        let ours = Handshake { reserved, info_hash, peer_id: me };
        while self.dials.try_join_next().is_some() {}
        self.dials.spawn_local(async move {
            let addr = dial.addr;
            let mut failure = (DialFailure::Unreachable, "no transport can reach it".to_string());
            for transport in transports.iter().filter(|way| only.is_none_or(|only| way.includes(only))) {
                let options = DialOptions { swarm: Some(info_hash), only, ..DialOptions::default() };
                let attempt = async {
                    let dialled = transport.dial(addr, options).await;
                    let mut connection = dialled.map_err(|error| (DialFailure::of(&error), error.to_string()))?;
                    tell(&opened, DialOpened);
                    let shaken = shake::outbound(&mut connection, ours).await;
                    let (handshake, early) = shaken.map_err(|reason| (DialFailure::Handshake, reason))?;
                    Ok::<_, (DialFailure, String)>(PeerArrived { connection, handshake, early, inbound: false })
                };
                match attempt.await {
                    Ok(peer) => return tell(&arrived, peer),
                    Err(error) => failure = error,
                }
            }
            let (kind, reason) = failure;
            tell(&failed, DialFailed { addr, kind, reason });
        });
    }
}

impl Handler<DialOpened> for Torrent {
    type Result = ();
    fn handle(&mut self, _: DialOpened, _: &mut Self::Context) {
        self.reach(Milestone::FirstConnected, self.now());
    }
}

impl Handler<DialFailed> for Torrent {
    type Result = ();
    fn handle(&mut self, DialFailed { addr, kind, reason }: DialFailed, ctx: &mut Self::Context) {
        self.swarm.dial_failed(addr, kind, self.now());
        self.happened(Happening::PeerLost { addr, reason });
        self.dial_in_vain(addr, kind, ctx);
        self.dial(ctx);
    }
}
