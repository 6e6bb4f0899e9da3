//! Building Ethernet frames by hand, for tests that say exactly what is on the wire.

/// Ethernet broadcast.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// A local experimental ethertype (IEEE 802 clause 9.2.4): no protocol of the kernel takes it.
pub const EXPERIMENTAL: u16 = 0x88b5;
/// The ethertype of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;

/// A frame of `ethertype`, padded to the 60 bytes that are the least on a wire.
#[must_use]
pub fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = unpadded(dst, src, ethertype, payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A frame of `ethertype`, exactly as long as its parts.
#[must_use]
pub fn unpadded(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend_from_slice(&dst);
    frame.extend_from_slice(&src);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `frame` with an 802.1Q tag of VLAN `vid` pushed.
#[must_use]
pub fn tagged(vid: u16, frame: &[u8]) -> Vec<u8> {
    let mut tagged = Vec::with_capacity(frame.len() + 4);
    tagged.extend_from_slice(&frame[..12]);
    tagged.extend_from_slice(&VLAN.to_be_bytes());
    tagged.extend_from_slice(&vid.to_be_bytes());
    tagged.extend_from_slice(&frame[12..]);
    tagged
}

/// A locally administered unicast address made of a number.
#[must_use]
pub fn mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x0a, 0x00, a, b, c, d]
}

/// The usual notation.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads the usual notation.
///
/// # Panics
/// When it is not a MAC address.
#[must_use]
#[track_caller]
pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().unwrap_or_else(|_| panic!("not a MAC address: {text}"))
}
