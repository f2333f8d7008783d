//! What a check says in the log: of a page that has gone elsewhere while it was looked at, nothing that sounds like damage.
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::support::{create, filled, live, vdisk, world};
use futures_util::future::join;
use plimsoll_hardware::sim::SimMachine;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const LEAF: u64 = 32 << 20;

/// Counts what is said of pages whose copies are both bad: as an error, and otherwise.
#[derive(Default)]
struct Log {
    errors: AtomicU64,
    others: AtomicU64,
}

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

struct Counting(Arc<Log>);

impl Subscriber for Counting {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut words = Words(String::new());
        event.record(&mut words);
        if words.0.starts_with("both copies of a metadata page are bad") {
            let of_level = if *event.metadata().level() == Level::ERROR { &self.0.errors } else { &self.0.others };
            of_level.fetch_add(1, Relaxed);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_page_that_goes_elsewhere_while_a_check_looks_at_it_is_no_damage() {
    let log = Arc::new(Log::default());
    tracing::subscriber::with_default(Counting(log.clone()), || {
        for seed in 0..6 {
            live(&world(seed, 1, 64), |m: SimMachine| async move {
                let pool = create(&m).await;
                pool.create_vdisk(vdisk("v", 4 << 30)).await.expect("a vdisk");
                let v = pool.vdisk("v").expect("a vdisk");
                let touch = async |byte: u8| {
                    for leaf in 0..100 {
                        v.write(leaf * LEAF, filled(&m, byte, 4096).await, false).await.expect("a write");
                        v.discard(leaf * LEAF + (1 << 20), 4096, false).await.expect("a discard");
                    }
                };
                touch(1).await;
                for round in 2..8 {
                    // Each check begins with a checkpoint, which gives away the pages of the one before.
                    let others = async {
                        for _ in 0..3 {
                            let extent = 65_536 * u64::from(round);
                            for leaf in 0..100 {
                                let data = filled(&m, round, 4096).await;
                                v.write(leaf * LEAF + extent, data, false).await.expect("a write");
                            }
                            pool.check().await.expect("a check");
                        }
                    };
                    let (report, ()) = join(pool.check(), others).await;
                    let report = report.expect("a check");
                    assert!(report.clean(), "seed {seed}: {:#?}", report.findings);
                    assert_eq!(pool.info().counters.pages_lost, 0);
                }
            });
        }
    });
    let (errors, others) = (log.errors.load(Relaxed), log.others.load(Relaxed));
    assert_eq!(errors, 0, "damage is told that there is not");
    assert!(others > 0, "no page went elsewhere while it was looked at");
}
