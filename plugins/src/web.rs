//! Parts of files from web servers, for web seeds (BEP 19), and questions to routers: the seam [`Web`] over the client
//! that trackers are asked with.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use castanet_core::seams::{
    means::Means,
    web::{Question, Web, WebError},
};
use url::{Position, Url};

use crate::{
    announcer::resolve,
    http_tracker::client::{Client, FetchError},
};

/// Makes it.
pub fn build(means: &Means) -> Arc<dyn Web> {
    Arc::new(WebServers { client: Client::new(means), means: means.clone() })
}

#[derive(Debug)]
struct WebServers {
    client: Client,
    means: Means,
}

#[async_trait]
impl Web for WebServers {
    async fn get(&self, url: &str, range: Range<u64>) -> Result<Bytes, WebError> {
        let url = Url::parse(url).map_err(|error| WebError::Useless(format!("not a URL: {error}")))?;
        let (Some(host), Some(port), "http" | "https") = (url.host_str(), url.port_or_known_default(), url.scheme())
        else {
            return Err(WebError::Useless("web seeds are used by http and https only".into()));
        };
        let failed = WebError::Failed;
        let addresses = resolve(&*self.means.resolver, &self.means.bind, host, port).await.map_err(failed)?;
        let length = (range.end - range.start) as usize;
        let path = |url: &Url| url[Position::BeforePath..Position::AfterQuery].to_owned();
        let page = match self.client.part(range).get(&url, &addresses, path).await {
            Ok(page) => page,
            Err(FetchError::TooLarge(_)) => return Err(WebError::Useless("it gives no parts of files".into())),
            Err(error) => return Err(failed(error.to_string())),
        };
        match page.status.as_u16() {
            // The whole file, if that is what was asked for.
            200 | 206 if page.body.len() == length => Ok(page.body.into()),
            200 | 206 => Err(failed(format!("it sent {} of {length} bytes", page.body.len()))),
            404 | 410 => Err(WebError::Useless(format!("it answers {}", page.status))),
            416 => Err(WebError::Useless("its file is shorter".into())),
            _ => Err(failed(format!("it answers {}", page.status))),
        }
    }

    async fn ask(&self, to: SocketAddr, question: Question<'_>, largest: usize) -> Result<(u16, Bytes), WebError> {
        let page = self.client.ask(to, question, largest).await;
        page.map(|page| (page.status.as_u16(), page.body.into())).map_err(|error| WebError::Failed(error.to_string()))
    }
}
