//! The vfio-user server: protocol, transport, and the adapter to the device model.
//!
//! From the socket to the model, each file knows one thing:
//!
//! | module | knows |
//! |---|---|
//! | `wire` | the layout of messages, and how to read one without trusting it |
//! | `connection` | bytes and file descriptors of a socket, cut into whole messages |
//! | `description` | what regions and interrupts a device has |
//! | `capabilities` | the JSON of the VERSION command |
//! | `dispatch` | commands, and the answer to each |
//! | `backend` | the device model behind [`vfio_user::ServerBackend`] |
//! | `client_log` | what clients can cause at will is logged now and then |
//! | `event` | how an interrupt is raised without waiting for the client |
//! | `socket` | whose a socket path is |
//! | `output` | where telemetry goes, whole or not at all |
//! | `server` | the life of a server: bind, clients in sequence, shutdown, telemetry |
//! | `shutdown` | how any thread ends it |
//! | `control` | the control socket, and what is said on it |
//! | `metrics` | Prometheus' text, and HTTP |
//! | `trace` | the trace file |
//! | `runtime_directory` | where servers of one user are found |
//! | `network` | the thread for all who only look |
//! | `qemu` | the QEMU arguments that attach the device |
//!
//! The protocol's types come from the `vfio_user` crate. Its server loop is not used: input from
//! the peer can stop it or make it lose the boundary between two messages.
//!
//! One client is served at a time. A second one that connects waits in the socket's backlog and
//! is served when the first has gone, with the device reset in between.
#![forbid(unsafe_code)]

mod backend;
mod capabilities;
mod client_log;
mod connection;
mod control;
mod description;
mod dispatch;
mod event;
mod metrics;
mod network;
mod output;
mod qemu;
mod runtime_directory;
mod server;
mod shutdown;
mod socket;
mod trace;
mod wire;

pub use backend::ModelBackend;
pub use client_log::ClientLog;
pub use connection::ConnectionError;
pub use control::{ControlOptions, MAX_CONTROL_CLIENTS, serve_control_client};
pub use description::{Description, MmapArea, Region};
pub use dispatch::serve_client;
pub use hmmgpu_model::{
    FaultSpec, LinkError, LinkSpec, SpecError, TooManyFaults, parse_fault_time,
};
pub use metrics::{MetricsListener, MetricsServer, SnapshotSource, metric_names, prometheus_text};
pub use output::TelemetryOutput;
pub use qemu::qemu_arguments;
pub use runtime_directory::{default_control_path, remove_left_control_socket, runtime_directory};
pub use server::{ServeError, ServeOptions, Server, TraceOptions, serve};
pub use shutdown::Shutdown;
pub use socket::SocketError;
pub use trace::trace_path;
pub use wire::{MAX_DATA_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS};
