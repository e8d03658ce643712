//! An open repository: what is shared by its backups, readers, prunes and checks.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coffer_remote::{ObjectInfo, Remote, read_if_present};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::format::{BlobKind, Config, Fault, KeyFile, MasterKey, Snapshot, Tree, read_tree};
use crate::id::sha256;
use crate::index::{Index, Trust};
use crate::meta::VM_TAG;
use crate::objects::{BlobKey, Objects, blocking, ids, name, range_of, snapshot_name};
use crate::pipeline::Pipeline;
use crate::reader::Cache;
use crate::session::BackupSession;
use crate::{
    BackupOptions, BlobId, Error, FileContent, KeyId, Point, PointInfo, RepositoryId, RepositoryOptions, SnapshotId,
};

/// Key files tried when a repository is opened.
const MAX_KEYS: usize = 32;
/// Snapshot files read at one time.
const PARALLEL_SNAPSHOTS: usize = 8;
/// Chunk sizes that can be chosen.
const CHUNK_BYTES: std::ops::RangeInclusive<usize> = (64 << 10)..=(8 << 20);

/// An open repository. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) objects: Arc<Objects>,
    pub(crate) index: Arc<Index>,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) options: RepositoryOptions,
    pub(crate) cache: Cache,
    pub(crate) chunk_bytes: usize,
    /// The id of a chunk of zeros.
    pub(crate) zero_chunk: BlobId,
    pub(crate) id: RepositoryId,
    /// Snapshot files never change, so each is read once.
    snapshots: Mutex<HashMap<SnapshotId, Arc<Snapshot>>>,
}

/// Snapshots of a repository, readable and not.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) readable: Vec<(SnapshotId, Arc<Snapshot>)>,
    pub(crate) damaged: Vec<(SnapshotId, Error)>,
}

impl Repository {
    /// Makes a repository on a remote that has none.
    ///
    /// # Errors
    /// [`Error::RepositoryExists`]; [`Error::ConfigLost`]; [`Error::ChunkSize`]; [`Error::Remote`].
    pub async fn init(
        remote: Arc<dyn Remote>,
        password: &SecretString,
        options: RepositoryOptions,
    ) -> Result<Self, Error> {
        let bytes = options.chunk_bytes;
        if !bytes.is_power_of_two() || !CHUNK_BYTES.contains(&bytes) {
            return Err(Error::ChunkSize { bytes });
        }
        let exists = || Error::RepositoryExists { remote: remote.describe() };
        if read_if_present(&*remote, &name("config")).await?.is_some() {
            return Err(exists());
        }
        for folder in ["data", "index", "snapshots"] {
            if !remote.list(&name(folder)).await?.is_empty() {
                return Err(Error::ConfigLost { remote: remote.describe() });
            }
        }
        let objects = Objects::new(remote.clone(), MasterKey::random(), options.compression);
        let key = add_key(&objects, password, options.key_cost).await?;
        let sealed = objects.key().seal(&Config::new(bytes).encode());
        match remote.create(&name("config"), vec![Bytes::from(sealed)]).await {
            Ok(()) => {}
            Err(coffer_remote::Error::AlreadyExists { .. }) => {
                remote.delete(&name(&format!("keys/{key}"))).await?;
                return Err(exists());
            }
            Err(error) => return Err(error.into()),
        }
        let made = Self::open(remote, password, options).await?;
        made.remove_stray_keys(password).await?;
        Ok(made)
    }

    /// Opens the repository of a remote.
    ///
    /// # Errors
    /// [`Error::NoRepository`]; [`Error::WrongPassword`]; [`Error::Damaged`]; [`Error::Remote`].
    pub async fn open(
        remote: Arc<dyn Remote>,
        password: &SecretString,
        options: RepositoryOptions,
    ) -> Result<Self, Error> {
        let Some(config) = read_if_present(&*remote, &name("config")).await? else {
            return Err(Error::NoRepository { remote: remote.describe() });
        };
        let (key, config) = unlock(&*remote, password, config).await?;
        let objects = Arc::new(Objects::new(remote, key, options.compression));
        let index = Arc::new(Index::new(objects.clone(), options.index_interval));
        index.refresh().await?;
        let chunk_bytes = config.chunk_bytes().unwrap_or(options.chunk_bytes);
        if !chunk_bytes.is_power_of_two() || !CHUNK_BYTES.contains(&chunk_bytes) {
            return Err(Error::ChunkSize { bytes: chunk_bytes });
        }
        let (workers, packs) = (options.workers, options.packs_in_memory);
        let inner = Inner {
            pipeline: Arc::new(Pipeline::new(objects.clone(), index.clone(), workers, packs, chunk_bytes)),
            cache: Cache::new(options.cached_chunks),
            id: config.id(),
            zero_chunk: BlobId::of(&vec![0; chunk_bytes]),
            snapshots: Mutex::default(),
            objects,
            index,
            options,
            chunk_bytes,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens the repository of a remote, and makes it first when there is none.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::init`].
    pub async fn open_or_init(
        remote: Arc<dyn Remote>,
        password: &SecretString,
        options: RepositoryOptions,
    ) -> Result<Self, Error> {
        match Self::open(remote.clone(), password, options.clone()).await {
            Err(Error::NoRepository { .. }) => {}
            Err(error) => return Err(error),
            Ok(opened) => {
                opened.remove_stray_keys(password).await?;
                return Ok(opened);
            }
        }
        match Self::init(remote.clone(), password, options.clone()).await {
            // Somebody else was faster.
            Err(Error::RepositoryExists { .. }) => Self::open(remote, password, options).await,
            made => made,
        }
    }

    /// Removes keys that the password opens and that do not fit: left from an attempt to make a repository that was
    /// interrupted or came second. Stock programs stumble over them.
    async fn remove_stray_keys(&self, password: &SecretString) -> Result<(), Error> {
        let remote = &*self.inner.objects.remote;
        let listed = remote.list(&name("keys")).await?;
        if listed.len() < 2 {
            return Ok(());
        }
        let Some(config) = read_if_present(remote, &name("config")).await? else { return Ok(()) };
        for (id, info) in ids::<KeyId>(&listed).take(MAX_KEYS) {
            if let Some(Ok(file)) = read_key(remote, id, info).await?
                && matches!(try_key(file, password, &config).await, Err(Mismatch::Config))
            {
                tracing::info!(key = %id, "a key that fits nothing is removed");
                remote.delete(&info.name).await?;
            }
        }
        Ok(())
    }

    /// Its id, whatever remote a copy of it stands on.
    pub fn id(&self) -> RepositoryId {
        self.inner.id
    }

    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> usize {
        self.inner.chunk_bytes
    }

    /// Makes another password open the repository.
    ///
    /// # Errors
    /// [`Error::KeyDerivation`]; [`Error::Remote`].
    pub async fn add_password(&self, password: &SecretString) -> Result<KeyId, Error> {
        add_key(&self.inner.objects, password, self.inner.options.key_cost).await
    }

    /// The key files; each opens with one password.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn keys(&self) -> Result<Vec<KeyId>, Error> {
        Ok(ids(&self.inner.objects.remote.list(&name("keys")).await?).map(|(id, _)| id).collect())
    }

    /// Makes the password of a key file open the repository no more.
    ///
    /// # Errors
    /// [`Error::LastKey`]; [`Error::Remote`].
    pub async fn remove_key(&self, key: KeyId) -> Result<(), Error> {
        if self.keys().await?.iter().all(|other| *other == key) {
            return Err(Error::LastKey);
        }
        Ok(self.inner.objects.remote.delete(&name(&format!("keys/{key}"))).await?)
    }

    /// Begins a backup. What the repository has by now will not be stored again.
    ///
    /// # Errors
    /// [`Error::RepositoryGone`], [`Error::OtherRepository`]; [`Error::Remote`].
    pub async fn begin_backup(&self, options: BackupOptions) -> Result<BackupSession, Error> {
        self.confirm().await?;
        self.inner.index.refresh().await?;
        Ok(BackupSession::new(self.inner.clone(), options))
    }

    /// Snapshots of ours, oldest first. Which of them are restore points is said by their commit records. Damaged ones
    /// are logged and left out.
    ///
    /// # Errors
    /// [`Error::RepositoryGone`], [`Error::OtherRepository`]; [`Error::Remote`].
    pub async fn points(&self) -> Result<Vec<PointInfo>, Error> {
        self.confirm().await?;
        let listed = self.inner.list_snapshots().await?;
        for (id, error) in &listed.damaged {
            tracing::warn!(snapshot = %id, error = crate::index::describe(error), "a snapshot is damaged: look at the remote with `restic check`");
        }
        let infos = listed.readable.iter().filter_map(|(id, snapshot)| info_of(*id, snapshot).ok());
        let mut points: Vec<PointInfo> = infos.filter(PointInfo::is_ours).collect();
        points.sort_by_key(|point| (point.time, point.id));
        Ok(points)
    }

    /// Opens a snapshot, of ours or foreign.
    ///
    /// # Errors
    /// [`Error::Remote`] when there is none; [`Error::Damaged`], [`Error::BlobMissing`] or [`Error::PackMissing`] when
    /// its folders cannot be read.
    pub async fn point(&self, id: SnapshotId) -> Result<Point, Error> {
        self.confirm().await?;
        let snapshot = self.inner.snapshot(id).await?;
        let info = info_of(id, &snapshot)?;
        self.inner.index.refresh().await?;
        Point::open(self.inner.clone(), info, snapshot.tree).await
    }

    /// Whether a backup can be built on this content: as far as is known, no chunk of it is lost.
    pub async fn is_sound(&self, content: &FileContent) -> bool {
        let (inner, content) = (self.inner.clone(), content.clone());
        blocking(move || {
            let map = inner.index.map();
            content
                .blobs()
                .iter()
                .all(|id| map.trust(&(BlobKind::Data, *id)).is_some_and(|trust| trust > Trust::Damaged))
        })
        .await
    }

    /// Removes a snapshot; to be repeated at will. What only it needed goes with later prunes.
    ///
    /// # Errors
    /// [`Error::RepositoryGone`], [`Error::OtherRepository`]; [`Error::Remote`].
    pub async fn forget(&self, id: SnapshotId) -> Result<(), Error> {
        self.confirm().await?;
        self.inner.objects.remote.delete(&snapshot_name(&id)).await?;
        self.inner.snapshots.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }
}

impl Inner {
    pub(crate) async fn read_blob(&self, key: BlobKey) -> Result<Bytes, Error> {
        let found = self.index.get(&key).ok_or(Error::BlobMissing { blob: key.1 })?;
        self.objects.read_blob(&found.pack, found.blob).await
    }

    /// Reads a folder. Its JSON may be long: it is decompressed, hashed and parsed as a stream.
    pub(crate) async fn read_tree(&self, id: BlobId) -> Result<Tree, Error> {
        let found = self.index.get(&(BlobKind::Tree, id)).ok_or(Error::BlobMissing { blob: id })?;
        let sealed = self.objects.read_pack(&found.pack, range_of(&found.blob)).await?;
        let objects = self.objects.clone();
        blocking(move || {
            let plain = objects.open_raw(&sealed)?;
            drop(sealed);
            let limit = u64::from(found.blob.plain_bytes());
            match found.blob.uncompressed {
                None => parse_tree(&plain[..], id),
                Some(_) => parse_tree(crate::format::decoder(&plain, limit)?, id),
            }
        })
        .await
        .map_err(|fault| Error::damaged_blob(&found.pack, &id, fault))
    }

    pub(crate) async fn snapshot(&self, id: SnapshotId) -> Result<Arc<Snapshot>, Error> {
        let known = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let read = self.objects.read_unpacked(&snapshot_name(&id), *id.as_bytes(), Snapshot::parse).await?;
        let snapshot = Arc::new(read);
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).insert(id, snapshot.clone());
        Ok(snapshot)
    }

    /// All snapshots, foreign ones too.
    pub(crate) async fn list_snapshots(&self) -> Result<Listed, Error> {
        let listed = self.objects.remote.list(&name("snapshots")).await?;
        let wanted: Vec<SnapshotId> = ids(&listed).map(|(id, _)| id).collect();
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| wanted.contains(id));
        let read = |id| async move {
            match self.snapshot(id).await {
                // Forgotten since it was listed.
                Err(Error::Remote(coffer_remote::Error::NotFound { .. })) => Ok(None),
                Err(error @ (Error::Damaged { .. } | Error::Remote(coffer_remote::Error::TooLarge { .. }))) => {
                    Ok(Some((id, Err(error))))
                }
                Err(error) => Err(error),
                Ok(snapshot) => Ok(Some((id, Ok(snapshot)))),
            }
        };
        let read: Vec<_> = stream::iter(wanted).map(read).buffered(PARALLEL_SNAPSHOTS).try_collect().await?;
        let (mut readable, mut damaged) = (Vec::new(), Vec::new());
        for (id, snapshot) in read.into_iter().flatten() {
            match snapshot {
                Ok(snapshot) => readable.push((id, snapshot)),
                Err(error) => damaged.push((id, error)),
            }
        }
        Ok(Listed { readable, damaged })
    }
}

fn parse_tree(reader: impl Read, id: BlobId) -> Result<Tree, Fault> {
    struct Hashing<R>(R, Sha256);
    impl<R: Read> Read for Hashing<R> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1.update(&buffer[..read]);
            Ok(read)
        }
    }
    let mut hashing = Hashing(reader, Sha256::new());
    let tree = read_tree(&mut hashing)?;
    std::io::copy(&mut hashing, &mut std::io::sink()).map_err(Fault::Compression)?;
    if <[u8; 32]>::from(hashing.1.finalize()) == *id.as_bytes() { Ok(tree) } else { Err(Fault::Hash) }
}

pub(crate) fn info_of(id: SnapshotId, snapshot: &Snapshot) -> Result<PointInfo, Error> {
    let time: Timestamp = snapshot
        .time
        .parse()
        .map_err(|_| Error::damaged(snapshot_name(&id), Fault::Malformed("its time is not a time")))?;
    let vm = snapshot.tags.iter().find_map(|tag| tag.strip_prefix(VM_TAG)?.parse().ok());
    let Snapshot { hostname, tags, parent, .. } = snapshot.clone();
    Ok(PointInfo { id, time, vm, hostname, tags, parent })
}

async fn add_key(objects: &Objects, password: &SecretString, cost: crate::KeyCost) -> Result<KeyId, Error> {
    let (master, password) = (objects.key().clone(), password.clone());
    let sealed = blocking(move || KeyFile::seal(&master, &password, cost)).await;
    let file = Bytes::from(sealed.map_err(|reason| Error::KeyDerivation { reason })?.encode());
    let id = KeyId(sha256(&file));
    objects.remote.create(&name(&format!("keys/{id}")), vec![file]).await?;
    Ok(id)
}

/// Finds the key file that the password opens, and with it the config.
async fn unlock(remote: &dyn Remote, password: &SecretString, config: Bytes) -> Result<(MasterKey, Config), Error> {
    let listed = remote.list(&name("keys")).await?;
    let mut damaged = None;
    let mut tried = 0;
    for (id, info) in ids::<KeyId>(&listed).take(MAX_KEYS) {
        let file = match read_key(remote, id, info).await? {
            Some(Ok(file)) => file,
            Some(Err(fault)) => {
                damaged = Some(Error::damaged(&info.name, fault));
                continue;
            }
            None => continue,
        };
        tried += 1;
        match try_key(file, password, &config).await {
            Ok((key, plain)) => {
                let config = Config::parse(&plain).map_err(|fault| Error::damaged(name("config"), fault))?;
                return Ok((key, config));
            }
            // A key of an interrupted `init` fits nothing.
            Err(Mismatch::Password | Mismatch::Config) => {}
            Err(Mismatch::Damage(fault)) => damaged = Some(Error::damaged(&info.name, fault)),
        }
    }
    Err(damaged.unwrap_or_else(|| Error::WrongPassword { remote: remote.describe(), keys: tried }))
}

/// A key file, or what is wrong with it; `None` when it is gone.
async fn read_key(remote: &dyn Remote, id: KeyId, info: &ObjectInfo) -> Result<Option<Result<KeyFile, Fault>>, Error> {
    let bytes = read_if_present(remote, &info.name).await?;
    Ok(bytes.map(|bytes| if sha256(&bytes) == *id.as_bytes() { KeyFile::parse(&bytes) } else { Err(Fault::Hash) }))
}

/// Why a key is not the one.
enum Mismatch {
    /// The password does not open it.
    Password,
    /// It does not open the config.
    Config,
    Damage(Fault),
}

/// The master key in a key file, and the config that it opens.
async fn try_key(file: KeyFile, password: &SecretString, config: &Bytes) -> Result<(MasterKey, Vec<u8>), Mismatch> {
    let (password, config) = (password.clone(), config.clone());
    blocking(move || {
        let key = file.open(&password).map_err(|fault| match fault {
            Fault::Authentication => Mismatch::Password,
            fault => Mismatch::Damage(fault),
        })?;
        let mut sealed = config.to_vec();
        match key.open_in_place(&mut sealed) {
            Ok(plain) => Ok((key, plain.to_vec())),
            Err(Fault::Authentication) => Err(Mismatch::Config),
            Err(fault) => Err(Mismatch::Damage(fault)),
        }
    })
    .await
}
