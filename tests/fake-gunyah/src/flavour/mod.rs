//! The flavours of the Gunyah user ABI, and what differs between them.
