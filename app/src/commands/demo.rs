//! `castanet demo`: a tracker, two seeds and one download on this machine, made on the spot and removed afterwards.

use std::{net::SocketAddr, process::ExitCode, time::Duration, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use castanet::{Engine, Listen, Torrent, metainfo::write::good_piece_length};
use castanet_core::digest::sha256;
use castanet_integration::{payload::Payload, tracker::Tracker};

use crate::{
    args::Demo,
    config::GOOD_BYE,
    interrupt::Interrupt,
    output::{
        self, Shown,
        human::{rate, size, span},
    },
    swarm::{self, Goal},
};

/// The payload is made in memory.
const MOST_BYTES: u64 = 1 << 30;
/// What each seed gives per second: without a limit there would be nothing to see.
const SEED_RATE: u64 = 16 << 20;
/// How long the seeds may take to check their data and to be known to the tracker.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
pub(crate) async fn run(demo: &Demo, mut interrupt: Interrupt) -> Result<ExitCode> {
    ensure!((1..=MOST_BYTES).contains(&demo.size), "--size must be from 1 byte to {}", size(MOST_BYTES));
    let home = tempfile::Builder::new().prefix("castanet-demo-").tempdir().context("cannot make a temporary folder")?;
    let (seeded, downloaded) = (home.path().join("seeded"), home.path().join("downloaded"));
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));

    output::say(&format!("1. Making {} of random bytes and a torrent of them.", size(demo.size)));
    let tracker = Tracker::start(loopback).await.context("cannot start a tracker on 127.0.0.1")?;
    let length = usize::try_from(demo.size)?;
    let payload = Payload::one_file("castanet-demo.bin", length, good_piece_length(demo.size), demo.seed);
    let payload = payload.with_tracker(&tracker.url());
    payload.write_to(&seeded).context("cannot write into the temporary folder")?;
    let metainfo = payload.metainfo.clone();

    output::say(&format!("2. A tracker is listening at {}.", tracker.url()));
    let mut seeds = Vec::new();
    for _ in 0..2 {
        let engine = Engine::builder().listen(Listen::At(vec![loopback])).max_up(Some(SEED_RATE)).start().await?;
        let mut handle = engine.add(Torrent::new(metainfo.clone(), &seeded).seed_only(true)).await?;
        handle.completed().await.map_err(anyhow::Error::msg).context("a seed cannot start")?;
        seeds.push(engine);
    }
    let places: Vec<_> = seeds.iter().flat_map(Engine::listening).map(ToString::to_string).collect();
    let (places, limit) = (places.join(" and "), rate(SEED_RATE));
    output::say(&format!("3. Two seeds, at {places}, have checked their data; each gives {limit}."));
    let since = Instant::now();
    while tracker.counts(metainfo.info_hashes.wire()).seeds < 2 {
        ensure!(since.elapsed() < PATIENCE, "the seeds could not reach the tracker on 127.0.0.1");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    output::say("4. A third engine knows only the torrent file. It asks the tracker, dials the seeds and downloads:");
    let engine = Engine::builder().listen(Listen::At(vec![loopback])).start().await?;
    let torrents = vec![(Shown::new(metainfo.clone(), metainfo.info.length), Torrent::new(metainfo, &downloaded))];
    let began = Instant::now();
    let code = swarm::run(engine, torrents, &Goal::complete(), &mut *output::display(false), &mut interrupt).await?;
    let took = began.elapsed();
    for seed in seeds {
        seed.shutdown(GOOD_BYE).await;
    }
    if interrupt.happened() {
        return Ok(code);
    }
    if let Some(file) = payload.difference(&downloaded) {
        bail!("{file} differs from what was seeded: please report this");
    }
    let whole = std::fs::read(downloaded.join("castanet-demo.bin")).context("cannot read what was downloaded")?;
    let digest: String = sha256(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
    output::say(&format!("5. The download is the same as what is seeded, byte for byte. SHA-256: {digest}"));
    home.close().context("cannot remove the temporary folder")?;
    output::say(&format!("Done: {} in {}. The temporary files are removed.", size(demo.size), span(took)));
    Ok(code)
}
