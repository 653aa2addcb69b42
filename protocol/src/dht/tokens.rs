//! Tokens: proof that whoever announces or stores something can be reached where it says it is (BEP 5).
//!
//! A token is a hash of a secret and the asker's IP address, so nothing is remembered for those who ask. The secret
//! changes every five minutes and the one before still counts: a token is good for five to ten minutes.

use std::{net::IpAddr, time::Duration};

use castanet_core::{Moment, digest::sha1};
use fastrand::Rng;

/// How long a secret is used to make tokens.
const SECRET_LIFE: Duration = Duration::from_secs(300);
/// Bytes of our tokens.
const TOKEN_LENGTH: usize = 8;

type Secret = [u8; 20];

/// Makes and recognises tokens.
pub(super) struct Tokens {
    rng: Rng,
    current: Secret,
    previous: Secret,
    /// When `current` was made.
    since: Moment,
}

impl Tokens {
    /// Nobody may be able to guess the seed.
    pub(super) fn new(rng: Rng, now: Moment) -> Self {
        let mut tokens = Self { rng, current: Secret::default(), previous: Secret::default(), since: now };
        tokens.turn();
        tokens.turn();
        tokens
    }

    /// The token for who asks from this address.
    pub(super) fn make(&mut self, ip: IpAddr, now: Moment) -> Box<[u8]> {
        self.keep_fresh(now);
        token(&self.current, ip).into()
    }

    /// Did we give this token to this address lately?
    pub(super) fn accept(&mut self, offered: &[u8], ip: IpAddr, now: Moment) -> bool {
        self.keep_fresh(now);
        [&self.current, &self.previous].into_iter().any(|secret| *offered == token(secret, ip))
    }

    fn keep_fresh(&mut self, now: Moment) {
        let age = now.since(self.since);
        if age < SECRET_LIFE {
            return;
        }
        self.turn();
        if age >= 2 * SECRET_LIFE {
            // The one before is too old as well.
            self.turn();
        }
        self.since = now;
    }

    fn turn(&mut self) {
        self.previous = self.current;
        self.rng.fill(&mut self.current);
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets stay out of logs.
        f.debug_struct("Tokens").field("since", &self.since).finish_non_exhaustive()
    }
}

fn token(secret: &Secret, ip: IpAddr) -> [u8; TOKEN_LENGTH] {
    let mut bytes = secret.to_vec();
    match ip.to_canonical() {
        IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
    }
    let hash = sha1(&bytes).0;
    std::array::from_fn(|at| hash[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 2, 3, 4));

    fn tokens(seed: u64) -> Tokens {
        Tokens::new(Rng::with_seed(seed), Moment::ZERO)
    }
    fn minute(minutes: u64) -> Moment {
        Moment::from_secs(minutes * 60)
    }

    #[test]
    fn a_token_is_good_for_five_to_ten_minutes() {
        for (made, last) in [(0, 9), (4, 9), (5, 14)] {
            let mut tokens = tokens(1);
            (0..=made).for_each(|at| drop(tokens.make(IP, minute(at))));
            let token = tokens.make(IP, minute(made));
            assert!((made..=last).all(|at| tokens.accept(&token, IP, minute(at))), "made in minute {made}");
            assert!(!tokens.accept(&token, IP, minute(last + 1)), "made in minute {made}");
        }
    }

    #[test]
    fn a_token_expires_even_if_nobody_asked_in_between() {
        let mut tokens = tokens(1);
        let token = tokens.make(IP, minute(0));
        assert!(!tokens.accept(&token, IP, minute(10)));
        assert!(!tokens.accept(&token, IP, minute(0)), "a secret that is gone does not come back");
    }

    #[test]
    fn forged_and_borrowed_tokens_are_refused() {
        let (mut ours, mut others) = (tokens(1), tokens(2));
        let token = ours.make(IP, minute(0));
        assert!(ours.accept(&token, "::ffff:1.2.3.4".parse().unwrap(), minute(0)));
        assert!(!ours.accept(&token, "1.2.3.5".parse().unwrap(), minute(0)), "another's");
        assert!(!ours.accept(&others.make(IP, minute(0)), IP, minute(0)), "another node's");
        assert!(!ours.accept(&token[..7], IP, minute(0)));
        assert!(!ours.accept(b"", IP, minute(0)));
        assert!(!ours.accept(&super::token(&Secret::default(), IP), IP, minute(0)), "the secret is set from the start");
    }
}
