//! The RSA key that signs service-account tokens. It is searched for on threads of its own.

use crate::{Error, file};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto_primes::hazmat::SmallFactorsSieve;
use crypto_primes::{Flavor, is_prime};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, PrivateKey};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use tokio::sync::watch;

const PRIME_BITS: u32 = 1_024;
const PUBLIC_EXPONENT: u64 = 65_537;
/// Threads that search. More do not help: two primes are needed.
const SEARCHERS: usize = 2;

/// A public key that checks RS256 signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    /// Key id: base64url of the SHA-256 of the key's SubjectPublicKeyInfo, as upstream.
    pub id: String,
    /// Modulus, big endian.
    pub modulus: Vec<u8>,
    /// Public exponent, big endian.
    pub exponent: Vec<u8>,
}

impl VerifyingKey {
    /// Whether `signature` is this key's over `message` (PKCS #1 v1.5, SHA-256).
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        RsaPublicKeyComponents { n: &self.modulus, e: &self.exponent }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            .is_ok()
    }
}

/// The key that signs service-account tokens.
pub struct ServiceAccountKey {
    public: VerifyingKey,
    pair: RsaKeyPair,
    random: SystemRandom,
}

impl std::fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountKey").field("id", &self.public.id).finish_non_exhaustive()
    }
}

impl ServiceAccountKey {
    /// A new key, found on the calling thread and helpers of it (50–200 ms when optimized).
    pub fn generate() -> Result<(Self, String), Error> {
        let failed = |e: &dyn std::fmt::Display| Error::ServiceAccountKey(e.to_string());
        let key = loop {
            let [p, q] = two_primes()?;
            // Fails for one pair in thousands, where a prime minus one shares a factor with the exponent.
            if let Ok(key) = PrivateKey::from_primes(vec![p, q], BoxedUint::from(PUBLIC_EXPONENT)) {
                break key;
            }
        };
        let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(&e))?;
        Ok((Self::from_key(&key)?, pem.as_str().to_owned()))
    }

    /// Reads a PKCS #8 PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let key = PrivateKey::from_pkcs8_pem(pem).map_err(|e| Error::Unusable(e.to_string()))?;
        Self::from_key(&key)
    }

    fn from_key(key: &PrivateKey) -> Result<Self, Error> {
        let unusable = |e: &dyn std::fmt::Display| Error::Unusable(e.to_string());
        let der = key.to_pkcs8_der().map_err(|e| unusable(&e))?;
        let pair = RsaKeyPair::from_pkcs8(der.as_bytes()).map_err(|e| unusable(&e))?;
        let info = key.to_public_key().to_public_key_der().map_err(|e| unusable(&e))?;
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, info.as_bytes()));
        let public =
            VerifyingKey { id, modulus: trimmed(&key.n().to_be_bytes()), exponent: trimmed(&key.e().to_be_bytes()) };
        Ok(Self { public, pair, random: SystemRandom::new() })
    }

    /// The public half.
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// A JSON Web Token with these claims (JSON).
    pub fn token(&self, claims: &[u8]) -> Result<String, Error> {
        let header = format!("{{\"alg\":\"RS256\",\"kid\":\"{}\"}}", self.public.id);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// An RS256 signature over `message`.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature)
            .map_err(|_| Error::ServiceAccountKey("signing failed".into()))?;
        Ok(signature)
    }
}

/// Without leading zeros.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|b| *b == 0).collect()
}

/// The first two primes that the searching threads find.
fn two_primes() -> Result<[BoxedUint; 2], Error> {
    let stop = AtomicBool::new(false);
    let (sender, found) = mpsc::sync_channel(SEARCHERS);
    std::thread::scope(|scope| {
        for _ in 0..SEARCHERS {
            let (sender, stop) = (sender.clone(), &stop);
            scope.spawn(move || {
                while let Some(prime) = search(stop)
                    && sender.send(prime).is_ok()
                {}
            });
        }
        drop(sender);
        let first: Vec<BoxedUint> = found.iter().take(2).collect();
        stop.store(true, Ordering::Relaxed);
        drop(found);
        <[BoxedUint; 2]>::try_from(first)
            .map_err(|_| Error::ServiceAccountKey("the system gives no random numbers".into()))
    })
}

/// A random prime with its two highest bits set, so that a product of two has its full length.
/// None when told to stop, or when there is no randomness.
fn search(stop: &AtomicBool) -> Option<BoxedUint> {
    let bits = NonZeroU32::new(PRIME_BITS)?;
    let random = SystemRandom::new();
    loop {
        let mut bytes = [0_u8; PRIME_BITS as usize / 8];
        random.fill(&mut bytes).ok()?;
        bytes[0] |= 0xc0;
        bytes[PRIME_BITS as usize / 8 - 1] |= 1;
        let start = BoxedUint::from_be_slice(&bytes, PRIME_BITS).ok()?;
        let sieve = SmallFactorsSieve::new(start, bits, false).ok()?;
        for candidate in sieve {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            if is_prime(Flavor::Any, &candidate) {
                return Some(candidate);
            }
        }
    }
}

/// A key that is there, or will be.
pub(crate) type Pending = watch::Receiver<Option<Result<Arc<ServiceAccountKey>, Arc<Error>>>>;

/// Reads the key, or starts the search for one, which is written to `path` before anyone sees it.
pub(crate) fn open(path: PathBuf) -> Result<Pending, Error> {
    let (sender, pending) = watch::channel(None);
    if let Some(pem) = file::read(&path)? {
        let key = ServiceAccountKey::from_pem(&pem)
            .map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })?;
        sender.send_replace(Some(Ok(Arc::new(key))));
        return Ok(pending);
    }
    let made = std::thread::Builder::new().name("sa-key".into()).spawn(move || {
        let result = generate_to(&path).map(Arc::new).map_err(Arc::new);
        sender.send_replace(Some(result));
    });
    made.map_err(|source| Error::ServiceAccountKey(source.to_string()))?;
    Ok(pending)
}

fn generate_to(path: &Path) -> Result<ServiceAccountKey, Error> {
    let (key, pem) = ServiceAccountKey::generate()?;
    file::write_durably(path, &pem)?;
    if let Some(dir) = path.parent() {
        file::sync_dir(dir)?;
    }
    Ok(key)
}
