//! `castanet seed`: check what saved state cannot vouch for, announce, serve until interrupted.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::{Context as _, Result};
use castanet::Torrent;

use crate::{
    args::{Common, Seed},
    config::Settings,
    interrupt::Interrupt,
    network,
    output::{self, Shown},
    source, swarm,
    swarm::Goal,
};

/// Runs the command.
pub(crate) async fn run(mut seed: Seed, common: &Common, mut interrupt: Interrupt) -> Result<ExitCode> {
    let settings = Settings::read(common)?;
    settings.complete_network(&mut seed.network)?;
    settings.complete_limits(&mut seed.limits)?;
    let (paths, folder) = seed.paths();
    let metadata = std::fs::metadata(folder).with_context(|| format!("cannot open the folder {}", folder.display()))?;
    anyhow::ensure!(metadata.is_dir(), "{} is not a folder; name the folder that holds the data", folder.display());
    let mut torrents = Vec::new();
    let mut known = BTreeSet::new();
    for path in paths {
        for file in source::torrent_files(path)? {
            let metainfo = source::read_torrent(&file)?;
            source::ensure_v1(&metainfo, "seed")?;
            if known.insert(metainfo.info_hashes) {
                let wanted = metainfo.info.length;
                let torrent = Torrent::new(metainfo.clone(), folder).seed_only(true);
                torrents.push((Shown::new(metainfo, wanted), network::complete(torrent, &seed.network)));
            }
        }
    }
    let state = settings.state_folder(common);
    let remembers = state.is_some();
    let engine = network::engine(&seed.network, state)?;
    let goal = Goal { remembers, seed: true, seed_only: true, limits: seed.limits.clone(), stall_timeout: None };
    let mut display = output::display(seed.json);
    swarm::run(engine.start().await?, torrents, &goal, &mut *display, &mut interrupt).await
}
