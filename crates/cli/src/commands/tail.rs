//! `millpond tail`: the last lines, and what comes after them.

use millpond_logfile::{Query, check_service_name};

use crate::Run;
use crate::args::Settings;
use crate::commands::query::{Asked, show};
use crate::flags::TailFlags;

pub(crate) fn run(flags: &TailFlags, settings: &Settings) -> Run {
    for service in &flags.service {
        check_service_name(service)?;
    }
    let asked = Asked {
        services: flags.service.clone(),
        query: Query::new(),
        last: Some(flags.lines),
        newest_first: false,
        follow: flags.follow,
        cursor: None,
        print_cursor: false,
        unfold: false,
    };
    show(&asked, false, flags.utc, settings)
}
