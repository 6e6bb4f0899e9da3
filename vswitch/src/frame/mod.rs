//! Frames: where packets live while the switch has them.
//!
//! A [`Frame`] is a move-only token for one slot of a [`Pool`]: who holds the token owns the bytes.
//! It is never cloned, and dropping it outside of [`Pool::free`] is a bug that the pool's gauge of
//! outstanding frames shows. Offloads travel beside the bytes as plain data ([`Offload`]), so that
//! a TCP super-frame of 64 KB crosses the switch as one frame whose segmentation and checksum are
//! still to be done, if they are ever needed at all.

pub mod checksum;
pub mod drop_reason;
pub mod fragment;
pub mod gro;
pub mod gso;
pub mod offload;
pub mod pool;

pub use drop_reason::DropReason;
pub use offload::{Csum, Encapsulation, Gso, GsoKind, Offload};
pub use pool::{Frame, Pool};

/// The most frames that one burst carries.
pub const BURST_FRAMES_MAX: usize = 64;

/// A burst: frames that were received together and are processed together.
pub type Burst = arrayvec::ArrayVec<Frame, BURST_FRAMES_MAX>;
