//! The data plane: carries leased tasks out, step by step.
