//! Over a link that is far, narrow and lossy, emulated between two namespaces; first that it is what it says it is.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use castanet_integration::emulator::Link;
use serde_json::{Value, json};

use crate::castanet::{Castanet, named};
use crate::payload::{self, Shape, Torrent};
use crate::programs::session::Session;
use crate::world::{self, HERE, NEXT_DOOR, Neighbour, World};

const MS: Duration = Duration::from_millis(1);
/// A link without faults.
const FLAWLESS: Link = Link { latency: MS, ..Link::FLAWLESS };
/// A tracker that is down.
const NOBODY: &str = "http://10.77.0.1:9/announce";

/// Answers every datagram until one is empty; says how many it answered.
fn echo(neighbour: &Neighbour) -> Result<(SocketAddr, thread::JoinHandle<usize>)> {
    let socket = neighbour.at(|| Ok(UdpSocket::bind((NEXT_DOOR[0], 7000))?))?;
    let address = socket.local_addr()?;
    socket.set_read_timeout(Some(world::PATIENCE))?;
    let answering = thread::spawn(move || {
        let (mut count, mut buffer) = (0, [0; 2000]);
        while let Ok((length, from)) = socket.recv_from(&mut buffer)
            && length > 0
        {
            count += 1;
            let _ = socket.send_to(&buffer[..length], from);
        }
        count
    });
    Ok((address, answering))
}

/// The round trips of so many datagrams, those that came back, by their numbers in the order in which they came back.
fn ping(to: SocketAddr, count: u32) -> Result<Vec<(u32, Duration)>> {
    let socket = UdpSocket::bind((HERE[0], 0))?;
    socket.connect(to)?;
    let answers = socket.try_clone()?;
    answers.set_read_timeout(Some(Duration::from_secs(2)))?;
    let start = Instant::now();
    let listening = thread::spawn(move || {
        let (mut came, mut buffer) = (Vec::new(), [0; 16]);
        while let Ok(12) = answers.recv(&mut buffer) {
            let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
            let sent = buffer[4..12].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            came.push((number, start.elapsed().saturating_sub(Duration::from_nanos(sent))));
        }
        came
    });
    for number in 0..count {
        let sent = u64::try_from(start.elapsed().as_nanos())?;
        socket.send(&[&number.to_be_bytes()[..], &sent.to_be_bytes()].concat())?;
        thread::sleep(MS);
    }
    let came = listening.join().expect("it does not panic");
    // Some may get lost.
    for _ in 0..20 {
        socket.send(&[])?;
    }
    Ok(came)
}

fn median(trips: &[(u32, Duration)]) -> Duration {
    let mut times: Vec<_> = trips.iter().map(|(_, took)| *took).collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[test]
fn datagrams_see_the_delay_and_the_losses() {
    world::test(|world| {
        let link = Link { latency: MS * 50, loss: 0.1, ..FLAWLESS };
        let neighbour = world.link(link, 1)?;
        let (to, answering) = echo(&neighbour)?;
        let came = ping(to, 1000)?;
        let there = answering.join().expect("it does not panic");
        // 90 % there, and 90 % of them back.
        ensure!((850..950).contains(&there), "{there} of 1000 went there");
        ensure!((740..880).contains(&came.len()), "{} of 1000 came back", came.len());
        ensure!(came.iter().all(|(_, took)| *took >= MS * 100), "no round trip is shorter than the link");
        ensure!(median(&came) < MS * 200, "and few are much longer: {:?}", median(&came));
        let [out, back] = neighbour.tallies().context("the wire counts")?;
        ensure!(out.arrived >= 850 && out.by_chance > 50 && back.by_chance > 50, "{out} {back}");
        ensure!(out.queue_full + back.queue_full + out.doubled == 0, "{out} {back}");
        Ok(())
    });
}

#[test]
fn datagrams_are_doubled_and_overtaken() {
    world::test(|world| {
        let link = Link { latency: MS * 30, doubled: 0.2, overtaken: 0.2, ..FLAWLESS };
        let neighbour = world.link(link, 2)?;
        let (to, answering) = echo(&neighbour)?;
        let came = ping(to, 500)?;
        answering.join().expect("it does not panic");
        ensure!((600..800).contains(&came.len()), "{} of 500 came back", came.len());
        ensure!(!came.is_sorted_by_key(|(number, _)| *number), "in order");
        Ok(())
    });
}

/// `castanet get` from a libtorrent that is reached over this link; answers with Castanet's events.
fn fetch(world: &World, torrent: &Torrent, link: Link, seed: u64) -> Result<Vec<Value>> {
    let neighbour = world.link(link, seed)?;
    let address: SocketAddr = format!("{}:7002", NEXT_DOOR[0]).parse()?;
    let mut session = neighbour.at(|| {
        Session::start(world, torrent, &torrent.folder, address, &json!({ "transports": ["tcp"] }))?.listens()
    })?;
    session.complete()?;
    let folder = world.folder("get")?;
    let peer = address.to_string();
    let events = Castanet::get(world, &torrent.file, &folder, &["--transport", "tcp", "--peer", &peer])?.complete()?;
    torrent.same_in(&folder, false)?;
    let tallies = neighbour.tallies().context("the wire counts")?;
    ensure!(tallies[1].arrived as usize > torrent.length / 1500, "it came by the wire: {}", tallies[1]);
    Ok(events)
}

/// Seconds from the first handshake until it was complete.
fn took(events: &[Value]) -> Result<f64> {
    let summary = named(events, "summary").next().context("no summary")?;
    let timeline = summary["timeline"].as_array().context("no timeline")?;
    let after = |milestone: &str| {
        let mut stations = timeline.iter().filter(|station| station["milestone"] == milestone);
        stations
            .next()
            .and_then(|station| station["after"].as_f64())
            .with_context(|| format!("{milestone}: {timeline:?}"))
    };
    Ok(after("complete")? - after("first_handshake")?)
}

#[test]
fn castanet_downloads_at_the_bandwidth() {
    world::test(|world| {
        let torrent = payload::make(world, Shape::OneFile, 21, 64 * 1024, &[NOBODY])?;
        let bandwidth = 1 << 20;
        let link = Link { latency: MS * 20, bandwidth: Some(bandwidth), queue: 128 << 10, ..FLAWLESS };
        let events = fetch(world, &torrent, link, 3)?;
        let rate = torrent.length as f64 / took(&events)? / bandwidth as f64;
        // Headers are 4 %, and a moment goes by before the link is full.
        ensure!((0.5..1.0).contains(&rate), "{rate:.2} of the bandwidth");
        Ok(())
    });
}

#[test]
fn castanet_downloads_over_a_bad_link() {
    world::test(|world| {
        let torrent = payload::make(world, Shape::ManyFiles, 22, 64 * 1024, &[NOBODY])?;
        let bad = Link { latency: MS * 20, jitter: MS * 10, loss: 0.01, doubled: 0.01, overtaken: 0.02, ..FLAWLESS };
        fetch(world, &torrent, bad, 4).map(drop)
    });
}
