//! HTTP trackers: `http:` and `https:` announce URLs (BEP 3, 7, 12, 23, 24, 31).
//!
//! The protocol and the schedule are `castanet_protocol::tracker`'s; following the schedule is `Announcer`'s. This
//! file joins a URL and a query; `client` carries them.

#[cfg(test)]
mod certificates;
mod client;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use castanet_core::{
    PluginName,
    seams::{
        discovery::{Discovery, DiscoveryError, FoundStream, Me, Progress, Settings, Swarm, SwarmInfo},
        means::Means,
    },
};
use castanet_protocol::tracker::{Announce, Answer, AnswerError, Retry, http};
use url::{Position, Url};

use self::client::{Client, FetchError, Page};
use crate::announcer::{Announcer, Ask, Failure, Target, resolve};

/// The name under which it is registered.
pub const NAME: &str = "http-tracker";

/// Makes the plugin. It has no settings.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    crate::refuse_settings(NAME, settings)?;
    Ok(Arc::new(HttpTracker(Announcer::new(Http { client: Client::new(means) }, means))))
}

/// Gets a file of at most `largest` bytes from an `http:` or `https:` URL, by the client that trackers are asked with.
///
/// # Errors
/// With the reason in words, without the URL.
pub async fn fetch(means: &Means, url: &str, largest: usize) -> Result<Vec<u8>, String> {
    let url = Url::parse(url).map_err(|error| format!("not a URL: {error}"))?;
    let (Some(host), Some(port), "http" | "https") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
        return Err("not a URL of a web server".into());
    };
    let addresses = resolve(&*means.resolver, &means.bind, host, port).await?;
    let path = |url: &Url| url[Position::BeforePath..Position::AfterQuery].to_owned();
    let page = Client::new(means).allowing(largest).get(&url, &addresses, path).await;
    let page = page.map_err(|error| error.to_string())?;
    if page.status.is_success() { Ok(page.body) } else { Err(format!("the web server answers {}", page.status)) }
}

#[derive(Debug)]
struct HttpTracker(Announcer<Http>);

#[async_trait]
impl Discovery for HttpTracker {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        self.0.serves(swarm)
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        Ok(self.0.discover(swarm))
    }
    async fn leave(&self, swarm: SwarmInfo, me: Me, last: Progress, within: Duration) -> Result<(), DiscoveryError> {
        self.0.leave(&swarm, &me, &last, within).await
    }
}

#[derive(Debug)]
struct Http {
    client: Client,
}

#[async_trait]
impl Ask for Http {
    const SCHEMES: &'static [&'static str] = &["http", "https"];

    async fn ask(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        announce: &Announce,
        tracker_id: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let query = http::query(announce, tracker_id);
        let page = self.client.get(&target.url, addresses, |url| with_query(url, &query)).await;
        let page = page.map_err(|error| match error {
            error @ (FetchError::TooLarge(_) | FetchError::Encoding(_)) => {
                Failure::answer(target, AnswerError::Malformed(error.to_string()))
            }
            error => Failure::unreachable(target, error),
        })?;
        read(&page).map_err(|error| Failure::answer(target, error))
    }
}

/// The path and query of an announce. What the URL asks already (a passkey) stays in front; a redirect that repeats our
/// query is taken as it is.
fn with_query(url: &Url, ours: &str) -> String {
    match url.query() {
        None | Some("") => format!("{}?{ours}", url.path()),
        Some(theirs) if theirs.contains("info_hash=") => format!("{}?{theirs}", url.path()),
        Some(theirs) => format!("{}?{theirs}&{ours}", url.path()),
    }
}

/// A refusal is often sent with an error status, so the body is read first in any case.
fn read(page: &Page) -> Result<Answer, AnswerError> {
    let answer = http::parse_answer(&page.body);
    if page.status.is_success() || matches!(answer, Err(AnswerError::Refused { .. })) {
        return answer;
    }
    let retry = page.retry_after.map_or(Retry::Usual, Retry::After);
    Err(AnswerError::Refused { message: page.status.to_string(), retry })
}
