//! Ports of a host that can be asked for only later.
//!
//! Connections that have outlived the daemon are known at its start, before the host can be asked for its ports and
//! told of theirs. Until then no port is free, and what is taken is remembered.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ExternalPorts;
use crate::bpf::Flow;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct DeferredPorts {
    ports: OnceLock<Arc<dyn ExternalPorts>>,
    /// What was taken so far; locked while `ports` is set.
    taken: Mutex<BTreeSet<(Flow, bool, u16)>>,
}

impl DeferredPorts {
    /// From now on the host is asked; it is told what was taken so far. Only the first call has an effect.
    pub fn provide(&self, ports: Arc<dyn ExternalPorts>) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ports.get().is_some() {
            return;
        }
        for (flow, ipv6, port) in std::mem::take(&mut *taken) {
            ports.take(flow, ipv6, port);
        }
        // Nobody else sets it while the lock is held.
        let _ = self.ports.set(ports);
    }

    /// Does something with the host's ports, or with what is remembered for them.
    fn either(&self, now: impl Fn(&dyn ExternalPorts), later: impl FnOnce(&mut BTreeSet<(Flow, bool, u16)>)) {
        if let Some(ports) = self.ports.get() {
            return now(&**ports);
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match self.ports.get() {
            Some(ports) => now(&**ports),
            None => later(&mut taken),
        }
    }
}

impl ExternalPorts for DeferredPorts {
    fn is_free(&self, flow: Flow, ipv6: bool, port: u16) -> bool {
        self.ports.get().is_some_and(|ports| ports.is_free(flow, ipv6, port))
    }

    fn take(&self, flow: Flow, ipv6: bool, port: u16) {
        self.either(
            |ports| ports.take(flow, ipv6, port),
            |taken| {
                taken.insert((flow, ipv6, port));
            },
        );
    }

    fn release(&self, flow: Flow, ipv6: bool, port: u16) {
        self.either(
            |ports| ports.release(flow, ipv6, port),
            |taken| {
                taken.remove(&(flow, ipv6, port));
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<(bool, u16)>>);

    impl ExternalPorts for Told {
        fn is_free(&self, _: Flow, _: bool, port: u16) -> bool {
            port == 7
        }
        fn take(&self, _: Flow, _: bool, port: u16) {
            self.0.lock().unwrap().push((true, port));
        }
        fn release(&self, _: Flow, _: bool, port: u16) {
            self.0.lock().unwrap().push((false, port));
        }
    }

    #[test]
    fn what_was_taken_before_is_told_at_once() {
        let (deferred, told) = (DeferredPorts::default(), Arc::new(Told::default()));
        assert!(!deferred.is_free(Flow::Tcp, false, 7), "nobody knows");
        for port in [1, 2, 3] {
            deferred.take(Flow::Tcp, false, port);
        }
        deferred.release(Flow::Tcp, false, 2);
        deferred.provide(Arc::clone(&told) as Arc<dyn ExternalPorts>);
        assert!(deferred.is_free(Flow::Tcp, false, 7) && !deferred.is_free(Flow::Tcp, false, 8));
        deferred.take(Flow::Udp, true, 7);
        deferred.release(Flow::Tcp, false, 1);
        assert_eq!(*told.0.lock().unwrap(), [(true, 1), (true, 3), (true, 7), (false, 1)]);
    }
}
