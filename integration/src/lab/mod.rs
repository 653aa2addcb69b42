//! The lab: a whole swarm of real engines in a simulated network, replayed from a seed, to compare ways of finding peers.
//!
//! A [`Scenario`] says who takes part and what goes wrong; [`run`] plays it in a [`universe`](crate::universe) and answers
//! with a [`Report`]. Nothing comes from outside: the same plan gives the same report in every process.

pub mod command;
mod disk;
pub mod experiment;
mod faults;
pub mod html;
mod report;
mod run;
pub mod scenario;
mod skeleton;
pub mod statistics;
mod story;
mod sybil;
pub mod text;
mod world;

pub use self::{
    report::{ContactReport, GroupReport, PeerReport, PluginWorth, Report, Spread},
    run::{Extra, Plan, run},
    scenario::{Scenario, ScenarioError},
};
