//! How devices begin and end.

use std::time::{Duration, Instant};

use crate::lab::{
    Namespace, Raw, assert_all_home, can_run, command, open, open_with, pattern, plug, pool, send, wait_readable,
};
use crate::traffic::stream;
use vswitch::frame::{Burst, DropReason};
use vswitch::io::xdp::{Steering, Umems, XdpConfig, XdpDevice, XdpMode};
use vswitch::io::{Device, RxReport, RxStatus};
