//! A plugin in another program, of any language: JSON lines on its stdin and stdout (docs/PLUGIN-PROTOCOL.md).
//!
//! One child process serves all torrents. [`Discovery::run`] starts it, speaks, listens, and starts it again with growing
//! pauses when it ends, says no hello in time or prints nonsense; the next one hears of every torrent again. What a program does
//! cannot block the engine or fill its memory: what it is told waits in `outbox`, what it says is read at a
//! limited pace by `child`, checked by `lines` and passed on by `ear`. A program opens its own sockets: whether that is
//! welcome in a simulation, behind a proxy or on a bound interface is for the embedder to decide.
//!
//! There are two ways to live with a program. In `live` it runs beside the engine in real time. In `lockstep` time stands
//! while it thinks, so that a simulation can have it and be replayed.

pub(crate) mod child;
mod ear;
pub(crate) mod lines;
mod live;
mod lockstep;
mod outbox;
mod partner;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    Moment, PluginName,
    seams::{
        discovery::{Discovery, DiscoveryError, Found, FoundStream, Settings, Swarm, SwarmInfo},
        means::Means,
    },
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::driven::driven;
use child::{Line, Program};
use lines::{LONGEST_LINE, Said, Told, VERSION};
use outbox::Outbox;

/// How long a program may take to say hello.
pub(crate) const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// The first pause before a program is started again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// A program that lived so long gets [`FIRST_PAUSE`] again.
const SOUND: Duration = Duration::from_secs(60);
/// How long a find waits for a torrent that does not read; then it is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait for the exit code of a program that closed its stdout, and for the last lines of one that exited.
const LAST_WORDS: Duration = Duration::from_secs(1);

const SETTINGS: [&str; 6] = ["name", "command", "env", "folder", "private", "lockstep"];

/// Makes a plugin of a program.
///
/// Settings: `name`, under which it is registered · `command`, the program and its arguments as words with quotes, without a
/// shell · `env`, further environment as words KEY=VALUE · `folder`, where it runs, if not where we do · `private`, `true` if it may serve private torrents (BEP 27), too ·
/// `lockstep`, `true` in a simulation: the thread stands until the program has answered, and with it paused time. The program
/// must answer `sync` then; no I/O driver is needed.
///
/// # Errors
/// If a setting is missing, unknown or unreadable. Whether there is such a program shows when it is started.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    let name = settings.0.get("name").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| DiscoveryError::Unusable("a plugin in another program needs a name".into()))?;
    let unusable = |what: String| DiscoveryError::Unusable(format!("the plugin {name}: {what}"));
    if let Some(key) = settings.0.keys().find(|key| !SETTINGS.contains(&key.as_str())) {
        return Err(unusable(format!("a plugin in another program has no setting {key}")));
    }
    let private = flag(settings, "private").map_err(unusable)?;
    let shared = Shared {
        name: name.as_str().into(),
        program: program(settings).map_err(unusable)?,
        lockstep: flag(settings, "lockstep").map_err(unusable)?,
        means: means.clone(),
        outbox: Mutex::default(),
        untold: Notify::new(),
        phase: watch::Sender::new(Phase::Idle),
        overhears: AtomicBool::new(false),
    };
    Ok(Arc::new(Process { shared: Arc::new(shared), private }))
}

/// A setting that is `true` or `false`; without it, `false`.
fn flag(settings: &Settings, key: &str) -> Result<bool, String> {
    match settings.0.get(key).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(format!("{key} is `{other}`, not true or false")),
    }
}

/// What is to be started, or what is wrong with it.
pub(crate) fn program(settings: &Settings) -> Result<Program, String> {
    let words = |key: &str| {
        let text = settings.0.get(key).map_or("", String::as_str);
        let words = shlex::split(text).filter(|_| !text.contains('\0'));
        words.ok_or_else(|| format!("its {key} has an open quote: {text}"))
    };
    let command = words("command")?;
    if command.first().is_none_or(String::is_empty) {
        return Err("it needs a command".into());
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("its env has `{word}` where KEY=VALUE should be")),
    };
    let env = words("env")?.into_iter().map(pair).collect::<Result<_, _>>()?;
    let folder = settings.0.get("folder").map(PathBuf::from);
    Ok(Program { words: command, env, folder })
}

struct Process {
    shared: Arc<Shared>,
    /// The user trusts it with private torrents.
    private: bool,
}

struct Shared {
    name: Arc<str>,
    program: Program,
    /// Time stands while the program thinks.
    lockstep: bool,
    means: Means,
    outbox: Mutex<Outbox>,
    /// The outbox has something new.
    untold: Notify,
    phase: watch::Sender<Phase>,
    /// The program that runs said so in its hello.
    overhears: AtomicBool,
}

/// Where the plugin as a whole is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Nobody polled [`Discovery::run`] yet.
    Idle,
    Running,
    /// The program is to end until then.
    Closing(Moment),
    Ended,
}

/// Why a program is no longer there.
enum End {
    /// It was told to stop.
    Stopped,
    /// It said that it has nothing to say any more.
    Bye,
    /// In words.
    Failed(String),
}

impl End {
    /// With the last words on stderr, if it failed.
    fn explained(self, complaint: &str) -> Self {
        match self {
            Self::Failed(reason) if !complaint.is_empty() => Self::Failed(format!("{reason}: {complaint}")),
            end => end,
        }
    }
    fn no_hello() -> Self {
        Self::Failed(format!("it said no hello within {} s", HELLO_WITHIN.as_secs()))
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({} = {:?})", self.shared.name, self.shared.program.words)
    }
}

#[async_trait]
impl Discovery for Process {
    fn name(&self) -> PluginName {
        PluginName(self.shared.name.clone())
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        self.private || !swarm.private
    }
    fn overhears(&self) -> bool {
        self.shared.overhears.load(Ordering::Relaxed)
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let Swarm { info, me, mut progress, mut events, gossip: _ } = swarm;
        let numbers = progress.borrow_and_update().clone();
        let shared = self.shared.clone();
        Ok(driven(move |finds| {
            let seat = shared.tell(|outbox, now| {
                // Who has said good-bye finds nothing any more: without `finds` the stream ends.
                let over = *shared.phase.borrow() == Phase::Ended;
                (!over).then(|| outbox.watch(info, me, numbers, finds, now))
            });
            let seat = seat.map(|id| Seat { shared, id });
            async move {
                let Some(seat) = seat else { return };
                let mut open = true;
                loop {
                    tokio::select! {
                        biased;
                        event = events.recv(), if open => match event {
                            Some(event) => seat.shared.tell(|outbox, now| outbox.event(seat.id, event, now)),
                            None => open = false,
                        },
                        changed = progress.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            let numbers = progress.borrow_and_update().clone();
                            seat.shared.tell(|outbox, now| outbox.progress(seat.id, numbers, now));
                        }
                    }
                }
            }
        }))
    }
    async fn run(&self) {
        let mut ending = Ending(&self.shared);
        ending.0.phase.send_if_modified(|phase| {
            *phase == Phase::Idle && {
                *phase = Phase::Running;
                true
            }
        });
        ending.keep_alive().await;
    }
    async fn close(&self, within: Duration) {
        // What is left of the time is for killing it.
        let deadline = self.shared.means.clock.now() + within * 9 / 10;
        let mut phase = self.shared.phase.subscribe();
        self.shared.phase.send_modify(|phase| {
            *phase = if *phase == Phase::Running { Phase::Closing(deadline) } else { Phase::Ended };
        });
        let _ = timeout(within, phase.wait_for(|phase| *phase == Phase::Ended)).await;
    }
}

/// A torrent's place in the outbox; dropping it frees the place.
struct Seat {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.tell(|outbox, now| outbox.unwatch(self.id, now));
    }
}

/// However the work ends, whoever waits for that learns of it, and all streams end.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.phase.send_replace(Phase::Ended);
        self.0.tell(|outbox, _| outbox.clear());
    }
}

impl Ending<'_> {
    /// Starts the program again and again, until it is told to stop or has said good-bye.
    async fn keep_alive(&mut self) {
        let shared = self.0;
        let mut phase = shared.phase.subscribe();
        let mut pause = FIRST_PAUSE;
        while *phase.borrow() == Phase::Running {
            let start = shared.means.clock.now();
            let end = if shared.lockstep { shared.live_in_lockstep().await } else { shared.live().await };
            let now = shared.means.clock.now();
            shared.tell(|outbox, now| outbox.restart(now));
            let End::Failed(reason) = end else { return };
            if now.since(start) >= SOUND {
                pause = FIRST_PAUSE;
            }
            let text = format!("{}: {reason}; it is started again in {} s", shared.name, pause.as_secs());
            tracing::info!(plugin = %shared.name, "{text}");
            shared.find(None, Err(DiscoveryError::Unusable(text))).await;
            let _ = timeout(pause, phase.wait_for(|phase| *phase != Phase::Running)).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

impl Shared {
    /// Changes what is to be told, and wakes whoever tells it.
    fn tell<R>(&self, f: impl FnOnce(&mut Outbox, Moment) -> R) -> R {
        let now = self.means.clock.now();
        let result = self.outbox(|outbox| f(outbox, now));
        self.untold.notify_one();
        result
    }
    fn outbox<R>(&self, f: impl FnOnce(&mut Outbox) -> R) -> R {
        f(&mut self.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first line.
    fn hello(&self) -> String {
        // Numbers above 2^53 are not the same number in every language.
        let (seed, engine) = (self.means.seed % (1 << 53), &*self.means.user_agent);
        Told::Hello { version: VERSION, engine, seed, now: self.means.clock.now().as_secs_f64() }.line()
    }
    /// Waits until the program is to end, and says until when.
    async fn closing(&self) -> Moment {
        let mut phase = self.phase.subscribe();
        let closing = phase.wait_for(|phase| matches!(phase, Phase::Closing(_))).await.map(|phase| *phase);
        match closing {
            Ok(Phase::Closing(deadline)) => deadline,
            _ => std::future::pending().await,
        }
    }
    fn read(&self, line: Line) -> Result<Said, String> {
        let line = line.map_err(|_| format!("a line of more than {} KiB", LONGEST_LINE / 1024))?;
        lines::read(&line, &self.name, self.means.clock.now())
    }

    /// Passes a find on to the stream of a torrent, or to all that have room. A torrent that does not read loses it.
    async fn find(&self, torrent: Option<u64>, find: Result<Found, DiscoveryError>) {
        let Some(torrent) = torrent else {
            let all = self.outbox(|outbox| outbox.all());
            return all.iter().for_each(|finds| drop(finds.try_send(find.clone())));
        };
        let finds = self.outbox(|outbox| outbox.finds(torrent));
        if let Some(finds) = finds {
            let _ = timeout(PATIENCE, finds.send(find)).await;
        }
    }
}
