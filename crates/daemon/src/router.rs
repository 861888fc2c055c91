//! Which service and source a record is logged under, remembered per lane and name.

use millpond_bus::{LaneId, Record};
use millpond_logfile::Source;
use millpond_sink::{ServiceId, Sink};

/// Where records of one name go.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    name_id: u32,
    /// `None`: the name gives no service that could be one, or one too many.
    pub(crate) target: Option<(ServiceId, Source)>,
}

/// The routes of one lane. Few names go through a lane, so a list does; the one used last is tried first.
#[derive(Debug, Default)]
struct LaneRoutes {
    epoch: u64,
    last: usize,
    routes: Vec<Route>,
}

/// Most names remembered per lane. Further ones are routed anew each time.
const ROUTES_MAX: usize = 1024;

/// The routes of all lanes, by directory slot.
#[derive(Debug, Default)]
pub(crate) struct Router {
    lanes: Vec<LaneRoutes>,
    unnamed: Option<Route>,
}

impl Router {
    /// The route of a record.
    #[inline]
    pub(crate) fn route(&mut self, record: &Record<'_>, sink: &mut Sink) -> &Route {
        let slot = record.lane.slot as usize;
        let known = match self.lanes.get(slot) {
            Some(lane) if lane.epoch == record.lane.epoch => lane
                .routes
                .get(lane.last)
                .is_some_and(|route| route.name_id == record.name.id),
            _ => false,
        };
        if !known || record.name.id == u32::MAX {
            return self.find(record, sink);
        }
        let lane = &self.lanes[slot];
        &lane.routes[lane.last]
    }

    /// The service that the lane's last record went to, as far as any of its names had one.
    pub(crate) fn service_of(&self, lane: LaneId) -> Option<ServiceId> {
        let known = self.lanes.get(lane.slot as usize)?;
        if known.epoch != lane.epoch {
            return None;
        }
        let last = known.routes.get(known.last);
        let targets = last.into_iter().chain(&known.routes);
        let mut targets = targets.filter_map(|route| route.target.as_ref());
        targets.next().map(|(service, _)| *service)
    }

    #[cold]
    fn find(&mut self, record: &Record<'_>, sink: &mut Sink) -> &Route {
        if record.name.id == u32::MAX {
            return self.unnamed.insert(make(record, sink));
        }
        let lane = self.lane(record.lane);
        let found = lane
            .routes
            .iter()
            .position(|route| route.name_id == record.name.id);
        lane.last = match found {
            Some(at) => at,
            None => {
                if lane.routes.len() == ROUTES_MAX {
                    lane.routes.pop();
                }
                lane.routes.push(make(record, sink));
                lane.routes.len() - 1
            }
        };
        &lane.routes[lane.last]
    }

    fn lane(&mut self, id: LaneId) -> &mut LaneRoutes {
        let slot = id.slot as usize;
        if self.lanes.len() <= slot {
            self.lanes.resize_with(slot + 1, LaneRoutes::default);
        }
        let lane = &mut self.lanes[slot];
        if lane.epoch != id.epoch {
            *lane = LaneRoutes {
                epoch: id.epoch,
                ..LaneRoutes::default()
            };
        }
        lane
    }
}

fn make(record: &Record<'_>, sink: &mut Sink) -> Route {
    let target = record
        .rule
        .service_and_source(record.name.text)
        .and_then(|(service, source)| {
            let service = sink.service(service, record.time_ns).ok()?;
            Some((service, Source::new(source)))
        });
    Route {
        name_id: record.name.id,
        target,
    }
}
