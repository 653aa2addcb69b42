//! What a magnet link itself says: peers (`x.pe`), places where the torrent file may be had (`xs`, `as`; BEP 9), and web
//! seeds (`ws`, BEP 19).
//!
//! Peers are told as those that the user names. A torrent file is fetched only while the metadata is unknown: from `xs`
//! at once, from `as` when nothing else has brought it after ten seconds, by the client that HTTP trackers are asked with.
//! The torrent itself judges whether a file is the right one. The link's trackers (`tr`) are the tracker plugins' affair.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use castanet_core::{
    PluginName,
    magnet::Magnet,
    seams::{
        discovery::{Discovery, DiscoveryError, Found, FoundStream, Progress, Settings, Swarm, SwarmInfo},
        means::Means,
    },
};
use castanet_protocol::tracker::plain;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join},
    stream::FuturesUnordered,
};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

use crate::{
    driven::{Finds, driven},
    fixed::{self, MOST_PEERS},
    http_tracker::fetch,
};

/// The name under which it is registered.
pub const NAME: &str = "magnet";
/// The largest torrent file that is fetched, in bytes.
const LARGEST_FILE: usize = 64 << 20;
/// The most sources of one link, and the most fallback sources, that are used.
const MOST_SOURCES: usize = 8;
/// The most files of all torrents that are fetched at a time: each may take [`LARGEST_FILE`] of memory.
const MOST_AT_ONCE: usize = 4;
/// How long a fallback source waits for others to bring the metadata.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after the first failure, or after a file that did not help, and at most.
const FIRST_BACK_OFF: Duration = Duration::from_secs(15);
const LAST_BACK_OFF: Duration = Duration::from_secs(30 * 60);

/// Makes the plugin. It has no settings.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    crate::refuse_settings(NAME, settings)?;
    Ok(Arc::new(Link { means: means.clone(), slots: Arc::new(Semaphore::new(MOST_AT_ONCE)) }))
}

#[derive(Debug, Clone)]
struct Link {
    means: Means,
    slots: Arc<Semaphore>,
}

#[async_trait]
impl Discovery for Link {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        // A link is a stranger's word, unlike the peers that the user names: not for a private torrent (BEP 27).
        let lists = |link: &Magnet| {
            [&link.peers, &link.sources, &link.fallback_sources, &link.web_seeds].map(|list| !list.is_empty())
        };
        let says = |link: &Magnet| lists(link).contains(&true);
        !swarm.private && swarm.link.as_deref().is_some_and(says)
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let plugin = self.clone();
        Ok(driven(async move |finds| {
            if let Some(link) = swarm.info.link.as_deref().filter(|_| !swarm.info.private) {
                let (peers, file) = (swarm.progress.clone(), swarm.progress);
                join(plugin.tell_peers(link, peers, &finds), plugin.find_file(link, file, &finds)).await;
            }
        }))
    }
}

impl Link {
    async fn tell_peers(&self, link: &Magnet, progress: watch::Receiver<Progress>, finds: &Finds) {
        let tell = async |peer: &String| {
            fixed::tell(&self.means, peer, &format!("x.pe {peer}"), progress.clone(), finds).await;
        };
        let mut tellers: FuturesUnordered<_> = link.peers.iter().take(MOST_PEERS).map(tell).collect();
        while tellers.next().await.is_some() {}
    }

    /// Tells of web seeds, then fetches the file. Returns when the metadata is known, from here or elsewhere.
    async fn find_file(&self, link: &Magnet, mut progress: watch::Receiver<Progress>, finds: &Finds) {
        if !link.web_seeds.is_empty() {
            let _ = finds.send(Ok(Found::WebSeeds(link.web_seeds.clone()))).await;
        }
        let sources = link.sources.iter().take(MOST_SOURCES).map(|url| ("xs", url, Duration::ZERO));
        let fallbacks = link.fallback_sources.iter().take(MOST_SOURCES).map(|url| ("as", url, PATIENCE));
        let fetchers = sources.chain(fallbacks).map(|(key, url, patience)| self.fetcher(key, url, patience, finds));
        let mut fetchers: FuturesUnordered<BoxFuture<'_, ()>> = fetchers.collect();
        tokio::select! {
            biased;
            _ = progress.wait_for(|progress| progress.left.is_some()) => {}
            () = async { while fetchers.next().await.is_some() {} } => {}
        }
    }

    /// Fetches the file from one source, again and again until it is dropped. One that cannot be used is named once.
    fn fetcher<'a>(&'a self, key: &str, url: &'a str, patience: Duration, finds: &'a Finds) -> BoxFuture<'a, ()> {
        let instance: Arc<str> = plain(format!("{key} {url}").as_bytes()).into();
        async move {
            let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
            if !matches!(scheme.as_deref(), Some("http" | "https")) {
                let text = format!("{instance} is not used: torrent files are fetched by http and https only");
                let _ = finds.send(Ok(Found::Notice(text))).await;
                return;
            }
            sleep(patience).await;
            let mut pause = FIRST_BACK_OFF;
            loop {
                let file = {
                    // Never closed.
                    let _slot = self.slots.acquire().await;
                    fetch(&self.means, url, LARGEST_FILE).await
                };
                let found = file.map(|file| Found::TorrentFile(file.into())).map_err(|reason| {
                    let (instance, reason) = (instance.clone(), plain(reason.as_bytes()));
                    DiscoveryError::Unreachable { instance, reason }
                });
                let _ = finds.send(found).await;
                sleep(pause).await;
                pause = (pause * 2).min(LAST_BACK_OFF);
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use castanet_core::Moment;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;
    use crate::testing::{Engine, Torrent, World};

    const TOPIC: &str = "magnet:?xt=urn:btih:abababababababababababababababababababab";

    /// A web server with one page; counts the requests.
    fn web(world: &World, addr: &str, response: &'static str) -> Arc<AtomicUsize> {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        world.listen(addr, move |mut io| {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let _ = io.read(&mut [0; 1024]).await;
                let _ = io.write_all(response.as_bytes()).await;
            });
        });
        asked
    }

    const FILE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfile";
    const GONE: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    const FOR_EVER: &str = "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n";

    /// What the plugin does with a link, before the metadata is known.
    async fn with(world: &World, link: &str) -> (FoundStream, Engine) {
        let mut torrent = Torrent::new(&[]);
        torrent.info.link = Some(Arc::new(Magnet::parse(&format!("{TOPIC}&{link}")).unwrap()));
        torrent.progress.left = None;
        let plugin = build(&world.means(), &Settings::default()).unwrap();
        assert!(plugin.serves(&torrent.info));
        let (swarm, engine) = torrent.swarm();
        (plugin.discover(swarm).await.unwrap(), engine)
    }

    async fn next(stream: &mut FoundStream) -> String {
        match stream.next().await.expect("more to come") {
            Ok(Found::Peers(peers)) => {
                let peers: Vec<_> = peers.iter().map(|peer| format!("{} by {}", peer.addr, peer.instance)).collect();
                peers.join(", ")
            }
            Ok(Found::TorrentFile(file)) => String::from_utf8_lossy(&file).into_owned(),
            Ok(Found::Notice(text)) => text,
            Ok(Found::WebSeeds(urls)) => format!("web seeds {urls:?}"),
            Ok(other) => panic!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_links_that_say_something_and_no_private_torrent() {
        let plugin = build(&World::new().means(), &Settings::default()).unwrap();
        let mut info = Torrent::new(&[]).info;
        assert!(!plugin.serves(&info));
        for (says, link) in [
            (false, "dn=x&tr=http://x/a"),
            (true, "ws=http://x/f"),
            (true, "x.pe=h:1"),
            (true, "xs=http://x/"),
            (true, "as=http://x/"),
        ] {
            info.link = Some(Arc::new(Magnet::parse(&format!("{TOPIC}&{link}")).unwrap()));
            info.private = false;
            assert_eq!(plugin.serves(&info), says, "{link}");
            info.private = true;
            assert!(!plugin.serves(&info), "{link}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peers_of_the_link_are_told_until_the_torrent_goes() {
        let world = World::new();
        world.name("peer.test", &["127.0.0.2"]);
        let (mut stream, engine) = with(&world, "x.pe=peer.test:5&x.pe=127.0.0.1:7").await;
        let mut peers = [next(&mut stream).await, next(&mut stream).await];
        peers.sort();
        assert_eq!(peers, ["127.0.0.1:7 by x.pe 127.0.0.1:7", "127.0.0.2:5 by x.pe peer.test:5"]);
        engine.progress.send_modify(|progress| progress.left = Some(5));
        assert!(next(&mut stream).await.starts_with("127.0.0."), "also when the metadata is known");
        drop(engine);
        timeout(2 * LAST_BACK_OFF, async { while stream.next().await.is_some() {} }).await.expect("it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_is_asked_at_once_and_again_until_the_metadata_is_known() {
        let world = World::new();
        let asked = web(&world, "127.0.0.1:80", FILE);
        let (mut stream, engine) = with(&world, "xs=http%3A%2F%2F127.0.0.1%2Fa.torrent").await;
        assert_eq!(next(&mut stream).await, "file");
        assert_eq!(world.now(), Moment::ZERO);
        assert_eq!(next(&mut stream).await, "file", "the first one did not help");
        assert_eq!(world.now(), Moment::ZERO + FIRST_BACK_OFF);
        engine.progress.send_modify(|progress| progress.left = Some(5));
        assert!(stream.next().await.is_none(), "nothing else to do for this link");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fallback_waits_for_the_others() {
        let world = World::new();
        let asked = web(&world, "127.0.0.1:80", FILE);
        let (mut stream, engine) = with(&world, "as=http://127.0.0.1/").await;
        assert!(timeout(PATIENCE - Duration::from_secs(1), stream.next()).await.is_err());
        assert_eq!(next(&mut stream).await, "file");
        assert_eq!(world.now(), Moment::ZERO + PATIENCE);
        drop((stream, engine));

        let (mut stream, engine) = with(&world, "as=http://127.0.0.1/").await;
        engine.progress.send_modify(|progress| progress.left = Some(5));
        assert!(stream.next().await.is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 1, "not asked when peers were faster");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_work_is_said_in_words() {
        let world = World::new();
        web(&world, "127.0.0.1:80", GONE);
        web(&world, "127.0.0.2:80", FOR_EVER);
        let link =
            "xs=http://127.0.0.1/&xs=http://127.0.0.2/&xs=urn:btpk:00&xs=magnet:%3Fxt%3Dx&xs=http://&ws=http://x/";
        let (mut stream, _engine) = with(&world, link).await;
        let mut said = Vec::new();
        for _ in 0..6 {
            said.push(next(&mut stream).await);
        }
        assert_eq!(world.now(), Moment::ZERO);
        said.sort();
        assert_eq!(
            said,
            [
                "web seeds [\"http://x/\"]",
                "xs http:// cannot be reached: not a URL: empty host",
                "xs http://127.0.0.1/ cannot be reached: the web server answers 404 Not Found",
                "xs http://127.0.0.2/ cannot be reached: it redirects too often",
                "xs magnet:?xt=x is not used: torrent files are fetched by http and https only",
                "xs urn:btpk:00 is not used: torrent files are fetched by http and https only",
            ]
        );
        // Then only what may heal is tried, ever more seldom.
        let mut retries = 0;
        while let Ok(Some(Err(_))) = timeout(LAST_BACK_OFF - Duration::from_secs(1), stream.next()).await {
            retries += 1;
        }
        assert!((12..60).contains(&retries), "{retries}");
    }
}
