//! The life of segments, driven through the public interface and looked at as files.

mod commit_point;
mod crashes;
mod full_disk;
mod liveness;
mod properties;
mod retention;
mod room;
mod seal;
mod support;
mod sync;
