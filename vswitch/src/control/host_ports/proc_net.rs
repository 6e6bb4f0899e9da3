//! The sockets of this network namespace, from the tables in `/proc/net`: of ICMP echoes, which sock_diag does not list,
//! and of all others where a kernel is built without it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::BoundSocket;

/// The sockets in the tables `name` and `name` with a 6; none where the kernel has no such table.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn list(name: &str) -> io::Result<Option<Vec<BoundSocket>>> {
    let read = |name: String| match std::fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
        Ok(text) => Ok(Some(parse(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let (v4, v6) = (read(name.to_owned())?, read(format!("{name}6"))?);
    Ok(match (v4, v6) {
        (None, None) => None,
        (v4, v6) => Some([v4, v6].into_iter().flatten().flatten().collect()),
    })
}

/// Lines of `number: address:port address:port state queues timer retransmits uid timeout inode …`; what cannot be read
/// is the headline.
fn parse(table: &str) -> Vec<BoundSocket> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (address, port) = fields.nth(1)?.split_once(':')?;
        let inode = fields.nth(7)?.parse().ok()?;
        let address = address_of(address)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        // Whether an IPv6 socket is for IPv6 alone is not said.
        let both = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Some(BoundSocket { port, address, both, inode })
    };
    table.lines().filter_map(line).collect()
}

/// An address as words of four bytes, each a number in the machine's order.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let octets: [[u8; 4]; 4] = [word(0)?, word(1)?, word(2)?, word(3)?];
            Some(Ipv6Addr::from_octets(octets.as_flattened().try_into().ok()?).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_table_is_read() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
  51: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 12 2
  52: 0000000000000000FFFF0000010200C0:0036 0:0 07 0:0 0:0 0 0 0 13
";
        let all = parse(table);
        let text = |socket: &BoundSocket| (socket.address.to_string(), socket.port, socket.both, socket.inode);
        assert_eq!(
            all.iter().map(text).collect::<Vec<_>>(),
            [
                ("127.0.0.1".to_owned(), 8080, false, 4711),
                ("::".to_owned(), 53, true, 12),
                ("192.0.2.1".to_owned(), 54, false, 13)
            ]
        );
        assert_eq!(parse("nonsense\n\n 1: zz:1 2 3 4 5 6 7 8 9\n"), []);
    }
}
