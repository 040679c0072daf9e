//! Safe wrappers over the ioctls of `/dev/gunyah`.
