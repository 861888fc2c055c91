//! The on-disk log format of millpond: plain text that `grep` reads, with a sidecar index that can always be
//! made anew from it.
//!
//! A log directory holds one directory per service, a service one text file per *segment*, and beside each
//! segment its index. `docs/formats/log.md` is the format; this crate writes lines and index entries,
//! recovers a segment after a crash, and answers queries. It has no clock, no threads of its own beyond a
//! query, and no unsafe code.
//!
//! ```
//! use millpond_logfile::{BlockWriter, Level, Source, parse_line};
//!
//! let mut text = Vec::new();
//! let mut block = BlockWriter::new();
//! let source = Source::new("pty:out");
//! block.append(&mut text, 1_795_224_593_123_456_789, Level::Info, &source, b"listening on :8080");
//! assert_eq!(text, b"2026-11-21T01:29:53.123456789Z INFO  pty:out listening on :8080\n");
//!
//! let line = parse_line(&text).expect("we wrote it");
//! assert_eq!(line.message, b"listening on :8080");
//! ```

#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("millpond runs on Linux only");

/// A place where the crash lab may kill this process; nothing without the feature `kill-points`.
macro_rules! kill_point {
    ($label:literal) => {
        #[cfg(feature = "kill-points")]
        millpond_kill_points::pass($label);
    };
}

mod block;
mod error;
mod filters;
mod follow;
mod index;
mod level;
mod line;
mod name;
mod query;
mod recover;
mod seal;
mod sealed;
mod time;
mod told;
mod unfold;

pub use self::{
    block::{BLOCK_BYTES, BlockWriter},
    error::{Damage, Error, ErrorKind},
    follow::{
        CommittedEnd, Cursor, CursorError, FollowReport, Followed, Follower, Gone, LogPosition,
        written_end,
    },
    index::{ENTRY_BYTES, HEADER_BYTES, INDEX_VERSION, Index, IndexEntry, IndexHeader, read_index},
    level::Level,
    line::{LineError, LineWriter, ParsedLine, Source, escape, parse_line, unescape},
    name::{
        CURRENT_LINK, SegmentId, SegmentIdError, ServiceNameError, check_service_name,
        list_segments, list_services,
    },
    query::{
        Counts, Histogram, HistogramBucket, Hit, Ignored, LevelSet, LineMatcher, Order, Query,
        QueryProgress, QueryReport, Reader, SegmentInfo, SegmentState, ServiceCounts,
        SourcePattern, TextReport,
    },
    recover::{
        RebuildReport, Recovered, VerifyReport, complete_index, inspect_segment, rebuild_index,
        recover_segment, verify_segment,
    },
    seal::{SealedSegment, seal_segment},
    sealed::SegmentText,
    time::{TIME_BYTES, format_time, parse_time},
    told::Told,
    unfold::LeftOut,
};
