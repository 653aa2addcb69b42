//! `castanet seed`: check what saved state cannot vouch for, announce, serve until interrupted.

use std::{collections::BTreeSet, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use castanet::{Metainfo, Torrent};

use crate::{
    args::{Common, Seed},
    config::Settings,
    interrupt::Interrupt,
    network,
    output::{self, Shown, human::failure},
    source,
    swarm::{self, Goal, Ready},
};

/// Runs the command.
pub(crate) async fn run(seed: Seed, common: &Common, mut interrupt: Interrupt) -> Result<ExitCode> {
    let mut display = output::display(seed.json);
    let ready = prepare(seed, common).await;
    let (engine, torrents, goal) = output::prepared(&mut *display, ready)?;
    swarm::run(engine, torrents, &goal, &mut *display, &mut interrupt).await
}

/// All that comes before the first torrent is at work.
async fn prepare(mut seed: Seed, common: &Common) -> Result<Ready> {
    let settings = Settings::read(common)?;
    settings.complete_network(&mut seed.network)?;
    settings.complete_limits(&mut seed.limits)?;
    let (paths, folder) = seed.paths();
    let metadata = std::fs::metadata(folder).with_context(|| format!("cannot open the folder {}", folder.display()))?;
    ensure!(metadata.is_dir(), "{} is not a folder; name the folder that holds the data", folder.display());
    let mut torrents = Vec::new();
    let mut known = BTreeSet::new();
    for path in paths {
        for file in source::torrent_files(path)? {
            let metainfo = match read(&file) {
                Ok(metainfo) => metainfo,
                // Who names a folder wants what is good in it.
                Err(error) if path.is_dir() => {
                    output::say(&format!("left out: {}", failure(&error)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if known.insert(metainfo.info_hashes) {
                let wanted = metainfo.info.length;
                let torrent = Torrent::new(metainfo.clone(), folder).seed_only(true);
                torrents.push((Shown::new(metainfo, wanted), network::complete(torrent, &seed.network)));
            }
        }
    }
    ensure!(!torrents.is_empty(), "there is no torrent to seed");
    let state = settings.state_folder(common);
    let remembers = state.is_some();
    let engine = network::engine(&seed.network, state)?;
    let goal = Goal { remembers, seed: true, seed_only: true, limits: seed.limits.clone(), stall_timeout: None };
    Ok((engine.start().await?, torrents, goal))
}

/// Reads a torrent file that can be seeded.
fn read(file: &Path) -> Result<Arc<Metainfo>> {
    let metainfo = source::read_torrent(file)?;
    source::ensure_v1(&metainfo, "seed")?;
    Ok(metainfo)
}
