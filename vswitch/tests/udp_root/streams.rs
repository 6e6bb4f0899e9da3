//! Traffic whose every byte is compared.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use crate::lab::{Namespace, PATIENCE};

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Sends `bytes` patterned bytes from `a` to `to` in `b`, and checks every one of them.
pub(crate) fn stream(a: &Namespace, b: &Namespace, to: &str, bytes: usize) {
    let to: IpAddr = to.parse().unwrap();
    let listener = b.inside(|| TcpListener::bind((to, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).unwrap();
        received
    });
    let mut socket = a.inside(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let sent = pattern(bytes);
    socket.write_all(&sent).unwrap();
    drop(socket);
    assert!(receiver.join().unwrap() == sent, "the stream to {to} arrived changed");
}

/// Sends a datagram of many sizes from `a` to `to` in `b`, and checks each.
pub(crate) fn datagrams(a: &Namespace, b: &Namespace, to: &str, mtu: usize) {
    let to: IpAddr = to.parse().unwrap();
    let receiver = b.inside(|| UdpSocket::bind((to, 0)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = receiver.local_addr().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = a.inside(|| UdpSocket::bind(any).unwrap());
    sender.connect(address).unwrap();
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let sizes = (0..40).chain([100, 500, 1000, 1200]).chain(mtu - headers - 3..=mtu - headers);
    let mut buffer = vec![0; 65536];
    for size in sizes.chain([2000, 5000]) {
        let sent = pattern(size);
        sender.send(&sent).unwrap();
        let bytes = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{size} bytes to {to}: {error}"));
        assert!(buffer[..bytes] == sent, "{size} bytes to {to} arrived changed");
    }
}
