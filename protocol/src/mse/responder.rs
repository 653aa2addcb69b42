//! The end that was dialled: it finds out which of its swarms is meant.

use super::{
    Agreed, Cipher, MOST_INITIAL, MOST_PADDING, Payloads, Refused, VC,
    dh::{LENGTH, Private},
    hash, padding, skip_to, take,
};

/// The dialled end of a handshake.
pub struct Responder {
    accept: Payloads,
    private: Private,
    /// The random bytes of both steps, drawn at the beginning.
    paddings: [Vec<u8>; 2],
    heard: Vec<u8>,
    state: State,
}

enum State {
    /// Their key is to come.
    Key,
    /// Padding is to come, and the mark that shows who knows the secret.
    Mark {
        secret: [u8; LENGTH],
        mark: [u8; 20],
    },
    /// The swarm is to come.
    Swarm {
        secret: [u8; LENGTH],
    },
    /// What they offer is to come.
    Offer {
        keys: Keys,
    },
    /// Padding is to come, and the length of their first words.
    Padding {
        keys: Keys,
        offer: Payloads,
        length: usize,
    },
    /// Their first words are to come.
    Initial {
        keys: Keys,
        offer: Payloads,
        length: usize,
    },
    Ended,
}

struct Keys {
    swarm: [u8; 20],
    read: Cipher,
    write: Cipher,
}

impl Responder {
    /// Waits for an initiator.
    pub fn new(accept: Payloads, random: &mut fastrand::Rng) -> Self {
        let (private, paddings) = (Private::new(random), [padding(random), padding(random)]);
        Self { accept, private, paddings, heard: Vec::new(), state: State::Key }
    }

    /// Hears `bytes`; `say` gets what to send. `swarm_of` knows the swarms that are served, by SHA-1 of `req2` and their 20 bytes.
    /// The agreement, once there is one: hear nothing more then. Its `early` begins with the initiator's first words.
    ///
    /// # Errors
    /// If there will be none.
    pub fn hear(
        &mut self,
        bytes: &[u8],
        swarm_of: impl Fn(&[u8; 20]) -> Option<[u8; 20]>,
        say: &mut Vec<u8>,
    ) -> Result<Option<Agreed>, Refused> {
        self.heard.extend_from_slice(bytes);
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Key => {
                    let Some(theirs) = take::<LENGTH>(&mut self.heard) else { return self.wait(State::Key) };
                    let secret = self.private.secret(&theirs)?;
                    say.extend_from_slice(&self.private.public());
                    say.extend_from_slice(&self.paddings[0]);
                    State::Mark { secret, mark: hash(&[b"req1", &secret]) }
                }
                State::Mark { secret, mark } => match skip_to(&mut self.heard, &mark)? {
                    true => State::Swarm { secret },
                    false => return self.wait(State::Mark { secret, mark }),
                },
                State::Swarm { secret } => {
                    let Some(disguised) = take::<20>(&mut self.heard) else {
                        return self.wait(State::Swarm { secret });
                    };
                    let mut mark = hash(&[b"req3", &secret]);
                    mark.iter_mut().zip(disguised).for_each(|(a, b)| *a ^= b);
                    let swarm = swarm_of(&mark).ok_or(Refused::UnknownSwarm)?;
                    let read = Cipher::new(b"keyA", &secret, &swarm);
                    State::Offer { keys: Keys { swarm, read, write: Cipher::new(b"keyB", &secret, &swarm) } }
                }
                State::Offer { mut keys } => {
                    let Some(mut offer) = take::<14>(&mut self.heard) else { return self.wait(State::Offer { keys }) };
                    keys.read.apply(&mut offer);
                    let [vc @ .., a, b, c, d, e, f] = offer;
                    if vc != VC {
                        return Err(Refused::Garbled);
                    }
                    let offer = Payloads::of_bits(u32::from_be_bytes([a, b, c, d]));
                    let length = usize::from(u16::from_be_bytes([e, f]));
                    if length > MOST_PADDING {
                        return Err(Refused::TooLong);
                    }
                    State::Padding { keys, offer, length }
                }
                State::Padding { mut keys, offer, length } => {
                    if self.heard.len() < length + 2 {
                        return self.wait(State::Padding { keys, offer, length });
                    }
                    let rest = self.heard.split_off(length + 2);
                    keys.read.apply(&mut self.heard);
                    let length = usize::from(u16::from_be_bytes([self.heard[length], self.heard[length + 1]]));
                    self.heard = rest;
                    if length > MOST_INITIAL {
                        return Err(Refused::TooLong);
                    }
                    State::Initial { keys, offer, length }
                }
                State::Initial { keys, offer, length } => {
                    if self.heard.len() < length {
                        return self.wait(State::Initial { keys, offer, length });
                    }
                    return self.agree(keys, offer, length, say).map(Some);
                }
                State::Ended => return Err(Refused::Garbled),
            };
        }
    }

    fn wait(&mut self, state: State) -> Result<Option<Agreed>, Refused> {
        self.state = state;
        Ok(None)
    }

    /// The fourth step: our choice. Plain if we may, for it costs nobody anything.
    fn agree(&mut self, keys: Keys, offer: Payloads, length: usize, say: &mut Vec<u8>) -> Result<Agreed, Refused> {
        let Keys { swarm, mut read, mut write } = keys;
        let both = offer.both(self.accept);
        let choice = match (both.plain, both.rc4) {
            (true, _) => Payloads { plain: true, rc4: false },
            (_, true) => Payloads::RC4,
            _ => return Err(Refused::NoPayload),
        };
        let from = say.len();
        say.extend_from_slice(&VC);
        say.extend_from_slice(&choice.bits().to_be_bytes());
        say.extend_from_slice(&(self.paddings[1].len() as u16).to_be_bytes());
        say.extend_from_slice(&self.paddings[1]);
        write.apply(&mut say[from..]);
        let mut early = std::mem::take(&mut self.heard);
        let encrypted = if choice.rc4 { early.len() } else { length };
        read.apply(&mut early[..encrypted]);
        let cipher = |cipher| choice.rc4.then_some(cipher);
        let (read, write) = (cipher(read), cipher(write));
        Ok(Agreed { swarm, read, write, early })
    }
}
