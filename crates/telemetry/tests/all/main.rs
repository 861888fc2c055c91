//! The sampler with drivers that work, break, and come back.
//!
//! Time is what a test says: a step is told when it is, so nothing here waits.

mod driver;
mod gpus;
mod nvidia;
mod recordings;
mod slow;
