//! `castanet verify`: compare what is on disk with its torrent, with all cores.

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use castanet::{Bitfield, Engine, Listen, Metainfo, Phase, Torrent};
use serde::Serialize;

use crate::{
    args::{Common, Verify},
    config::Settings,
    damage,
    interrupt::{INTERRUPTED, Interrupt},
    network,
    output::{
        self, ClosedOutput,
        bars::Work,
        human::{count, escaped, plain},
    },
    source::{self, Source},
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    info_hash: Option<String>,
    complete: bool,
    pieces: u32,
    have: u32,
    files: Vec<File>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    length: u64,
    /// Bytes on disk; `null` if there is no such file.
    on_disk: Option<u64>,
    /// Pieces that touch the file.
    pieces: u32,
    /// Of these, how many are missing or bad.
    bad: u32,
}

/// Runs the command.
pub(crate) async fn run(mut verify: Verify, common: &Common, mut interrupt: Interrupt) -> Result<ExitCode> {
    Settings::read(common)?.complete_way(&mut verify.way);
    let metainfo = Source::torrent(&verify.torrent, &network::web(&verify.way)?).await?;
    source::ensure_v1(&metainfo, "verify")?;
    let shown = escaped(&verify.folder.to_string_lossy()).into_owned();
    let folder = fs::metadata(&verify.folder).with_context(|| format!("cannot open the folder {shown}"))?;
    ensure!(folder.is_dir(), "{shown} is not a folder; name the folder that holds the data");
    // A check reads alone: it needs no state, no port, and does not mind another instance at work on the same files.
    let engine = Engine::builder().listen(Listen::Nowhere).retain_plugins(|_| false).start().await?;
    let torrent = Torrent::new(metainfo.clone(), &verify.folder).check_only(true).recheck(true);
    let mut handle = engine.add(torrent).await?;
    let geometry = metainfo.info.geometry();
    let mut work = Work::begin("Checking", geometry.length(), verify.json);
    let have = loop {
        let state = tokio::select! {
            () = interrupt.wait() => {
                drop(work);
                engine.shutdown(Duration::ZERO).await;
                output::say("Interrupted.");
                return Ok(ExitCode::from(INTERRUPTED));
            }
            state = handle.next_state() => state,
        };
        let Some(state) = state else { bail!("the check ended unexpectedly; try again") };
        work.at(u64::from(state.checked) * u64::from(geometry.piece_length()));
        match (state.phase, state.bitfield) {
            (Phase::Failed(reason), _) => bail!("{}", plain(&reason)),
            (Phase::Paused, Some(have)) => break have,
            _ => {}
        }
    };
    drop(work);
    engine.shutdown(Duration::ZERO).await;
    let report = report(&metainfo, &verify.folder, &have);
    let told = if verify.json { output::print(&serde_json::to_string(&report)?) } else { in_words(&report) };
    match told {
        // Nobody reads the words, but the exit code still tells of damage.
        Err(error) if error.is::<ClosedOutput>() && !report.complete => return Ok(ExitCode::FAILURE),
        told => told?,
    }
    if !report.complete {
        let missing = damage::sentence(&metainfo, &have);
        bail!("{}: {missing}; `castanet get` into the same folder fetches what is missing", escaped(&report.name));
    }
    Ok(ExitCode::SUCCESS)
}

fn report(metainfo: &Metainfo, folder: &Path, have: &Bitfield) -> Report {
    let (info, geometry) = (&metainfo.info, metainfo.info.geometry());
    let files = damage::per_file(metainfo, have).map(|(file, pieces, bad)| File {
        path: file.path.join("/"),
        length: file.length,
        on_disk: fs::metadata(folder.join(info.path_of(file))).ok().map(|metadata| metadata.len()),
        pieces,
        bad,
    });
    Report {
        name: info.name.clone(),
        info_hash: metainfo.info_hashes.v1.map(|hash| hash.to_hex()),
        complete: have.count() == geometry.pieces(),
        pieces: geometry.pieces(),
        have: have.count(),
        files: files.collect(),
    }
}

fn in_words(report: &Report) -> Result<()> {
    for file in &report.files {
        let path = escaped(&file.path);
        match file.on_disk {
            None => output::print(&format!("{path}: there is no such file"))?,
            Some(_) if file.bad > 0 => {
                let all = count(file.pieces.into(), "piece");
                output::print(&format!("{path}: {} of {all} missing or bad", file.bad))?;
            }
            Some(length) if length > file.length => {
                output::print(&format!("{path}: {} too many at its end", count(length - file.length, "byte")))?;
            }
            Some(_) => {}
        }
    }
    if report.complete {
        let all = count(report.pieces.into(), "piece");
        output::print(&format!("{}: complete, {all} verified", escaped(&report.name)))?;
    }
    Ok(())
}
