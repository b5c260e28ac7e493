//! Optimisers, averages and schedules.
