//! Engines as they answer: recorded, and made up on a socket of the test's own.

use std::collections::BTreeMap;
use std::path::Path;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::answers::{Listed, Network};
use super::*;
use crate::api::ErrorCode;
use crate::control::netns::NetnsRef;

/// What an engine answers to `GET /containers/{name}/json`, by name, to `/containers/json` and to `/networks`.
#[derive(Debug, Clone, serde::Deserialize)]
struct Answers {
    containers: BTreeMap<String, Value>,
    list: Value,
    networks: Value,
}

/// As Debian's 20.10.24 answered, shortened to what is near to what matters.
fn docker_20() -> Answers {
    serde_json::from_str(include_str!("answers/docker-20.10.json")).expect("JSON")
}

/// In the form that the Engine API's reference gives for version 1.50, which is engine 28's.
fn docker_28() -> Answers {
    serde_json::from_str(include_str!("answers/docker-28.json")).expect("JSON")
}

#[test]
fn what_engines_answer_is_understood() {
    let bridge_of_28 = "vs-f00d8e7c6b5a".to_owned();
    for (version, answers, bridge) in [("20.10", docker_20(), "lendbr0".to_owned()), ("28", docker_28(), bridge_of_28)]
    {
        let container: Inspected = serde_json::from_value(answers.containers["web"].clone()).expect(version);
        assert_eq!(container.bare_name(), "web", "{version}");
        assert!(container.state.running && container.state.pid > 1, "{version}: {container:?}");
        assert!(container.network_settings.sandbox_key.starts_with("/var/run/docker/netns/"), "{version}");
        let containers: Vec<Listed> = serde_json::from_value(answers.list).expect(version);
        let networks: Vec<Network> = serde_json::from_value(answers.networks).expect(version);
        let names = Names::new(&containers, &networks);
        let ports = names.ports_of("web");
        assert_eq!(ports.len(), 1, "{version}: {names:?}");
        assert!(ports.iter().all(|port| port.len() == 12), "{version}: {ports:?}");
        assert_eq!(names.network_of(&bridge), Some("net1"), "{version}: {names:?}");
    }
}

/// An engine on `socket` that answers as `answers`, and in bad ways to some names.
fn engine(socket: &Path, answers: Answers) {
    let Answers { containers, list, networks } = answers;
    let inspect = async move |axum::extract::Path(name): axum::extract::Path<String>| {
        let complaint = |status, message: &str| (status, json!({ "message": message }).to_string());
        match (containers.get(&name), name.as_str()) {
            (Some(container), _) => (StatusCode::OK, container.to_string()),
            (None, "7") => complaint(StatusCode::BAD_REQUEST, "multiple IDs found with provided prefix: 7"),
            (None, "nonsense") => (StatusCode::OK, "<html>".to_owned()),
            (None, "slow") => std::future::pending().await,
            (None, name) => complaint(StatusCode::NOT_FOUND, &format!("No such container: {name}")),
        }
    };
    let router = Router::new()
        .route("/containers/{name}/json", get(inspect))
        .route("/containers/json", get(async move || axum::Json(list)))
        .route("/networks", get(async move || axum::Json(networks)));
    let listener = UnixListener::bind(socket).expect("a socket");
    tokio::spawn(async move { axum::serve(listener, router).await });
}

#[tokio::test]
async fn a_container_is_found_where_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let [docker, podman] = ["docker.sock", "podman.sock"].map(|name| directory.path().join(name));
    engine(&docker, docker_20());
    let mut containers = Containers::new(EngineSockets { docker: docker.clone(), podman: podman.clone() });
    // Podman is neither at that socket nor, for this test, a program.
    Arc::get_mut(&mut containers.shared).expect("the only one").podman.program = None;
    for (named, name, pid) in [("web", "web", 659), ("shares", "shares", 873)] {
        let found = containers.find(named).await.expect("is found");
        // The paths of that engine are not mounted here.
        assert_eq!(found, Found { name: name.into(), netns: NetnsRef::Pid(pid) });
    }
    for (name, code, says) in [
        ("hosty", ErrorCode::Conflict, "host's network"),
        ("idle", ErrorCode::Conflict, "Docker says created"),
        ("nobody", ErrorCode::NotFound, "Docker has no container \"nobody\""),
        ("7", ErrorCode::Failed, "multiple IDs"),
        ("nonsense", ErrorCode::Failed, "cannot be asked"),
        ("../info", ErrorCode::Invalid, "no name"),
    ] {
        let error = containers.find(name).await.expect_err("is refused");
        assert!(error.code == code && error.message.contains(says) && !error.remedy.is_empty(), "{name}: {error:?}");
    }
    let began = std::time::Instant::now();
    let error = containers.find("slow").await.expect_err("is refused");
    assert!(error.message.contains("no answer within 2 s") && began.elapsed() < 2 * ANSWER_TIMEOUT, "{error:?}");

    engine(&podman, docker_28());
    let error = containers.find("web").await.expect_err("two of them");
    assert_eq!(error.code, ErrorCode::Conflict, "{error:?}");
    assert_eq!(containers.names().await.ports_of("web").len(), 1);
    let networks = containers.docker_networks().await.expect("Docker answers");
    assert!(!networks.is_empty() && networks.iter().all(|id| id.len() == 64), "{networks:?}");

    let nowhere = directory.path().join("nowhere");
    let mut containers = Containers::new(EngineSockets { docker: nowhere.clone(), podman: nowhere.clone() });
    Arc::get_mut(&mut containers.shared).expect("the only one").podman.program = Some("no-such-program-anywhere");
    let error = containers.find("web").await.expect_err("nobody is there");
    assert!(
        error.message.contains(&nowhere.display().to_string()) && error.remedy.contains("--docker-host"),
        "{error:?}"
    );
    assert_eq!(*containers.names().await, Names::default());
    assert_eq!(containers.docker_networks().await, None, "nobody says that there are none");
}

#[tokio::test]
async fn names_are_not_waited_for_long_and_stay_when_nobody_answers() {
    let directory = tempfile::tempdir().expect("a directory");
    let docker = directory.path().join("docker.sock");
    let containers = Containers::new(EngineSockets { docker: docker.clone(), ..EngineSockets::default() });
    engine(&docker, docker_28());
    assert_eq!(containers.names().await.ports_of("web").len(), 1);
    // From now on it takes connections and says nothing, as one does that waits for us.
    std::fs::remove_file(&docker).expect("removed");
    let _silent = UnixListener::bind(&docker).expect("a socket");
    tokio::time::sleep(NAMES_FRESH).await;
    let began = std::time::Instant::now();
    assert_eq!(containers.names().await.ports_of("web").len(), 1);
    assert!(began.elapsed() < ANSWER_TIMEOUT, "{:?}", began.elapsed());
}

#[test]
fn sockets_are_named_as_to_the_engines_own_clients() {
    let environment = |name: &str| match name {
        "DOCKER_HOST" => Some("unix:///run/user/docker.sock".to_owned()),
        "CONTAINER_HOST" => Some("ssh://root@elsewhere/run/podman.sock".to_owned()),
        _ => None,
    };
    let sockets = EngineSockets::from_environment(environment);
    assert_eq!(sockets.docker, Path::new("/run/user/docker.sock"));
    assert_eq!(sockets.podman, EngineSockets::default().podman, "what is elsewhere has no namespaces here");
    assert_eq!(unix_socket("tcp://127.0.0.1:2375"), None);
}
