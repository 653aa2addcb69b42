//! Diffie-Hellman over the group of 768 bits that MSE prescribes, in constant time.

use crypto_bigint::{
    Odd, U192, U768,
    modular::{FixedMontyForm, FixedMontyParams},
};

use super::Refused;

/// Bytes of a public key and of the secret.
pub(super) const LENGTH: usize = 96;
/// Bits of a private key, as the specification advises.
const PRIVATE_BITS: u32 = 160;
/// The prime, of which 2 generates the group.
const PRIME: Odd<U768> = Odd::<U768>::from_be_hex(concat!(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74",
    "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437",
    "4FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563"
));
const PARAMS: FixedMontyParams<{ U768::LIMBS }> = FixedMontyParams::new_vartime(PRIME);

/// A private key.
pub(super) struct Private(U192);

impl Private {
    pub(super) fn new(random: &mut fastrand::Rng) -> Self {
        let mut bytes = [0; 24];
        random.fill(&mut bytes[4..]);
        Self(U192::from_be_slice(&bytes))
    }
    /// What the other end is told.
    pub(super) fn public(&self) -> [u8; LENGTH] {
        self.power(&U768::from_u8(2))
    }
    /// What both ends know then.
    pub(super) fn secret(&self, theirs: &[u8; LENGTH]) -> Result<[u8; LENGTH], Refused> {
        let theirs = U768::from_be_slice(theirs);
        // 0, 1 and -1 lead to a secret that everyone can guess.
        if theirs <= U768::ONE || theirs >= PRIME.as_ref().wrapping_sub(&U768::ONE) {
            return Err(Refused::Key);
        }
        Ok(self.power(&theirs))
    }
    fn power(&self, base: &U768) -> [u8; LENGTH] {
        let power = FixedMontyForm::new(base, &PARAMS).pow_bounded_exp(&self.0, PRIVATE_BITS).retrieve();
        let mut bytes = [0; LENGTH];
        bytes.copy_from_slice(power.to_be_bytes().as_ref());
        bytes
    }
}
