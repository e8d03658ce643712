//! Key files: the keys of the repository, sealed with a key derived from a password by scrypt.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{Fault, MasterKey};
use crate::options::KeyCost;

const BLOCK: u32 = 8;
/// log2 of the rounds of a new key: 32 MiB of memory with [`BLOCK`].
const LOG_ROUNDS: u8 = 15;
/// Most lanes of a new key.
const MAX_LANES: u32 = 16;
/// A key file that asks for more memory, or more work, is refused before any is spent.
const MAX_MEMORY: u64 = 256 << 20;
const MAX_WORK: u64 = 8 << 30;
const SALT_BYTES: usize = 64;

/// A key file: JSON, not encrypted as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    created: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    mac: Mac,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct Mac {
    k: String,
    r: String,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.mac.k.zeroize();
        self.mac.r.zeroize();
        self.encrypt.zeroize();
    }
}

impl KeyFile {
    /// Reads a key file.
    ///
    /// # Errors
    /// [`Fault::Json`]; [`Fault::Malformed`] when it asks for another function than scrypt, or for unreasonable work.
    pub fn parse(json: &[u8]) -> Result<Self, Fault> {
        let file: Self = serde_json::from_slice(json)?;
        if file.kdf != "scrypt" {
            return Err(Fault::Malformed("its key derivation is not scrypt"));
        }
        file.params()?;
        Ok(file)
    }

    fn params(&self) -> Result<scrypt::Params, Fault> {
        let memory = self.n.checked_mul(128 * u64::from(self.r));
        let work = memory.and_then(|memory| memory.checked_mul(u64::from(self.p)));
        if !self.n.is_power_of_two()
            || memory.is_none_or(|memory| memory > MAX_MEMORY)
            || work.is_none_or(|work| work > MAX_WORK)
        {
            return Err(Fault::Malformed("its scrypt parameters are out of bounds"));
        }
        let log_n = u8::try_from(self.n.trailing_zeros())
            .map_err(|_| Fault::Malformed("its scrypt parameters are out of bounds"))?;
        scrypt::Params::new(log_n, self.r, self.p, 64)
            .map_err(|_| Fault::Malformed("its scrypt parameters are out of bounds"))
    }

    /// Seals `master` for `password`. Takes as long as `cost` says: not for an async thread.
    pub(crate) fn seal(master: &MasterKey, password: &SecretString, cost: KeyCost) -> Result<Self, String> {
        let (log_rounds, lanes) = match cost {
            KeyCost::Least => (LOG_ROUNDS, 1),
            KeyCost::Calibrated(target) => (LOG_ROUNDS, calibrate(target)?),
            KeyCost::Worthless => (1, 1),
        };
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt);
        let params = scrypt::Params::new(log_rounds, BLOCK, lanes, 64).map_err(|error| error.to_string())?;
        let derived = derive(password, &salt, &params)?;
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let mac = Mac { k: encode(&master.mac_k), r: encode(&master.mac_r) };
        let keys = Keys { mac, encrypt: encode(&master.encrypt) };
        let plain = Zeroizing::new(serde_json::to_vec(&keys).map_err(|error| error.to_string())?);
        Ok(Self {
            created: Timestamp::now().to_string(),
            username: "coffer".to_owned(),
            hostname: String::new(),
            kdf: "scrypt".to_owned(),
            n: 1 << log_rounds,
            r: BLOCK,
            p: lanes,
            salt: encode(&salt),
            data: encode(&derived.seal(&plain)),
        })
    }

    /// The keys, or [`Fault::Authentication`] when the password is another one. Slow by design: not for an async
    /// thread.
    pub(crate) fn open(&self, password: &SecretString) -> Result<MasterKey, Fault> {
        let derived = derive(password, &decode(&self.salt)?, &self.params()?)
            .map_err(|_| Fault::Malformed("its scrypt parameters are out of bounds"))?;
        let mut sealed = Zeroizing::new(decode(&self.data)?);
        read_keys(derived.open_in_place(&mut sealed)?)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a key file has only plain fields")
    }
}

/// Reads the keys that a key file holds, opened.
pub(crate) fn read_keys(json: &[u8]) -> Result<MasterKey, Fault> {
    let keys: Keys = serde_json::from_slice(json)?;
    let mut master = MasterKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
    for (text, into) in [
        (&keys.encrypt, &mut master.encrypt[..]),
        (&keys.mac.k, &mut master.mac_k[..]),
        (&keys.mac.r, &mut master.mac_r[..]),
    ] {
        let bytes = Zeroizing::new(decode(text)?);
        if bytes.len() != into.len() {
            return Err(Fault::Malformed("one of its keys has a wrong length"));
        }
        into.copy_from_slice(&bytes);
    }
    Ok(master)
}

fn decode(base64: &str) -> Result<Vec<u8>, Fault> {
    STANDARD.decode(base64).map_err(|_| Fault::Malformed("it holds invalid base64"))
}

fn derive(password: &SecretString, salt: &[u8], params: &scrypt::Params) -> Result<MasterKey, String> {
    let mut bytes = Zeroizing::new([0; 64]);
    scrypt::scrypt(password.expose_secret().as_bytes(), salt, params, &mut *bytes)
        .map_err(|error| error.to_string())?;
    Ok(MasterKey::from_derived(&bytes))
}

/// How many lanes take `target` on this machine.
fn calibrate(target: Duration) -> Result<u32, String> {
    let params = scrypt::Params::new(LOG_ROUNDS, BLOCK, 1, 64).map_err(|error| error.to_string())?;
    let start = Instant::now();
    derive(&SecretString::from(""), &[0; SALT_BYTES], &params)?;
    let lanes = target.as_micros() / start.elapsed().as_micros().max(1);
    Ok(u32::try_from(lanes).unwrap_or(MAX_LANES).clamp(1, MAX_LANES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_opens_a_key_file() {
        let master = MasterKey::random();
        let password = SecretString::from("correct horse");
        let file = KeyFile::parse(&KeyFile::seal(&master, &password, KeyCost::Least).unwrap().encode()).unwrap();
        assert_eq!(file.open(&password).unwrap().encrypt, master.encrypt);
        assert!(matches!(file.open(&SecretString::from("wrong horse")), Err(Fault::Authentication)));
    }

    #[test]
    fn a_key_file_that_asks_for_the_memory_of_the_machine_is_refused() {
        let file = |n: u64, r: u32, p: u32| {
            let json = format!(r#"{{"created":"","kdf":"scrypt","N":{n},"r":{r},"p":{p},"salt":"","data":""}}"#);
            KeyFile::parse(json.as_bytes()).map(|_| ())
        };
        assert!(file(32768, 8, 6).is_ok());
        for (n, r, p) in
            [(1 << 40, 8, 1), (u64::MAX, u32::MAX, 1), (32768, 8, u32::MAX), (3, 8, 1), (0, 8, 1), (32768, 0, 1)]
        {
            assert!(file(n, r, p).is_err(), "{n} {r} {p}");
        }
    }

    #[test]
    fn no_key_shows_in_debug_output() {
        let master = MasterKey::random();
        assert_eq!(format!("{master:?}"), "MasterKey(..)");
    }
}
