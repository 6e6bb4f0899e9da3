//! Temporary.
use super::Packet;
use crate::frame::DropReason;
use crate::snapshot::PortId;
use std::marker::PhantomData;
#[derive(Debug)]
pub struct FragmentTable<A, H>(PhantomData<(A, H)>);
pub enum Later<A, H> {
    Known(A),
    Unknown(Place<H>),
    Refused(DropReason),
}
pub struct Place<H>(PhantomData<H>);
impl<H> Place<H> {
    pub fn hold(self, _: H) -> Result<(), DropReason> {
        Err(DropReason::FragmentsFull)
    }
}
impl<A: Copy, H> FragmentTable<A, H> {
    pub fn new() -> Self {
        Self(PhantomData)
    }
    pub fn first(&mut self, _k: (), _p: &Packet, _a: A, _n: u32) -> Result<Vec<H>, DropReason> {
        Ok(Vec::new())
    }
    pub fn later(&mut self, _k: (), _p: &Packet, _n: u32) -> Later<A, H> {
        Later::Refused(DropReason::FragmentsFull)
    }
    pub fn is_empty(&self) -> bool {
        true
    }
    pub fn expire(&mut self, _n: u32, _f: impl FnMut(H)) {}
}
impl Packet {
    pub fn fragment_key(&self, _: PortId) {}
}
pub mod mss {
    use super::Packet;
    use crate::frame::Csum;
    pub fn clamp(_: &mut [u8], _: &Packet, _: Csum, _: u32) {}
}
