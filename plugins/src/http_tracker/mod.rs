//! HTTP trackers: `http:` and `https:` announce URLs (BEP 3, 7, 12, 23, 24, 31), and their numbers (BEP 48).
//!
//! The protocol and the schedule are `castanet_protocol::tracker`'s; following the schedule is `Announcer`'s. This
//! file joins a URL and a query; `client` carries them.

#[cfg(test)]
mod certificates;
pub(crate) mod client;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use castanet_core::seams::{
    discovery::{Discovery, DiscoveryError, Settings, SwarmSize},
    means::Means,
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
    Ok(Arc::new(Announcer::new(Http { client: Client::new(means) }, means)))
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
struct Http {
    client: Client,
}

impl Http {
    async fn get(&self, target: &Target, url: &Url, addresses: &[SocketAddr], query: &str) -> Result<Page, Failure> {
        let page = self.client.get(url, addresses, |url| with_query(url, query)).await;
        page.map_err(|error| match error {
            error @ (FetchError::TooLarge(_) | FetchError::Encoding(_)) => {
                Failure::answer(target, AnswerError::Malformed(error.to_string()))
            }
            error => Failure::unreachable(target, error),
        })
    }
}

#[async_trait]
impl Ask for Http {
    const NAME: &'static str = NAME;
    const SCHEMES: &'static [&'static str] = &["http", "https"];

    async fn ask(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        announce: &Announce,
        tracker_id: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let page = self.get(target, &target.url, addresses, &http::query(announce, tracker_id)).await?;
        read(&page).map_err(|error| Failure::answer(target, error))
    }

    fn scrapes(&self, target: &Target) -> bool {
        http::scrape_path(target.url.path()).is_some()
    }

    async fn scrape(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        names: &[[u8; 20]],
    ) -> Result<Option<SwarmSize>, Failure> {
        let Some(path) = http::scrape_path(target.url.path()) else { return Ok(None) };
        let mut url = target.url.clone();
        url.set_path(&path);
        let page = self.get(target, &url, addresses, &http::scrape_query(names)).await?;
        http::parse_scrape(&page.body, names).map_err(|error| Failure::answer(target, error))
    }
}

/// The path and query of a request. What the URL asks already (a passkey) stays in front; a redirect that repeats our
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
