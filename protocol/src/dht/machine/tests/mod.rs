//! Nodes together, in simulated time.

mod hostile;
mod net;
mod small;
mod swarm;
