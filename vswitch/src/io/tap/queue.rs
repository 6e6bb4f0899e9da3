//! The two sides of a TAP's queue: one `read` per received frame, one `write` per unit sent.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write, writev};

use super::Shared;
use crate::frame::pool::FRAME_BYTES_MAX;
use crate::frame::{BURST_FRAMES_MAX, Burst, DropReason, Frame, Pool};
use crate::io::{Piece, RxQueue, RxReport, RxStatus, TxQueue, TxReport, Unit};
use crate::wire::ethernet;
use crate::wire::vnet_hdr::{self, HEADER_BYTES, HEADER_BYTES_TUNNEL};

/// Header, head and one slice per piece; a unit never has more frames than a burst.
const SLICES_MAX: usize = BURST_FRAMES_MAX + 2;

/// The receiving side.
#[derive(Debug)]
pub(super) struct TapRx {
    shared: Arc<Shared>,
}

impl TapRx {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl RxQueue for TapRx {
    fn recv(
        &mut self,
        pool: &mut Pool,
        burst: &mut Burst,
        frames_max: usize,
        bytes_max: usize,
        report: &mut RxReport,
    ) -> RxStatus {
        let fd = self.shared.fd.as_fd();
        let header_bytes = self.shared.header_bytes;
        let mut frames_left = frames_max.min(burst.remaining_capacity());
        let mut bytes_left = bytes_max;
        while frames_left > 0 {
            let Some(mut frame) = pool.alloc() else { return RxStatus::More };
            let bytes = match read(fd, frame.area_mut(header_bytes)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    pool.free(frame);
                    return match error {
                        Errno::INTR => continue,
                        Errno::BADFD | Errno::NODEV => RxStatus::Gone,
                        // EAGAIN: the queue is empty, or the interface is down, which is the same
                        // to a reader. Any other error passes or becomes EBADFD.
                        _ => RxStatus::Drained,
                    };
                }
            };
            // A frame that is dropped here costs budget too, or a sender of such frames would keep
            // the worker in this loop.
            frames_left -= 1;
            let len = bytes.saturating_sub(header_bytes);
            bytes_left = bytes_left.saturating_sub(len);
            if len < ethernet::HEADER_BYTES {
                report.runt += 1;
                pool.free(frame);
            } else if len > FRAME_BYTES_MAX {
                // The kernel cuts what does not fit without a word; nothing whole is this long.
                report.malformed += 1;
                pool.free(frame);
            } else {
                frame.set_len(len);
                let (header, body) = frame.with_front_mut(header_bytes).split_at(header_bytes);
                let decoded = match header_bytes {
                    HEADER_BYTES_TUNNEL => vnet_hdr::decode_tunnel(header, body),
                    _ => vnet_hdr::decode(header, body).map(|offload| (offload, None)),
                };
                match decoded {
                    Ok((offload, encapsulation)) => {
                        (frame.offload, frame.encapsulation) = (offload, encapsulation);
                        burst.push(frame);
                    }
                    Err(_) => {
                        report.malformed += 1;
                        pool.free(frame);
                    }
                }
            }
            if bytes_left == 0 {
                return RxStatus::More;
            }
        }
        RxStatus::More
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.fd.as_fd())
    }
}

/// A sending side; every worker has one of its own, and the kernel serialises them.
#[derive(Debug)]
pub(super) struct TapTx {
    shared: Arc<Shared>,
}

impl TapTx {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// One unit into the kernel; its length without the header.
    #[inline]
    fn send_unit(&self, frames: &mut [Frame], unit: &Unit, pieces: &[Piece]) -> Result<usize, Errno> {
        match self.shared.header_bytes {
            HEADER_BYTES_TUNNEL => self.write_unit::<HEADER_BYTES_TUNNEL>(frames, unit, pieces),
            _ => self.write_unit::<HEADER_BYTES>(frames, unit, pieces),
        }
    }

    /// The same, with a header of `N` bytes.
    #[inline]
    fn write_unit<const N: usize>(&self, frames: &mut [Frame], unit: &Unit, pieces: &[Piece]) -> Result<usize, Errno> {
        let fd = self.shared.fd.as_fd();
        if unit.pieces_count == 0 {
            let frame = &mut frames[usize::from(unit.frame)];
            let encapsulation = frame.encapsulation;
            let whole = frame.with_front_mut(N);
            match (encapsulation, whole.split_first_chunk_mut::<HEADER_BYTES_TUNNEL>()) {
                (Some(encapsulation), Some((header, body))) if N == HEADER_BYTES_TUNNEL => {
                    vnet_hdr::encode_tunnel(&unit.offload, &encapsulation, body, header);
                }
                // A header that cannot say what the frame is would send something else.
                (Some(_), _) => return Err(Errno::INVAL),
                (None, _) => {
                    if let Some((header, body)) = whole.split_first_chunk_mut::<N>() {
                        vnet_hdr::encode(&unit.offload, body, header);
                    }
                }
            }
            return retry(|| write(fd, whole)).map(|bytes| bytes.saturating_sub(N));
        }

        let mut header = [0; N];
        let head = frames[usize::from(unit.frame)].data();
        vnet_hdr::encode(&unit.offload, head, &mut header);
        let mut slices = ArrayVec::<IoSlice<'_>, SLICES_MAX>::new();
        slices.push(IoSlice::new(&header));
        slices.push(IoSlice::new(head));
        let first = usize::from(unit.first_piece);
        for piece in &pieces[first..first + usize::from(unit.pieces_count)] {
            let payload = &frames[usize::from(piece.frame)].data()[usize::from(piece.offset)..];
            // More pieces than a burst has frames cannot be: say so rather than send a part.
            slices.try_push(IoSlice::new(payload)).map_err(|_| Errno::MSGSIZE)?;
        }
        retry(|| writev(fd, &slices)).map(|bytes| bytes.saturating_sub(N))
    }

    /// Why the kernel did not take `unit`, and what follows from it.
    #[cold]
    fn refused(&self, unit: &Unit, in_tunnel: bool, error: Errno) -> DropReason {
        match error {
            Errno::BADFD | Errno::NODEV => DropReason::PortGone,
            Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN => DropReason::NoBuffer,
            Errno::IO if !self.is_up() => DropReason::PortDown,
            Errno::IO | Errno::INVAL => {
                if let Some(gso) = unit.offload.gso
                    && self.shared.caps.refused(gso, in_tunnel)
                {
                    tracing::warn!(?gso, in_tunnel, %error, "the kernel refuses this kind of super-frame: segmenting from now on");
                }
                DropReason::TxError
            }
            _ => DropReason::TxError,
        }
    }

    /// Whether the interface is administratively up. The kernel says EIO for an interface that is down,
    /// and has said it for super-frames that it does not know (before commit 10154dbded6d); only
    /// an interface that is up polls as writable (`tun_sock_writeable`).
    fn is_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.shared.fd, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::OUT)
    }
}

impl TxQueue for TapTx {
    fn send(
        &mut self,
        _pool: &mut Pool,
        frames: &mut [Frame],
        units: &[Unit],
        pieces: &[Piece],
        report: &mut TxReport,
    ) {
        for unit in units {
            let in_tunnel = frames[usize::from(unit.frame)].encapsulation.is_some();
            match self.send_unit(frames, unit, pieces) {
                Ok(bytes) => {
                    report.sent += 1;
                    report.bytes += bytes as u64;
                    if let Some(gso) = unit.offload.gso {
                        self.shared.caps.accepted(gso, in_tunnel);
                    }
                }
                Err(error) => report.drop_unit(self.refused(unit, in_tunnel, error)),
            }
        }
    }
}

/// Repeats a call that a signal interrupted.
#[inline]
fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
