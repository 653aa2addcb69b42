//! The conformance kit: what the engine relies upon in every plugin, as checks that anyone can run on theirs.
//!
//! [`check`] runs any [`Discovery`]; [`check_program`] runs a program, first by its bare lines. They need no network:
//! [`island`] makes [`Means`](castanet_core::seams::means::Means) in whose world there is nobody. `castanet plugins check` prints the [`Report`], and a test
//! runs every built-in plugin through it.

mod island;
mod program;
#[cfg(test)]
mod tests;

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use castanet_core::{
    InfoHashV1, InfoHashes, PeerId,
    addr::is_dialable,
    magnet::Magnet,
    seams::discovery::{
        Discovery, DiscoveryError, Found, FoundStream, Gossip, Heard, Me, News, PeerFate, PeerOutcome, Progress, Say,
        Swarm, SwarmEvent, SwarmInfo,
    },
};
use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

pub use island::island;
pub use program::check_program;

/// How patient the checks are.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a plugin is watched after each thing that happens to it.
    pub settle: Duration,
    /// How long it may take to stop.
    pub within: Duration,
}

impl Default for Options {
    /// Programs need part of a second to start, and there are about forty things to watch; the engine's shutdown gives a plugin some seconds.
    fn default() -> Self {
        Self { settle: Duration::from_millis(400), within: Duration::from_secs(3) }
    }
}

/// What was found out.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Each check, in the order in which they were made.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone)]
pub struct Check {
    /// What should be true, in a few words.
    pub name: &'static str,
    /// Is it?
    pub passed: bool,
    /// What was seen; if it did not pass, why not.
    pub detail: String,
}

impl Report {
    /// Did everything pass?
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
    fn add(&mut self, name: &'static str, result: Result<String, String>) {
        let passed = result.is_ok();
        self.checks.push(Check { name, passed, detail: result.unwrap_or_else(|reason| reason) });
    }
}

/// Puts the plugin that `build` makes through everything that the engine may do to it.
///
/// Takes a few dozen times [`Options::settle`]. A plugin that blocks its thread blocks the check, too: that is the one thing it
/// cannot report.
pub async fn check(build: impl Fn() -> Result<Arc<dyn Discovery>, DiscoveryError>, options: &Options) -> Report {
    let bench = Bench { build: &build, options };
    let mut report = Report::default();
    report.add("can be built, and again", bench.builds());
    if !report.passed() {
        return report;
    }
    report.add("starts for a torrent", bench.on(async |plugin| bench.starts(plugin).await).await);
    report.add("serves several torrents at once", bench.on(async |plugin| bench.serves_several(plugin).await).await);
    report.add("rests when nobody is wanted, and wakes up", bench.on(async |plugin| bench.rests(plugin).await).await);
    report.add("takes feedback, however much", bench.on(async |plugin| bench.takes_feedback(plugin).await).await);
    report.add("goes on after the download", bench.on(async |plugin| bench.outlives_completion(plugin).await).await);
    report.add("keeps away from private torrents", bench.on(async |plugin| keeps_away(plugin)).await);
    report.add("survives bad input", bench.on(async |plugin| bench.survives(plugin).await).await);
    report.add("stops working when dropped", bench.on(async |plugin| bench.stops_when_dropped(plugin).await).await);
    report.add("stops in time", bench.on(async |plugin| bench.stops_in_time(plugin).await).await);
    report
}

/// What a check found out, or why it failed.
type Verdict = Result<String, String>;

struct Bench<'a> {
    build: &'a dyn Fn() -> Result<Arc<dyn Discovery>, DiscoveryError>,
    options: &'a Options,
}

/// What a plugin did while it was watched.
#[derive(Debug, Default)]
struct Seen {
    peers: usize,
    errors: usize,
    ended: bool,
}

impl Bench<'_> {
    /// Runs a check on a fresh plugin, while its own work goes on, and survives its panics.
    async fn on(&self, body: impl AsyncFnOnce(&Arc<dyn Discovery>) -> Verdict) -> Verdict {
        let plugin = (self.build)().map_err(|error| format!("it cannot be built: {error}"))?;
        let work = async {
            plugin.run().await;
            std::future::pending::<Verdict>().await
        };
        let check = async {
            tokio::select! { biased; outcome = body(&plugin) => outcome, outcome = work => outcome }
        };
        let outcome = AssertUnwindSafe(check).catch_unwind().await;
        outcome.unwrap_or_else(|panic| Err(format!("it panicked: {}", words(&*panic))))
    }

    fn builds(&self) -> Verdict {
        let names = [(self.build)(), (self.build)()].map(|plugin| plugin.map(|plugin| plugin.name().to_string()));
        match names {
            [Ok(a), Ok(b)] if a != b => Err(format!("it is called {a} first and then {b}")),
            [Ok(name), Ok(_)] if name.is_empty() || name.chars().any(char::is_control) => {
                Err("it has no good name".into())
            }
            [Ok(name), Ok(_)] => Ok(format!("its name is {name}")),
            [Err(error), _] | [_, Err(error)] => Err(error.to_string()),
        }
    }

    async fn starts(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut torrent = Torrent::new(1, plugin);
        if !plugin.serves(&torrent.info) {
            return Err("it does not serve an ordinary public torrent with trackers and peers".into());
        }
        let mut stream = torrent.discover(plugin).await?;
        let seen = self.watch(&mut stream).await?;
        Ok(format!("{}, {}", counted(seen.peers, "peer"), counted(seen.errors, "error")))
    }

    async fn serves_several(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut torrents: Vec<_> = (1..=3).map(|n| Torrent::new(n, plugin)).collect();
        let mut streams = Vec::new();
        for torrent in &mut torrents {
            streams.push(torrent.discover(plugin).await?);
        }
        for stream in &mut streams {
            self.watch(stream).await?;
        }
        Ok("three".into())
    }

    async fn rests(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut torrent = Torrent::new(1, plugin);
        let mut stream = torrent.discover(plugin).await?;
        let first = self.watch(&mut stream).await?;
        torrent.progress.send_modify(|progress| progress.wanted = 0);
        // What was under way may still come.
        let before = self.watch(&mut stream).await?;
        let resting = self.watch(&mut stream).await?;
        if resting.peers > 0 {
            return Err(format!("it found {} that nobody wanted", counted(resting.peers, "peer")));
        }
        torrent.progress.send_modify(|progress| progress.wanted = 50);
        let after = self.watch(&mut stream).await?;
        if after.ended && !first.ended && !before.ended && !resting.ended {
            return Err("its stream ended when peers were wanted again".into());
        }
        Ok(format!("{} before, none at rest, {} after", counted(first.peers, "peer"), after.peers))
    }

    async fn takes_feedback(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut torrent = Torrent::new(1, plugin);
        let mut stream = torrent.discover(plugin).await?;
        let fates =
            [PeerFate::Refused, PeerFate::Connected, PeerFate::Handshaken, PeerFate::Gave(1 << 40), PeerFate::Banned];
        let before = self.watch(&mut stream).await?;
        for port in 1..=10_000u16 {
            let fate = fates[usize::from(port) % fates.len()];
            let addr = ([192, 0, 2, 1], port).into();
            torrent.say(SwarmEvent::Outcome(PeerOutcome { addr, fate }));
        }
        plugin.hear(&News::NetworkChanged);
        plugin.hear(&News::DhtNode(([192, 0, 2, 1], 6881).into()));
        torrent.say(SwarmEvent::NetworkChanged);
        torrent.say(SwarmEvent::TrackersAdded(vec!["udp://another.invalid:1".into()]));
        let after = self.watch(&mut stream).await?;
        torrent.say(SwarmEvent::Outcome(PeerOutcome { addr: ([192, 0, 2, 1], 1).into(), fate: PeerFate::Banned }));
        self.watch(&mut stream).await?;
        if after.ended && !before.ended {
            return Err("its stream ended".into());
        }
        Ok("10000 outcomes".into())
    }

    async fn outlives_completion(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut torrent = Torrent::new(1, plugin);
        let mut stream = torrent.discover(plugin).await?;
        let before = self.watch(&mut stream).await?;
        torrent.progress.send_modify(|progress| (progress.left, progress.wanted) = (Some(0), 0));
        torrent.say(SwarmEvent::Completed);
        let after = self.watch(&mut stream).await?;
        if after.ended && !before.ended {
            return Err("its stream ended with the download; a seed is to be found, too".into());
        }
        Ok("as a seed".into())
    }

    async fn survives(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut served = 0;
        for info in absurd() {
            if !plugin.serves(&info) {
                continue;
            }
            served += 1;
            let mut torrent = Torrent::new(1, plugin);
            torrent.info = info;
            torrent.progress.send_modify(|progress| (progress.left, progress.wanted) = (None, usize::MAX));
            // It may well refuse, in words.
            if let Ok(mut stream) = torrent.discover(plugin).await {
                self.watch(&mut stream).await?;
            }
        }
        Ok(format!("{served} absurd torrents"))
    }

    async fn stops_when_dropped(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut torrent = Torrent::new(1, plugin);
        let mut stream = torrent.discover(plugin).await?;
        self.watch(&mut stream).await?;
        drop(stream);
        tokio::time::sleep(self.options.settle).await;
        if !torrent.progress.is_closed() {
            return Err("it still holds the torrent's progress: some task goes on".into());
        }
        let mut stream = torrent.discover(plugin).await?;
        self.watch(&mut stream).await?;
        Ok("and starts again".into())
    }

    async fn stops_in_time(&self, plugin: &Arc<dyn Discovery>) -> Verdict {
        let mut torrent = Torrent::new(1, plugin);
        let mut stream = torrent.discover(plugin).await?;
        self.watch(&mut stream).await?;
        drop(stream);
        let within = self.options.within;
        // A little more than agreed, for a busy machine.
        let limit = within + within / 2;
        let last = torrent.progress.borrow().clone();
        let leaving = timeout(limit, plugin.leave(torrent.info.clone(), torrent.me.clone(), last, within)).await;
        let told = match leaving {
            Ok(Ok(())) => "good-byes said".to_owned(),
            Ok(Err(error)) => format!("good-bye not said: {error}"),
            Err(_) => return Err(format!("leave takes longer than {} s", within.as_secs_f64())),
        };
        let closing = timeout(limit, plugin.close(within)).await;
        closing.map_err(|_| format!("close takes longer than {} s", within.as_secs_f64()))?;
        Ok(told)
    }

    /// Reads a stream for a while. Fails if there is something in it that no plugin may find.
    async fn watch(&self, stream: &mut FoundStream) -> Result<Seen, String> {
        let (until, mut seen) = (Instant::now() + self.options.settle, Seen::default());
        let mut finds = 0;
        while let Ok(find) = timeout_at(until, stream.next()).await {
            let Some(find) = find else {
                seen.ended = true;
                break;
            };
            finds += 1;
            if finds > MOST_FINDS {
                return Err(format!("it floods: more than {MOST_FINDS} finds in {:?}", self.options.settle));
            }
            match find {
                Ok(Found::Peers(peers)) => {
                    if let Some(bad) = peers.iter().find(|peer| !is_dialable(peer.addr)) {
                        return Err(format!("it found {}, which cannot be dialled", bad.addr));
                    }
                    seen.peers += peers.len();
                }
                Ok(Found::Notice(text) | Found::Condition(text)) => printable(&text)?,
                Ok(_) => {}
                Err(error) => {
                    seen.errors += 1;
                    printable(&error.to_string())?;
                }
            }
        }
        Ok(seen)
    }
}

/// Finds that a plugin may have in [`Options::settle`].
const MOST_FINDS: usize = 10_000;

fn printable(text: &str) -> Result<(), String> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => {
            Err(format!("a text of its has the control character {}: {}", c.escape_default(), text.escape_debug()))
        }
        None => Ok(()),
    }
}

/// BEP 27. Who finds peers of a torrent that names nobody finds them by itself, and must not for private ones.
fn keeps_away(plugin: &Arc<dyn Discovery>) -> Verdict {
    let torrent = Torrent::new(1, plugin);
    let bare = |private| SwarmInfo { private, ..SwarmInfo::new(torrent.info.info_hashes) };
    let private = SwarmInfo { private: true, ..torrent.info.clone() };
    match (plugin.serves(&bare(false)), plugin.serves(&bare(true)), plugin.serves(&private)) {
        (_, true, _) | (true, _, true) => Err("it serves private torrents, and is no tracker (BEP 27)".into()),
        (_, _, true) => Ok("it goes by what the torrent or its user names".into()),
        (..) => Ok("it serves none".into()),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a word").to_owned()
}

/// A torrent and the engine's ends of its channels.
struct Torrent {
    info: SwarmInfo,
    me: Me,
    progress: watch::Sender<Progress>,
    events: Option<mpsc::Sender<SwarmEvent>>,
    gossips: bool,
    gossip: Option<(mpsc::Sender<Heard>, mpsc::Receiver<Say>)>,
}

impl Torrent {
    /// A public torrent with everything that a plugin may go by, though none of it exists.
    fn new(n: u8, plugin: &Arc<dyn Discovery>) -> Self {
        let hash = InfoHashV1([n; 20]);
        let link = format!("magnet:?xt=urn:btih:{hash}&x.pe=192.0.2.1:6881&tr=udp%3A%2F%2Ftracker.invalid%3A6969");
        let list = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let info = SwarmInfo {
            trackers: vec![list(&["http://tracker.invalid/announce"]), list(&["udp://tracker.invalid:6969"])].into(),
            peers: list(&["192.0.2.1:6881"]).into(),
            nodes: list(&["192.0.2.1:6881"]).into(),
            link: Magnet::parse(&link).ok().map(Arc::new),
            ..SwarmInfo::new(InfoHashes::v1(hash))
        };
        let progress = Progress { uploaded: 0, downloaded: 0, left: Some(1 << 30), wanted: 50 };
        let me = Me { peer_id: PeerId(*b"-Cn0100-conformance0"), port: 6881, key: 7 };
        let gossips = plugin.extension().is_some();
        Self { info, me, progress: watch::Sender::new(progress), events: None, gossips, gossip: None }
    }
    async fn discover(&mut self, plugin: &Arc<dyn Discovery>) -> Result<FoundStream, String> {
        let (events, received) = mpsc::channel(256);
        self.events = Some(events);
        let gossip = self.gossips.then(|| {
            let ((heard_by, heard), (say, said)) = (mpsc::channel(256), mpsc::channel(256));
            self.gossip = Some((heard_by, said));
            Gossip { heard, say }
        });
        let (info, me, progress) = (self.info.clone(), self.me.clone(), self.progress.subscribe());
        let swarm = Swarm { info, me, progress, events: received, gossip };
        plugin.discover(swarm).await.map_err(|error| format!("it does not start: {error}"))
    }
    fn say(&self, event: SwarmEvent) {
        if let Some(events) = &self.events {
            let _ = events.try_send(event);
        }
    }
}

/// Torrents that nobody would make, but somebody will.
fn absurd() -> Vec<SwarmInfo> {
    let bare = |byte| SwarmInfo::new(InfoHashes::v1(InfoHashV1([byte; 20])));
    let long = "x".repeat(100_000);
    let mut trackers: Vec<String> = [
        "",
        " ",
        "\0",
        "\u{1b}[2J",
        "http://",
        "udp://",
        "udp://:0",
        "http://[::1",
        "http://\u{202e}/",
        "HTTP://x:0/a",
        "http://трекер.invalid/анонс",
        "udp://255.255.255.255:1",
        "http://a@b:c@d:99999/",
        "ftp://x/",
        "//",
        ":",
    ]
    .map(str::to_owned)
    .into();
    trackers.extend([format!("http://{long}/"), format!("udp://{long}:1"), long.clone()]);
    let named = ["", ":", "\0:1", "[::1]", "0.0.0.0:0", "x:99999", "[fe80::1%eth0]:5", "255.255.255.255:9", "имя:6881"];
    let mut named: Vec<String> = named.map(str::to_owned).into();
    named.push(long);
    vec![
        SwarmInfo { trackers: vec![trackers.clone(), vec![], trackers].into(), ..bare(0) },
        SwarmInfo { peers: named.clone().into(), nodes: named.into(), ..bare(0xff) },
        SwarmInfo::new(InfoHashes { v1: None, v2: None }),
        SwarmInfo { trackers: vec![vec!["udp://same.invalid:1".to_owned(); 10_000]].into(), ..bare(1) },
    ]
}

/// `n` of something, for a sentence.
fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
