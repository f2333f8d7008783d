//! What a run took: operations, wall time, processor time, latencies.
//!
//! Processor time is the process's own accounting. That of the whole process counts what the kernel's io_uring workers
//! do for it; that of the thread does not, and is steadier.

use std::time::{Duration, Instant};

use plimsoll_hardware::bare::processor_times;
use serde::Serialize;

/// One operation in so many is timed, so that asking the clock is no part of the cost.
pub(crate) const SAMPLE: u64 = 8;

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// Processor time of the process per operation, in microseconds.
    pub(crate) cpu_us: f64,
    /// That of the submitting thread alone.
    pub(crate) thread_cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Started before the first operation, stopped after the last one.
pub(crate) struct Meter {
    pub(crate) began: Instant,
    process: Duration,
    thread: Duration,
}

impl Meter {
    pub(crate) fn start() -> Self {
        let (process, thread) = processor_times();
        Meter { began: Instant::now(), process, thread }
    }

    pub(crate) fn stop(self, operations: u64, latencies: &Histogram) -> Measured {
        self.stop_after(Duration::ZERO, operations, latencies)
    }

    /// As [`Meter::stop`], where `paused` of the time was none of the work's (its processor time is counted).
    pub(crate) fn stop_after(self, paused: Duration, operations: u64, latencies: &Histogram) -> Measured {
        let elapsed = self.began.elapsed().saturating_sub(paused).as_secs_f64();
        let (process, thread) = processor_times();
        let per = |used: Duration| used.as_secs_f64() * 1e6 / operations.max(1) as f64;
        Measured {
            operations,
            seconds: elapsed,
            per_second: operations as f64 / elapsed,
            cpu_us: per(process - self.process),
            thread_cpu_us: per(thread - self.thread),
            p50_us: latencies.percentile(0.50),
            p99_us: latencies.percentile(0.99),
        }
    }
}

/// Sub-buckets of a power of two: an error of 3 % at most.
const STEPS: u64 = 32;

/// Latencies, counted in buckets that grow with them.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Histogram { buckets: vec![0; 64 * STEPS as usize] }
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        let nanoseconds = (latency.as_nanos() as u64).max(STEPS);
        let power = u64::from(nanoseconds.ilog2());
        let step = (nanoseconds >> (power - u64::from(STEPS.ilog2()))) - STEPS;
        self.buckets[(power * STEPS + step) as usize] += 1;
    }

    /// The latency that `part` of all operations did not exceed, in microseconds; 0 when none was timed.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let all: u64 = self.buckets.iter().sum();
        let mut left = (all as f64 * part).ceil() as u64;
        for (index, &count) in self.buckets.iter().enumerate() {
            if count >= left && count > 0 {
                let (power, step) = (index as u64 / STEPS, index as u64 % STEPS);
                return ((STEPS + step) << power) as f64 / STEPS as f64 / 1e3;
            }
            left -= count;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_within_a_step_of_the_latency() {
        let mut histogram = Histogram::new();
        for microseconds in 1..=1000 {
            histogram.add(Duration::from_micros(microseconds));
        }
        assert!((histogram.percentile(0.5) - 500.0).abs() < 20.0, "{}", histogram.percentile(0.5));
        assert!((histogram.percentile(0.99) - 990.0).abs() < 35.0, "{}", histogram.percentile(0.99));
    }
}
