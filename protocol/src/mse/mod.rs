//! Message Stream Encryption (MSE/PE): a connection whose first bytes look like noise, agreed upon by Diffie-Hellman.
//!
//! [`Initiator`] and [`Responder`] are the two ends of the handshake: told what was heard, they say what to send, and end with
//! [`Agreed`] or a [`Refused`]. What follows is plain, or RC4 by the [`Cipher`]s that they leave behind.
//!
//! This hides BitTorrent from those who throttle it. It keeps no secrets: who knows the info-hash and sits in between can
//! read everything, which is why a generator made from a seed is random enough here.
//! The specification is no BEP; it stands in the wiki of Vuze under the same name.

mod cipher;
mod dh;
mod initiator;
mod responder;
#[cfg(test)]
mod tests;

use castanet_core::digest::sha1;

pub use self::{cipher::Cipher, initiator::Initiator, responder::Responder};

/// How a connection that is not encrypted begins (BEP 3).
const PLAIN: &[u8; 20] = b"\x13BitTorrent protocol";
/// Bytes of a public key, with which either side begins.
pub const KEY_LENGTH: usize = dh::LENGTH;
/// Most random bytes behind each step.
const MOST_PADDING: usize = 512;
/// The "verification constant": eight zeros, by which each end finds the beginning of what is encrypted.
const VC: [u8; 8] = [0; 8];
/// Most bytes that we take along with the handshake: a BitTorrent handshake and what may follow it at once.
pub const MOST_INITIAL: usize = 4096;

/// Which payloads are offered, or accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payloads {
    /// Nothing is encrypted after the handshake.
    pub plain: bool,
    /// Everything is.
    pub rc4: bool,
}

impl Payloads {
    /// Either.
    pub const ANY: Self = Self { plain: true, rc4: true };
    /// Nothing that can be read.
    pub const RC4: Self = Self { plain: false, rc4: true };

    fn bits(self) -> u32 {
        u32::from(self.plain) | u32::from(self.rc4) << 1
    }
    fn of_bits(bits: u32) -> Self {
        Self { plain: bits & 1 != 0, rc4: bits & 2 != 0 }
    }
    fn both(self, other: Self) -> Self {
        Self { plain: self.plain && other.plain, rc4: self.rc4 && other.rc4 }
    }
}

/// How the connection goes on.
#[derive(Debug)]
pub struct Agreed {
    /// The swarm whose 20 bytes were the key.
    pub swarm: [u8; 20],
    /// Decrypts what is read; `None` if it comes plain.
    pub read: Option<Cipher>,
    /// Encrypts what is written; `None` if it goes plain.
    pub write: Option<Cipher>,
    /// What was heard behind the handshake, decrypted.
    pub early: Vec<u8>,
}

/// Why there is no agreement. The text is for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A public key that gives the secret away, or is none.
    #[error("the peer sent an impossible key")]
    Key,
    /// The mark that must follow the padding did not.
    #[error("the peer does not speak the encrypted handshake")]
    NoMark,
    /// A swarm that is not served here.
    #[error("the peer asked for a torrent that is not served here")]
    UnknownSwarm,
    /// What is encrypted is not what must be there.
    #[error("the peer's encrypted handshake is garbled")]
    Garbled,
    /// No way of encryption that both know.
    #[error("the peer wants another kind of encryption")]
    NoPayload,
    /// More padding or first words than allowed.
    #[error("the peer's encrypted handshake is too long")]
    TooLong,
}

/// Is this the beginning of a connection that is not encrypted? `None` if more must be heard to know.
pub fn is_plain(heard: &[u8]) -> Option<bool> {
    let length = heard.len().min(PLAIN.len());
    match heard[..length] == PLAIN[..length] {
        false => Some(false),
        true => (length == PLAIN.len()).then_some(true),
    }
}

/// SHA-1 over two or three parts.
fn hash(parts: &[&[u8]]) -> [u8; 20] {
    sha1(&parts.concat()).0
}

fn padding(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut padding = vec![0; random.usize(..=MOST_PADDING)];
    random.fill(&mut padding);
    padding
}

/// Takes the first `N` bytes out of a buffer, if there are so many.
fn take<const N: usize>(heard: &mut Vec<u8>) -> Option<[u8; N]> {
    let taken = *heard.first_chunk::<N>()?;
    heard.drain(..N);
    Some(taken)
}

/// Removes everything up to and with `mark`, which follows at most [`MOST_PADDING`] other bytes. `Ok(false)` if more must be heard.
fn skip_to(heard: &mut Vec<u8>, mark: &[u8]) -> Result<bool, Refused> {
    let searched = &heard[..heard.len().min(MOST_PADDING + mark.len())];
    match searched.windows(mark.len()).position(|window| window == mark) {
        Some(at) => {
            heard.drain(..at + mark.len());
            Ok(true)
        }
        None if searched.len() == MOST_PADDING + mark.len() => Err(Refused::NoMark),
        None => Ok(false),
    }
}
