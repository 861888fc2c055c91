//! The one place atomics come from, so that loom can stand in for the hardware.
//!
//! Every other module imports `crate::sync::atomic`; a tidy test refuses `std::sync::atomic` elsewhere.

#[cfg(not(loom))]
pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{
        AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
    };
}

#[cfg(loom)]
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// loom has no compiler fence, and its models only use the variants with a real fence.
    pub(crate) fn compiler_fence(order: Ordering) {
        fence(order);
    }
}
