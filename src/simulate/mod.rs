//! The 42 API on loopback: synthetic data, real manners.
