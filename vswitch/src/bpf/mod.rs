//! BPF: the system call.

pub mod sys;
