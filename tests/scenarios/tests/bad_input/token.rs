//! An agent whose token no controller knows.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;
use coffer_proto::v1::ListAgentsRequest;
use coffer_scenarios::{Process, Site, SiteOptions, eventually};

fn write_token(file: &Path, token: &str) -> Result<()> {
    std::fs::write(file, token)?;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?)
}

#[tokio::test]
async fn an_agent_with_a_wrong_token_says_what_to_do_and_works_once_it_is_corrected() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let folder = site.folder().join("stranger");
    std::fs::create_dir(&folder)?;
    let file = folder.join("token");
    write_token(&file, "canary-0ldt0ken\n")?;
    let (state, token) = (folder.display().to_string(), file.display().to_string());
    let controller = format!("http://{}", site.address());
    let arguments = ["--state", &state, "--controller", &controller, "--token-file", &token];
    let agent = Process::start("coffer-agent", &folder, &arguments)?;

    eventually("the agent to say that its token is not known", async || {
        Ok(agent.log()?.contains("does not know the token in"))
    })
    .await?;
    let said = agent.log()?;
    assert!(said.contains(&controller) && said.contains(&token) && said.contains("`api-token`"), "{said}");

    let right = std::fs::read_to_string(site.folder().join("controller-0/api-token"))?;
    write_token(&file, &right)?;
    eventually("both agents to be registered", async || {
        let agents = site.api.agents.clone().list_agents(ListAgentsRequest::default()).await?.into_inner().agents;
        Ok(agents.len() == 2)
    })
    .await?;
    let said = agent.log()?;
    assert_eq!(said.matches("does not know").count(), 1, "{said}");
    assert!(!said.contains("canary") && !said.contains(right.trim()), "a log shows a token");
    Ok(())
}
