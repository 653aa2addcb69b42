//! The session and the network: where it listens, who is greeted there, and what it does when the network is another one.
//!
//! The network's changes are looked for, now and then. Without an interface that everything is held to, they are told
//! to those who speak of us to others, and to those who dial; sockets go on as they are. With one, connections end with the interface,
//! and when it is back, perhaps with other addresses, the session listens anew. Greeting ends with the session.

use std::{collections::BTreeMap, io, mem, net::SocketAddr, sync::Arc};

use actix::prelude::*;
use castanet_core::{
    addr::host_of,
    seams::{
        datagrams::WaysOut,
        discovery::News,
        transport::{Listener, Transport, TransportError},
    },
};
use castanet_protocol::wire::{Handshake, Reserved};
use futures_util::StreamExt as _;
use tokio::task::JoinSet;

use super::{MOST_GREETED, MOST_OF_A_HOST, Session};
use crate::{
    mail::tell,
    messages::torrent::{NetworkChanged, PeerArrived},
    shake,
    shared::{Door, Shared},
};

/// Listeners that are open.
#[derive(Debug, Default)]
pub struct Listening {
    /// Where they were asked for, with the ports that were given.
    asked: Vec<SocketAddr>,
    open: Vec<Listener>,
}

impl From<Vec<Listener>> for Listening {
    fn from(open: Vec<Listener>) -> Self {
        Self { asked: open.iter().map(|listener| listener.local).collect(), open }
    }
}

impl Listening {
    /// Listens at every address, over every transport. Of addresses that mean all of a family, those are passed over
    /// whose family there is not, as long as another is left.
    ///
    /// # Errors
    /// In words, with the address.
    pub async fn open(transports: &[Arc<dyn Transport>], on: &[SocketAddr]) -> Result<Self, String> {
        let mut listening = Self { asked: on.to_vec(), open: Vec::new() };
        let mut trouble = None;
        for transport in transports {
            for asked in &mut listening.asked {
                match transport.listen(*asked).await {
                    Ok(listener) => {
                        asked.set_port(listener.local.port());
                        listening.open.push(listener);
                    }
                    Err(error) => {
                        let reason = format!("cannot listen on {asked}: {error}");
                        if !(asked.ip().is_unspecified() && is_of_family(&error)) {
                            return Err(reason);
                        }
                        trouble = Some(reason);
                    }
                }
            }
        }
        match trouble {
            Some(reason) if listening.open.is_empty() => Err(reason),
            _ => Ok(listening),
        }
    }

    /// Where others reach us.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|listener| listener.local).collect()
    }
}

fn is_of_family(error: &TransportError) -> bool {
    match error {
        TransportError::Unsupported { .. } => true,
        TransportError::Io(error) => error.kind() == io::ErrorKind::Unsupported,
        _ => false,
    }
}

/// The listeners at work.
#[derive(Debug, Default)]
pub(super) struct Ears {
    asked: Vec<SocketAddr>,
    greeting: JoinSet<()>,
    /// Listeners are being opened.
    opening: Option<SpawnHandle>,
}

impl Ears {
    fn are_deaf(&self) -> bool {
        self.greeting.is_empty() && !self.asked.is_empty() && self.opening.is_none()
    }
}

impl Session {
    /// Greets whoever comes by these listeners.
    pub(super) fn listen(&mut self, listening: Listening) {
        if let Ok(mut addresses) = self.shared.listening.write() {
            *addresses = listening.addresses();
        }
        self.ears.asked = listening.asked;
        for listener in listening.open {
            self.ears.greeting.spawn_local(welcome(listener, self.shared.clone()));
        }
    }

    /// Looks whether the network is another one, or is back, and does what that demands.
    pub(super) fn look_around(&mut self, ctx: &mut Context<Self>) {
        let now = self.shared.means.datagrams.ways_out();
        let before = mem::replace(&mut self.ways_out, now.clone());
        let is_held = now.only.is_some();
        if before == now {
            if is_held && now.is_any() && self.ears.are_deaf() {
                self.listen_anew(true, ctx);
            }
            return;
        }
        if now.is_any() {
            tracing::info!(addresses = ?now.from.iter().flatten().collect::<Vec<_>>(), "the network has changed");
        }
        if is_held {
            self.held_network_changed(&before, &now, ctx);
        } else if now.is_any() {
            self.tell_torrents(&NetworkChanged { are_lost: false, notice: None });
            self.tell_plugins(&News::NetworkChanged);
            self.map_anew();
        }
    }

    fn held_network_changed(&mut self, before: &WaysOut, now: &WaysOut, ctx: &mut Context<Self>) {
        let Some(only) = &now.only else { return };
        let (was_there, is_there, are_lost) = (before.is_any(), now.is_any(), before.are_over(now));
        let notice: Option<Arc<str>> = match (was_there, is_there) {
            (true, false) => Some(format!("{} is gone; everything waits until it is back", only.name).into()),
            (false, true) => Some(format!("{} is back", only.name).into()),
            _ if are_lost => Some(format!("{} is another one by now; everything connects anew", only.name).into()),
            _ => None,
        };
        if let Some(notice) = &notice {
            tracing::warn!("{notice}");
        }
        if let Ok(mut away) = self.shared.away.write() {
            *away = notice.clone().filter(|_| !is_there);
        }
        self.tell_torrents(&NetworkChanged { are_lost, notice });
        if is_there {
            self.listen_anew(false, ctx);
        } else {
            self.fall_silent(ctx);
        }
    }

    /// Closes the listeners; their end is waited for by whoever takes what is returned.
    fn fall_silent(&mut self, ctx: &mut Context<Self>) -> JoinSet<()> {
        if let Some(opening) = self.ears.opening.take() {
            ctx.cancel_future(opening);
        }
        if let Ok(mut addresses) = self.shared.listening.write() {
            addresses.clear();
        }
        let mut greeting = mem::take(&mut self.ears.greeting);
        greeting.abort_all();
        greeting
    }

    /// Listens again where it was asked to, and then tells the plugins. What cannot be had is tried again later
    /// (`is_again`), which is told to nobody before it can.
    fn listen_anew(&mut self, is_again: bool, ctx: &mut Context<Self>) {
        let mut before = self.fall_silent(ctx);
        let (transports, asked) = (self.shared.transports.clone(), self.ears.asked.clone());
        let opening = async move {
            // The port is free only then.
            before.shutdown().await;
            Listening::open(&transports, &asked).await
        };
        let opened = opening.into_actor(self).map(move |opened, session, _| {
            session.ears.opening = None;
            match opened {
                Ok(listening) => session.listen(listening),
                Err(reason) if is_again => return tracing::debug!("{reason}; it is tried again"),
                Err(reason) => tracing::warn!("{reason}; it is tried again"),
            }
            session.tell_plugins(&News::NetworkChanged);
            session.map_anew();
        });
        self.ears.opening = Some(ctx.spawn(opened));
    }

    fn tell_torrents(&self, changed: &NetworkChanged) {
        for running in self.torrents.values() {
            tell(&running.addr.clone().recipient(), changed.clone());
        }
    }
}

/// Greets whoever connects, for as long as the session lives.
async fn welcome(mut listener: Listener, shared: Shared) {
    // Those who are being greeted are let go with the session.
    let mut greeted = JoinSet::new();
    let mut hosts = BTreeMap::new();
    while let Some(next) = listener.incoming.next().await {
        while let Some(ended) = greeted.try_join_next_with_id() {
            hosts.remove(&ended.map_or_else(|panicked| panicked.id(), |(task, ())| task));
        }
        let Ok(mut connection) = next else { continue };
        let host = host_of(connection.remote.ip());
        let is_crowd = !host.is_loopback() && hosts.values().filter(|other| **other == host).count() >= MOST_OF_A_HOST;
        if greeted.len() >= MOST_GREETED || is_crowd {
            continue;
        }
        let doors = shared.doors.clone();
        let task = greeted.spawn_local(async move {
            let remote = connection.remote;
            let ours = |hash: &[u8; 20]| {
                let doors = doors.read().ok()?;
                let Door { peer_id, dht, .. } = doors.get(hash)?;
                let reserved = Reserved::ours().with_dht(*dht);
                Some(Handshake { reserved, info_hash: *hash, peer_id: *peer_id })
            };
            match shake::inbound(&mut connection, ours).await {
                Ok((handshake, early)) => {
                    let door = doors.read().ok().and_then(|doors| doors.get(&handshake.info_hash).cloned());
                    if let Some(door) = door {
                        tell(&door.arrived, PeerArrived { connection, handshake, early, inbound: true });
                    }
                }
                Err(reason) => tracing::debug!(peer = %remote, reason, "connection refused"),
            }
        });
        hosts.insert(task.id(), host);
    }
}
