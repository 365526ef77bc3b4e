//! What is told of the devices while they work: arguments of every command with a device.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

/// Who is told, and where.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryArgs {
    /// Serve metrics for Prometheus at http://ADDR:PORT/metrics. ADDR is 127.0.0.1 unless given;
    /// port 0 is any that is free.
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = metrics_address)]
    pub metrics: Option<SocketAddr>,
    /// Write what engines do into this file, for ui.perfetto.dev; of further GPUs into
    /// NAME.gpu1.json and so on.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// A port of this host alone, unless an address says otherwise.
fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse() {
        return Ok(SocketAddr::new(here, port));
    }
    if let Some(port) = text.strip_prefix("localhost:")
        && let Ok(port) = port.parse()
    {
        return Ok(SocketAddr::new(here, port));
    }
    text.parse().map_err(|_| {
        "give a port, or an IP address and a port: 9400, 0.0.0.0:9400, [::1]:9400".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_for_this_host_unless_told_otherwise() {
        let parsed = |text| metrics_address(text).map(|address| address.to_string());
        for text in ["9400", ":9400", "localhost:9400", "127.0.0.1:9400"] {
            assert_eq!(parsed(text).as_deref(), Ok("127.0.0.1:9400"), "{text}");
        }
        assert_eq!(parsed("0").as_deref(), Ok("127.0.0.1:0"));
        assert_eq!(parsed("0.0.0.0:9400").as_deref(), Ok("0.0.0.0:9400"));
        assert_eq!(parsed("[::1]:9400").as_deref(), Ok("[::1]:9400"));
        for text in ["", ":", "x", "65536", "host:9400", "1.2.3.4", "::1:", "-1"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
