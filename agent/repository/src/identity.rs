//! Whether the repository that was opened is still the one on its remote.
//!
//! A remote's folder can be unmounted, or another one mounted in its place, at any instant; what is written then would
//! go into the wrong place under keys that do not fit it, and what is not found would look lost. `config` is sealed
//! with the repository's own key and holds its id: a few bytes to read, which no other repository can answer for.

use coffer_remote::{Remote, read_if_present};
use secrecy::SecretString;
use std::sync::Arc;

use crate::format::Config;
use crate::objects::name;
use crate::repository::{Inner, Repository};
use crate::{Error, RepositoryId, RepositoryOptions};

impl Repository {
    /// Opens the repository `wanted`, and no other. Never makes one, and writes nothing.
    ///
    /// # Errors
    /// [`Error::RepositoryGone`]; [`Error::OtherRepository`]; otherwise as [`Self::open`].
    pub async fn open_known(
        remote: Arc<dyn Remote>,
        password: &SecretString,
        options: RepositoryOptions,
        wanted: RepositoryId,
    ) -> Result<Self, Error> {
        let place = remote.describe();
        match Self::open(remote, password, options).await {
            Err(Error::NoRepository { remote }) => Err(Error::RepositoryGone { remote, wanted }),
            Ok(other) if other.id() != wanted => Err(Error::OtherRepository { remote: place, wanted }),
            opened => opened,
        }
    }

    /// Looks whether this very repository is on its remote now. Cheap; to be called before what cannot be taken back,
    /// and before anything is concluded from what is not found.
    ///
    /// # Errors
    /// [`Error::RepositoryGone`]; [`Error::OtherRepository`]; [`Error::Remote`].
    pub async fn confirm(&self) -> Result<(), Error> {
        self.inner.confirm().await
    }
}

impl Inner {
    /// As [`Repository::confirm`].
    pub(crate) async fn confirm(&self) -> Result<(), Error> {
        let (objects, wanted) = (&self.objects, self.id);
        let Some(sealed) = read_if_present(&*objects.remote, &name("config")).await? else {
            return Err(Error::RepositoryGone { remote: objects.remote.describe(), wanted });
        };
        let mut sealed = sealed.to_vec();
        let found = objects.key().open_in_place(&mut sealed).and_then(|plain| Config::parse(plain));
        match found {
            Ok(config) if config.id() == wanted => Ok(()),
            _ => Err(Error::OtherRepository { remote: objects.remote.describe(), wanted }),
        }
    }
}
