//! Progress for pipes and log files: a plain line now and then, on stderr.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use castanet::{Happening, Phase, TorrentState};

use super::{Display, Shown, human, message, say, say_where, summary};

/// How often a torrent gets a line.
const EVERY: Duration = Duration::from_secs(5);
/// Seeding is told of less often.
const EVERY_SEEDING: Duration = Duration::from_secs(60);

/// The display.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    told: Vec<Told>,
    is_seed: bool,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    phase: Phase,
}

impl Display for Lines {
    fn added(&mut self, torrent: &Shown) -> anyhow::Result<()> {
        self.told.push(Told { at: Some(Instant::now()), phase: Phase::Opening });
        match torrent.metainfo {
            Some(_) => say(&format!("{}: {}", torrent.name, human::size(torrent.wanted))),
            None => say(&format!("{}: asking peers what it is", torrent.name)),
        }
        Ok(())
    }
    fn happened(&mut self, _: usize, torrent: &Shown, what: &Happening) -> anyhow::Result<()> {
        if let Happening::Complete = what {
            say(&format!("{}: complete, every piece verified", torrent.name));
        } else if let Some(text) = message(torrent, what) {
            say(&text);
        }
        Ok(())
    }
    fn state(&mut self, at: usize, torrent: &Shown, state: &TorrentState) -> anyhow::Result<()> {
        // Who only downloads hears that it is complete; what is sent until the end is no news.
        if state.phase == Phase::Seeding && !self.is_seed {
            return Ok(());
        }
        let Some(told) = self.told.get_mut(at) else { return Ok(()) };
        let every = if state.phase == Phase::Seeding { EVERY_SEEDING } else { EVERY };
        let is_due = told.at.is_none_or(|at| at.elapsed() >= every);
        if !is_due && told.phase == state.phase {
            return Ok(());
        }
        let is_new = std::mem::replace(&mut told.phase, state.phase.clone()) != state.phase;
        // The start and the end of a phase have messages of their own.
        if is_due || (is_new && state.phase == Phase::Checking) {
            told.at = Some(Instant::now());
            let (percent, activity) = (human::percent(state, torrent.wanted), human::activity(state, torrent.wanted));
            say(&format!("{}: {percent} %, {activity}", torrent.name));
        }
        Ok(())
    }
    fn listening(&mut self, at: &[SocketAddr], is_seed: bool) -> anyhow::Result<()> {
        self.is_seed = is_seed;
        if is_seed {
            say_where(at);
        }
        Ok(())
    }
    fn summary(&mut self, torrents: &[(Shown, TorrentState)]) -> anyhow::Result<()> {
        summary(torrents);
        Ok(())
    }
}
