//! Who may command the daemon, and what a daemon refuses to start on.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use vswitch_tests::Lab;
use vswitch_tests::daemon::DaemonConfig;
use vswitch_tests::lab::must;
use vswitch_tests::process::run;

/// Starts a daemon that must refuse to start, and returns what it said.
#[track_caller]
fn assert_does_not_start(lab: &Lab, config: &DaemonConfig) -> String {
    let mut process = must(config.spawn(lab.host()));
    let status = must(process.wait(Duration::from_secs(10)));
    assert!(!status.success(), "the daemon started, or ended with status 0");
    fs::read_to_string(&config.log).unwrap_or_default()
}

#[test]
fn only_root_and_the_group_may_use_the_socket() {
    let Some(lab) = Lab::new() else { return };
    let metadata = must(fs::metadata(lab.socket()));
    assert_eq!(metadata.mode() & 0o7777, 0o660);
    assert_eq!(metadata.uid(), 0);
    let as_nobody = || {
        let mut command = lab.host().command("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(lab.config().binaries.join("vswitchctl"))
            .arg("--socket")
            .arg(lab.socket())
            .args(["add-br", "br0"]);
        must(run(&mut command, Duration::from_secs(10)))
    };
    let output = as_nobody();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("permission denied") || stderr.contains("Permission denied"), "{stderr}");
    // The file's mode is one lock, the peer's credentials are the other.
    must(fs::set_permissions(lab.socket(), fs::Permissions::from_mode(0o666)));
    let output = as_nobody();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("root"), "{stderr}");
    assert!(lab.configuration().0.is_empty());
    lab.finish();
}

#[test]
fn a_second_daemon_on_the_same_socket_or_state_is_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.add_bridge("br0", "");
    let mut second = lab.config().clone();
    second.log = lab.path("second.log");
    // The same of both, then one at a time.
    let said = assert_does_not_start(&lab, &second);
    assert!(said.contains(&second.state_dir.display().to_string()) || said.contains("vswitch.sock"), "{said}");
    second.state_dir = lab.path("other-state");
    second.log = lab.path("third.log");
    let said = assert_does_not_start(&lab, &second);
    assert!(said.contains("vswitch.sock"), "the socket is named: {said}");
    second.state_dir = lab.config().state_dir.clone();
    second.socket = lab.path("other.sock");
    second.log = lab.path("fourth.log");
    let said = assert_does_not_start(&lab, &second);
    assert!(said.contains(&second.state_dir.display().to_string()), "the state directory is named: {said}");
    // The first one was not disturbed.
    assert_eq!(lab.bridge("br0").name, "br0");
    assert!(lab.socket().exists());
    lab.finish();
}

#[test]
fn a_damaged_state_file_is_refused_by_name_and_left_alone() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    lab.attach("br0", "a", "");
    let before = lab.configuration();
    lab.stop_daemon();
    let files: Vec<_> = must(fs::read_dir(&lab.config().state_dir))
        .map(|entry| must(entry).path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    let [file] = &files[..] else { panic!("one state file was expected: {files:?}") };
    let good = must(fs::read(file));
    let text = String::from_utf8(good.clone()).expect("the state is text");
    let mut flipped = good.clone();
    flipped[0] ^= 0x20;
    let damaged: [Vec<u8>; 6] = [
        Vec::new(),
        good[..good.len() / 2].to_vec(),
        flipped,
        b"{}".to_vec(),
        text.replacen("\"version\":1", "\"version\":999", 1)
            .replacen("\"version\": 1", "\"version\": 999", 1)
            .into_bytes(),
        // Well-formed, and yet nothing that a daemon could have written: a group address as a port's own.
        text.replacen("02:42:0a:01:00:02", "03:42:0a:01:00:02", 1).into_bytes(),
    ];
    for (number, bytes) in damaged.iter().enumerate() {
        assert_ne!(bytes, &good, "case {number} damages nothing");
        must(fs::write(file, bytes));
        let mut config = lab.config().clone();
        config.log = lab.path(&format!("damaged-{number}.log"));
        let said = assert_does_not_start(&lab, &config);
        assert!(said.contains(&file.display().to_string()), "case {number}: the file is named: {said}");
        assert_eq!(&must(fs::read(file)), bytes, "case {number}: the file was overwritten");
    }
    must(fs::write(file, &good));
    lab.start_daemon();
    assert_eq!(lab.configuration(), before);
    lab.finish();
}
