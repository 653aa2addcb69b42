//! One command a file.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod demo;
pub(crate) mod discover;
pub(crate) mod get;
pub(crate) mod lab;
pub(crate) mod man;
pub(crate) mod plugins;
pub(crate) mod seed;
pub(crate) mod show;
pub(crate) mod verify;
