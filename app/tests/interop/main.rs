//! Castanet among the programs that people really run: libtorrent, Transmission, aria2, qBittorrent, rtorrent, and the
//! trackers opentracker and bittorrent-tracker. `./check` installs them and runs these tests; they need Linux and the
//! right to make a network namespace.
//!
//! Each test has a [`world`] of its own; [`programs`] drives the others, [`castanet`] drives ours.
#![allow(missing_docs)]

mod castanet;
mod http;
mod payload;
mod programs;
mod wire;
mod world;

mod dht;
mod discovery;
mod formats;
mod gossip;
mod holepunch;
mod kills;
mod leak;
mod links;
mod port_mapping;
mod privacy;
mod proxy;
mod sanity;
mod scale;
mod show;
mod swarm;
mod trackers;
mod transfers;
mod transports;
mod web;
