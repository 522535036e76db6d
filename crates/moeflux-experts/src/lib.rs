//! Expert residency: slot arena, readers, eviction policies, leases.
