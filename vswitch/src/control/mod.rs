//! The control plane.

pub mod netlink;
pub mod netns;
