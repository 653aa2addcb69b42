//! The extension protocol (BEP 10).
