//! Programs come and go: ours, those of others, and what a killed process leaves.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use vswitch::bpf::{
    AttachedProgram, Classifier, ClassifierError, GuardOwner, TcHook, XdpMode, attached_programs, relieve,
    remove_leftovers,
};

use super::foreign::{self, Where};
use super::lab::can_run;
use super::namespaces::{PATIENCE, eventually, eventually_ok};
use super::uplink::{HOST4, Lab};
use super::{PORT, SSH, publish, stream};

#[test]
fn programs_of_others_are_named_and_stay() {
    if !can_run("programs_of_others_are_named_and_stay") {
        return;
    }
    let lab = Lab::new();
    let index = Lab::link(&lab.host, "up0").index;
    // `TCX_NEXT`, and one that would end the chain: `TCX_PASS`.
    for verdict in [-1, 0] {
        let program = foreign::load(Where::Tcx, "somebodys_tc", verdict).unwrap();
        let link = lab.host.inside(|| foreign::attach(&program, Where::Tcx, index)).unwrap();
        let mut classifier = Lab::classifier();
        publish(&mut classifier);
        let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::Tcx)).unwrap();
        let wire = lab.switch();
        stream(&lab.peer, &lab.container, HOST4, PORT, 1 << 20);
        stream(&lab.peer, &lab.host, HOST4, SSH, 1 << 20);
        let names = |programs: Vec<AttachedProgram>| {
            programs.into_iter().map(|program| (program.hook, program.name)).collect::<Vec<_>>()
        };
        let (ours, theirs) = (("tcx ingress", "vswitch_tc".to_owned()), ("tcx ingress", "somebodys_tc".to_owned()));
        let attached = || names(lab.host.inside(|| attached_programs("up0")).unwrap());
        assert_eq!(attached(), [ours, theirs.clone()]);
        drop(wire);
        lab.host.inside(|| drop(attachment));
        eventually("the end of our program", || attached() == [theirs.clone()]);
        drop(link);
        // A child of another test, between its fork and its exec, may still have the descriptor.
        eventually("the end of somebody's program", || attached().is_empty());
    }
    for at in [Where::XdpNative, Where::XdpGeneric] {
        let program = foreign::load(at, "somebodys_xdp", 2).unwrap();
        let link = eventually_ok("the interface", || lab.host.inside(|| foreign::attach(&program, at, index)));
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let mut classifier = Lab::classifier();
            let mut uplink = lab.host.inside(|| classifier.reserve_xdp("up0", 1)).unwrap();
            let error = lab.host.inside(|| classifier.attach_xdp(&mut uplink, mode)).unwrap_err();
            assert!(matches!(&error, ClassifierError::Foreign { programs, .. } if programs.len() == 1), "{error}");
            let text = error.to_string();
            assert!(text.contains("interface up0") && text.contains("somebodys_xdp (id "), "{text}");
            assert!(!uplink.is_attached());
        }
        let attached = lab.host.inside(|| attached_programs("up0")).unwrap();
        assert_eq!(attached.iter().map(|program| &*program.name).collect::<Vec<_>>(), ["somebodys_xdp"]);
        drop(link);
    }
}

#[test]
fn what_cannot_be_attached_is_refused_and_leaves_nothing() {
    if !can_run("what_cannot_be_attached_is_refused_and_leaves_nothing") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    let mut classifier = Lab::classifier();
    let error = lab.host.inside(|| classifier.attach_tc("up0", "nothing", TcHook::Tcx)).unwrap_err().to_string();
    assert_eq!(error, "cannot find interface nothing: there is none of that name");
    assert!(lab.host.inside(|| classifier.reserve_xdp("up1", 1)).is_err());
    assert!(lab.host.inside(|| attached_programs("up1")).is_err());
    let mut loopback = lab.host.inside(|| classifier.reserve_xdp("lo", 1)).unwrap();
    let error = lab.host.inside(|| classifier.attach_xdp(&mut loopback, XdpMode::Native)).unwrap_err().to_string();
    assert!(error.starts_with("cannot attach the program vswitch_xdp to interface lo (xdp native): "), "{error}");
    lab.assert_untouched(&before);
}

#[test]
fn filters_left_on_an_old_hook_are_recognized_and_removed() {
    if !can_run("filters_left_on_an_old_hook_are_recognized_and_removed") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    let leave = |classifier: &mut Classifier| {
        let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::Clsact)).unwrap();
        // As after `kill -9`.
        std::mem::forget(attachment);
    };
    let clean = || ["up0", "carry"].map(|name| lab.host.inside(|| remove_leftovers(name)).unwrap());
    leave(&mut Lab::classifier());
    assert_eq!(lab.host.inside(|| attached_programs("up0")).unwrap()[0].hook, "clsact ingress");
    assert_eq!(clean(), [1, 1]);
    assert_eq!(clean(), [0, 0]);
    lab.assert_untouched(&before);

    // Twice is not one too many, and somebody else's filter keeps its hook.
    leave(&mut Lab::classifier());
    let theirs =
        ["filter", "add", "dev", "up0", "ingress", "prio", "7", "bpf", "bytecode", "1,6 0 0 0,", "classid", "1:1"];
    lab.host.exec(&[&["tc"][..], &theirs].concat());
    let mut classifier = Lab::classifier();
    let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::Clsact)).unwrap();
    let hooks = lab.host.inside(|| attached_programs("up0")).unwrap();
    assert_eq!(hooks.iter().filter(|program| program.name == "vswitch_tc").count(), 1, "{hooks:?}");
    assert_eq!(hooks.len(), 2, "{hooks:?}");
    lab.host.inside(|| drop(attachment));
    let filters = lab.host.exec(&["tc", "filter", "show", "dev", "up0", "ingress"]);
    assert!(filters.contains("bytecode") && !filters.contains("vswitch"), "{filters}");
    assert_eq!(clean(), [0, 0]);
}

/// The other half of the next test: attaches everything in the namespace it was started in, and waits to be killed.
#[test]
#[ignore = "started by after_a_kill_only_the_rear_guard_is_left"]
fn a_process_to_be_killed() {
    let mut classifier = Classifier::load().unwrap();
    let _guard = classifier.guard_uplink("up0", GuardOwner(1)).unwrap();
    let _attachment = classifier.attach_tc("up0", "carry", TcHook::Tcx).unwrap();
    let mut uplink = classifier.reserve_xdp("up0", 1).unwrap();
    classifier.attach_xdp(&mut uplink, XdpMode::Native).unwrap();
    println!("attached");
    std::thread::sleep(4 * PATIENCE);
}

#[test]
fn after_a_kill_only_the_rear_guard_is_left() {
    if !can_run("after_a_kill_only_the_rear_guard_is_left") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.host.name])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "life::a_process_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let attached = || lab.host.inside(|| attached_programs("up0")).unwrap().len();
    let wait_for = |count| eventually("as many programs", || attached() == count);
    wait_for(3);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(1);
    assert_eq!(lab.host.inside(|| attached_programs("up0")).unwrap()[0].name, "vswitch_rear");
    assert_eq!(lab.host.inside(|| relieve(GuardOwner(1), None)).unwrap(), 1);
    lab.assert_untouched(&before);
}

#[test]
fn what_is_dropped_is_taken_off_whoever_has_its_descriptors() {
    if !can_run("what_is_dropped_is_taken_off_whoever_has_its_descriptors") {
        return;
    }
    let lab = Lab::new();
    let mut classifier = Lab::classifier();
    let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::Tcx)).unwrap();
    let mut uplink = lab.host.inside(|| classifier.reserve_xdp("up0", 1)).unwrap();
    lab.host.inside(|| classifier.attach_xdp(&mut uplink, XdpMode::Generic)).unwrap();
    // As a child has them between its fork and its exec.
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let is_link = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|to| to.ends_with("anon_inode:bpf_link"));
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let kept: Vec<_> = descriptors
        .filter(is_link)
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .filter_map(|number| pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok())
        .collect();
    assert!(kept.len() >= 3, "{kept:?}");
    lab.host.inside(|| drop(attachment));
    drop(uplink);
    for interface in ["up0", "carry"] {
        assert_eq!(lab.host.inside(|| attached_programs(interface)).unwrap(), []);
    }
}

#[test]
fn an_attachment_knows_when_its_interface_is_gone() {
    if !can_run("an_attachment_knows_when_its_interface_is_gone") {
        return;
    }
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        let lab = Lab::new();
        let mut classifier = Lab::classifier();
        let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", hook)).unwrap();
        let mut uplink = lab.host.inside(|| classifier.reserve_xdp("up0", 1)).unwrap();
        lab.host.inside(|| classifier.attach_xdp(&mut uplink, XdpMode::Generic)).unwrap();
        assert!(lab.host.inside(|| attachment.is_attached()) && uplink.is_attached());
        lab.host.exec(&["ip", "link", "set", "up0", "down"]);
        lab.host.exec(&["ip", "link", "set", "up0", "name", "wan0"]);
        lab.host.exec(&["ip", "link", "set", "wan0", "up"]);
        assert!(lab.host.inside(|| attachment.is_attached()) && uplink.is_attached(), "{hook:?}, another name");
        lab.host.exec(&["ip", "link", "del", "wan0"]);
        assert!(!lab.host.inside(|| attachment.is_attached()) && !uplink.is_attached(), "{hook:?}");
        lab.host.inside(|| drop(attachment));
        // A child of another test, between its fork and its exec, may still have the link's descriptor.
        eventually("the end of the program", || lab.host.inside(|| attached_programs("carry")).unwrap().is_empty());
    }
}
