//! The ceiling: a tight loop over one io_uring.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use plimsoll_hardware::bare::{BareRing, Ended};

use crate::meter::{Histogram, Measured, Meter, SAMPLE};
use crate::work::{Kind, Run};

/// Does the work of `run` on the file itself.
pub(crate) fn measure(path: &Path, run: &Run) -> Result<Measured, Box<dyn Error>> {
    let (depth, flush) = (run.case.depth, run.case.kind == Kind::FirstWriteFlush);
    let mut ring = BareRing::open(path, depth, run.case.block as usize)?;
    let start = |ring: &mut BareRing, number, offset| match run.case.kind.writes() {
        true => ring.write(number, offset),
        false => ring.read(number, offset),
    };
    let (mut offsets, mut latencies) = (run.offsets(), Histogram::new());
    let mut begun: Vec<Option<Instant>> = vec![None; depth];
    let (mut operations, mut in_flight) = (0u64, 0);
    let mut done = Vec::with_capacity(depth);
    let meter = Meter::start();
    for number in 0..depth {
        if let Some(offset) = offsets.next() {
            start(&mut ring, number, offset)?;
            in_flight += 1;
        }
    }
    while in_flight > 0 {
        ring.turn(&mut done)?;
        let go_on = meter.began.elapsed() < run.time;
        for ended in done.drain(..) {
            let number = match ended {
                Ended::Transfer(number) if flush => {
                    ring.flush(number)?;
                    continue;
                }
                Ended::Transfer(number) | Ended::Flush(number) => number,
            };
            if let Some(began) = begun[number].take() {
                latencies.add(began.elapsed());
            }
            operations += 1;
            match offsets.next().filter(|_| go_on) {
                Some(offset) => {
                    begun[number] = (flush || operations.is_multiple_of(SAMPLE)).then(Instant::now);
                    start(&mut ring, number, offset)?;
                }
                None => in_flight -= 1,
            }
        }
    }
    Ok(meter.stop(operations, &latencies))
}
