use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::sim::{CrashKind, FaultProfile, Random};

/// A busy program with faults and crashes; its trace hash.
fn history(seed: u64) -> u64 {
    let world = world(seed);
    for round in 0..5 {
        world.draw_faults();
        let machine = world.boot();
        machine.crash_within_ops(60);
        for task in 0..4_u64 {
            let own = machine.clone();
            machine.spawn(async move {
                let disk = own.open(0);
                for _ in 0..20 {
                    let _ = write(&own, &disk, own.random() % 256 * 4096, 4096, task as u8).await;
                    own.sleep(Duration::from_micros(own.random() % 100)).await;
                    let _ = disk.read(task * 4096, filled(&own, 4096, 0)).await;
                    let _ = disk.flush().await;
                }
            });
        }
        let _ = machine.run(machine.sleep(Duration::from_secs(60)));
        world.crash(if round % 2 == 0 { CrashKind::Power } else { CrashKind::Process });
    }
    let contents = world.read_raw(0, 0, 1 << 20);
    contents.iter().fold(world.trace_hash(), |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another_one() {
    let histories: Vec<u64> = (0..20).map(history).collect();
    assert_eq!(histories, (0..20).map(history).collect::<Vec<_>>());
    assert_eq!(histories.iter().collect::<BTreeSet<_>>().len(), 20);
}

#[test]
fn ready_tasks_run_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..200 {
        let world = world(seed);
        let machine = world.boot();
        let order = Rc::new(RefCell::new(Vec::new()));
        for task in 0..3 {
            let order = order.clone();
            machine.spawn(async move { order.borrow_mut().push(task) });
        }
        machine.run(machine.sleep(Duration::from_secs(1))).done();
        orders.insert(order.take());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn time_jumps_to_the_next_timer() {
    let world = world(1);
    let machine = world.boot();
    let before = machine.now();
    machine.run(machine.sleep(Duration::from_secs(3600))).done();
    assert_eq!(machine.now() - before, Duration::from_secs(3600));
}

#[test]
fn a_deadlock_names_the_tasks_that_wait() {
    async fn waits_for_ever() {
        std::future::pending().await
    }
    let world = world(1);
    let machine = world.boot();
    machine.spawn(waits_for_ever());
    let Outcome::Deadlock(description) = machine.run(std::future::pending::<()>()) else { panic!("it ended") };
    assert!(description.contains("waits_for_ever"), "{description}");
    assert!(description.contains("tests/executor.rs"), "{description}");
}

#[test]
fn a_program_that_only_sleeps_is_reported_too() {
    let world = world(1);
    let machine = world.boot();
    let own = machine.clone();
    machine.spawn(async move {
        loop {
            own.sleep(Duration::from_secs(60)).await;
        }
    });
    let Outcome::Deadlock(description) = machine.run(std::future::pending::<()>()) else { panic!("it ended") };
    assert!(description.starts_with("nothing but timers"), "{description}");
}

#[test]
fn a_program_that_spins_is_reported_too() {
    let world = world(1);
    let machine = world.boot();
    let outcome = machine.run(std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        std::task::Poll::<()>::Pending
    }));
    assert!(matches!(outcome, Outcome::Deadlock(why) if why.starts_with("tasks wake each other")));
}

#[test]
fn an_operation_goes_on_when_its_future_is_dropped() {
    let world = world(1);
    let machine = world.boot();
    let disk = machine.open(0);
    machine.run(async {
        let mut write = Box::pin(write(&machine, &disk, 0, 512, 5));
        std::future::poll_fn(|context| {
            assert!(write.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(write);
        machine.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(world.read_raw(0, 0, 1), [5]);
    assert_eq!(machine.buffers().free_bytes(), machine.buffers().bytes());
}

#[test]
fn a_life_leaves_no_task_timer_or_buffer_to_the_next() {
    let world = world(1);
    for _ in 0..600 {
        let machine = world.boot();
        assert_eq!(machine.buffers().free_bytes(), machine.buffers().bytes());
        drop(machine.run(machine.buffers().alloc(4096)).done());
        for _ in 0..20 {
            let own = machine.clone();
            machine.spawn(async move {
                let _all: Vec<_> = std::iter::from_fn(|| own.buffers().try_alloc(1 << 20)).collect();
                let _ = own.buffers().alloc(4096).await;
            });
        }
        assert!(matches!(machine.run(std::future::pending::<()>()), Outcome::Deadlock(_)));
        // Every other one is left to the next boot to end.
        if machine.random().is_multiple_of(2) {
            world.crash(CrashKind::Process);
        }
    }
}

#[test]
fn a_crash_can_fall_between_any_two_polls() {
    let world = world(1);
    let machine = world.boot();
    machine.crash_after_polls(2);
    let mut polls = 0;
    let outcome = machine.run(std::future::poll_fn(|context| {
        polls += 1;
        context.waker().wake_by_ref();
        std::task::Poll::<()>::Pending
    }));
    assert_eq!((outcome, polls), (Outcome::Crashed, 1));
}

#[test]
fn profiles_and_numbers_are_spread() {
    let mut random = Random::new(1);
    let profiles: Vec<FaultProfile> = (0..100).map(|_| FaultProfile::draw(&mut random)).collect();
    assert!(profiles.iter().filter(|profile| profile.lost == 0).count() > 30);
    assert!(profiles.iter().any(|profile| profile.lost > 800));
    let mut counts = [0; 10];
    (0..10_000).for_each(|_| counts[random.below(10) as usize] += 1);
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn a_trace_tells_the_seed_and_the_operations() {
    let world = world(42);
    world.set_trace(true);
    let machine = world.boot();
    machine.run(write(&machine, &machine.open(0), 4096, 512, 1)).done().expect("no faults are on");
    let trace = world.trace();
    assert!(trace.starts_with("seed 42\n") && trace.contains("write") && trace.contains("0x1000+0x200"), "{trace}");
    assert_eq!((world.counters(0).writes, world.counters(0).bytes_written), (1, 512));
}
