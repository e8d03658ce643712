//! What programs that know nothing of Coffer may ask: whether it serves, and what.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::World;

#[tokio::test]
async fn a_probe_without_a_token_learns_that_the_controller_serves() {
    let world = World::start().await;
    let mut health = HealthClient::new(world.channel());
    let answer = health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    world.controller.shutdown().await.unwrap();
    assert!(
        health.check(HealthCheckRequest { service: String::new() }).await.is_err(),
        "it is down and says it serves"
    );
}

fn list_services() -> tokio_stream::Once<ServerReflectionRequest> {
    let message_request = Some(MessageRequest::ListServices(String::new()));
    tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request })
}

#[tokio::test]
async fn reflection_names_every_service_to_who_shows_the_token_and_nothing_to_others() {
    let world = World::start().await;
    let mut without = ServerReflectionClient::new(world.channel());
    let refused = without.server_reflection_info(list_services()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let mut reflection = ServerReflectionClient::new(world.service());
    let mut answers = reflection.server_reflection_info(list_services()).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("not a list: {answer:?}") };
    let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    names.retain(|name| name.starts_with("coffer.v1."));
    names.sort();
    let services = ["Agent", "Job", "Pool", "Remote", "RestorePoint", "Restore", "Run", "Work"];
    let mut expected = services.map(|name| format!("coffer.v1.{name}Service"));
    expected.sort();
    assert_eq!(names, expected);
}
