//! Progress for pipes and log files: a plain line now and then, on stderr.

use std::time::{Duration, Instant};

use castanet::{Happening, Phase, TorrentState};

use super::{Display, Shown, human, message, say, summary};

/// How often a torrent gets a line.
const EVERY: Duration = Duration::from_secs(5);
/// Seeding is told of less often.
const EVERY_SEEDING: Duration = Duration::from_secs(60);

/// The display.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<Told>);

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    phase: Phase,
}

impl Display for Lines {
    fn added(&mut self, torrent: &Shown) -> anyhow::Result<()> {
        self.0.push(Told { at: Some(Instant::now()), phase: Phase::Opening });
        say(&format!("{}: {}", torrent.name, human::size(torrent.wanted)));
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
        let Some(told) = self.0.get_mut(at) else { return Ok(()) };
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
    fn summary(&mut self, torrents: &[(Shown, TorrentState)]) -> anyhow::Result<()> {
        summary(torrents);
        Ok(())
    }
}
