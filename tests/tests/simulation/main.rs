//! Whole pools on a simulated machine, against a model: random work, every stop, every damage.

mod crash_points;
mod damage;
mod random;
