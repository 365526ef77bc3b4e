//! The vfio-user server: protocol, transport, and the adapter to the device model.
