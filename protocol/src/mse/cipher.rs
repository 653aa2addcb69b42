//! One direction's RC4, keyed as MSE does, with its first KiB thrown away.

use rc4::{KeyInit as _, Rc4, StreamCipher as _};

use super::hash;

/// Bytes of the key stream that are thrown away.
const DISCARDED: usize = 1024;
/// Room that is kept between two writes.
const KEPT: usize = 4 * 1024;

/// Encrypts or decrypts one direction of a connection.
pub struct Cipher {
    rc4: Rc4,
    /// Key stream that was made and has not been used up: a writer encrypts more than the socket may take.
    ahead: Vec<u8>,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// The direction that begins with the initiator (`keyA`) or the responder (`keyB`).
    pub(super) fn new(name: &[u8; 4], secret: &[u8], swarm: &[u8; 20]) -> Self {
        // No key of 20 bytes is refused.
        #[allow(clippy::expect_used)]
        let rc4 = Rc4::new_from_slice(&hash(&[name, secret, swarm])).expect("RC4 takes keys of 20 bytes");
        let mut cipher = Self { rc4, ahead: Vec::new() };
        cipher.apply(&mut [0; DISCARDED]);
        cipher
    }

    /// Encrypts or decrypts in place.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let known = self.ahead.len().min(bytes.len());
        let (first, rest) = bytes.split_at_mut(known);
        first.iter_mut().zip(self.ahead.drain(..known)).for_each(|(byte, key)| *byte ^= key);
        self.rc4.apply_keystream(rest);
    }

    /// Encrypts `bytes` in place as [`Cipher::apply`] would, but does not go on: call [`Cipher::advance`] for as many as were sent.
    pub fn preview(&mut self, bytes: &mut [u8]) {
        let known = self.ahead.len();
        if known < bytes.len() {
            self.ahead.resize(bytes.len(), 0);
            self.rc4.apply_keystream(&mut self.ahead[known..]);
        }
        bytes.iter_mut().zip(&self.ahead).for_each(|(byte, key)| *byte ^= key);
    }

    /// So many of the bytes that were encrypted last have been sent.
    pub fn advance(&mut self, sent: usize) {
        self.ahead.drain(..sent.min(self.ahead.len()));
        if self.ahead.is_empty() && self.ahead.capacity() > KEPT {
            self.ahead = Vec::new();
        }
    }
}
