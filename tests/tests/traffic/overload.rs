//! More than can be carried: every frame is either delivered or counted as dropped somewhere, and
//! the kernel's books agree with ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vswitch::api::{Port, PortStats};
use vswitch_tests::frame::{EXPERIMENTAL, ethernet, mac};
use vswitch_tests::lab::{ipv4, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::{BURST_MAX, PacketSocket};
use vswitch_tests::{Lab, announce};

use super::{lab, raw_lab};

#[test]
fn four_senders_to_one_receiver_are_accounted_to_the_frame() {
    let Some(mut lab) = raw_lab() else { return };
    lab.add_bridge("br0", "--l2 --storm-limit 0");
    let roles = ["a", "b", "c", "d", "sink"];
    for role in roles {
        must(lab.add_container(role).sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
        lab.attach("br0", role, "");
    }
    // The sink's address is known: unicast, no flooding.
    lab.ctl(&["fdb-add", "br0", &vswitch_tests::frame::mac_text(mac(9)), "sink"]);
    lab.assert_accounted();
    let books = |lab: &Lab, role: &str| {
        let stats = lab.port_stats("br0", role);
        let kernel = |name| must(lab.container(role).link_counter("eth0", name));
        (stats, kernel("tx_packets"), kernel("tx_dropped"), kernel("rx_packets"))
    };
    let before: Vec<_> = roles.iter().map(|role| books(&lab, role)).collect();

    let offered: Vec<u64> = thread::scope(|scope| {
        let senders: Vec<_> = roles[..4]
            .iter()
            .zip(1..)
            .map(|(role, number)| {
                let socket = must(PacketSocket::open_sender(lab.container(role), "eth0"));
                scope.spawn(move || {
                    let frame = ethernet(mac(9), mac(number), EXPERIMENTAL, &[]);
                    let burst: Vec<&[u8]> = vec![&frame; BURST_MAX];
                    let started = Instant::now();
                    let mut sent = 0;
                    while started.elapsed() < Duration::from_secs(1) {
                        // ENOBUFS: the queue before the interface is full, and the frame was not taken.
                        sent += socket.send_burst(&burst).unwrap_or(0) as u64;
                    }
                    sent
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    });
    lab.assert_accounted();

    let after: Vec<_> = roles.iter().map(|role| books(&lab, role)).collect();
    let (mut received, mut refused) = (0, 0);
    for (number, role) in roles[..4].iter().enumerate() {
        let ((stats, sent, dropped, _), (old, sent_before, dropped_before, _)) = (&after[number], &before[number]);
        let ours = stats.total.rx_frames - old.total.rx_frames;
        assert_eq!(ours, sent - sent_before, "{role}: what the kernel handed over is what we received");
        assert_eq!(
            offered[number],
            ours + dropped - dropped_before,
            "{role}: taken by the kernel = received + dropped"
        );
        assert_eq!(stats.kernel_tx_dropped, Some(*dropped), "{role}: the kernel's drops are shown");
        received += ours;
        refused += dropped - dropped_before;
    }
    let ((sink, _, _, kernel), (old, _, _, kernel_before)) = (&after[4], &before[4]);
    let delivered = sink.total.tx_frames - old.total.tx_frames;
    // By the sink, or by the senders' ports: AF_XDP sockets have no room for everything.
    let dropped = |(stats, ..): &(PortStats, u64, u64, u64)| stats.total.drops.values().sum::<u64>();
    let dropped: u64 = after.iter().map(dropped).sum::<u64>() - before.iter().map(dropped).sum::<u64>();
    assert_eq!(received, delivered + dropped, "received = sent + dropped");
    assert_eq!(delivered, kernel - kernel_before, "what we delivered is what the kernel received");
    announce(&format!(
        "overload: {} frames offered, {refused} dropped by the kernel before the switch, {dropped} by the switch, {delivered} delivered",
        offered.iter().sum::<u64>(),
    ));
    lab.finish();
}

#[test]
fn nearly_nothing_is_lost_over_a_restart() {
    let Some(mut lab) = raw_lab() else { return };
    lab.add_bridge("br0", "--l2");
    for role in ["a", "b"] {
        must(lab.add_container(role).sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
        lab.attach("br0", role, "");
    }
    let socket = must(PacketSocket::open_sender(lab.container("a"), "eth0"));
    let before = must(lab.container("b").link_counter("eth0", "rx_packets"));
    // A frame a millisecond, numbered by time, through a SIGTERM and a new start.
    let total = 3000;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let sender = thread::spawn(move || {
        let frame = ethernet(mac(2), mac(1), EXPERIMENTAL, &[]);
        let mut refused = 0u64;
        let started = Instant::now();
        for number in 0..total {
            let due = Duration::from_millis(number);
            thread::sleep(due.saturating_sub(started.elapsed()));
            // While nobody holds a TAP it has no carrier: the kernel drops what is sent, or says so.
            refused += u64::from(socket.send(&frame).is_err());
            counter.fetch_add(1, Ordering::Relaxed);
        }
        refused
    });
    thread::sleep(Duration::from_millis(1000));
    // Nothing waits in a queue: it would go with the daemon's end of the interface.
    must(wait_until("the switch keeps up", PATIENCE, || {
        let arrived = must(lab.container("b").link_counter("eth0", "rx_packets")) - before;
        (arrived + 50 >= sent.load(Ordering::Relaxed)).then_some(())
    }));
    let (stopped, first) = (Instant::now(), sent.load(Ordering::Relaxed));
    lab.stop_daemon();
    lab.start_daemon();
    let (away, meanwhile) = (stopped.elapsed(), sent.load(Ordering::Relaxed) - first);
    let refused = sender.join().expect("no panic");
    lab.assert_accounted();
    let arrived = must(lab.container("b").link_counter("eth0", "rx_packets")) - before;
    let lost = total - arrived.min(total);
    announce(&format!(
        "a restart took {away:?}; of {total} frames at 1000 a second {lost} were lost ({refused} refused), \
         {meanwhile} were sent meanwhile"
    ));
    // Not more than were sent while the daemon was away, and some for a loaded machine.
    assert!(lost <= meanwhile + 200, "{lost} frames lost, {meanwhile} sent in {away:?}");
    lab.finish();
}

#[test]
fn who_comes_later_is_served_while_others_never_pause() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let [_, b, _, d, e] = ["a", "b", "c", "d", "e"].map(|role| lab.attach("br0", role, ""));
    let ping = |from: &str, options: &str, port: &Port| {
        must(lab.container(from).run(&format!("ping -n -q {options} -W 2 {}", ipv4(port))))
    };
    thread::scope(|scope| {
        // A worker that spins looks at these two all the time.
        let flood = scope.spawn(|| ping("a", "-f -w 3", &b));
        // These come so seldom that it has to find them otherwise.
        for (from, to) in [("c", &d), ("d", &e)] {
            let summary = ping(from, "-c 10 -i 0.1", to);
            assert!(summary.contains(" 10 received"), "{summary}");
        }
        flood.join().expect("it was answered");
    });
    lab.finish();
}
