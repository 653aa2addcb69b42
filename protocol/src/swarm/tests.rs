//! Tests of the swarm.
