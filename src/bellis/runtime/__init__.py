"""The engine room: scheduler, leases, workers, journal, events, and the loop that joins them."""
