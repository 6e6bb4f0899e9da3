//! A process that is really killed, at whatever instruction it is at.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

/// Tells the child which file it is to work on.
const FILE: &str = "VSWITCH_CONNTRACK_KILL_TEST";
const BOOT: [u8; 16] = *b"the only boot...";

fn open(path: &Path) -> (World, Restored) {
    let file: File = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let ports = Arc::new(HostPorts::default());
    let config = ConntrackConfig { connections_max: 8192, ..ConntrackConfig::default() };
    let storage = Storage::File { file, boot_id: BOOT };
    let (table, restored) = Conntrack::open(storage, config, ports.clone(), SECRET, START_S).unwrap();
    (World { table, ports, now_s: START_S }, restored)
}

/// Makes and removes connections until it is killed; nothing when it is run as a test.
#[test]
fn child() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let (world, _) = open(path.as_ref());
    println!("ready");
    std::thread::scope(|scope| {
        for worker in 2..4 {
            let world = &world;
            scope.spawn(move || {
                for round in 0u32.. {
                    let port = 2000 + round % 97;
                    let remote = format!("198.51.100.{}:{}", worker, 1 + round % 89);
                    world.outbound(protocol::UDP, &format!("172.17.0.{worker}:{port}"), &remote);
                    let found = world.outbound(protocol::TCP, &format!("172.17.0.{worker}:{port}"), &remote);
                    world.table.track(&found, flags(SYN), START_S);
                    if round % 500 == 0 {
                        world.table.flush(None, START_S);
                    }
                }
            });
        }
    });
}

#[test]
fn a_process_killed_at_any_instruction_leaves_whole_entries() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("connections");
    let mut seen = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", concat!(module_path!(), "::child").split_once("::").unwrap().1])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"ready") {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        std::thread::sleep(std::time::Duration::from_micros(3000 + round * 777));
        child.kill().unwrap();
        child.wait().unwrap();
        let (world, restored) = open(&path);
        assert_eq!((restored.discarded, restored.expired), (0, 0));
        seen += restored.connections;
        let list = world.table.list(&Filter::default(), START_S);
        assert_eq!(list.len(), restored.connections as usize);
        for one in list {
            let found = world.table.find(&one.original, one.origin).unwrap();
            assert_eq!(found.translated, one.reply.reversed());
            assert_eq!(found.translated.source, ip(EXTERNAL));
        }
    }
    assert!(seen > 0);
}
