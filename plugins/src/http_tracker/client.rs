//! A small HTTP client over the engine's own streams: one GET, redirects, TLS, gzip, parts of files, and a limit to
//! everything.

use std::{
    error::Error,
    fmt,
    io::{self, Read},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use castanet_core::seams::{
    means::Means,
    transport::{DialOptions, TransportError},
    web::Question,
};
use castanet_protocol::tracker::http::LARGEST_BODY;
use data_encoding::BASE64;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, LOCATION, RANGE,
        RETRY_AFTER, USER_AGENT,
    },
};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{InvalidDnsNameError, ServerName},
    },
};
use url::Url;

use crate::announcer::{Family, resolve};

/// How long everything together may take, from the first dial to the last byte.
const OVERALL_LIMIT: Duration = Duration::from_secs(30);
/// How long one address may take to accept.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// How many addresses of one name are tried.
const MOST_ADDRESSES: usize = 3;
/// How many redirects are followed.
const MOST_REDIRECTS: usize = 5;
/// The most requests of all torrents at once, so that many torrents do not use up the sockets.
const MOST_REQUESTS: usize = 128;
/// The longest head of a response in bytes, and the most headers in it.
const LARGEST_HEAD: usize = 32 * 1024;
const MOST_HEADERS: usize = 64;

/// Why a page could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0}")]
    Name(String),
    #[error("{0}")]
    Dial(#[from] TransportError),
    #[error("TLS failed: {0}")]
    Tls(#[from] io::Error),
    #[error("{0} is no name for TLS")]
    TlsName(#[from] InvalidDnsNameError),
    #[error("{}", words(.0))]
    Http(#[from] hyper::Error),
    #[error("the URL cannot be sent: {0}")]
    Url(#[from] hyper::http::Error),
    #[error("it redirects {0}")]
    Redirect(&'static str),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("more than {}", size(*.0))]
    TooLarge(usize),
    #[error("a body that cannot be decoded: {0}")]
    Encoding(String),
}

/// hyper keeps the interesting half in the source.
fn words(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// A limit, in words.
fn size(bytes: usize) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

/// An answer of a web server.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// Decompressed, and no larger than the client allows.
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Client {
    means: Means,
    tls: TlsConnector,
    slots: Arc<Semaphore>,
    /// The most bytes of a body, as it comes and decompressed.
    largest: usize,
    /// The part of the file that is asked for, if not all of it.
    range: Option<Range<u64>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("free", &self.slots.available_permits()).finish_non_exhaustive()
    }
}

impl Client {
    /// Trusts the certificate authorities that Mozilla trusts.
    pub(crate) fn new(means: &Means) -> Self {
        Self::trusting(means, webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
    }

    pub(super) fn trusting(means: &Means, roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            means: means.clone(),
            tls: Arc::new(config).into(),
            slots: Arc::new(Semaphore::new(MOST_REQUESTS)),
            largest: LARGEST_BODY,
            range: None,
        }
    }

    /// Allows bodies of so many bytes instead of [`LARGEST_BODY`].
    pub(super) fn allowing(self, largest: usize) -> Self {
        Self { largest, ..self }
    }

    /// Asks for these bytes of a file alone, and takes no more.
    pub(crate) fn part(&self, range: Range<u64>) -> Self {
        let largest = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let (means, tls) = (self.means.clone(), self.tls.clone());
        Self { means, tls, slots: self.slots.clone(), largest, range: Some(range) }
    }

    /// Gets a page from the first of `addresses` that accepts, following redirects within their family. `path` makes
    /// path and query of each URL.
    pub(crate) async fn get(
        &self,
        url: &Url,
        addresses: &[SocketAddr],
        path: impl Fn(&Url) -> String + Send + Sync,
    ) -> Result<Page, FetchError> {
        // Never closed, and waiting for a turn is not the tracker's fault.
        let _slot = self.slots.acquire().await;
        timeout(OVERALL_LIMIT, self.follow(url.clone(), addresses, path))
            .await
            .unwrap_or(Err(FetchError::Timeout(OVERALL_LIMIT)))
    }

    /// One exchange with the server at an address: no names, no TLS, no redirect. A page is read, or a SOAP action posted.
    pub(crate) async fn ask(
        &self,
        to: SocketAddr,
        Question { path, action }: Question<'_>,
        largest: usize,
    ) -> Result<Page, FetchError> {
        let request = if action.is_some() { Request::post(path) } else { Request::get(path) };
        let mut request = request
            .header(HOST, to.to_string())
            .header(USER_AGENT, &*self.means.user_agent)
            .header(CONNECTION, "close");
        if let Some((action, _)) = action {
            request = request.header(CONTENT_TYPE, "text/xml; charset=\"utf-8\"").header("SOAPAction", action);
        }
        let body = action.map(|(_, body)| Bytes::copy_from_slice(body.as_bytes())).unwrap_or_default();
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let options = DialOptions { timeout: DIAL_LIMIT, ..DialOptions::default() };
            exchange(self.means.dialer.dial(to, options).await?.io, request, largest).await
        };
        match timeout(DIAL_LIMIT, exchange).await.unwrap_or(Err(FetchError::Timeout(DIAL_LIMIT)))? {
            Fetched::Page(page) => Ok(page),
            Fetched::Elsewhere(_) => Err(FetchError::Redirect("where it should not")),
        }
    }

    async fn follow(
        &self,
        mut url: Url,
        addresses: &[SocketAddr],
        path: impl Fn(&Url) -> String + Send + Sync,
    ) -> Result<Page, FetchError> {
        let mut addresses = addresses.to_vec();
        let family = addresses.first().map(|addr| Family::of(addr.ip()));
        for _ in 0..=MOST_REDIRECTS {
            let next = match self.fetch(&url, &addresses, path(&url)).await? {
                Fetched::Page(page) => return Ok(page),
                Fetched::Elsewhere(location) => {
                    url.join(&location).map_err(|_| FetchError::Redirect("to something that is no URL"))?
                }
            };
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => {}
                ("https", "http") => return Err(FetchError::Redirect("from https to http")),
                _ => return Err(FetchError::Redirect("to something that is not http")),
            }
            url = next;
            let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
            addresses = resolve(&*self.means.resolver, &self.means.bind, host, port).await.map_err(FetchError::Name)?;
            addresses.retain(|addr| Some(Family::of(addr.ip())) == family);
        }
        Err(FetchError::Redirect("too often"))
    }

    async fn fetch(&self, url: &Url, addresses: &[SocketAddr], path: String) -> Result<Fetched, FetchError> {
        let request = self.request(url, path)?;
        let mut failed = FetchError::Redirect("to a host without an address of the same family");
        for addr in addresses.iter().take(MOST_ADDRESSES) {
            let io = match self
                .means
                .dialer
                .dial(*addr, DialOptions { timeout: DIAL_LIMIT, ..DialOptions::default() })
                .await
            {
                Ok(connection) => connection.io,
                Err(error) => {
                    failed = error.into();
                    continue;
                }
            };
            if url.scheme() != "https" {
                return exchange(io, request, self.largest).await;
            }
            let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned())?;
            return exchange(self.tls.connect(name, io).await?, request, self.largest).await;
        }
        Err(failed)
    }

    fn request(&self, url: &Url, path: String) -> Result<Request<Full<Bytes>>, FetchError> {
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut request = Request::get(path)
            .header(HOST, host)
            .header(USER_AGENT, &*self.means.user_agent)
            // A part of a compressed file is no part of the file.
            .header(ACCEPT_ENCODING, if self.range.is_some() { "identity" } else { "gzip" })
            .header(CONNECTION, "close");
        if let Some(range) = &self.range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let mut user: Vec<u8> = percent_decode_str(url.username()).collect();
            user.push(b':');
            user.extend(percent_decode_str(url.password().unwrap_or_default()));
            request = request.header(AUTHORIZATION, format!("Basic {}", BASE64.encode(&user)));
        }
        Ok(request.body(Full::default())?)
    }
}

enum Fetched {
    Page(Page),
    Elsewhere(String),
}

/// One request and its response over an open stream. hyper's connection is driven here instead of in a task.
async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    largest: usize,
) -> Result<Fetched, FetchError> {
    let mut http = http1::Builder::new();
    http.max_buf_size(LARGEST_HEAD).max_headers(MOST_HEADERS).ignore_invalid_headers_in_responses(true);
    let (mut sender, connection) = http.handshake(TokioIo::new(io)).await?;
    let work = async { receive(sender.send_request(request).await?, largest).await };
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        fetched = &mut work => fetched,
        // The work is told of a broken connection, and knows better what that means.
        _ = connection => work.await,
    }
}

async fn receive(response: Response<Incoming>, largest: usize) -> Result<Fetched, FetchError> {
    let status = response.status();
    let text = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let (true, Some(location)) = (status.is_redirection(), text(LOCATION)) {
        return Ok(Fetched::Elsewhere(location));
    }
    let retry_after = text(RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    let encoding = text(CONTENT_ENCODING).unwrap_or_default().to_ascii_lowercase();
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if body.len() + data.len() > largest {
            return Err(FetchError::TooLarge(largest));
        }
        body.extend_from_slice(&data);
    }
    let body = match encoding.trim() {
        "" | "identity" => body,
        "gzip" | "x-gzip" => inflate(&body, largest)?,
        _ => return Err(FetchError::Encoding("we asked for gzip".to_owned())),
    };
    Ok(Fetched::Page(Page { status, retry_after, body }))
}

/// Stops at the limit, so that a small body cannot become a huge one.
fn inflate(body: &[u8], largest: usize) -> Result<Vec<u8>, FetchError> {
    let mut out = Vec::new();
    let mut decoder = MultiGzDecoder::new(body).take(largest as u64 + 1);
    decoder.read_to_end(&mut out).map_err(|error| FetchError::Encoding(error.to_string()))?;
    if out.len() > largest { Err(FetchError::TooLarge(largest)) } else { Ok(out) }
}
