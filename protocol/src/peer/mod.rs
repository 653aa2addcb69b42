//! One open connection.
