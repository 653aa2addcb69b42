//! The common part, with trackers that are asked without any network.

use castanet_core::{
    InfoHashV1, InfoHashV2, InfoHashes, Moment,
    seams::discovery::{Found, SwarmEvent},
};

use super::*;
use crate::testing::{Engine, Torrent, World};

/// What was asked of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Announce { url: String, name: u8, event: Event, port: u16 },
    Scrape { url: String, names: usize },
}

/// Trackers at `fake:` URLs. What is in the name of the host tells how they are: "silent" gives no numbers, a scrape of
/// "broken" fails, "mute" has none, and "slow" wants to be left alone for two hours.
#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Vec<Asked>>>);

#[async_trait]
impl Ask for Fake {
    const NAME: &'static str = "fake";
    const SCHEMES: &'static [&'static str] = &["fake"];

    async fn ask(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        announce: &Announce,
        _: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let (url, name) = (target.url.to_string(), announce.info_hash[0]);
        let numbers = (!url.contains("silent")).then_some(u32::from(name));
        self.0.lock().unwrap().push(Asked::Announce { url, name, event: announce.event, port: announce.port });
        let peers = vec![(SocketAddr::new(addresses[0].ip(), 7), None)];
        let interval = target.url.as_str().contains("slow").then_some(Duration::from_secs(7200));
        Ok(Answer { interval, seeds: numbers, leeches: numbers, peers, ..Answer::default() })
    }

    fn scrapes(&self, target: &Target) -> bool {
        !target.url.as_str().contains("mute")
    }

    async fn scrape(
        &self,
        target: &Target,
        _: &[SocketAddr],
        names: &[[u8; 20]],
    ) -> Result<Option<SwarmSize>, Failure> {
        let url = target.url.to_string();
        let broken = url.contains("broken");
        self.0.lock().unwrap().push(Asked::Scrape { url, names: names.len() });
        if broken {
            return Err(Failure::unreachable(target, "it is broken"));
        }
        Ok(Some(SwarmSize { seeds: 5, leeches: 6, completed: Some(7) }))
    }
}

struct Bench {
    world: World,
    means: Means,
    trackers: Fake,
    plugin: Announcer<Fake>,
    torrent: Torrent,
    engine: Engine,
    stream: FoundStream,
}

impl Bench {
    async fn new(urls: &[&str], change: impl FnOnce(&mut Torrent)) -> Self {
        let (world, trackers) = (World::new(), Fake::default());
        for name in ["a", "b", "slow", "silent", "silent.broken", "silent.mute"] {
            world.name(name, &["127.0.0.1"]);
        }
        let means = world.means();
        let plugin = Announcer::new(trackers.clone(), &means);
        let mut torrent = Torrent::new(urls);
        change(&mut torrent);
        let (swarm, engine) = torrent.swarm();
        assert!(plugin.serves(&torrent.info));
        let stream = plugin.discover(swarm).await.unwrap();
        Self { world, means, trackers, plugin, torrent, engine, stream }
    }
    /// Lets it work until then; returns what it found but for its pauses.
    async fn until(&mut self, second: u64) -> Vec<Found> {
        let mut all = Vec::new();
        let left = Moment::from_secs(second).since(self.world.now());
        let read = async {
            while let Some(found) = self.stream.next().await {
                all.push(found.unwrap());
            }
        };
        assert!(timeout(left, read).await.is_err(), "it goes on");
        all.retain(|found| !matches!(found, Found::Idle { .. }));
        all
    }
    /// What was asked since the last time.
    fn asked(&self) -> Vec<Asked> {
        self.trackers.0.lock().unwrap().drain(..).collect()
    }
}

fn announce(url: &str, name: u8, event: Event) -> Asked {
    Asked::Announce { url: url.into(), name, event, port: 6881 }
}
fn scrape(url: &str) -> Asked {
    Asked::Scrape { url: url.into(), names: 1 }
}
fn size(instance: &str, seeds: u32, leeches: u32, completed: Option<u32>) -> Found {
    Found::SwarmSize { instance: instance.into(), size: SwarmSize { seeds, leeches, completed } }
}

/// How many scrapes there are until then.
async fn scrapes(bench: &mut Bench, second: u64) -> usize {
    bench.until(second).await;
    bench.asked().iter().filter(|asked| matches!(asked, Asked::Scrape { .. })).count()
}

#[tokio::test(start_paused = true)]
async fn a_hybrid_is_announced_by_both_names() {
    let url = "fake://a:1/";
    let both = InfoHashes { v1: Some(InfoHashV1([1; 20])), v2: Some(InfoHashV2([2; 32])) };
    let mut bench = Bench::new(&[url], |torrent| torrent.info.info_hashes = both).await;
    let found = bench.until(1).await;
    assert_eq!(bench.asked(), [announce(url, 1, Event::Started), announce(url, 2, Event::Started)]);
    assert_eq!(found[..2], [Found::Reached(Milestone::NamesResolved), Found::Reached(Milestone::LookedUp)]);
    let peers = found.iter().filter(|found| matches!(found, Found::Peers(_))).count();
    assert_eq!((peers, found.len()), (2, 5));
    assert_eq!(found[4], size(url, 2, 2, None), "the larger numbers, once");
    bench.stream = Box::pin(futures_util::stream::pending());
    let (info, me) = (bench.torrent.info.clone(), bench.torrent.me.clone());
    bench.plugin.leave(info, me, Progress::default(), Duration::from_secs(1)).await.unwrap();
    assert_eq!(bench.asked(), [announce(url, 1, Event::Stopped), announce(url, 2, Event::Stopped)]);
}

#[tokio::test(start_paused = true)]
async fn added_trackers_are_asked_alone() {
    let mut bench = Bench::new(&["fake://a:1/"], |_| {}).await;
    bench.until(10).await;
    assert_eq!(bench.asked().len(), 1);
    let added = ["udp://elsewhere:1", "fake://a:1/", "fake://b:1/x", "fake://b:1/y"].map(str::to_owned);
    bench.engine.events.send(SwarmEvent::TrackersAdded(added.to_vec())).await.unwrap();
    let found = bench.until(100).await;
    let asked = [announce("fake://b:1/x", 0xab, Event::Started), announce("fake://b:1/y", 0xab, Event::Started)];
    assert_eq!(bench.asked(), asked);
    assert!(!found.iter().any(|found| matches!(found, Found::Reached(_))), "milestones are reached once: {found:?}");
    bench.stream = Box::pin(futures_util::stream::pending());
    let (info, me) = (bench.torrent.info.clone(), bench.torrent.me.clone());
    bench.plugin.leave(info, me, Progress::default(), Duration::from_secs(1)).await.unwrap();
    assert_eq!(bench.asked().len(), 3, "all of them hear the good-bye");
}

#[tokio::test(start_paused = true)]
async fn a_new_address_is_announced_soon() {
    let url = "fake://a:1/";
    let mut bench = Bench::new(&[url], |_| {}).await;
    bench.until(100).await;
    assert_eq!(bench.asked().len(), 1);
    *bench.means.listening.write().unwrap() = vec!["10.0.0.1:7777".parse().unwrap()];
    for _ in 0..5 {
        bench.engine.events.send(SwarmEvent::NetworkChanged).await.unwrap();
    }
    bench.until(110).await;
    assert_eq!(bench.asked(), [Asked::Announce { url: url.into(), name: 0xab, event: Event::Regular, port: 7777 }]);
    bench.until(1000).await;
    assert_eq!(bench.asked(), [], "once");
}

#[tokio::test(start_paused = true)]
async fn numbers_are_scraped_where_announces_bring_none() {
    let urls = ["fake://silent:1/", "fake://silent.broken:1/", "fake://silent.mute:1/", "fake://a:1/"];
    let mut bench = Bench::new(&urls, |_| {}).await;
    let found = bench.until(1700).await;
    let mut asked = bench.asked();
    asked.retain(|asked| matches!(asked, Asked::Scrape { .. }));
    assert_eq!(asked, [scrape(urls[0]), scrape(urls[1])], "and what fails is not reported");
    let sizes: Vec<_> = found.into_iter().filter(|found| matches!(found, Found::SwarmSize { .. })).collect();
    assert_eq!(sizes, [size(urls[3], 0xab, 0xab, None), size(urls[0], 5, 6, Some(7))]);
    assert_eq!(scrapes(&mut bench, 1900).await, 2, "again after half an hour");
}

#[tokio::test(start_paused = true)]
async fn a_resting_torrent_asks_for_numbers_and_keeps_to_the_pace() {
    let url = "fake://a:1/";
    let mut bench = Bench::new(&[url], |_| {}).await;
    bench.until(1).await;
    bench.engine.progress.send_modify(|progress| progress.wanted = 0);
    // An announce comes first, and brings the numbers.
    assert_eq!(scrapes(&mut bench, 4000).await, 0);

    let mut bench = Bench::new(&["fake://slow:1/"], |_| {}).await;
    assert_eq!(scrapes(&mut bench, 4000).await, 0, "while peers are wanted it has other worries");
    bench.engine.progress.send_modify(|progress| progress.wanted = 0);
    assert_eq!((scrapes(&mut bench, 4001).await, scrapes(&mut bench, 7000).await), (1, 1));
}
