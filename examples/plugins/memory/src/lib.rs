//! Remembers who gave something, so that a torrent that starts again has peers before any tracker or DHT has answered.
//!
//! It overhears what becomes of every peer, and keeps those who gave, the best first, on its page of the notebook. Whoever
//! refuses again and again is forgotten. The page is written at the first change, then every few seconds at most: a power
//! cut loses no more than that. When a torrent starts, a few are named at once, and a few more at a time while peers are
//! wanted; each is named once, since the engine goes on trying. Everything is bounded, and a damaged page is thrown away.
//!
//! In this folder: `cp ../../../Cargo.lock .`, then `cargo run --release -- scenarios/SCENARIO.toml --runs 10 --vary plugins=...`.
//! What came of it, with the commands: docs/EXPERIMENT.md. The contract of plugins: docs/ADD-A-PLUGIN.md.

mod book;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use castanet::{
    PluginName,
    seams::{
        discovery::*,
        means::{Means, Notebook},
    },
};
use futures_util::stream::unfold;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use book::Book;
pub use book::{MOST_PEERS, MOST_TORRENTS};

/// The name under which it is registered, and its page in the notebook.
pub const NAME: &str = "memory";
/// So many peers at a time, and so long until the next.
const FEW: usize = 5;
const PAUSE: Duration = Duration::from_secs(5);
/// The least time between two writes.
const BETWEEN_WRITES: Duration = Duration::from_secs(5);

/// Makes the plugin. It has no settings.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    if let Some(key) = settings.0.keys().next() {
        return Err(DiscoveryError::Unusable(format!("the plugin {NAME} has no setting {key}")));
    }
    let notebook = means.notebook.clone();
    let page = notebook.read(NAME).ok().flatten();
    let book = page.and_then(|page| Book::read(&page)).unwrap_or_default();
    let memory = Memory { notebook, book: Mutex::new(book), is_new: AtomicBool::new(false), bell: Notify::new() };
    Ok(Arc::new(Plugin(Arc::new(memory))))
}

#[derive(Debug)]
struct Plugin(Arc<Memory>);

/// What the plugin and its streams share.
#[derive(Debug)]
struct Memory {
    notebook: Arc<dyn Notebook>,
    book: Mutex<Book>,
    /// The book says something that the notebook does not.
    is_new: AtomicBool,
    /// Rung when that may be so.
    bell: Notify,
}

#[async_trait]
impl Discovery for Plugin {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    /// Others find the peers from whom it learns.
    fn overhears(&self) -> bool {
        true
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let torrent: String = swarm.info.info_hashes.wire().iter().map(|byte| format!("{byte:02x}")).collect();
        let unnamed = self.0.book().peers(&torrent).iter().map(|known| known.addr).collect();
        let serving = Serving { memory: self.0.clone(), torrent, swarm, unnamed, due: Instant::now() };
        Ok(Box::pin(unfold(serving, async |mut serving| {
            let peers = serving.next().await?;
            Some((Ok(Found::Peers(peers)), serving))
        })))
    }
    async fn run(&self) {
        loop {
            self.0.bell.notified().await;
            self.0.save();
            sleep(BETWEEN_WRITES).await;
        }
    }
    async fn close(&self, _within: Duration) {
        self.0.save();
    }
}

impl Memory {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn learn(&self, torrent: &str, outcome: &PeerOutcome) {
        if self.book().learn(torrent, outcome) {
            self.is_new.store(true, Relaxed);
            self.bell.notify_one();
        }
    }
    /// Writes the page. If that cannot be done now, because the disk is full say, it is tried after the next change.
    fn save(&self) {
        if self.is_new.swap(false, Relaxed) {
            let page = self.book().write();
            self.is_new.fetch_or(self.notebook.write(NAME, page.as_bytes()).is_err(), Relaxed);
        }
    }
}

/// One torrent that is being served.
struct Serving {
    memory: Arc<Memory>,
    torrent: String,
    swarm: Swarm,
    /// Who was remembered and has not been named yet.
    unnamed: VecDeque<SocketAddr>,
    /// When the next few may be named.
    due: Instant,
}

impl Serving {
    /// The next few peers; `None` once the torrent is gone.
    async fn next(&mut self) -> Option<Vec<PeerCandidate>> {
        let Self { memory, torrent, swarm: Swarm { progress, events, .. }, unnamed, due } = self;
        loop {
            let turn = async {
                sleep_until(*due).await;
                progress.wait_for(|progress| progress.wanted > 0 && !unnamed.is_empty()).await.is_ok()
            };
            tokio::select! {
                biased;
                Some(event) = events.recv() => if let SwarmEvent::Outcome(outcome) = event {
                    memory.learn(torrent, &outcome);
                },
                is_there = turn => {
                    *due = Instant::now() + PAUSE;
                    let few = unnamed.drain(..FEW.min(unnamed.len()));
                    let candidate = |addr| PeerCandidate { addr, peer_id: None, instance: NAME.into() };
                    return is_there.then(|| few.map(candidate).collect());
                }
            }
        }
    }
}
