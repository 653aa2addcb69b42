//! The wire protocol (BEP 3, BEP 6, BEP 10).
