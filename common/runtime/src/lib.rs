//! What every program needs at its edge: configuration, telemetry, retry policies, shutdown.
