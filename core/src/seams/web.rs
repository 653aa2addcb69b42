//! The web seam: parts of files from web servers, for web seeds (BEP 19).

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;

/// Fetches parts of files by `http:` and `https:` URLs.
#[async_trait]
pub trait Web: fmt::Debug + Send + Sync + 'static {
    /// The bytes `range` of what is at `url`: exactly as many, in a bounded time.
    async fn get(&self, url: &str, range: Range<u64>) -> Result<Bytes, WebError>;
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
