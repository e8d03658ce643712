//! What every class has: records, look-ups, fields, `other_config`, tags.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::client::decoded;
use crate::link::Repeat;
use crate::records::{Full, decode_record};
use crate::{Class, Client, Error, Ref};

impl Client {
    /// Reads an object, with everything that XAPI sends.
    ///
    /// # Errors
    /// As any call; `HANDLE_INVALID` when it does not exist.
    pub async fn record<C: Class>(&self, object: &Ref<C>) -> Result<Full<C>, Error> {
        let method = format!("{}.get_record", C::NAME);
        let record = self.call(&method, vec![json!(object)], Repeat::Safe).await?;
        Full::decode(object.clone(), record).map_err(|source| Error::Answer { what: method, source })
    }

    /// All objects of a class. One whose record cannot be read is left out, and logged.
    ///
    /// # Errors
    /// As any call.
    pub async fn all_records<C: Class>(&self) -> Result<Vec<(Ref<C>, C::Record)>, Error> {
        self.listed(&format!("{}.get_all_records", C::NAME), Vec::new()).await
    }

    /// The objects of a class that an expression selects: `field "is_a_snapshot" = "true"`.
    ///
    /// # Errors
    /// As any call.
    pub async fn records_where<C: Class>(&self, expression: &str) -> Result<Vec<(Ref<C>, C::Record)>, Error> {
        self.listed(&format!("{}.get_all_records_where", C::NAME), vec![json!(expression)]).await
    }

    async fn listed<C: Class>(&self, method: &str, params: Vec<Value>) -> Result<Vec<(Ref<C>, C::Record)>, Error> {
        let records: Map<String, Value> = self.read(method, params).await?;
        let mut listed = Vec::with_capacity(records.len());
        for (reference, record) in records {
            let Some(reference) = Ref::new(&reference) else { continue };
            match decode_record::<C>(record) {
                Ok(record) => listed.push((reference, record)),
                Err(error) => {
                    tracing::warn!(object = %reference, error = &error as &dyn std::error::Error, "an object of the pool is left out")
                }
            }
        }
        Ok(listed)
    }

    /// The object of this identity; `None` when there is none.
    ///
    /// # Errors
    /// As any call.
    pub async fn by_uuid<C: Class>(&self, uuid: Uuid) -> Result<Option<Ref<C>>, Error> {
        match self.call_as(&format!("{}.get_by_uuid", C::NAME), vec![json!(uuid)], Repeat::Safe).await {
            Ok(reference) => Ok(Some(reference)),
            Err(error) if error.is("UUID_INVALID") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects of this name, which is not unique.
    ///
    /// # Errors
    /// As any call.
    pub async fn by_name<C: Class>(&self, name: &str) -> Result<Vec<Ref<C>>, Error> {
        self.read(&format!("{}.get_by_name_label", C::NAME), vec![json!(name)]).await
    }

    /// Reads one field.
    ///
    /// # Errors
    /// As any call.
    pub async fn field<C: Class, T: DeserializeOwned>(&self, object: &Ref<C>, field: &str) -> Result<T, Error> {
        self.read(&format!("{}.get_{field}", C::NAME), vec![json!(object)]).await
    }

    /// Sets one field.
    ///
    /// # Errors
    /// As any call.
    pub async fn set_field<C: Class>(&self, object: &Ref<C>, field: &str, value: Value) -> Result<(), Error> {
        self.set(&format!("{}.set_{field}", C::NAME), vec![json!(object), value]).await
    }

    /// Sets a key of `other_config`, replacing what it was.
    ///
    /// # Errors
    /// As any call.
    pub async fn set_other_config<C: Class>(&self, object: &Ref<C>, key: &str, value: &str) -> Result<(), Error> {
        self.set_in_map(object, "other_config", key, value).await
    }

    /// Removes a key of `other_config`; one that is not there is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn remove_other_config<C: Class>(&self, object: &Ref<C>, key: &str) -> Result<(), Error> {
        self.remove_from_map(object, "other_config", key).await
    }

    /// Adds a tag; one that is there is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn add_tag<C: Class>(&self, object: &Ref<C>, tag: &str) -> Result<(), Error> {
        self.set(&format!("{}.add_tags", C::NAME), vec![json!(object), json!(tag)]).await
    }

    /// Removes a tag; one that is not there is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn remove_tag<C: Class>(&self, object: &Ref<C>, tag: &str) -> Result<(), Error> {
        self.set(&format!("{}.remove_tags", C::NAME), vec![json!(object), json!(tag)]).await
    }

    /// XAPI has no "replace" for one key of a map: it is removed, then added. The key may be there again when the
    /// answer to the adding was lost and it is repeated, or when somebody else sets it too.
    pub(super) async fn set_in_map<C: Class>(
        &self,
        object: &Ref<C>,
        field: &str,
        key: &str,
        value: &str,
    ) -> Result<(), Error> {
        let add = format!("{}.add_to_{field}", C::NAME);
        let params = || vec![json!(object), json!(key), json!(value)];
        self.remove_from_map(object, field, key).await?;
        match self.set(&add, params()).await {
            Err(error) if error.is("MAP_DUPLICATE_KEY") => {
                self.remove_from_map(object, field, key).await?;
                self.set(&add, params()).await
            }
            outcome => outcome,
        }
    }

    pub(super) async fn remove_from_map<C: Class>(&self, object: &Ref<C>, field: &str, key: &str) -> Result<(), Error> {
        self.set(&format!("{}.remove_from_{field}", C::NAME), vec![json!(object), json!(key)]).await
    }

    /// A call that only reads.
    pub(super) async fn read<T: DeserializeOwned>(&self, method: &str, params: Vec<Value>) -> Result<T, Error> {
        decoded(method, self.call(method, params, Repeat::Safe).await?)
    }

    /// A call after which things are the same whether it was made once or twice.
    pub(super) async fn set(&self, method: &str, params: Vec<Value>) -> Result<(), Error> {
        self.call(method, params, Repeat::Safe).await.map(drop)
    }

    /// A call that makes an object.
    pub(super) async fn make<C: Class>(&self, method: &str, params: Vec<Value>) -> Result<Ref<C>, Error> {
        decoded(method, self.call(method, params, Repeat::Never).await?)
    }

    /// A call that takes something away; that it is gone already is no error.
    pub(super) async fn unmake(&self, method: &str, params: Vec<Value>) -> Result<(), Error> {
        gone_is_well(self.call(method, params, Repeat::Safe).await.map(drop))
    }
}

pub(super) fn gone_is_well(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.is("HANDLE_INVALID") => Ok(()),
        outcome => outcome,
    }
}
