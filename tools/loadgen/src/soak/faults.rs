//! What can be done to a bus while it runs.

use serde::Serialize;

/// A kind of fault. Who it meets, and for how long, is drawn each time.
///
/// A new one, such as a file system that stops answering, is a variant here, its word in [`Fault::word`], and
/// what is done in `Troupe::play`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to the consumer; another one at once, or up to three seconds later.
    ConsumerKilled,
    /// SIGSTOP to the consumer, and SIGCONT.
    ConsumerStopped,
    /// SIGTERM to the consumer, and another one.
    ConsumerEnded,
    /// SIGKILL to the consumer and a publisher in one moment: the lane is left to the next consumer.
    BothKilled,
    /// SIGKILL to a publisher.
    PublisherKilled,
    /// SIGSTOP to a publisher, and SIGCONT.
    PublisherStopped,
    /// SIGTERM to a publisher, which flushes first.
    PublisherEnded,
    /// SIGKILL to a subscriber.
    SubscriberKilled,
    /// SIGSTOP to a subscriber, and SIGCONT.
    SubscriberStopped,
    /// SIGTERM to a subscriber.
    SubscriberEnded,
    /// SIGKILL to a follower, which goes on where it last said that it stood.
    FollowerKilled,
    /// SIGSTOP to a follower, and SIGCONT.
    FollowerStopped,
    /// SIGTERM to a follower.
    FollowerEnded,
    /// New segments for all services.
    Rotation,
    /// Other rules.
    Reload,
    /// More events than a lane holds, as fast as they go, where the newest are dropped.
    Overflow,
    /// Objects in shared memory of creators that are not there.
    Leftovers,
    /// The disk of the log is full for a second.
    DiskFull,
    /// The index or the search filters of a segment are deleted.
    FilesDeleted,
}

impl Fault {
    /// All of them, and how often each is drawn.
    pub(super) const ALL: [(Fault, u64); 19] = [
        (Fault::ConsumerKilled, 5),
        (Fault::ConsumerStopped, 2),
        (Fault::ConsumerEnded, 2),
        (Fault::BothKilled, 2),
        (Fault::PublisherKilled, 3),
        (Fault::PublisherStopped, 2),
        (Fault::PublisherEnded, 1),
        (Fault::SubscriberKilled, 2),
        (Fault::SubscriberStopped, 1),
        (Fault::SubscriberEnded, 1),
        (Fault::FollowerKilled, 2),
        (Fault::FollowerStopped, 1),
        (Fault::FollowerEnded, 1),
        (Fault::Rotation, 1),
        (Fault::Reload, 1),
        (Fault::Overflow, 1),
        (Fault::Leftovers, 1),
        (Fault::DiskFull, 1),
        (Fault::FilesDeleted, 1),
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Fault::ConsumerKilled => "consumer killed",
            Fault::ConsumerStopped => "consumer stopped",
            Fault::ConsumerEnded => "consumer ended in order",
            Fault::BothKilled => "consumer and publisher killed",
            Fault::PublisherKilled => "publisher killed",
            Fault::PublisherStopped => "publisher stopped",
            Fault::PublisherEnded => "publisher ended in order",
            Fault::SubscriberKilled => "subscriber killed",
            Fault::SubscriberStopped => "subscriber stopped",
            Fault::SubscriberEnded => "subscriber ended in order",
            Fault::FollowerKilled => "follower killed",
            Fault::FollowerStopped => "follower stopped",
            Fault::FollowerEnded => "follower ended in order",
            Fault::Rotation => "rotation",
            Fault::Reload => "reload of rules",
            Fault::Overflow => "overflow of a small lane",
            Fault::Leftovers => "leftovers in shared memory",
            Fault::DiskFull => "disk of the log full",
            Fault::FilesDeleted => "index or filters deleted",
        }
    }

    /// Whether a consumer ends by it: what makes its process a new one.
    pub(super) fn ends_consumer(self) -> bool {
        matches!(
            self,
            Fault::ConsumerKilled | Fault::ConsumerEnded | Fault::BothKilled
        )
    }

    pub(super) fn is_of_consumer(self) -> bool {
        self.ends_consumer() || self == Fault::ConsumerStopped
    }
}

/// A fault that was played.
#[derive(Debug, Clone, Serialize)]
pub struct Played {
    /// Since the start, in seconds.
    pub time_s: f64,
    /// Which kind.
    pub fault: Fault,
    /// Whom or what it met.
    pub on: String,
}
