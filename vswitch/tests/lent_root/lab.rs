//! A daemon without its control socket, in a host of its own, and containers as Docker makes them: the test is Docker.

use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::JoinHandle;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use vswitch::api::{BridgeSpec, Error, Port, PortSpec, PortType};
use vswitch::control::host_ports::HostPorts;
use vswitch::control::service::Service;
use vswitch::control::store::Store;
use vswitch::control::switch::{Lent, Switch, XdpContext};
use vswitch::control::{connections, host_ends, upkeep, watch};
use vswitch::datapath::{Datapath, DatapathConfig};

use crate::namespaces::{Namespace, eventually, run};

/// A host with a switch that has the bridge `br0`, 10.77.0.0/24.
pub(crate) struct Host {
    pub(crate) netns: Namespace,
    state: TempDir,
    daemon: Option<Daemon>,
}

struct Daemon {
    service: Service,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let mut host = Self { netns: Namespace::new(), state: tempfile::tempdir().unwrap(), daemon: None };
        host.netns.exec(&["ip", "link", "set", "lo", "up"]);
        host.start();
        let subnets = vec!["10.77.0.0/24".parse().unwrap()];
        let spec = BridgeSpec { name: "br0".into(), subnets, ..BridgeSpec::default() };
        host.with(move |switch| switch.add_bridge(&spec)).unwrap();
        host
    }

    /// Starts the daemon.
    pub(crate) fn start(&mut self) {
        assert!(self.daemon.is_none(), "runs already");
        let state = self.state.path().to_owned();
        // Its threads are in the namespace of the one that makes them.
        self.daemon = Some(self.netns.inside(move || {
            let store = Store::open(&state).unwrap();
            let desired = store.load().unwrap();
            let ports = Arc::new(HostPorts::new().unwrap());
            let (conntrack, _) = connections::open(&state.join("conntrack"), Arc::clone(&ports) as _).unwrap();
            let config = DatapathConfig { workers: 1, ..DatapathConfig::default() };
            let datapath = Arc::new(Datapath::start(config, conntrack).unwrap());
            let mut switch = Switch::new(desired, store, Arc::clone(&datapath), XdpContext::default()).unwrap();
            switch.set_host_ports(ports);
            switch.reconcile().unwrap();
            switch.settle_gateway();
            let service = Service::new(switch, 1);
            let (stop, stopped) = oneshot::channel();
            let own = service.clone();
            let thread = std::thread::spawn(move || {
                let runtime = current_thread();
                runtime.block_on(async {
                    let events = upkeep::forward_events(datapath.events()).unwrap();
                    tokio::spawn(upkeep::handle_events(own.clone(), events));
                    tokio::spawn(upkeep::tick(own.clone()));
                    tokio::spawn(watch::watch(own.clone()));
                    tokio::spawn(host_ends::watch(own));
                    let _ = stopped.await;
                });
                drop(runtime);
                datapath.stop();
            });
            Daemon { service, stop, thread }
        }));
    }

    /// Ends the daemon without a word to anybody, as SIGKILL does: descriptors are closed, and that is all.
    pub(crate) fn kill(&mut self) {
        let Daemon { service, stop, thread } = self.daemon.take().expect("runs");
        let _ = stop.send(());
        thread.join().unwrap();
        drop(service);
    }

    /// Runs a command.
    pub(crate) fn with<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Switch) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let service = self.daemon.as_ref().expect("runs").service.clone();
        self.netns.inside(|| current_thread().block_on(service.change(command)))
    }

    /// What Docker's Join asks for: a port `name` for the container whose namespace will be called `netns`.
    pub(crate) fn lend(&self, (name, address): (&str, &str), netns: &str, port_type: PortType) -> Lent {
        let spec = PortSpec {
            netns: format!("/run/netns/{netns}"),
            name: Some(name.to_owned()),
            port_type,
            ips: vec![address.to_owned()],
            publish: if name == "web" { vec!["8080:80".parse().unwrap()] } else { Vec::new() },
            ..PortSpec::default()
        };
        self.with(move |switch| switch.lend_port("br0", &spec)).unwrap()
    }

    pub(crate) fn ports(&self) -> Vec<Port> {
        self.with(|switch| switch.ports(None)).unwrap()
    }

    pub(crate) fn port(&self, name: &str) -> Option<Port> {
        self.ports().into_iter().find(|port| port.name == name)
    }

    /// The names of the host's interfaces that belong to ports.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links = self.netns.netlink().links().unwrap();
        links.into_iter().map(|link| link.name).filter(|name| name.starts_with("vs")).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.kill();
        }
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A name for a namespace that does not exist yet.
pub(crate) fn future() -> String {
    // One that did a moment ago.
    Namespace::new().name.clone()
}

/// A container that gets its interface as from Docker's libnetwork.
pub(crate) struct Container {
    pub(crate) netns: Namespace,
}

impl Container {
    /// The namespace comes to life only after the interface was made for it.
    pub(crate) fn new(name: &str) -> Self {
        run("ip", &["netns", "add", name]);
        Self { netns: Namespace { name: name.to_owned() } }
    }

    /// Moves the interface, names it `eth0` and brings it up with `address`.
    pub(crate) fn borrow(&self, host: &Host, lent: &Lent, address: &str) {
        let name = &self.netns.name;
        run("ip", &["-n", &host.netns.name, "link", "set", &lent.ifname, "netns", name]);
        run("ip", &["-n", name, "link", "set", &lent.ifname, "down", "name", "eth0"]);
        run("ip", &["-n", name, "link", "set", "eth0", "address", &lent.mac.to_string()]);
        run("ip", &["-n", name, "address", "add", address, "dev", "eth0"]);
        run("ip", &["-n", name, "link", "set", "eth0", "up"]);
        run("ip", &["-n", name, "route", "add", "default", "via", "10.77.0.1"]);
    }

    /// Gives it back to the host's namespace under its old name.
    pub(crate) fn give_back(&self, host: &Host, lent: &Lent) {
        let name = &self.netns.name;
        run("ip", &["-n", name, "link", "set", "eth0", "down", "name", &lent.ifname]);
        // `ip` sends a namespace by its name here.
        run("ip", &["-n", name, "link", "set", &lent.ifname, "netns", &host.netns.name]);
    }

    /// A process that lives in it.
    pub(crate) fn process(&self) -> Child {
        let args = ["netns", "exec", &self.netns.name, "sleep", "60"];
        let child = Command::new("ip").args(args).spawn().unwrap();
        let is_inside = || {
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            std::fs::read_link(format!("/proc/{}/ns/net", child.id())).is_ok_and(|netns| netns != own)
        };
        eventually("the process is in its namespace", is_inside);
        child
    }

    pub(crate) fn reaches(&self, address: &str) -> bool {
        self.netns.try_exec(&["timeout", "25", "ping", "-c", "3", "-i", "0.2", "-W", "10", address]).status.success()
    }
}
