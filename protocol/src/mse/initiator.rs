//! The end that dialled: it knows the swarm, and says so in a way that only those who know it too can read.

use super::{
    Agreed, Cipher, MOST_INITIAL, MOST_PADDING, Payloads, Refused, VC,
    dh::{LENGTH, Private},
    hash, padding, skip_to, take,
};

/// The dialling end of a handshake.
pub struct Initiator {
    swarm: [u8; 20],
    offer: Payloads,
    private: Private,
    /// The random bytes of the second step, drawn at the beginning.
    padding: Vec<u8>,
    initial: Vec<u8>,
    heard: Vec<u8>,
    state: State,
}

enum State {
    /// Their key is to come.
    Key,
    /// Padding is to come, and the first encrypted words. `mark` is what eight zeros look like there.
    Mark {
        write: Cipher,
        read: Cipher,
        mark: [u8; 8],
    },
    /// Their choice is to come.
    Choice {
        write: Cipher,
        read: Cipher,
    },
    /// Padding is to come.
    Padding {
        write: Cipher,
        read: Cipher,
        choice: Payloads,
        length: usize,
    },
    Ended,
}

impl Initiator {
    /// Begins: `say` gets what to send first. `initial` is what follows the handshake, sent along with it; at most [`MOST_INITIAL`] bytes.
    pub fn new(
        swarm: [u8; 20],
        offer: Payloads,
        initial: &[u8],
        random: &mut fastrand::Rng,
        say: &mut Vec<u8>,
    ) -> Self {
        let private = Private::new(random);
        say.extend_from_slice(&private.public());
        say.extend_from_slice(&padding(random));
        let initial = initial[..initial.len().min(MOST_INITIAL)].to_vec();
        Self { swarm, offer, private, padding: padding(random), initial, heard: Vec::new(), state: State::Key }
    }

    /// Hears `bytes`; `say` gets what to send. The agreement, once there is one: hear nothing more then.
    ///
    /// # Errors
    /// If there will be none.
    pub fn hear(&mut self, bytes: &[u8], say: &mut Vec<u8>) -> Result<Option<Agreed>, Refused> {
        self.heard.extend_from_slice(bytes);
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Key => match take::<LENGTH>(&mut self.heard) {
                    Some(theirs) => self.answer(&theirs, say)?,
                    None => return self.wait(State::Key),
                },
                State::Mark { write, mut read, mark } => {
                    if !skip_to(&mut self.heard, &mark)? {
                        return self.wait(State::Mark { write, read, mark });
                    }
                    read.apply(&mut VC.clone());
                    State::Choice { write, read }
                }
                State::Choice { write, mut read } => {
                    let Some(mut choice) = take::<6>(&mut self.heard) else {
                        return self.wait(State::Choice { write, read });
                    };
                    read.apply(&mut choice);
                    let [a, b, c, d, e, f] = choice;
                    let choice = Payloads::of_bits(u32::from_be_bytes([a, b, c, d])).both(self.offer);
                    let length = usize::from(u16::from_be_bytes([e, f]));
                    if length > MOST_PADDING {
                        return Err(Refused::TooLong);
                    }
                    // One of those that were offered, and only one.
                    if choice.plain == choice.rc4 {
                        return Err(Refused::NoPayload);
                    }
                    State::Padding { write, read, choice, length }
                }
                State::Padding { write, mut read, choice, length } => {
                    if self.heard.len() < length {
                        return self.wait(State::Padding { write, read, choice, length });
                    }
                    let mut early = self.heard.split_off(length);
                    read.apply(&mut self.heard);
                    let cipher = |cipher| choice.rc4.then_some(cipher);
                    if choice.rc4 {
                        read.apply(&mut early);
                    }
                    let (read, write) = (cipher(read), cipher(write));
                    return Ok(Some(Agreed { swarm: self.swarm, read, write, early }));
                }
                State::Ended => return Err(Refused::Garbled),
            };
        }
    }

    fn wait(&mut self, state: State) -> Result<Option<Agreed>, Refused> {
        self.state = state;
        Ok(None)
    }

    /// The third step: the swarm in disguise, what we offer, and our first words.
    fn answer(&mut self, theirs: &[u8; LENGTH], say: &mut Vec<u8>) -> Result<State, Refused> {
        let secret = self.private.secret(theirs)?;
        say.extend_from_slice(&hash(&[b"req1", &secret]));
        let (swarm, disguise) = (hash(&[b"req2", &self.swarm]), hash(&[b"req3", &secret]));
        say.extend(swarm.iter().zip(disguise).map(|(a, b)| a ^ b));
        let mut write = Cipher::new(b"keyA", &secret, &self.swarm);
        let from = say.len();
        say.extend_from_slice(&VC);
        say.extend_from_slice(&self.offer.bits().to_be_bytes());
        for part in [&self.padding, &self.initial] {
            say.extend_from_slice(&(part.len() as u16).to_be_bytes());
            say.extend_from_slice(part);
        }
        write.apply(&mut say[from..]);
        let mut read = Cipher::new(b"keyB", &secret, &self.swarm);
        let mut mark = VC;
        read.preview(&mut mark);
        Ok(State::Mark { write, read, mark })
    }
}
