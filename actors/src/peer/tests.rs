//! Tests of the connection to one peer.
