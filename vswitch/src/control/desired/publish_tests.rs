//! Publishing: every form, every refusal.
