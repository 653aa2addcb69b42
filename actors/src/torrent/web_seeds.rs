//! Web seeds (BEP 19): who is used, how they fare, and what they were worth.

use std::{collections::BTreeMap, sync::Arc};

use actix::prelude::*;
use castanet_core::PeerKey;
use castanet_protocol::{swarm::Worth, web_seed::MOST_WEB_SEEDS};

use super::Torrent;
use crate::{
    mail::tell,
    messages::{
        torrent::{Happening, Phase, PluginReport},
        web_seed::{CloseWebSeed, WebSeedFared, WebSeedFate},
    },
    web_seed::{WebSeed, WebSeedLinks, WebSeedMeans},
};

/// Under which name they are in the table of worth.
const NAME: &str = "web-seed";

/// All web seeds of the torrent.
#[derive(Debug, Default)]
pub(super) struct WebSeeds {
    /// By URL: what each has given, and whether it is of any use.
    known: BTreeMap<Arc<str>, Known>,
    running: BTreeMap<PeerKey, (Arc<str>, Addr<WebSeed>)>,
}

#[derive(Debug, Default)]
struct Known {
    gave: u64,
    failed: bool,
    /// It lies, or has not what it should have.
    is_useless: bool,
}

impl Torrent {
    /// Learns of web seeds; what is more than enough is passed over.
    pub(super) fn add_web_seeds(&mut self, urls: &[String], ctx: &mut Context<Self>) {
        for url in urls {
            if self.web_seeds.known.len() < MOST_WEB_SEEDS {
                self.web_seeds.known.entry(url.as_str().into()).or_default();
            }
        }
        self.start_web_seeds(ctx);
    }

    /// Sets those to work that are not, while there is anything to fetch.
    pub(super) fn start_web_seeds(&mut self, ctx: &mut Context<Self>) {
        let (Some(pieces), Some(metainfo), Some(geometry)) = (self.work_links(), self.metainfo.clone(), self.geometry)
        else {
            return;
        };
        if self.phase != Phase::Downloading {
            return;
        }
        let shared = &self.shared;
        let means = || WebSeedMeans {
            web: shared.web.clone(),
            clock: shared.clock.clone(),
            budget: shared.budget.clone(),
            down: Arc::new(self.down_limit.connection()),
        };
        let WebSeeds { known, running } = &mut self.web_seeds;
        for (url, _) in known.iter().filter(|(_, known)| !known.is_useless) {
            if running.values().any(|(other, _)| other == url) {
                continue;
            }
            let key = PeerKey(self.next_peer);
            self.next_peer += 1;
            let me = ctx.address();
            let links = WebSeedLinks { pieces: pieces.clone(), fared: me.clone().recipient(), parent: me.recipient() };
            let seed = WebSeed::new(key, url.clone(), metainfo.clone(), geometry, means(), links);
            running.insert(key, (url.clone(), seed.start()));
        }
    }

    /// Ends them; when the answers are there, nothing more comes from them.
    pub(super) fn part_from_web_seeds(&mut self) -> Vec<actix::dev::Request<WebSeed, CloseWebSeed>> {
        let running = std::mem::take(&mut self.web_seeds.running);
        running.into_values().map(|(_, seed)| seed.send(CloseWebSeed)).collect()
    }

    /// Ends them.
    pub(super) fn close_web_seeds(&mut self) {
        for (_, seed) in std::mem::take(&mut self.web_seeds.running).into_values() {
            tell(&seed.recipient(), CloseWebSeed);
        }
    }

    /// A piece to which this web seed contributed, perhaps alone, is bad. False if it is no web seed.
    pub(super) fn bad_web_piece(&mut self, key: PeerKey, is_sole: bool) -> bool {
        let Some((url, seed)) = self.web_seeds.running.get(&key) else { return false };
        if is_sole {
            let text = format!("the web seed {url} is not used: what it sends does not match the torrent's hash");
            tell(&seed.clone().recipient(), CloseWebSeed);
            self.web_seeds.known.entry(url.clone()).or_default().is_useless = true;
            self.happened(Happening::Notice(text));
        }
        true
    }

    pub(super) fn web_seed_gone(&mut self, key: PeerKey) {
        self.web_seeds.running.remove(&key);
    }

    /// What they were worth, if there are any.
    pub(super) fn worth_of_web_seeds(&self) -> Option<PluginReport> {
        let known = &self.web_seeds.known;
        let count = |is: fn(&Known) -> bool| known.values().filter(|known| is(known)).count() as u64;
        let useful = count(|known| known.gave > 0);
        let worth = Worth {
            found: known.len() as u64,
            alone: known.len() as u64,
            connected: useful,
            useful,
            bytes: known.values().map(|known| known.gave).sum(),
            refused: count(|known| known.failed),
            ..Worth::nothing(NAME.into())
        };
        (!known.is_empty()).then(|| self.report_on(worth))
    }
}

impl Handler<WebSeedFared> for Torrent {
    type Result = ();
    fn handle(&mut self, WebSeedFared { seed, fate }: WebSeedFared, _: &mut Self::Context) {
        let now = self.now();
        let Some((url, _)) = self.web_seeds.running.get(&seed) else { return };
        let known = self.web_seeds.known.entry(url.clone()).or_default();
        let notice = match fate {
            WebSeedFate::Gave(bytes) => {
                known.failed = false;
                known.gave += bytes;
                self.totals.downloaded += bytes;
                self.down.add(bytes, now);
                return self.pace.arrived(now);
            }
            // Once, and again when it had worked meanwhile.
            WebSeedFate::Failed(_) if std::mem::replace(&mut known.failed, true) => return,
            WebSeedFate::Failed(reason) => format!("the web seed {url} fails: {reason}"),
            WebSeedFate::Useless(reason) => {
                (known.failed, known.is_useless) = (true, true);
                format!("the web seed {url} is not used: {reason}")
            }
        };
        self.happened(Happening::Notice(notice));
    }
}
