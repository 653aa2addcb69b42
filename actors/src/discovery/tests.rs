//! Tests of the host of a discovery plugin, with a plugin that does as it is told.

use std::sync::Mutex;

use async_trait::async_trait;
use castanet_core::{
    InfoHashV1, InfoHashes, PeerId,
    seams::discovery::{DiscoveryError, Me, PeerCandidate, PeerFate, PeerOutcome, Progress, SwarmInfo},
};
use futures_util::stream;
use tokio::{
    sync::{mpsc::UnboundedReceiver, watch},
    time::Instant,
};

use super::*;
use crate::{
    mail::probe::probe,
    testing::{address, drain, hear, settle},
};

/// What the plugin does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Fails,
    Panics,
    /// Finds one peer and ends.
    Ends,
    /// Finds one peer and stays.
    Stays,
}

#[derive(Debug)]
struct Script {
    mood: Mutex<Mood>,
    asked: Mutex<Vec<Instant>>,
    events: Mutex<Vec<mpsc::Receiver<SwarmEvent>>>,
    /// Alive as long as a stream is.
    alive: Arc<()>,
}

#[async_trait]
impl Plugin for Script {
    fn name(&self) -> PluginName {
        "script".into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        self.asked.lock().unwrap().push(Instant::now());
        self.events.lock().unwrap().push(swarm.events);
        let peer = PeerCandidate { addr: address(9), peer_id: None, instance: "it".into() };
        let found = stream::iter([Ok(Found::Peers(vec![peer]))]);
        let alive = self.alive.clone();
        match *self.mood.lock().unwrap() {
            Mood::Fails => Err(DiscoveryError::Unusable("not today".into())),
            Mood::Panics => panic!("as the test wants it"),
            Mood::Ends => Ok(Box::pin(found)),
            Mood::Stays => Ok(Box::pin(found.chain(stream::poll_fn(move |_| {
                let _ = &alive;
                std::task::Poll::Pending
            })))),
        }
    }
    async fn leave(&self, _: SwarmInfo, _: Me, _: Progress, _: Duration) -> Result<(), DiscoveryError> {
        std::future::pending().await
    }
}

struct Rig {
    host: Addr<Discovery>,
    script: Arc<Script>,
    stopped: UnboundedReceiver<ChildStopped>,
    found: UnboundedReceiver<PeersFound>,
    said: UnboundedReceiver<PluginSaid>,
    links: (Recipient<PeersFound>, Recipient<PluginSaid>, Recipient<NeighbourTold>),
}

fn rig(mood: Mood) -> Rig {
    let script = Arc::new(Script {
        mood: Mutex::new(mood),
        asked: Mutex::default(),
        events: Mutex::default(),
        alive: Arc::default(),
    });
    let ((parent, stopped), (found, found_heard), (said, said_heard)) = (probe(), probe(), probe());
    let (told, _) = probe();
    let host = Discovery::new(script.clone(), parent).start();
    Rig { host, script, stopped, found: found_heard, said: said_heard, links: (found, said, told) }
}

impl Rig {
    async fn watch(&self, torrent: u64, private: bool) {
        let info_hashes = InfoHashes::v1(InfoHashV1([1; 20]));
        let (found, said, told) = self.links.clone();
        let watch = Watch {
            torrent: TorrentId(torrent),
            info: SwarmInfo { private, ..SwarmInfo::new(info_hashes) },
            me: Me { peer_id: PeerId([1; 20]), port: 0, key: 0 },
            progress: watch::Sender::new(Progress::default()).subscribe(),
            found,
            said,
            told,
        };
        self.host.send(watch).await.unwrap();
        settle().await;
    }
    fn streams(&self) -> usize {
        Arc::strong_count(&self.script.alive) - 1
    }
}

#[actix::test]
async fn a_plugin_that_fails_is_asked_again_with_growing_pauses() {
    tokio::time::pause();
    let mut rig = rig(Mood::Fails);
    rig.watch(1, false).await;
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    let asked = rig.script.asked.lock().unwrap().clone();
    let pauses: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses[..8], [5, 10, 20, 40, 80, 160, 320, 600]);
    assert!(pauses[8..].iter().all(|pause| *pause == 600) && pauses.len() > 15);
    let said = drain(&mut rig.said);
    let is_failure = |said: &PluginSaid| matches!(&said.said, Err(error) if error.to_string() == "not today");
    assert!(said.len() == asked.len() && said.iter().all(is_failure));
    *rig.script.mood.lock().unwrap() = Mood::Stays;
    assert_eq!(hear(&mut rig.found).await.peers[0].addr, address(9));
}

#[actix::test]
async fn a_plugin_that_panics_takes_its_host_along_and_the_parent_learns_of_it() {
    tokio::time::pause();
    let mut rig = rig(Mood::Panics);
    rig.watch(1, false).await;
    let child = Child::Discovery("script".into());
    assert_eq!(hear(&mut rig.stopped).await, ChildStopped { child, reason: ExitReason::Unexplained });
}

#[actix::test]
async fn a_stream_that_ends_does_not_end_the_host() {
    tokio::time::pause();
    let mut rig = rig(Mood::Ends);
    rig.watch(1, false).await;
    hear(&mut rig.found).await;
    *rig.script.mood.lock().unwrap() = Mood::Stays;
    rig.watch(2, false).await;
    hear(&mut rig.found).await;
    assert!(drain(&mut rig.stopped).is_empty() && rig.streams() == 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.script.asked.lock().unwrap().len(), 2, "what has ended is not asked again");
}

#[actix::test]
async fn events_reach_the_plugin_and_pile_up_only_so_far() {
    tokio::time::pause();
    let rig = rig(Mood::Stays);
    rig.watch(1, false).await;
    rig.host.send(TorrentCompleted(TorrentId(1))).await.unwrap();
    let outcome = PeerOutcome { addr: address(9), fate: PeerFate::Refused };
    let outcomes = vec![outcome.clone(); 2_000];
    rig.host.send(PeersFared { torrent: TorrentId(1), outcomes }).await.unwrap();
    settle().await;
    let mut events = rig.script.events.lock().unwrap().remove(0);
    assert_eq!(events.try_recv().unwrap(), SwarmEvent::Completed);
    assert_eq!(events.try_recv().unwrap(), SwarmEvent::Outcome(outcome));
    assert!(events.len() <= MOST_EVENTS);
}

#[actix::test]
async fn leaving_ends_the_work_at_once_and_the_good_bye_in_time() {
    tokio::time::pause();
    let mut rig = rig(Mood::Stays);
    rig.watch(1, false).await;
    rig.watch(2, false).await;
    assert_eq!(rig.streams(), 2);
    let (start, within) = (Instant::now(), Duration::from_secs(4));
    rig.host.send(Leave { torrent: TorrentId(1), within }).await.unwrap();
    assert!(start.elapsed() <= within + Duration::from_millis(10), "the plugin never answers");
    assert_eq!(rig.streams(), 1);
    rig.host.send(Leave { torrent: TorrentId(77), within }).await.unwrap();
    rig.host.send(Unwatch(TorrentId(2))).await.unwrap();
    settle().await;
    assert_eq!(rig.streams(), 0);
    // Sent without waiting for an answer it is carried out all the same.
    rig.watch(3, false).await;
    tell(&rig.host.clone().recipient(), Leave { torrent: TorrentId(3), within });
    settle().await;
    assert_eq!(rig.streams(), 0);
    rig.host.send(CloseDiscovery { within: Duration::from_secs(1) }).await.unwrap();
    assert_eq!(hear(&mut rig.stopped).await.reason, ExitReason::Asked);
}

#[actix::test]
async fn a_plugin_is_not_asked_for_what_it_does_not_serve() {
    tokio::time::pause();
    let rig = rig(Mood::Stays);
    rig.watch(1, true).await;
    assert!(rig.script.asked.lock().unwrap().is_empty());
}
