//! `coffer agent`.

use coffer_proto::v1;
use coffer_runtime::exit::Exit;

use crate::client::{all_pages, timed};
use crate::context::Context;
use crate::show::resources;
use crate::{Error, resolve};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List agents
    List,
    /// Show one agent
    Show {
        /// The agent
        agent: String,
    },
}

pub(crate) async fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::List => {
            let agents = all_pages!(context.client.agents(), list_agents, agents, v1::ListAgentsRequest::default());
            context.list("Agent", &agents, resources::agents)
        }
        Command::Show { agent } => {
            let request = v1::GetAgentRequest { name: resolve::agent(&agent)? };
            let agent = context.client.agents().get_agent(timed(request)).await?.into_inner();
            context.show("Agent", &agent, |agent, view| resources::agents(std::slice::from_ref(agent), view))
        }
    }
}
