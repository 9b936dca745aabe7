//! Until when a holder may believe that it holds (DESIGN section 3, Time). Pure arithmetic: nothing
//! here reads a clock.
//!
//! The cluster keeps a lease for at least its TTL, on the leader's clock, after it *received* the
//! last renewal. The holder knows when it *sent* it, on its own clock. So it is safe until
//!
//! ```text
//! sent + TTL - margin,   margin = 250 ms + 1% of TTL + the time that the holder needs to stop
//! ```
//!
//! where the 1% covers clocks that run at different rates and the 250 ms cover scheduling.

use std::time::Duration;

use crate::BootTime;

/// The part of the margin that depends on nothing, in milliseconds.
pub const FIXED_MARGIN_MS: u64 = 250;
/// The assumed largest difference between the rates of two machines' clocks (rho), in percent.
/// Operators must bound their time daemon's slew rate accordingly.
pub const CLOCK_RATE_DIFFERENCE_PERCENT: u32 = 1;
/// How long a renewal, due at a third of the TTL, may take at least before the local deadline, in
/// milliseconds. A TTL that leaves less is refused.
pub const RENEWAL_ALLOWANCE_MS: u64 = 500;

/// How long before the end of its TTL a holder must begin to stop: 250 ms, 1% of the TTL, and the
/// time that stopping takes.
pub fn margin(ttl: Duration, stop_time: Duration) -> Duration {
    let rates = ttl.saturating_mul(CLOCK_RATE_DIFFERENCE_PERCENT) / 100;
    Duration::from_millis(FIXED_MARGIN_MS)
        .saturating_add(rates)
        .saturating_add(stop_time)
}

/// The local deadline of a renewal that was sent at `sent`. When the margin is as long as the TTL,
/// that is `sent` itself: never to be believed.
pub fn local_deadline(sent: BootTime, ttl: Duration, stop_time: Duration) -> BootTime {
    sent + ttl.saturating_sub(margin(ttl, stop_time))
}

/// Whether a TTL leaves room for the margin and for one renewal at a third of it.
pub fn fits(ttl: Duration, stop_time: Duration) -> bool {
    let needed = margin(ttl, stop_time)
        .saturating_add(ttl / 3)
        .saturating_add(Duration::from_millis(RENEWAL_ALLOWANCE_MS));
    needed <= ttl
}

/// The smallest TTL that [`fits`] a stop time, in whole milliseconds.
pub fn smallest_ttl(stop_time: Duration) -> Duration {
    // 0.99 TTL - 250 ms - stop >= TTL/3 + 500 ms, solved for the TTL, then corrected for rounding.
    let fixed = Duration::from_millis(FIXED_MARGIN_MS + RENEWAL_ALLOWANCE_MS);
    let solved = fixed.saturating_add(stop_time).saturating_mul(300) / 197;
    let mut ttl = Duration::from_millis(u64::try_from(solved.as_millis()).unwrap_or(u64::MAX));
    while !fits(ttl, stop_time) {
        let next = ttl.saturating_add(Duration::from_millis(1));
        if next == ttl {
            return ttl;
        }
        ttl = next;
    }
    ttl
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_margin_is_250_ms_and_1_percent_of_the_ttl_and_the_stop_time() {
        assert_eq!(margin(ms(15_000), ms(2_000)), ms(250 + 150 + 2_000));
        assert_eq!(margin(ms(3_600_000), ms(0)), ms(250 + 36_000));
    }

    #[test]
    fn the_local_deadline_counts_from_the_sending() {
        let sent = BootTime::since_boot(ms(1_000_000));
        let deadline = local_deadline(sent, ms(15_000), ms(2_100));
        assert_eq!(
            deadline,
            BootTime::since_boot(ms(1_000_000 + 15_000 - 250 - 150 - 2_100))
        );
    }

    #[test]
    fn a_margin_longer_than_the_ttl_is_never_believed() {
        let sent = BootTime::since_boot(ms(5_000));
        assert_eq!(local_deadline(sent, ms(2_000), ms(9_000)), sent);
    }

    #[test]
    fn stopping_ends_before_the_ttl_even_on_a_clock_that_is_1_percent_slow() {
        for ttl_ms in [2_000, 5_000, 15_000, 60_000, 3_600_000] {
            for stop_ms in [0, 100, 500, 2_000, 30_000] {
                if !fits(ms(ttl_ms), ms(stop_ms)) {
                    continue;
                }
                let sent = BootTime::since_boot(ms(0));
                let deadline = local_deadline(sent, ms(ttl_ms), ms(stop_ms));
                let local_ms =
                    deadline.elapsed_since_boot().as_secs_f64() * 1000.0 + stop_ms as f64;
                // 1% slow: when it shows `local`, at most local / 0.99 has passed elsewhere.
                assert!(
                    local_ms / 0.99 < ttl_ms as f64,
                    "TTL {ttl_ms} stop {stop_ms}"
                );
            }
        }
    }

    #[test]
    fn the_smallest_ttl_fits_and_one_millisecond_less_does_not() {
        for stop_ms in [0, 1, 100, 500, 2_000, 2_100, 60_000] {
            let smallest = smallest_ttl(ms(stop_ms));
            assert!(fits(smallest, ms(stop_ms)));
            assert!(!fits(smallest - ms(1), ms(stop_ms)), "{stop_ms}");
        }
    }
}
