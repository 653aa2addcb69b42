//! Progress on a terminal: a bar for each torrent, or one for all if they are many.

use std::time::{Duration, Instant};

use castanet::{Happening, Phase, TorrentState};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Display, Shown, has_screen, human, message, say, screen, summary};

/// More torrents than this share one bar.
const MOST_BARS: usize = 8;
/// Columns for a torrent's name.
const NAME: usize = 24;

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{prefix} [{bar:16}] {percent:>3} % {wide_msg}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn short(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        Some(_) => name.chars().take(NAME - 1).chain(['…']).collect(),
        None => name.into(),
    }
}

/// The display.
#[derive(Debug)]
pub(crate) struct Bars {
    bars: Vec<ProgressBar>,
    states: Vec<(u64, TorrentState)>,
}

impl Bars {
    /// No bars yet.
    pub(crate) fn new() -> Self {
        Self { bars: Vec::new(), states: Vec::new() }
    }

    fn draw_all(&self) {
        let Some(bar) = self.bars.first() else { return };
        let mut sum = TorrentState { phase: Phase::Seeding, ..TorrentState::default() };
        let (mut wanted, mut complete) = (0, 0);
        for (of_this, state) in &self.states {
            wanted += of_this;
            sum.left += if state.phase == Phase::Opening { *of_this } else { state.left };
            sum.down_rate += state.down_rate;
            sum.up_rate += state.up_rate;
            sum.uploaded += state.uploaded;
            sum.peers += state.peers;
            complete += usize::from(state.is_complete());
        }
        if complete < self.states.len() {
            sum.phase = Phase::Downloading;
        }
        bar.set_prefix(short(&format!("{complete} of {} complete", self.states.len())));
        bar.set_position(human::percent(&sum, wanted));
        bar.set_message(human::activity(&sum, wanted));
    }
}

impl Display for Bars {
    fn added(&mut self, torrent: &Shown) -> anyhow::Result<()> {
        self.states.push((torrent.wanted, TorrentState { left: torrent.wanted, ..TorrentState::default() }));
        if self.states.len() > MOST_BARS {
            self.bars.drain(1..).for_each(|bar| bar.finish_and_clear());
        } else {
            let bar = screen().add(ProgressBar::new(100).with_style(style()));
            bar.set_prefix(short(&torrent.name));
            self.bars.push(bar);
        }
        Ok(())
    }
    fn happened(&mut self, at: usize, torrent: &Shown, what: &Happening) -> anyhow::Result<()> {
        let is_in_bar = matches!(what, Happening::Stalled(_));
        if let Happening::Metadata(_) = what {
            if let Some(slot) = self.states.get_mut(at) {
                slot.0 = torrent.wanted;
            }
            if let (true, Some(bar)) = (self.states.len() <= MOST_BARS, self.bars.get(at)) {
                bar.set_prefix(short(&torrent.name));
            }
        }
        if let Some(text) = message(torrent, what).filter(|_| !is_in_bar) {
            say(&text);
        }
        Ok(())
    }
    fn state(&mut self, at: usize, torrent: &Shown, state: &TorrentState) -> anyhow::Result<()> {
        if let Some(slot) = self.states.get_mut(at) {
            slot.1 = state.clone();
        }
        if self.states.len() > MOST_BARS {
            self.draw_all();
        } else if let Some(bar) = self.bars.get(at) {
            bar.set_position(human::percent(state, torrent.wanted));
            bar.set_message(human::activity(state, torrent.wanted));
        }
        Ok(())
    }
    fn summary(&mut self, torrents: &[(Shown, TorrentState)]) -> anyhow::Result<()> {
        self.bars.iter().for_each(ProgressBar::abandon);
        summary(torrents);
        Ok(())
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.bars.iter().filter(|bar| !bar.is_finished()).for_each(ProgressBar::abandon);
    }
}

/// Progress of work on this machine alone, hashing above all: a bar, a line now and then, or silence.
#[derive(Debug)]
pub(crate) struct Work {
    what: String,
    total: u64,
    bar: Option<ProgressBar>,
    told: Option<Instant>,
    began: Instant,
}

impl Work {
    /// `what` is a verb for people, such as `Hashing`; `total` counts bytes.
    pub(crate) fn begin(what: &str, total: u64, silent: bool) -> Self {
        let bar = (!silent && has_screen()).then(|| {
            let bar = screen().add(ProgressBar::new(total.max(1)).with_style(style()));
            bar.set_prefix(short(what));
            bar
        });
        let now = Instant::now();
        Self { what: what.into(), total, bar, told: (!silent).then_some(now), began: now }
    }

    /// So many bytes are done.
    pub(crate) fn at(&mut self, done: u64) {
        let done = done.min(self.total);
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = (u128::from(done) * 1000 / u128::from(millis)) as u64;
        let left = castanet::eta(self.total - done, rate).map(human::span).unwrap_or_default();
        let text =
            || format!("{} of {}, {}, {left} left", human::size(done), human::size(self.total), human::rate(rate));
        match (&self.bar, self.told) {
            (Some(bar), _) => {
                bar.set_position(done);
                bar.set_message(text());
            }
            (None, Some(told)) if told.elapsed() >= Duration::from_secs(5) => {
                self.told = Some(Instant::now());
                say(&format!("{}: {}", self.what, text()));
            }
            _ => {}
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
