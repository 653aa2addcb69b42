//! The seams: the traits behind which everything that touches the world is interchangeable.

pub mod datagrams;
pub mod discovery;
pub mod hasher;
pub mod means;
pub mod resume;
pub mod storage;
pub mod transport;
pub mod web;
