//! Floor 2: every decision of the engine, without I/O.
//!
//! Each part is a machine that is told what happened and when (`handle(input, now)`), says what to do (`poll()`)
//! and when it wants to be asked again (`deadline()`). Time and randomness come in as arguments, so a run replays.

pub mod assembly;
pub mod dht;
pub mod diagnosis;
pub mod extension;
pub mod holepunch;
pub mod lsd;
pub mod metadata;
pub mod mse;
pub mod peer;
pub mod pex;
pub mod picker;
pub mod portmap;
pub mod rate;
pub mod swarm;
pub mod timeline;
pub mod tracker;
pub mod unchoke;
pub mod utp;
pub mod web_seed;
pub mod wire;
