//! Which worker reads which port: one pure decision, made when a port comes and kept while it stays.
//!
//! A port is read by exactly one worker, which keeps the order of its flows without any lock. With
//! few busy ports one worker is also the fastest: a packet then never changes core inside of the
//! switch, and the second core belongs to the applications.

/// The worker that reads a new port, out of `workers`; none where there is no worker.
#[must_use]
pub fn reader_of_new_port(workers: usize) -> Option<u16> {
    (workers > 0).then_some(0)
}
