//! What datagrams mean: questions go to the server, answers to whoever asked.

use std::net::SocketAddr;

use castanet_core::Moment;

use super::{
    Dht,
    asking::{Pending, Purpose},
    side_of,
};
use crate::dht::{Body, Message, Node, Query, Response, Want, external::is_public, krpc::VERSION};

impl Dht {
    pub(super) fn hear(&mut self, from: SocketAddr, datagram: &[u8], now: Moment) {
        if !self.has_side(side_of(from)) {
            return;
        }
        let message = match Message::decode(datagram) {
            Ok(message) => message,
            Err(error) => {
                if !self.read_only
                    && let Some(reply) = self.server.refuse(&error, from, now)
                {
                    self.send(from, &reply);
                }
                return;
            }
        };
        match message.body {
            Body::Query(query) => self.answer(from, message.transaction, &query, now),
            Body::Response(response) => {
                if let Some(pending) = self.asking.take(&message.transaction, from) {
                    self.answered(pending, *response, message.your_addr, now);
                }
            }
            Body::Error { .. } => {
                if let Some(pending) = self.asking.take(&message.transaction, from) {
                    self.refused(pending);
                }
            }
        }
    }

    /// Somebody asks us something. A read-only node answers nobody (BEP 43).
    fn answer(&mut self, from: SocketAddr, transaction: Vec<u8>, query: &Query, now: Moment) {
        let us = self.sides[side_of(from)].table.own();
        if self.read_only || query.from == us {
            return;
        }
        let sides = &self.sides;
        let nodes = |target, want: Want| {
            let near = |side: usize, wanted: bool| match wanted {
                true => sides[side].table.nodes_for_others(&target, now),
                false => Vec::new(),
            };
            (near(0, want.v4), near(1, want.v6))
        };
        if let Some(body) = self.server.answer(query, from, us, nodes, now) {
            let message = Message { transaction, body, version: Some(VERSION), your_addr: Some(from) };
            self.send(from, &message);
        }
        if !query.read_only {
            self.maybe_ping(Node { id: query.from, addr: from }, true, now);
        }
    }

    /// An answer to a question of ours.
    fn answered(&mut self, pending: Pending, response: Response, our_addr: Option<SocketAddr>, now: Moment) {
        let node = Node { id: response.from, addr: pending.to };
        if self.sides[side_of(node.addr)].is_us(&node) {
            // A mirror, or ourselves by a name that we did not know.
            return self.refused(pending);
        }
        self.asking.learn(now.since(pending.sent));
        self.is_alive(node, our_addr, now);
        match pending.purpose {
            Purpose::Upkeep => {
                let (named, of_side) = match side_of(node.addr) {
                    0 => (response.nodes, 0),
                    _ => (response.nodes6, 1),
                };
                let public = is_public(node.addr.ip());
                let nearby = |named: &Node| side_of(named.addr) == of_side && (!public || is_public(named.addr.ip()));
                named.into_iter().filter(nearby).for_each(|named| self.maybe_ping(named, false, now));
            }
            Purpose::Search(key) => self.search_answered(key, node, response),
            Purpose::Store(key, _) => self.store_answered(key, node.addr, true),
        }
    }

    /// A node refused what we asked, which is a sign of life but no use.
    fn refused(&mut self, pending: Pending) {
        match pending.purpose {
            Purpose::Upkeep => {}
            Purpose::Search(key) => {
                if let Some(running) = self.running.get_mut(&key) {
                    running.search.refused(pending.to);
                }
            }
            Purpose::Store(key, _) => self.store_answered(key, pending.to, false),
        }
    }
}
