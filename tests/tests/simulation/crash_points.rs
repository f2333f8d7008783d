//! Many clients' work, and the making, opening and closing of pools, stopped at every device operation in turn; for each stop the
//! legal survivals of the writes in the air are tried, and everything is compared with the model. Single operations are stopped
//! the same way in `engine/tests/pools/crash_points.rs`.

use plimsoll_hardware::sim::CrashKind;
use plimsoll_tests::sim::image::{Image, Work};

/// Sectors of which every choice is tried; of more, as many choices are drawn.
fn sectors_max() -> u32 {
    if std::env::var_os("CI").is_some() || std::env::var_os("PLIMSOLL_FULL").is_some() { 7 } else { 4 }
}

/// Counts for the report.
#[derive(Default)]
struct Count {
    stops: u64,
    states: u64,
}

/// Starts `image` after a crash that was chosen and compares everything.
fn compare(image: &mut Image) {
    let machine = image.world.boot();
    assert!(image.start_once(&machine, false).is_some(), "nothing stops this start");
}

/// Stops `work` at every device operation that it makes, beginning with each from `base`, which lies between two lives.
fn enumerate(base: &Image, count: &mut Count, work: &dyn Fn(&mut Image, u64) -> bool) {
    for stop in 1.. {
        let mut image = base.fork(base.world.fork());
        let ended = work(&mut image, stop);
        let mut killed = image.fork(image.world.fork());
        killed.world.crash(CrashKind::Process);
        killed.stopped(false);
        compare(&mut killed);
        count.states += 1 + image.world.each_survival(sectors_max(), &mut |world| {
            let mut survivor = image.fork(world);
            survivor.stopped(true);
            compare(&mut survivor);
        });
        count.stops += 1;
        if ended {
            return;
        }
    }
}

/// A pool as a seed leaves it after two lives of work.
fn worked(seed: u64) -> Image {
    let mut image = Image::new(seed, true);
    for life in 0..2 {
        let machine = image.world.boot();
        let session = image.start_once(&machine, false).expect("nothing stops this start");
        image.made = true;
        assert!(image.work(&session, Work { clients: 2, ops: 8, ending: 3 }).is_some(), "nothing stops this work");
        image.stop(life == 0);
    }
    image
}

/// Opens, works and ends as `work` says; answers whether that came to its end before `stop`, which counts from the end of
/// the start.
fn live(image: &mut Image, stop: u64, work: Work) -> bool {
    let machine = image.world.boot();
    let session = image.start_once(&machine, false).expect("nothing stops this start");
    machine.crash_after_ops(stop);
    image.work(&session, work).is_some()
}

#[test]
fn work_may_stop_at_any_device_operation() {
    let mut count = Count::default();
    for seed in 100..108 {
        let base = worked(seed);
        for (clients, ending) in [(1, 3), (3, 3), (1, 2)] {
            enumerate(&base, &mut count, &|image, stop| live(image, stop, Work { clients, ops: 12, ending }));
        }
    }
    println!("work and close: {} stops, {} states", count.stops, count.states);
}

#[test]
fn a_start_may_stop_at_any_device_operation() {
    let mut count = Count::default();
    for seed in 200..216 {
        let base = worked(seed);
        enumerate(&base, &mut count, &|image, stop| {
            let machine = image.world.boot();
            machine.crash_after_ops(stop);
            image.start_once(&machine, false).is_some()
        });
    }
    println!("open, comparison and check: {} stops, {} states", count.stops, count.states);
}

#[test]
fn making_a_pool_may_stop_at_any_device_operation() {
    let mut count = Count::default();
    for seed in 300..308 {
        let base = Image::new(seed, true);
        enumerate(&base, &mut count, &|image, stop| {
            let machine = image.world.boot();
            machine.crash_after_ops(stop);
            image.start_once(&machine, false).is_some()
        });
    }
    println!("create: {} stops, {} states", count.stops, count.states);
}
