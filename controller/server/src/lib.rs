//! The control plane: gRPC services and the loops that carry decisions out.
