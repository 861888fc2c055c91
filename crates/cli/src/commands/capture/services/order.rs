//! Who comes after whom.

/// The order in which services are started: each after those it names, in the order of the file otherwise.
/// `after[i]`: the services that `i` is started after. The services of a cycle are left out.
pub(super) fn start_order(after: &[Vec<usize>]) -> Vec<usize> {
    let mut order = Vec::with_capacity(after.len());
    let mut is_placed = vec![false; after.len()];
    // At each step the first of the file that can go: a service stands where it was written unless it has to wait.
    let next = |is_placed: &[bool]| {
        let can_go = |service: usize| after[service].iter().all(|&earlier| is_placed[earlier]);
        (0..after.len()).find(|&service| !is_placed[service] && can_go(service))
    };
    while let Some(service) = next(&is_placed) {
        is_placed[service] = true;
        order.push(service);
    }
    order
}

/// A way from a service through what it is started after, back to itself; `None`: there is none. The first
/// service of the file that is in a cycle starts it.
pub(super) fn cycle(after: &[Vec<usize>]) -> Option<Vec<usize>> {
    (0..after.len()).find_map(|service| way(after, service, service))
}

/// Whether `later` is started after `earlier`, be it by others in between.
pub(super) fn is_after(after: &[Vec<usize>], later: usize, earlier: usize) -> bool {
    way(after, later, earlier).is_some()
}

/// The services on a shortest way from `from` by `after` to `to`, without `to`.
fn way(after: &[Vec<usize>], from: usize, to: usize) -> Option<Vec<usize>> {
    let mut came_from = vec![None; after.len()];
    let mut queue = std::collections::VecDeque::from([from]);
    while let Some(service) = queue.pop_front() {
        for &earlier in &after[service] {
            if earlier == to {
                let mut way = vec![service];
                let mut last = service;
                while last != from {
                    // Every service of the queue but the first was reached from another one.
                    last = came_from[last]?;
                    way.push(last);
                }
                way.reverse();
                return Some(way);
            }
            if earlier != from && came_from[earlier].is_none() {
                came_from[earlier] = Some(service);
                queue.push_back(earlier);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_must_wait_do_and_the_others_stay_as_written() {
        // 0 after 2, 2 after 3.
        let after = [vec![2], vec![], vec![3], vec![], vec![]];
        assert_eq!(start_order(&after), [1, 3, 2, 0, 4]);
        assert!(is_after(&after, 0, 3) && is_after(&after, 0, 2));
        assert!(!is_after(&after, 3, 0) && !is_after(&after, 0, 1));
        assert_eq!(cycle(&after), None);
    }

    #[test]
    fn a_cycle_is_found_and_told_from_what_only_leads_into_it() {
        let after = [vec![1], vec![3], vec![1], vec![2], vec![]];
        assert_eq!(cycle(&after), Some(vec![1, 3, 2]));
        assert_eq!(start_order(&after), [4]);
        assert_eq!(cycle(&[vec![0]]), Some(vec![0]));
        assert!(is_after(&after, 2, 3));
    }
}
