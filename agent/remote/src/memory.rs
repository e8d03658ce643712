//! The in-memory twin of a remote: for tests of what stands above.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::{Capabilities, Error, MAX_WHOLE_READ, ObjectInfo, ObjectName, Remote, Space};

type Objects = BTreeMap<ObjectName, (Bytes, SystemTime)>;

/// A remote in memory. Clones share their objects, as two processes share a folder.
#[derive(Debug, Clone, Default)]
pub struct MemoryRemote {
    objects: Arc<Mutex<Objects>>,
}

const NAME: &str = "memory";

impl MemoryRemote {
    /// An empty remote.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of what is stored now, independent from here on: what a disk holds after the machine was lost.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { objects: Arc::new(Mutex::new(self.objects().clone())) }
    }

    /// Puts `bytes` where they were not published: damage, or what a foreign program wrote.
    pub fn overwrite(&self, name: &ObjectName, bytes: Bytes) {
        self.objects().insert(name.clone(), (bytes, SystemTime::now()));
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &ObjectName) -> Result<(Bytes, SystemTime), Error> {
        let found = self.objects().get(name).cloned();
        found.ok_or_else(|| Error::NotFound { remote: NAME.to_owned(), name: name.clone() })
    }
}

#[async_trait]
impl Remote for MemoryRemote {
    fn describe(&self) -> String {
        NAME.to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { create_exclusive: true, durable: false }
    }

    async fn create(&self, name: &ObjectName, body: Vec<Bytes>) -> Result<(), Error> {
        let mut whole = BytesMut::with_capacity(body.iter().map(Bytes::len).sum());
        body.iter().for_each(|part| whole.extend_from_slice(part));
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Err(Error::AlreadyExists { remote: NAME.to_owned(), name: name.clone() });
        }
        objects.insert(name.clone(), (whole.freeze(), SystemTime::now()));
        Ok(())
    }

    async fn read(&self, name: &ObjectName) -> Result<Bytes, Error> {
        let (bytes, _) = self.get(name)?;
        let size = bytes.len() as u64;
        if size > MAX_WHOLE_READ {
            return Err(Error::TooLarge { remote: NAME.to_owned(), name: name.clone(), size, max: MAX_WHOLE_READ });
        }
        Ok(bytes)
    }

    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, Error> {
        let (bytes, _) = self.get(name)?;
        let size = bytes.len() as u64;
        match (usize::try_from(range.start), usize::try_from(range.end)) {
            (Ok(start), Ok(end)) if start <= end && end <= bytes.len() => Ok(bytes.slice(start..end)),
            _ => Err(Error::OutOfRange { remote: NAME.to_owned(), name: name.clone(), size, wanted: range }),
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectInfo, Error> {
        let (bytes, modified) = self.get(name)?;
        Ok(ObjectInfo { name: name.clone(), size: bytes.len() as u64, modified })
    }

    async fn list(&self, prefix: &ObjectName) -> Result<Vec<ObjectInfo>, Error> {
        let objects = self.objects();
        let below = objects.iter().filter(|(name, _)| name.is_below(prefix));
        Ok(below
            .map(|(name, (bytes, modified))| ObjectInfo {
                name: name.clone(),
                size: bytes.len() as u64,
                modified: *modified,
            })
            .collect())
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), Error> {
        self.objects().remove(name);
        Ok(())
    }

    async fn space(&self) -> Result<Option<Space>, Error> {
        Ok(None)
    }
}
