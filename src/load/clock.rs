//! How long the steps of a load take.

use std::time::Instant;

/// Measures what is between two looks at it.
pub struct Clock(Instant);

impl Clock {
    pub fn new() -> Clock {
        Clock(Instant::now())
    }

    pub fn lap_ms(&mut self) -> f64 {
        let lap = self.0.elapsed();
        self.0 = Instant::now();
        lap.as_micros() as f64 / 1e3
    }
}
