//! Runs torrents to their end: what `get`, `seed` and `demo` have in common.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use castanet::{Engine, Happening, Phase, Torrent, TorrentHandle, TorrentId, TorrentState};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    args::SeedLimits,
    config::GOOD_BYE,
    damage,
    interrupt::{INTERRUPTED, Interrupt},
    output::{self, Display, Shown, human},
};

/// How often observers are shown the state.
const TICK: Duration = Duration::from_millis(250);
/// News that may wait to be shown, over all torrents.
const MOST_NEWS: usize = 256;

/// When a torrent has done its duty.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    /// Is there a folder that remembers how far it came?
    pub(crate) remembers: bool,
    /// Go on as a seed.
    pub(crate) seed: bool,
    /// Be a seed from the start, or fail.
    pub(crate) seed_only: bool,
    /// When that ends.
    pub(crate) limits: SeedLimits,
    /// Give up when nothing arrives for so long.
    pub(crate) stall_timeout: Option<Duration>,
}

impl Goal {
    /// To be complete, nothing more, leaving nothing behind.
    pub(crate) fn complete() -> Self {
        Self {
            remembers: false,
            seed: false,
            seed_only: false,
            limits: SeedLimits { seed_ratio: None, seed_time: None },
            stall_timeout: None,
        }
    }
}

/// What a run takes: an engine at work, the torrents, and when they have done their duty.
pub(crate) type Ready = (Engine, Vec<(Shown, Torrent)>, Goal);

/// What comes from a torrent.
enum News {
    Happened(Happening),
    State(Box<TorrentState>),
}

/// How a torrent stands with its goal.
enum Fate {
    Underway,
    Seeding(Instant),
    Done,
    Failed(String),
}

struct Run {
    id: TorrentId,
    shown: Shown,
    state: TorrentState,
    /// Bytes received when something arrived last, and when that was.
    arrived: (u64, Instant),
    fate: Fate,
    is_over: bool,
}

/// Why the torrents are left.
enum End {
    /// Each is done or has failed.
    Goals,
    Interrupted,
}

/// Runs `torrents` in `engine` until each has reached `goal` or failed, or the user interrupts; then shuts the engine
/// down.
///
/// # Errors
/// If a torrent fails, or stdout is gone.
pub(crate) async fn run(
    engine: Engine,
    torrents: Vec<(Shown, Torrent)>,
    goal: &Goal,
    display: &mut dyn Display,
    interrupt: &mut Interrupt,
) -> Result<ExitCode> {
    let (sender, mut news) = mpsc::channel(MOST_NEWS);
    let mut runs = Vec::new();
    let mut watchers = Vec::new();
    let added = add(&engine, torrents, display, goal.seed, &mut runs, &mut watchers, &sender).await;
    let ended = match output::prepared(display, added) {
        Ok(()) => follow(&engine, &mut runs, goal, display, interrupt, &mut news).await,
        Err(error) => Err(error),
    };
    drop((sender, news));
    if let Ok(End::Interrupted) = ended {
        display.interrupted()?;
        output::say("Interrupted: ending in good order. Interrupt again to leave at once.");
    }
    engine.shutdown(GOOD_BYE).await;
    for (run, watcher) in runs.iter_mut().zip(watchers) {
        if let Ok(handle) = watcher.await {
            run.state = handle.state();
        }
    }
    let interrupted = matches!(ended?, End::Interrupted);
    let last: Vec<_> = runs.iter().map(|run| (run.shown.clone(), run.state.clone())).collect();
    display.summary(&last)?;
    if interrupted {
        if goal.remembers {
            output::say("Everything is saved. The same command goes on from here.");
        }
        return Ok(ExitCode::from(INTERRUPTED));
    }
    verdict(&runs)
}

async fn add(
    engine: &Engine,
    torrents: Vec<(Shown, Torrent)>,
    display: &mut dyn Display,
    is_seed: bool,
    runs: &mut Vec<Run>,
    watchers: &mut Vec<JoinHandle<TorrentHandle>>,
    sender: &mpsc::Sender<(usize, News)>,
) -> Result<()> {
    display.listening(engine.listening(), is_seed)?;
    for (at, (shown, torrent)) in torrents.into_iter().enumerate() {
        let handle = match engine.add(torrent).await {
            Ok(handle) => handle,
            Err(error) => bail!("{}: {error}", shown.name),
        };
        display.added(&shown)?;
        let (id, state) = (handle.id(), handle.state());
        watchers.push(tokio::spawn(listen(at, handle, sender.clone())));
        runs.push(Run { id, shown, state, arrived: (0, Instant::now()), fate: Fate::Underway, is_over: false });
    }
    Ok(())
}

/// Passes on what comes from one torrent until it ends or nobody listens; gives the handle back.
async fn listen(at: usize, mut handle: TorrentHandle, news: mpsc::Sender<(usize, News)>) -> TorrentHandle {
    let mut tick = tokio::time::interval(TICK);
    loop {
        let item = tokio::select! {
            biased;
            event = handle.next_event() => match event {
                Some(event) => News::Happened(event.what),
                None => return handle,
            },
            _ = tick.tick() => News::State(Box::new(handle.state())),
        };
        // The state of a moment ago may lack what completed the torrent: the numbers come first.
        if matches!(item, News::Happened(Happening::Complete)) {
            let _ = tokio::time::timeout(2 * TICK, handle.next_state()).await;
            if news.send((at, News::State(Box::new(handle.state())))).await.is_err() {
                return handle;
            }
        }
        if news.send((at, item)).await.is_err() {
            return handle;
        }
    }
}

async fn follow(
    engine: &Engine,
    runs: &mut [Run],
    goal: &Goal,
    display: &mut dyn Display,
    interrupt: &mut Interrupt,
    news: &mut mpsc::Receiver<(usize, News)>,
) -> Result<End> {
    let several = runs.len() > 1;
    let mut reports = engine.port_reports();
    let mut reported = true;
    loop {
        let (at, item) = tokio::select! {
            biased;
            () = interrupt.wait() => return Ok(End::Interrupted),
            changed = reports.changed(), if reported => {
                reported = changed.is_ok();
                let report = reports.borrow_and_update().clone();
                if let Some(report) = report {
                    display.port(&report)?;
                }
                continue;
            }
            item = news.recv() => match item {
                Some(item) => item,
                None => bail!("the engine ended unexpectedly; the same command goes on from here"),
            },
        };
        let Some(run) = runs.get_mut(at) else { continue };
        match item {
            News::Happened(what) => run.happened(&what, at, goal, display)?,
            News::State(state) => {
                run.state = *state;
                display.state(at, &run.shown, &run.state)?;
                run.judge(at, goal, display)?;
            }
        }
        if matches!(run.fate, Fate::Done | Fate::Failed(_)) && !std::mem::replace(&mut run.is_over, true) {
            if let (Fate::Failed(error), true) = (&run.fate, several) {
                output::say(&format!("castanet: {}: {}", run.shown.name, human::plain(error)));
            }
            if runs.iter().all(|run| matches!(run.fate, Fate::Done | Fate::Failed(_))) {
                return Ok(End::Goals);
            }
            if goal.seed || matches!(runs[at].fate, Fate::Failed(_)) {
                engine.pause(runs[at].id).await;
            }
        }
    }
}

impl Run {
    fn happened(&mut self, what: &Happening, at: usize, goal: &Goal, display: &mut dyn Display) -> Result<()> {
        match what {
            Happening::Complete => return self.complete(at, goal, display),
            Happening::Metadata(metainfo) => {
                self.shown.learn(metainfo);
                self.arrived.1 = Instant::now();
            }
            // The state that comes with the next tick says the same, and which pieces are there.
            Happening::Failed(_) => return Ok(()),
            Happening::Started { .. } | Happening::Piece(_) => self.arrived.1 = Instant::now(),
            _ => {}
        }
        display.happened(at, &self.shown, what)
    }

    fn complete(&mut self, at: usize, goal: &Goal, display: &mut dyn Display) -> Result<()> {
        if !matches!(self.fate, Fate::Underway) {
            return Ok(());
        }
        self.fate = if goal.seed { Fate::Seeding(Instant::now()) } else { Fate::Done };
        display.happened(at, &self.shown, &Happening::Complete)
    }

    fn fail(&mut self, error: String, at: usize, display: &mut dyn Display) -> Result<()> {
        if matches!(self.fate, Fate::Failed(_)) {
            return Ok(());
        }
        display.happened(at, &self.shown, &Happening::Failed(error.clone()))?;
        self.fate = Fate::Failed(error);
        Ok(())
    }

    /// Compares the state with the goal; also makes good for events that were missed.
    fn judge(&mut self, at: usize, goal: &Goal, display: &mut dyn Display) -> Result<()> {
        let arrived = self.state.downloaded;
        if let (None, Some(metainfo)) = (&self.shown.metainfo, self.state.metainfo.clone()) {
            // Its event was missed, or comes later.
            self.shown.learn(&metainfo);
        }
        let is_waiting = matches!(self.state.phase, Phase::Downloading | Phase::Metadata);
        if arrived != self.arrived.0 || !is_waiting {
            self.arrived = (arrived, Instant::now());
        }
        match &self.state.phase {
            Phase::Failed(error) => {
                // The engine counts the pieces; which files they belong to is what a person can act on.
                let is_damage = goal.seed_only && error.ends_with("missing or bad");
                let have = self.state.bitfield.as_ref().filter(|_| is_damage);
                let error = match have.zip(self.shown.metainfo.as_ref()) {
                    Some((have, metainfo)) => format!(
                        "{}; `castanet get` into the same folder fetches what is missing",
                        damage::sentence(metainfo, have)
                    ),
                    None => error.clone(),
                };
                return self.fail(error, at, display);
            }
            Phase::Seeding => self.complete(at, goal, display)?,
            _ => {}
        }
        match self.fate {
            Fate::Underway if goal.stall_timeout.is_some_and(|most| self.arrived.1.elapsed() >= most) => {
                let quiet = human::span(goal.stall_timeout.unwrap_or_default());
                let why = self.state.stalled.as_ref().map(|why| format!(": {}", human::plain(why))).unwrap_or_default();
                self.fail(format!("gave up after nothing arrived for {quiet}{why}"), at, display)?;
            }
            Fate::Seeding(since) => {
                let enough = |ratio: f64| self.state.uploaded as f64 >= ratio * self.shown.wanted as f64;
                if goal.limits.seed_ratio.is_some_and(enough)
                    || goal.limits.seed_time.is_some_and(|most| since.elapsed() >= most)
                {
                    self.fate = Fate::Done;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Success, or what went wrong in one sentence.
fn verdict(runs: &[Run]) -> Result<ExitCode> {
    let failed: Vec<_> = runs
        .iter()
        .filter_map(|run| match &run.fate {
            Fate::Failed(error) => Some(format!("{}: {}", run.shown.name, human::plain(error))),
            _ => None,
        })
        .collect();
    match failed.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        [error] if runs.len() == 1 => bail!("{error}"),
        failed => bail!("{} of {} torrents failed", failed.len(), runs.len()),
    }
}
