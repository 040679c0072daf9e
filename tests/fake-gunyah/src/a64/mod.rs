//! An A64 interpreter for small bare-metal guests.
