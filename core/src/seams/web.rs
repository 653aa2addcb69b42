//! The web seam: parts of files from web servers, for web seeds (BEP 19), and questions to the web server of a router.

use std::{fmt, net::SocketAddr, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;

/// Fetches parts of files by `http:` and `https:` URLs.
#[async_trait]
pub trait Web: fmt::Debug + Send + Sync + 'static {
    /// The bytes `range` of what is at `url`: exactly as many, in a bounded time.
    async fn get(&self, url: &str, range: Range<u64>) -> Result<Bytes, WebError>;
    /// The page `path` of the server at `to`, as it answers this question: status and body, at most `largest` bytes, in a
    /// bounded time. No redirect is followed.
    async fn ask(&self, _to: SocketAddr, _question: Question<'_>, _largest: usize) -> Result<(u16, Bytes), WebError> {
        Err(WebError::Useless("nobody can be asked here".into()))
    }
}

/// What a web server is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Path and query.
    pub path: &'a str,
    /// `SOAPAction` and the XML that is posted; without it the page is read.
    pub action: Option<(&'a str, &'a str)>,
}

/// Why a web server did not give what was asked. The text is for users, without the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// It may do so later.
    #[error("{0}")]
    Failed(String),
    /// It will not: there is no such file, or it gives no parts of files.
    #[error("{0}")]
    Useless(String),
}
