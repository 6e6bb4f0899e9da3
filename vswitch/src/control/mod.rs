//! The control plane.

pub mod ipam;
pub mod netlink;
pub mod netns;
