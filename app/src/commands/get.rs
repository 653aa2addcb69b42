//! `castanet get`: download until complete and verified on disk.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use castanet::{Allocation, EngineBuilder, Magnet, Metainfo, Priority, Torrent};

use crate::{
    args::{Allocate, Common, Get},
    config::Settings,
    interrupt::{INTERRUPTED, Interrupt},
    network,
    output::{self, Count, Shown, human},
    source::{self, Source},
    swarm::{self, Goal, Ready},
    values,
};

/// Runs the command.
pub(crate) async fn run(get: Get, common: &Common, mut interrupt: Interrupt) -> Result<ExitCode> {
    let mut display = output::display(get.json);
    let ready = prepare(get, common, &mut interrupt).await;
    match output::prepared(&mut *display, ready)? {
        Some((engine, torrents, goal)) => swarm::run(engine, torrents, &goal, &mut *display, &mut interrupt).await,
        None => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// All that comes before the first torrent is at work; `None` if interrupted.
async fn prepare(mut get: Get, common: &Common, interrupt: &mut Interrupt) -> Result<Option<Ready>> {
    // Limits on the command line mean that one wants to seed; those of environment and file only say for how long.
    let seed = get.seed || get.limits.seed_ratio.is_some() || get.limits.seed_time.is_some();
    let settings = Settings::read(common)?;
    settings.complete_get(&mut get)?;
    let state = settings.state_folder(common);
    let remembers = state.is_some();
    let engine = network::engine(&get.network, state)?;
    let torrents = tokio::select! {
        () = interrupt.wait() => return Ok(None),
        torrents = torrents(&get, &engine) => torrents?,
    };
    // A folder that cannot be is told of now, not when the first piece has arrived.
    let folder = get.output.as_deref().unwrap_or(Path::new("."));
    let cannot = || format!("cannot make the folder {}", human::escaped(&folder.to_string_lossy()));
    std::fs::create_dir_all(folder).with_context(cannot)?;
    let goal = Goal { remembers, seed, seed_only: false, limits: get.limits.clone(), stall_timeout: get.stall_timeout };
    Ok(Some((engine.start().await?, torrents, goal)))
}

/// Reads what is to be downloaded, each torrent once.
async fn torrents(get: &Get, web: &EngineBuilder) -> Result<Vec<(Shown, Torrent)>> {
    let mut torrents = Vec::new();
    let mut known = BTreeSet::new();
    for text in &get.sources {
        let (hashes, torrent) = match Source::read(text, web).await? {
            Source::Torrent(metainfo) => {
                source::ensure_v1(&metainfo, "download")?;
                (metainfo.info_hashes, torrent(get, metainfo)?)
            }
            Source::Magnet(link) => (link.info_hashes, from_link(get, (*link).into())),
        };
        if known.insert(hashes) {
            torrents.push(torrent);
        }
    }
    Ok(torrents)
}

fn torrent(get: &Get, metainfo: Arc<Metainfo>) -> Result<(Shown, Torrent)> {
    let priorities = values::priorities(&metainfo, &get.select, &get.priority).map_err(anyhow::Error::msg);
    let priorities = priorities.with_context(|| human::escaped(&metainfo.info.name).into_owned())?;
    let shown = Shown::new(metainfo.clone(), wanted(&metainfo, &priorities));
    let torrent = Torrent::new(metainfo, folder(get)).priorities(priorities);
    Ok((shown, as_asked(torrent, get)))
}

/// Which files are wanted of a link is decided when they are known.
fn from_link(get: &Get, link: Arc<Magnet>) -> (Shown, Torrent) {
    let mut torrent = Torrent::from_magnet(link.clone(), folder(get));
    let (select, priority) = (get.select.clone(), get.priority.clone());
    let is_chosen = !select.is_empty() || !priority.is_empty();
    let choose = move |metainfo: &Metainfo| values::priorities(metainfo, &select, &priority);
    let count = if is_chosen {
        torrent = torrent.choose(choose.clone());
        Count(Arc::new(move |metainfo| wanted(metainfo, &choose(metainfo).unwrap_or_default())))
    } else {
        let link = link.clone();
        Count(Arc::new(move |metainfo| wanted(metainfo, &castanet::selected(&link, metainfo))))
    };
    (Shown::link(&link, count), as_asked(torrent, get))
}

fn folder(get: &Get) -> PathBuf {
    get.output.clone().unwrap_or_else(|| PathBuf::from("."))
}

fn as_asked(torrent: Torrent, get: &Get) -> Torrent {
    let allocation = match get.allocate {
        Some(Allocate::Full) => Allocation::Full,
        Some(Allocate::Sparse) | None => Allocation::Sparse,
    };
    network::complete(torrent.allocation(allocation).sequential(get.sequential), &get.network)
}

/// Bytes of the pieces that hold something wanted.
fn wanted(metainfo: &Metainfo, priorities: &[Priority]) -> u64 {
    let (info, geometry) = (&metainfo.info, metainfo.info.geometry());
    if priorities.is_empty() {
        return info.length;
    }
    let (mut bytes, mut counted) = (0, 0);
    for (file, _) in info.files.iter().zip(priorities).filter(|(_, priority)| **priority != Priority::Skip) {
        // Files follow each other: a piece that two share is counted with the first.
        let pieces = geometry.pieces_of(file.range());
        for piece in pieces.start.max(counted)..pieces.end {
            bytes += u64::from(geometry.length_of(castanet::PieceIndex(piece)));
        }
        counted = counted.max(pieces.end);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use castanet::metainfo::write::{NewContent, NewFile, NewTorrent, encode};

    use super::*;

    #[test]
    fn shared_pieces_are_wanted_once() {
        let file = |name: &str, length| NewFile { path: vec![name.into()], length, pad: false };
        let torrent = NewTorrent {
            name: "x".into(),
            content: NewContent::Folder(vec![file("a", 10), file("b", 10), file("c", 25)]),
            piece_length: 16,
            pieces: vec![0; 60],
            ..NewTorrent::default()
        };
        let metainfo = Metainfo::parse(&encode(&torrent)).unwrap();
        use Priority::{Normal, Skip};
        assert_eq!(wanted(&metainfo, &[]), 45);
        assert_eq!(wanted(&metainfo, &[Normal, Normal, Normal]), 45);
        assert_eq!(wanted(&metainfo, &[Normal, Skip, Skip]), 16);
        assert_eq!(wanted(&metainfo, &[Skip, Normal, Skip]), 32);
        assert_eq!(wanted(&metainfo, &[Skip, Skip, Normal]), 29);
    }
}
