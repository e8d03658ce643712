//! How a transfer begins: a task, a host, a request, at most one redirect; and how it ends: by its task.

use hyper::body::Incoming;
use hyper::header::LOCATION;
use hyper::{Response, StatusCode};
use secrecy::ExposeSecret;

use super::download::Download;
use super::path_and_query;
use super::place::LoadGuard;
use super::upload::Upload;
use crate::records::{Sr, Task};
use crate::task::Outcome;
use crate::transport::{Connection, Method, RequestHead, empty_body, within};
use crate::wire::XmlValue;
use crate::{Client, Endpoint, Error, Failure, Ref};

/// What a download and an upload have in common: whose it is, where, and the task that tells the truth.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) client: Client,
    pub(super) host: Endpoint,
    /// What messages call it: method and path.
    pub(super) what: String,
    pub(super) label: String,
    pub(super) task: Ref<Task>,
    pub(super) _load: LoadGuard,
}

impl Ticket {
    /// Waits for the task's verdict and removes the task.
    pub(super) async fn verdict(&self) -> Result<XmlValue, Error> {
        let outcome = self.client.task_outcome(&self.task, &self.label, self.client.timeouts().settle).await?;
        self.client.discard_task(&self.task).await;
        outcome.into_result(&self.label)
    }

    /// Ends the task, after the connection was closed.
    pub(super) async fn cancelled(&self) -> Result<(), Error> {
        if let Err(error) = self.client.task_cancel(&self.task).await {
            // It ended, or cannot be cancelled: the closed connection ends it.
            tracing::debug!(what = self.what, %error, "a transfer's task was not cancelled");
        }
        let outcome = self.client.task_outcome(&self.task, &self.label, self.client.timeouts().settle).await?;
        tracing::debug!(what = self.what, ?outcome, "an abandoned transfer has ended");
        self.client.discard_task(&self.task).await;
        Ok(())
    }

    /// As [`Ticket::cancelled`], where another error is to be returned.
    pub(super) async fn cancelled_or_logged(&self) {
        if let Err(error) = self.cancelled().await {
            tracing::warn!(what = self.what, host = %self.host, error = &error as &dyn std::error::Error, "the end of an abandoned transfer was not seen");
        }
    }

    /// Of a broken transfer, the reason: what the task says rather than that a connection broke.
    pub(super) async fn reason(&self, broken: Error) -> Error {
        match self.client.task_outcome(&self.task, &self.label, self.client.timeouts().settle).await {
            Ok(outcome) => {
                self.client.discard_task(&self.task).await;
                match outcome {
                    Outcome::Failed(failure) => failure.into(),
                    Outcome::Cancelled => Error::TaskCancelled { label: self.label.clone() },
                    Outcome::Succeeded(_) | Outcome::Unknown => broken,
                }
            }
            Err(error) => {
                tracing::debug!(what = self.what, %error, "a broken transfer's task does not say why");
                broken
            }
        }
    }
}

impl Client {
    pub(super) async fn download(
        &self,
        path: &'static str,
        query: Vec<(&str, &str)>,
        sr: Option<&Ref<Sr>>,
        label: &str,
    ) -> Result<Download, Error> {
        let what = format!("GET {path}");
        let task = self.task_create(label, "").await?;
        let opened = async {
            let session = self.session().await?;
            let mut query = query.clone();
            query.push(("session_id", session.secret.expose_secret()));
            query.push(("task_id", task.as_str()));
            let target = path_and_query(path, &query);
            let host = self.host_for(sr).await?;
            let (connection, response) = self.get(&host, &target, &what).await?;
            match redirect(&host, &what, &response)? {
                None => Ok((host, connection, response)),
                Some(other) => {
                    drop(connection);
                    let (connection, response) = self.get(&other, &target, &what).await?;
                    not_again(&other, &what, &response)?;
                    Ok((other, connection, response))
                }
            }
        };
        match opened.await {
            Ok((host, connection, response)) => {
                let _load = self.load().begin(&host);
                let ticket = Ticket { client: self.clone(), host, what, label: label.to_owned(), task, _load };
                Ok(Download::new(ticket, connection, response.into_body()))
            }
            Err(error) => Err(self.not_opened(&task, label, error).await),
        }
    }

    pub(super) async fn upload(
        &self,
        path: &'static str,
        query: Vec<(&str, &str)>,
        sr: &Ref<Sr>,
        label: &str,
        length: u64,
    ) -> Result<Upload, Error> {
        let what = format!("PUT {path}");
        let task = self.task_create(label, "").await?;
        let opened = async {
            let session = self.session().await?;
            let mut query = query.clone();
            query.push(("session_id", session.secret.expose_secret()));
            let mut host = self.host_for(Some(sr)).await?;
            // A redirect comes before the body is read, so an empty body asks for it; without the task, which it would
            // end.
            let response = self.probe_put(&host, &path_and_query(path, &query), &what).await?;
            if let Some(other) = redirect(&host, &what, &response)? {
                host = other;
            }
            query.push(("task_id", task.as_str()));
            let connection = self.dial_pinned(&host).await?;
            Ok((host, connection, path_and_query(path, &query)))
        };
        match opened.await {
            Ok((host, connection, target)) => {
                let _load = self.load().begin(&host);
                let ticket = Ticket { client: self.clone(), host, what, label: label.to_owned(), task, _load };
                Upload::start(ticket, connection, &target, length)
            }
            Err(error) => Err(self.not_opened(&task, label, error).await),
        }
    }

    async fn get(&self, host: &Endpoint, target: &str, what: &str) -> Result<(Connection, Response<Incoming>), Error> {
        let head = RequestHead {
            method: Method::GET,
            path_and_query: target,
            content_type: None,
            content_length: None,
            keep_alive: false,
            asks_for_coordinator: false,
            what,
        };
        let request = head.with(host, empty_body())?;
        let mut connection = self.dial_pinned(host).await?;
        let response = within(host, what, self.timeouts().first_byte, connection.send(request, what)).await?;
        accepted(host, what, &response)?;
        Ok((connection, response))
    }

    async fn probe_put(&self, host: &Endpoint, target: &str, what: &str) -> Result<Response<Incoming>, Error> {
        let request = put_head(target, 0, what).with(host, empty_body())?;
        let mut connection = self.dial_pinned(host).await?;
        let response = within(host, what, self.timeouts().call, connection.send(request, what)).await?;
        accepted(host, what, &response)?;
        Ok(response)
    }

    /// A transfer that did not begin: the task's reason where it has one, and no task left behind.
    async fn not_opened(&self, task: &Ref<Task>, label: &str, error: Error) -> Error {
        let reason = match (&error, self.task_record(task).await) {
            (Error::Status { .. } | Error::Transport { .. }, Ok(Some(record))) => record.error_info,
            _ => Vec::new(),
        };
        self.discard_task(task).await;
        match reason.split_first() {
            Some((code, params)) => {
                let failure = Failure::new(label, code, params.to_vec());
                self.without_session(failure).await.map_or(error, Error::Xapi)
            }
            None => error,
        }
    }
}

pub(super) fn put_head<'a>(path_and_query: &'a str, length: u64, what: &'a str) -> RequestHead<'a> {
    RequestHead {
        method: Method::PUT,
        path_and_query,
        content_type: None,
        content_length: Some(length),
        keep_alive: false,
        asks_for_coordinator: false,
        what,
    }
}

pub(super) fn accepted(host: &Endpoint, what: &str, response: &Response<Incoming>) -> Result<(), Error> {
    let status = response.status();
    if status.is_success() || is_redirect(status) {
        Ok(())
    } else {
        Err(Error::Status { host: host.clone(), what: what.to_owned(), status: status.as_u16() })
    }
}

pub(super) fn not_again(host: &Endpoint, what: &str, response: &Response<Incoming>) -> Result<(), Error> {
    if is_redirect(response.status()) {
        let reason = "it is redirected again, after one redirect was followed";
        return Err(Error::Redirect { host: host.clone(), what: what.to_owned(), reason });
    }
    Ok(())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status, StatusCode::FOUND | StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT)
}

/// Where a response sends us. Path and query stay ours; whether the host is one of the pool shows when it is dialled.
pub(crate) fn redirect(host: &Endpoint, what: &str, response: &Response<Incoming>) -> Result<Option<Endpoint>, Error> {
    if !is_redirect(response.status()) {
        return Ok(None);
    }
    let wrong = |reason| Error::Redirect { host: host.clone(), what: what.to_owned(), reason };
    let location = response.headers().get(LOCATION).ok_or_else(|| wrong("it does not say where to"))?;
    let location = location.to_str().map_err(|_| wrong("the address is not text"))?;
    redirect_target(location).map(Some).map_err(wrong)
}

fn redirect_target(location: &str) -> Result<Endpoint, &'static str> {
    let rest = location.strip_prefix("https://").ok_or("the address is not https")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    Endpoint::parse(authority).map_err(|_| "the address is not one of a host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_names_a_host_and_never_leaves_tls() {
        let target = |location| redirect_target(location).map(|endpoint| endpoint.to_string());
        assert_eq!(target("https://10.0.0.2/import_raw_vdi/?vdi=x").unwrap(), "10.0.0.2");
        assert_eq!(target("https://10.0.0.2:8443/x").unwrap(), "10.0.0.2:8443");
        assert_eq!(target("https://[2001:db8::2]/x").unwrap(), "[2001:db8::2]");
        for location in ["http://10.0.0.2/x", "/x", "https:///x", "https://a@b/x", ""] {
            assert!(target(location).is_err(), "{location}");
        }
    }
}
