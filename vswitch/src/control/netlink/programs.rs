//! Programs (eBPF) attached to an interface, as far as rtnetlink knows them: XDP, and the filters of clsact.

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkMessage, LinkMessageBuffer};
use netlink_packet_route::tc::{TcHandle, TcMessage, TcMessageBuffer};

use super::{Netlink, Result, value};

// include/uapi/linux/if_link.h
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_DRV: u8 = 1;
const XDP_ATTACHED_SKB: u8 = 2;
const XDP_ATTACHED_HW: u8 = 3;
// include/uapi/linux/pkt_cls.h
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

/// How an XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpAttached {
    /// In the driver.
    Native,
    /// In the kernel's stack, after the driver.
    Generic,
    /// On the card.
    Hardware,
    /// More than one of these.
    Several,
}

/// A filter of an interface's clsact hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its place: lower ones run first.
    pub priority: u16,
    /// Its number there.
    pub handle: u32,
    /// The kind of filter (`bpf`, `flower`).
    pub kind: String,
    /// The name it was attached with, if it is a program.
    pub name: Option<String>,
    /// The program's id, if it is one.
    pub program: Option<u32>,
}

impl Netlink {
    /// The XDP program of an interface: how it is attached, and its id if there is one.
    ///
    /// # Errors
    /// When the kernel cannot be asked; not when there is no such interface.
    pub fn xdp_program(&mut self, index: u32) -> Result<Option<(XdpAttached, Option<u32>)>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let what = format!("ask for the XDP program of interface {index}");
        Ok(self.get(RouteNetlinkMessage::GetLink(message), &what, |payload| Some(parse_xdp(payload)))?.flatten())
    }

    /// Whether an interface has the clsact hook.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn has_clsact(&mut self, index: u32) -> Result<bool> {
        // Kernels without strict checks list those of all interfaces.
        let what = format!("list the queueing disciplines of interface {index}");
        Ok(self.with_clsact(message(index, TcHandle::UNSPEC), &what)?.contains(&index))
    }

    /// The indices of all interfaces that have the clsact hook.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn interfaces_with_clsact(&mut self) -> Result<Vec<u32>> {
        self.with_clsact(message(0, TcHandle::UNSPEC), "list the queueing disciplines")
    }

    fn with_clsact(&mut self, message: TcMessage, what: &str) -> Result<Vec<u32>> {
        self.dump(&RouteNetlinkMessage::GetQueueDiscipline(message), what, |payload| {
            let message = TcMessageBuffer::new_checked(payload).ok()?;
            let is_clsact =
                |nla: NlaBuffer<&[u8]>| nla.kind() == libc::TCA_KIND && value::string(nla.value()) == "clsact";
            message.attributes().flatten().any(is_clsact).then_some(message.index() as u32)
        })
    }

    /// Removes the clsact hook of an interface, with all of its filters.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn delete_clsact(&mut self, index: u32) -> Result<()> {
        let mut message = message(index, TcHandle::CLSACT);
        message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        let what = format!("remove the clsact hook of interface {index}");
        self.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0, &what)
    }

    /// The filters on one side of an interface's clsact hook; none if it has no such hook.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn clsact_filters(&mut self, index: u32, ingress: bool) -> Result<Vec<Filter>> {
        let minor = if ingress { TcHandle::MIN_INGRESS } else { TcHandle::MIN_EGRESS };
        let message = message(index, TcHandle { major: TcHandle::CLSACT.major, minor });
        let what = format!("list the filters of interface {index}");
        self.dump(&RouteNetlinkMessage::GetTrafficFilter(message), &what, parse_filter)
    }
}

fn message(index: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message.header.parent = parent;
    message
}

fn parse_xdp(payload: &[u8]) -> Option<(XdpAttached, Option<u32>)> {
    let message = LinkMessageBuffer::new_checked(payload).ok()?;
    let xdp = message.attributes().flatten().find(|nla| nla.kind() == libc::IFLA_XDP)?;
    let (mut attached, mut program) = (None, None);
    for nla in NlasIterator::new(xdp.value()).flatten() {
        match nla.kind() {
            IFLA_XDP_ATTACHED => {
                attached = match *nla.value().first()? {
                    0 => None,
                    XDP_ATTACHED_DRV => Some(XdpAttached::Native),
                    XDP_ATTACHED_SKB => Some(XdpAttached::Generic),
                    XDP_ATTACHED_HW => Some(XdpAttached::Hardware),
                    _ => Some(XdpAttached::Several),
                }
            }
            IFLA_XDP_PROG_ID => program = value::u32(nla.value()),
            _ => {}
        }
    }
    attached.map(|attached| (attached, program))
}

/// The kernel lists a classifier itself, without a handle, and then each of its filters.
fn parse_filter(payload: &[u8]) -> Option<Filter> {
    let message = TcMessageBuffer::new_checked(payload).ok()?;
    let handle = message.handle();
    if handle == 0 {
        return None;
    }
    let priority = (message.info() >> 16) as u16;
    let mut filter = Filter { priority, handle, kind: String::new(), name: None, program: None };
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::TCA_KIND => filter.kind = value::string(nla.value()),
            libc::TCA_OPTIONS if filter.kind == "bpf" => {
                for option in NlasIterator::new(nla.value()).flatten() {
                    match option.kind() {
                        TCA_BPF_NAME => filter.name = Some(value::string(option.value())),
                        TCA_BPF_ID => filter.program = value::u32(option.value()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(filter)
}
