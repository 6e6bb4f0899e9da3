//! The daemon's life: from arguments to a socket that answers, and to an orderly end.
//!
//! The order of the start is the promise of the socket: the lock, the state, the datapath, every
//! port back in place, and only then the socket. Who can connect finds a switch that carries
//! packets. The end runs the other way; interfaces stay unless a clean-up was asked for, so that
//! a restart or an upgrade cuts no connection.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::control::containers::{Containers, EngineSockets};
use crate::control::docker::{self, socket::DriverSocket};
use crate::control::host_ports::HostPorts;
use crate::control::lock::{Lock, LockError};
use crate::control::server::peer::Allowed;
use crate::control::server::serve;
use crate::control::server::socket::{self, Socket, SocketError};
use crate::control::service::{Service, StopRequest};
use crate::control::store::{LoadError, Store};
use crate::control::switch::{Switch, XdpContext};
use crate::control::uplink::options::UplinkOption;
use crate::control::{connections, host_ends, upkeep, watch as netns_watch};
use crate::datapath::{Datapath, DatapathConfig};
use crate::io::xdp::BusyPoll;

/// The most datapath threads that are started without being asked for.
const WORKERS_DEFAULT_MAX: usize = 8;
/// The most datapath threads.
pub const WORKERS_MAX: usize = 64;
/// The chunks of each thread where none are asked for: 32 MB.
pub const XDP_CHUNKS_DEFAULT: u32 = 8192;
/// The fewest chunks: a packet of the largest MTU takes 17, and several are on their way.
pub const XDP_CHUNKS_MIN: u32 = 256;
/// The most chunks: 4 GB.
pub const XDP_CHUNKS_MAX: u32 = 1 << 20;
/// The longest time of one look at a driver, in microseconds.
pub const XDP_BUSY_POLL_US_MAX: u32 = 1000;
/// The most frames of one look at a driver: a burst.
const XDP_BUSY_POLL_BUDGET: u32 = 64;
/// Threads of the control plane that may block at one time.
const BLOCKING_THREADS_MAX: usize = 8;

/// What the daemon is told on its command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// The control socket.
    pub socket: PathBuf,
    /// The directory of the durable state.
    pub state_dir: PathBuf,
    /// The socket of Docker's network driver; none: only if the service manager passes one.
    pub docker: Option<PathBuf>,
    /// The number of datapath threads; default one per core, at most 8.
    pub workers: Option<usize>,
    /// The interfaces that are shared with the host.
    pub uplinks: Vec<UplinkOption>,
    /// Whether neighbours of one flow are merged into super-frames on the way out.
    pub coalesce: bool,
    /// The chunks of 4 KB that each thread receives AF_XDP frames into.
    pub xdp_chunks: u32,
    /// How long threads poll the drivers of AF_XDP ports at a time, in microseconds; none: not at all.
    pub xdp_busy_poll_us: Option<u32>,
    /// Where container engines are asked for containers' names.
    pub engines: EngineSockets,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("the state directory {dir} cannot be used: {source}; correct that, or choose another --state-dir", dir = dir.display())]
    StateDir {
        /// The directory.
        dir: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Another daemon runs with the same state.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kernel refused something else.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// What was stored could not be brought back.
    #[error("the configuration could not be brought back: {0}")]
    Reconcile(String),
}

fn doing(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not start; nothing was changed, except that ports whose namespaces are gone may have
/// been dropped.
pub fn run(options: &Options) -> Result<(), StartError> {
    raise_descriptor_limit();
    let store = Store::open(&options.state_dir)
        .map_err(|source| StartError::StateDir { dir: options.state_dir.clone(), source })?;
    let _lock = Lock::take(&options.state_dir)?;
    socket::check_free(&options.socket, "--socket")?;
    let passed = docker::socket::passed()
        .map_err(doing("the socket for Docker that the service manager passed cannot be used"))?;
    if let (Some(path), None) = (&options.docker, &passed) {
        socket::check_free(path, "--docker")?;
    }
    let allowed = Allowed::look_up().map_err(doing("the group database cannot be read"))?;
    let desired = store.load()?;

    let workers = options.workers.unwrap_or_else(default_workers);
    let config = DatapathConfig {
        workers,
        coalesce: options.coalesce,
        pool_chunks: options.xdp_chunks,
        ..DatapathConfig::default()
    };
    let host_ports = Arc::new(HostPorts::new().map_err(doing("the host's ports cannot be looked at"))?);
    let path = connections::path_beside(&options.socket);
    let (conntrack, restored) = connections::open(&path, Arc::clone(&host_ports) as _)
        .map_err(doing("the table of connections cannot be opened"))?;
    if restored.connections > 0 || restored.discarded > 0 {
        tracing::info!(connections = restored.connections, discarded = restored.discarded, "connections go on");
    }
    let datapath = Datapath::start(config, conntrack).map_err(doing("the datapath cannot be started"))?;
    let datapath = Arc::new(datapath);
    let busy_poll = options.xdp_busy_poll_us.map(|us| BusyPoll { us, budget: XDP_BUSY_POLL_BUDGET });
    let xdp = XdpContext { busy_poll, ..XdpContext::default() };
    let mut switch = Switch::new(desired, store, Arc::clone(&datapath), xdp)
        .map_err(doing("the daemon's own network namespace cannot be opened"))?;
    switch.set_host_ports(host_ports);
    switch.set_uplinks(options.uplinks.clone()).map_err(|error| StartError::Reconcile(error.message))?;
    let host_changes = switch.host_changes();
    switch.reconcile().map_err(|error| StartError::Reconcile(error.message))?;
    switch.settle_gateway();
    switch.settle_host_ports();
    switch.keep_watch();
    let (bridges, ports) = (switch.bridges().len(), switch.ports(None).map_or(0, |ports| ports.len()));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(doing("the control plane cannot be started"))?;
    let ended = runtime.block_on(async {
        let containers = Containers::new(options.engines.clone());
        let service = Service::with_containers(switch, workers, containers);
        // From here on the signals are ours: one that comes during the start is not lost.
        let mut terminate = signal(SignalKind::terminate()).map_err(doing("signals cannot be caught"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(doing("signals cannot be caught"))?;
        let events = upkeep::forward_events(datapath.events()).map_err(doing("a thread cannot be started"))?;
        let upkeep = [
            tokio::spawn(upkeep::handle_events(service.clone(), events)),
            tokio::spawn(upkeep::tick(service.clone())),
            tokio::spawn(upkeep::follow_host(service.clone(), host_changes)),
            tokio::spawn(netns_watch::watch(service.clone())),
            tokio::spawn(host_ends::watch(service.clone())),
        ];
        let balance = (workers > 1).then(|| tokio::spawn(upkeep::balance(service.clone(), Arc::clone(&datapath))));
        let (file, listener) = Socket::bind(&options.socket, &allowed)?;
        let stop = watch::Sender::new(false);
        let server = tokio::spawn(serve(listener, allowed, service.clone(), stop.subscribe()));
        let docker = Docker::start(options.docker.as_deref(), passed, &service)?;
        tracing::info!(socket = %options.socket.display(), workers, bridges, ports, "ready");
        notify(&[NotifyState::Ready]);

        let StopRequest { cleanup } = tokio::select! {
            request = service.stop_requested() => request,
            _ = terminate.recv() => StopRequest { cleanup: false },
            _ = interrupt.recv() => StopRequest { cleanup: false },
        };
        tracing::info!(cleanup, "stopping");
        notify(&[NotifyState::Stopping]);
        // Docker repeats for half a minute what nobody accepts, and takes a refusal for an answer.
        if let Some(docker) = docker {
            docker.stop().await;
        }
        // Commands that come now are refused, one that is under way is waited for.
        service.request_stop(cleanup);
        let cleaned = service
            .with(move |switch| {
                if cleanup {
                    switch.cleanup();
                }
                switch.release_host_ports();
                switch.end_watch(!cleanup);
                Ok(())
            })
            .await;
        if let Err(error) = cleaned {
            tracing::error!(error = %error.message, "not everything could be cleaned up");
        }
        upkeep.iter().chain(&balance).for_each(JoinHandle::abort);
        drop(file);
        stop.send_replace(true);
        match server.await {
            Ok(Err(error)) => tracing::error!(%error, "the control socket failed"),
            Err(error) => tracing::error!(%error, "the control socket failed"),
            Ok(Ok(())) => {}
        }
        Ok(())
    });
    // The upkeep's thread waits for events of the datapath; the process's end is its end.
    runtime.shutdown_background();
    datapath.stop();
    ended
}

/// Docker's network driver, being served.
struct Docker {
    /// The socket's file, where it is ours.
    file: Option<Socket>,
    server: JoinHandle<io::Result<()>>,
    stop: watch::Sender<bool>,
}

impl Docker {
    /// Serves the driver on the socket that was `passed`, or else at `path`; none of both: not at all.
    fn start(path: Option<&Path>, passed: Option<UnixListener>, service: &Service) -> Result<Option<Self>, StartError> {
        let socket = match (passed, path) {
            (Some(listener), _) => DriverSocket::Passed(listener),
            (None, Some(path)) => docker::socket::make(path)?,
            (None, None) => return Ok(None),
        };
        let (file, listener) = match socket {
            DriverSocket::Passed(listener) => (None, listener),
            DriverSocket::Made(file, listener) => (Some(file), listener),
        };
        tracing::info!(passed = file.is_none(), socket = ?path, "Docker's network driver is served");
        let stop = watch::Sender::new(false);
        let server = tokio::spawn(docker::server::serve(listener, service.clone(), stop.subscribe()));
        Ok(Some(Self { file, server, stop }))
    }

    /// Lets calls that are under way finish.
    async fn stop(self) {
        drop(self.file);
        self.stop.send_replace(true);
        match self.server.await {
            Ok(Err(error)) => tracing::error!(%error, "the socket of Docker's network driver failed"),
            Err(error) => tracing::error!(%error, "the socket of Docker's network driver failed"),
            Ok(Ok(())) => {}
        }
    }
}

fn default_workers() -> usize {
    available_parallelism().map_or(1, usize::from).min(WORKERS_DEFAULT_MAX)
}

/// Each port has a descriptor, and so does each worker's use of it: the usual soft limit of 1024 is
/// kept only for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::info!(%error, "the limit of open files cannot be raised");
    }
}

/// Tells the service manager, where there is one.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::info!(%error, "the service manager cannot be told");
    }
}
