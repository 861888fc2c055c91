//! Tiny measurements with real processes.

mod bus;
