//! The synchronisation types of [`super::publish`], so that its model test can build the same
//! source over loom's instead (`tests/loom_publish.rs`).

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Condvar, Mutex};
