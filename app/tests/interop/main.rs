//! Tests against other BitTorrent programs.
#![allow(missing_docs)]
