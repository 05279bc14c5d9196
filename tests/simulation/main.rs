//! The core of a VM's task on a simulated host: 20,000 histories here, as many as are wanted by `scripts/simulate`.

#[path = "mod.rs"]
mod simulation;

#[test]
fn no_history_breaks_what_must_hold() {
    let figures = (0..20_000).map(|seed| simulation::check(seed).unwrap_or_else(|failure| panic!("{failure}")));
    let all = figures.fold((0, 0, 0, 0), |all, one| {
        (all.0 + one.starts, all.1 + one.answers, all.2 + one.crashes, all.3 + one.events)
    });
    // A simulation in which nothing happens would find nothing.
    assert!(all.0 > 10_000 && all.1 > 40_000 && all.2 > 5_000 && all.3 > 50_000, "{all:?}");
}

#[test]
fn a_history_is_its_seed() {
    let history = simulation::history::History::random;
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
    assert_eq!(simulation::daemon::run(&history(7)), simulation::daemon::run(&history(7)));
}
