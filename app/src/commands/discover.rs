//! `castanet discover`: who finds whom, after how long. Connects and shakes hands, but moves no pieces.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use castanet::{Engine, Happening, Torrent, TorrentHandle, TorrentState};
use tokio::time::{Instant, sleep_until};

use crate::{
    args::{Common, Discover},
    config::{GOOD_BYE, Settings},
    interrupt::{INTERRUPTED, Interrupt},
    network,
    output::{self, Count, Display, Shown, human, json::Json, print, worth},
    source::Source,
};

/// Runs the command. It fails if nobody was found.
pub(crate) async fn run(mut discover: Discover, common: &Common, mut interrupt: Interrupt) -> Result<ExitCode> {
    let settings = Settings::read(common)?;
    settings.complete_network(&mut discover.network)?;
    let builder = network::engine(&discover.network, settings.state_folder(common))?;
    let source = Source::read(&discover.source, &builder).await?;
    let (shown, torrent) = match source {
        Source::Torrent(metainfo) => (Shown::new(metainfo.clone(), metainfo.info.length), Torrent::new(metainfo, ".")),
        Source::Magnet(link) => {
            let count = Count(std::sync::Arc::new(|metainfo| metainfo.info.length));
            (Shown::link(&link, count), Torrent::from_magnet(*link, "."))
        }
    };
    let engine = builder.start().await?;
    let torrent = network::complete(torrent, &discover.network).discover_only(true);
    let mut display: Box<dyn Display> = if discover.json { Box::new(Json::new()) } else { Box::new(Finds::new()) };
    let mut handle = engine.add(torrent).await?;
    display.added(&shown)?;
    let watched = watch(&mut handle, shown, &mut *display, discover.duration, &mut interrupt).await;
    finish(engine, handle, watched?, &mut *display, discover.duration).await
}

/// Shows what happens until the time is up; then who it was about, and whether the user interrupted.
async fn watch(
    handle: &mut TorrentHandle,
    mut shown: Shown,
    display: &mut dyn Display,
    duration: Duration,
    interrupt: &mut Interrupt,
) -> Result<(Shown, bool)> {
    let end = Instant::now() + duration;
    loop {
        let event = tokio::select! {
            biased;
            () = interrupt.wait() => return Ok((shown, true)),
            () = sleep_until(end) => return Ok((shown, false)),
            event = handle.next_event() => event,
        };
        let Some(event) = event else { bail!("the engine ended unexpectedly") };
        match &event.what {
            Happening::Failed(error) => bail!("{}", human::plain(error)),
            Happening::Metadata(metainfo) => shown.learn(metainfo),
            _ => {}
        }
        display.happened(0, &shown, &event.what)?;
    }
}

async fn finish(
    engine: Engine,
    mut handle: TorrentHandle,
    (shown, interrupted): (Shown, bool),
    display: &mut dyn Display,
    duration: Duration,
) -> Result<ExitCode> {
    // The books are a moment behind the events.
    let _ = tokio::time::timeout(Duration::from_secs(1), handle.next_state()).await;
    let state = handle.state();
    engine.shutdown(GOOD_BYE).await;
    if interrupted {
        display.interrupted()?;
    }
    display.summary(&[(shown, state.clone())])?;
    match (interrupted, state.plugins.iter().any(|report| report.worth.found > 0)) {
        (true, _) => Ok(ExitCode::from(INTERRUPTED)),
        (false, true) => Ok(ExitCode::SUCCESS),
        (false, false) => bail!("no peers were found within {}", human::span(duration)),
    }
}

/// A line for each peer, on stdout, and the table of worth at the end.
#[derive(Debug)]
struct Finds {
    start: Instant,
}

impl Finds {
    fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Display for Finds {
    fn added(&mut self, torrent: &Shown) -> Result<()> {
        output::say(&format!("Looking for peers of {}.", torrent.name));
        Ok(())
    }
    fn happened(&mut self, _: usize, torrent: &Shown, what: &Happening) -> Result<()> {
        let after = format!("{:8.3} s", self.start.elapsed().as_secs_f64());
        match what {
            Happening::PeerFound { addr, plugin, instance } => {
                print(&format!("{after}  {:<13} {:<24} {}", plugin.0, addr.to_string(), human::plain(instance)))
            }
            Happening::Metadata(metainfo) => {
                print(&format!("{after}  metadata      {}, {}", torrent.name, human::size(metainfo.info.length)))
            }
            Happening::Notice(text) => {
                output::say(&human::plain(text));
                Ok(())
            }
            _ => Ok(()),
        }
    }
    fn state(&mut self, _: usize, _: &Shown, _: &TorrentState) -> Result<()> {
        Ok(())
    }
    fn summary(&mut self, torrents: &[(Shown, TorrentState)]) -> Result<()> {
        for (_, state) in torrents {
            let timeline = state.timeline.to_string();
            if !timeline.is_empty() {
                print(&timeline)?;
            }
            for line in worth::table(&state.plugins) {
                print(&line)?;
            }
            for report in state.plugins.iter() {
                if let Some(size) = report.swarm {
                    let (seeds, leeches) = (size.seeds, size.leeches);
                    print(&format!("  {} knows of {seeds} seeds and {leeches} others", report.worth.plugin))?;
                }
                if let Some(condition) = &report.condition {
                    print(&format!("  {} {}", report.worth.plugin, human::plain(condition)))?;
                }
            }
        }
        Ok(())
    }
}
