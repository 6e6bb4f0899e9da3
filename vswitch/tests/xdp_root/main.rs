//! AF_XDP against the real kernel. Needs root; everything happens in namespaces that each test makes and removes,
//! the "host" being one of them.

mod cost;
mod lab;
mod life;
#[path = "../namespaces/mod.rs"]
mod namespaces;
mod traffic;
