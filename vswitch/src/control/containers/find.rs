//! A container's namespace, by the container's name.

use std::path::PathBuf;

use tokio::time::timeout;

use super::client::{EngineError, Source};
use super::{ANSWER_TIMEOUT, Containers, Inspected};
use crate::control::netns::NetnsRef;
use crate::control::refusal::{Result, conflict, failed, invalid, not_found};

/// What a namespace is named with that is a container's.
const PREFIX: &str = "container:";
/// What Docker calls the host's namespace where it gives it a path.
const HOST_SANDBOX: &str = "default";
/// The longest name of a container that is looked for.
const NAME_BYTES_MAX: usize = 255;

/// What an engine says of a container.
type Answer = std::result::Result<Inspected, EngineError>;

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name, however it was named.
    pub name: String,
    /// Its namespace: where that is mounted, or its first process.
    pub netns: NetnsRef,
}

/// The name in `container:NAME`.
#[must_use]
pub fn container_name(text: &str) -> Option<&str> {
    text.strip_prefix(PREFIX)
}

impl Containers {
    /// The container that `name` names to Docker or to Podman: its name, its id, or the beginning of that.
    ///
    /// # Errors
    /// There is no such container, or it does not run, or it has no namespace of its own; no engine answers.
    pub async fn find(&self, name: &str) -> Result<Found> {
        check_name(name)?;
        let (docker, podman) = tokio::join!(ask(&self.shared.docker, name), ask(&self.shared.podman, name));
        decide(name, [(&self.shared.docker, docker), (&self.shared.podman, podman)])
    }
}

async fn ask(source: &Source, name: &str) -> Answer {
    timeout(ANSWER_TIMEOUT, source.inspect(name)).await.unwrap_or_else(|_| {
        Err(EngineError::Broken {
            engine: source.engine,
            socket: source.socket().to_owned(),
            why: format!("no answer within {} s; it may be busy", ANSWER_TIMEOUT.as_secs()),
        })
    })
}

/// What Docker takes for a name or an id; nothing in it has to be escaped in a path.
fn check_name(name: &str) -> Result<()> {
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if is_name {
        return Ok(());
    }
    Err(invalid(
        format!("{name:?} is no name of a container"),
        "give its name or its id, as `docker ps` and `podman ps` show them",
    ))
}

/// What two engines' answers come to.
fn decide(name: &str, answers: [(&Source, Answer); 2]) -> Result<Found> {
    let mut found = Vec::new();
    let mut troubles = Vec::new();
    let mut missing_from = Vec::new();
    let mut absent = Vec::new();
    for (source, answer) in answers {
        match answer {
            Ok(container) => found.push((source.engine, container)),
            Err(EngineError::NotFound { engine, .. }) => missing_from.push(engine),
            Err(EngineError::Absent { what, .. }) => absent.push(format!("{}: {what}", source.engine)),
            Err(error) => troubles.push(error.to_string()),
        }
    }
    match found.as_slice() {
        [(engine, container)] => located(engine, name, container),
        [_, _, ..] => Err(conflict(
            format!("Docker and Podman have a container {name:?} each"),
            "name the one that is meant by its id",
        )),
        [] if !troubles.is_empty() => Err(failed(
            format!("the container {name:?} cannot be looked up: {}", {
                let missing = missing_from.iter().map(|engine| format!("{engine} has no such container"));
                missing.chain(troubles).collect::<Vec<_>>().join("; ")
            }),
            "repeat the command, start Podman's service with `systemctl start podman.socket` if the container is its, or \
             give pid:N with the container's process",
        )),
        [] if !missing_from.is_empty() => Err(not_found(
            match missing_from.as_slice() {
                [engine] => format!("{engine} has no container {name:?}"),
                _ => format!("neither Docker nor Podman has a container {name:?}"),
            },
            "`docker ps` and `podman ps` list those that run",
        )),
        [] => Err(failed(
            format!("the container {name:?} cannot be looked up, because no engine answers ({})", absent.join("; ")),
            "start Docker or Podman, name Docker's socket with `vswitch --docker-host PATH`, or give pid:N with the \
             container's process",
        )),
    }
}

/// Where the namespace of a container is.
fn located(engine: &str, named: &str, container: &Inspected) -> Result<Found> {
    let name = match container.bare_name() {
        "" => named,
        name => name,
    };
    if !container.state.running || container.state.pid == 0 {
        let status = match container.state.status.as_str() {
            "" | "running" => "stopped",
            status => status,
        };
        return Err(conflict(
            format!("the container {name:?} does not run, so it has no network namespace ({engine} says {status})"),
            format!("start it with `{} start {name}`, and repeat the command", engine.to_lowercase()),
        ));
    }
    let sandbox = PathBuf::from(&container.network_settings.sandbox_key);
    if container.host_config.network_mode == "host" || sandbox.file_name().is_some_and(|last| last == HOST_SANDBOX) {
        return Err(conflict(
            format!("the container {name:?} runs in the host's network, and has no network namespace of its own"),
            "start it with another --network, `none` if it is to have this port only",
        ));
    }
    // One that shares another container's has no path of its own, and engines may keep theirs where we do not look.
    let is_there = sandbox.is_absolute() && sandbox.exists();
    let netns = if is_there { NetnsRef::Path(sandbox) } else { NetnsRef::Pid(container.state.pid) };
    Ok(Found { name: name.to_owned(), netns })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(engine: &'static str) -> Source {
        Source { engine, socket: "/run/engine.sock".into(), program: None }
    }

    fn container(pid: u32) -> Inspected {
        let mut container = Inspected { name: "/web".into(), ..Inspected::default() };
        (container.state.running, container.state.pid) = (pid > 0, pid);
        container
    }

    fn answer(docker: Answer, podman: Answer) -> Result<Found> {
        decide("web", [(&source("Docker"), docker), (&source("Podman"), podman)])
    }

    fn not_found(engine: &'static str) -> Answer {
        Err(EngineError::NotFound { engine, what: "no such container".into() })
    }

    fn absent(engine: &'static str) -> Answer {
        Err(EngineError::Absent { engine, what: "nobody listens at /run/engine.sock".into() })
    }

    #[test]
    fn the_engine_that_has_it_decides() {
        let pid = |pid| Ok(Found { name: "web".into(), netns: NetnsRef::Pid(pid) });
        assert_eq!(answer(Ok(container(7)), absent("Podman")), pid(7));
        assert_eq!(answer(not_found("Docker"), Ok(container(8))), pid(8));
        for (docker, podman, says, remedy) in [
            (Ok(container(7)), Ok(container(8)), "each", "by its id"),
            (not_found("Docker"), not_found("Podman"), "neither Docker nor Podman", "docker ps"),
            (not_found("Docker"), absent("Podman"), "Docker has no container \"web\"", "docker ps"),
            (absent("Docker"), absent("Podman"), "nobody listens at /run/engine.sock", "--docker-host"),
            (Ok(container(0)), absent("Podman"), "does not run", "docker start web"),
            (absent("Docker"), Ok(container(0)), "does not run", "podman start web"),
        ] {
            let error = answer(docker, podman).expect_err("is refused");
            assert!(error.message.contains(says), "{error:?}");
            assert!(error.remedy.contains(remedy), "{error:?}");
        }
        let refused =
            EngineError::Refused { engine: "Docker", what: "multiple IDs found with provided prefix: 1".into() };
        let error = answer(Err(refused), not_found("Podman")).expect_err("is refused");
        assert!(error.message.contains("multiple IDs"), "{error:?}");
    }

    #[test]
    fn a_namespace_that_is_mounted_is_named_by_its_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("1a2b3c");
        let mut one = container(7);
        one.network_settings.sandbox_key = path.display().to_string();
        assert_eq!(located("Docker", "web", &one).expect("is found").netns, NetnsRef::Pid(7), "not mounted here");
        std::fs::write(&path, "").expect("a file");
        assert_eq!(located("Docker", "web", &one).expect("is found").netns, NetnsRef::Path(path));
        one.network_settings.sandbox_key = "/var/run/docker/netns/default".into();
        assert!(located("Docker", "web", &one).expect_err("is refused").message.contains("host's network"));
        let mut host = container(7);
        host.host_config.network_mode = "host".into();
        assert!(located("Podman", "web", &host).expect_err("is refused").remedy.contains("--network"));
    }

    #[test]
    fn only_names_reach_an_engine() {
        for name in ["web", "web-1_a.b", "9f86d081884c"] {
            check_name(name).expect("is a name");
        }
        for name in ["", "-web", "../x", "a b", "a/b", "web?all=1", "w%65b", &"x".repeat(256)] {
            check_name(name).expect_err("is none");
        }
        assert_eq!(container_name("container:web"), Some("web"));
        assert_eq!(container_name("web"), None);
    }
}
