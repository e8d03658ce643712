//! What an agent is started with.

use std::path::PathBuf;

use secrecy::SecretString;

/// What an agent is started with.
#[derive(Debug)]
pub struct AgentOptions {
    /// Addresses of controllers, as `http://127.0.0.1:7420`; each is tried in turn when another does not answer.
    pub controllers: Vec<String>,
    /// The token that controllers know agents by; sent as `authorization: Bearer …` with every call.
    pub token: SecretString,
    /// The file that the token came from: read anew when a controller does not know the token.
    pub token_file: Option<PathBuf>,
    /// Folder for the agent's id and the lock that keeps a second process out; made when it does not exist.
    pub state_dir: PathBuf,
    /// Most tasks worked on at once.
    pub capacity: u32,
    /// Bytes of disk content that are held in memory at once, over all tasks.
    pub memory_budget_bytes: u64,
}

impl AgentOptions {
    /// Most tasks worked on at once unless configured otherwise.
    pub const DEFAULT_CAPACITY: u32 = 8;
    /// Bytes of disk content in memory unless configured otherwise: 64 MiB.
    pub const DEFAULT_MEMORY_BUDGET_BYTES: u64 = 64 << 20;

    /// Options with the default capacity and memory budget.
    #[must_use]
    pub fn new(controllers: Vec<String>, token: SecretString, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            controllers,
            token,
            token_file: None,
            state_dir: state_dir.into(),
            capacity: Self::DEFAULT_CAPACITY,
            memory_budget_bytes: Self::DEFAULT_MEMORY_BUDGET_BYTES,
        }
    }
}
