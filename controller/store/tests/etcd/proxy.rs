//! A TCP proxy that loses what a test wants lost.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::eventually::eventually;

/// What becomes of the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Requests reach the member, answers are thrown away.
    LoseAnswers,
    /// Requests are kept here.
    HoldRequests,
    /// The connection to the client is gone; that to the member stays.
    Cut,
}

/// A proxy for one member.
pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<Arc<Connection>>>,
    /// How connections begin.
    blocked: Mutex<bool>,
}

struct Connection {
    mode: watch::Sender<Mode>,
    held: Mutex<Vec<u8>>,
    /// The way to the member, when the client is gone.
    left: Mutex<Option<OwnedWriteHalf>>,
    /// What the member said that did not reach the client.
    unheard: Mutex<Vec<u8>>,
}

impl Proxy {
    pub(crate) async fn start(member: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        tokio::spawn(serve(listener, member.to_owned(), Arc::clone(&shared)));
        Self { address, shared }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, the answers to the connections that are there are lost.
    pub(crate) fn lose_answers(&self) {
        self.set(Mode::LoseAnswers);
    }

    /// From now on, the requests of the connections that are there are held.
    pub(crate) fn hold_requests(&self) {
        self.set(Mode::HoldRequests);
    }

    /// Cuts the connections that are there off from their clients.
    pub(crate) fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// Lets nothing through any more, in no direction, on no connection.
    pub(crate) fn block(&self) {
        *self.shared.blocked.lock().unwrap() = true;
        self.set(Mode::HoldRequests);
    }

    fn set(&self, mode: Mode) {
        for connection in self.shared.connections.lock().unwrap().iter() {
            connection.mode.send_if_modified(|current| {
                let changes = *current != Mode::Cut;
                if changes {
                    *current = mode;
                }
                changes
            });
        }
    }

    /// Waits until a request with these bytes in it is held.
    pub(crate) async fn holds(&self, bytes: &[u8]) {
        eventually("a request", || async {
            let connections = self.shared.connections.lock().unwrap();
            let held = connections
                .iter()
                .any(|connection| connection.held.lock().unwrap().windows(bytes.len()).any(|window| window == bytes));
            held.then_some(())
        })
        .await;
    }

    /// Waits until the answer to a call was lost.
    pub(crate) async fn has_lost_an_answer(&self) {
        eventually("an answer that is lost", || async {
            let connections = self.shared.connections.lock().unwrap();
            connections.iter().any(|connection| is_answered(&connection.unheard.lock().unwrap())).then_some(())
        })
        .await;
    }

    /// Gives the members what is held, on connections whose clients are gone, and waits until one call was answered
    /// with content.
    pub(crate) async fn deliver_late(&self) {
        let connections: Vec<Arc<Connection>> = self.shared.connections.lock().unwrap().clone();
        for connection in &connections {
            let held = std::mem::take(&mut *connection.held.lock().unwrap());
            let left = connection.left.lock().unwrap().take();
            if let (Some(mut left), false) = (left, held.is_empty()) {
                connection.unheard.lock().unwrap().clear();
                left.write_all(&held).await.unwrap();
                *connection.left.lock().unwrap() = Some(left);
            }
        }
        eventually("an answer to what came late", || async {
            connections.iter().any(|connection| is_answered(&connection.unheard.lock().unwrap())).then_some(())
        })
        .await;
    }
}

/// True when there is content, and the end of a call, among these HTTP/2 frames.
fn is_answered(mut frames: &[u8]) -> bool {
    let mut content = false;
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = frames {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        content |= *kind == 0 && length > 0;
        if *kind == 1 && flags & 1 == 1 {
            return content;
        }
        let Some(after) = rest.get(length..) else { return false };
        frames = after;
    }
    false
}

async fn serve(listener: TcpListener, member: String, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&member).await else { continue };
        let mode = if *shared.blocked.lock().unwrap() { Mode::HoldRequests } else { Mode::Pass };
        let connection = Arc::new(Connection {
            mode: watch::Sender::new(mode),
            held: Mutex::default(),
            left: Mutex::default(),
            unheard: Mutex::default(),
        });
        shared.connections.lock().unwrap().push(Arc::clone(&connection));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(requests(from_client, to_server, Arc::clone(&connection)));
        tokio::spawn(answers(from_server, to_client, connection));
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: Arc<Connection>) {
    let mut mode = connection.mode.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => 0,
            count = from.read(&mut buffer) => count.unwrap_or(0),
        };
        if count == 0 {
            break;
        }
        if *connection.mode.borrow() == Mode::HoldRequests {
            connection.held.lock().unwrap().extend_from_slice(&buffer[..count]);
        } else if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    if *connection.mode.borrow() == Mode::Cut {
        *connection.left.lock().unwrap() = Some(to);
    }
}

async fn answers(mut from: OwnedReadHalf, to: OwnedWriteHalf, connection: Arc<Connection>) {
    let mut mode = connection.mode.subscribe();
    let mut to = Some(to);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode == Mode::Cut), if to.is_some() => {
                // Both halves have to be gone for the client to notice.
                to = None;
                continue;
            }
            count = from.read(&mut buffer) => count.unwrap_or(0),
        };
        if count == 0 {
            return;
        }
        let passes = *connection.mode.borrow() == Mode::Pass;
        match &mut to {
            Some(to) if passes => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            _ => connection.unheard.lock().unwrap().extend_from_slice(&buffer[..count]),
        }
    }
}
