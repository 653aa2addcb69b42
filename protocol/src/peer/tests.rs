//! The machine against itself, against strangers and against time.
