//! `hmmgpu serve`: the device on a socket.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use hmmgpu_server::{
    ControlOptions, MetricsListener, ServeOptions, Server, Shutdown, TelemetryOutput, TraceOptions,
    qemu_arguments,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Error;
use crate::cli::{READY_LINE, ServeArgs};
use crate::exit;
use crate::qemu::command_line::shell_words;
use crate::vm::REVISION;

pub(super) fn serve(args: &ServeArgs) -> Result<u8, Error> {
    if args.supervised {
        die_with_parent()?;
    }
    let shutdown = Shutdown::new().context("cannot make an event")?;
    // Before the socket exists, so that no signal can leave it behind. They are looked at later.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .context("cannot handle signals")?;
    let to_stdout = args.telemetry.as_deref() == Some(Path::new("-"));
    let telemetry = args.telemetry.clone().map(|path| {
        if to_stdout {
            TelemetryOutput::Stdout
        } else {
            TelemetryOutput::File(path)
        }
    });
    let options = ServeOptions {
        socket: args.socket.clone(),
        vram_bytes: args.vram.0,
        check: args.check,
        telemetry,
        control: (!args.no_control).then(|| ControlOptions {
            path: args.control.clone(),
            label: args.label.clone(),
            revision: REVISION.to_owned(),
        }),
        trace: args.outputs.trace.clone().map(|path| TraceOptions {
            path,
            label: args.label.clone(),
        }),
        inject: args.inject.clone(),
        link: args.link.clone(),
        sandbox: !args.no_sandbox,
    };
    // Who starts a supervised server says it once for all.
    if !args.supervised {
        super::tell_of_the_sandbox(options.sandbox);
    }
    let metrics = args.outputs.metrics.map(|address| {
        MetricsListener::bind(address)
            .with_context(|| format!("cannot serve metrics at {address}: choose another port"))
    });
    let metrics = metrics.transpose()?;
    let mut server = Server::bind(&options).map_err(anyhow::Error::from)?;
    if let Some(metrics) = metrics {
        eprintln!("hmmgpu: metrics at http://{}/metrics", metrics.address());
        server = server.with_metrics(metrics);
    }
    // After the server has confined this thread, so that it is confined, too.
    let trigger = shutdown.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                trigger.trigger();
            }
        })
        .context("cannot start a thread")?;
    // From here on clients can connect.
    if args.supervised {
        // Where nobody reads it, the launcher has gone.
        let mut stdout = io::stdout();
        writeln!(stdout, "{READY_LINE}").and_then(|()| stdout.flush())?;
    } else {
        let arguments = shell_words(&qemu_arguments(&args.socket));
        if to_stdout {
            print(&mut io::stderr(), &arguments)?;
        } else {
            print(&mut io::stdout(), &arguments)?;
        }
    }
    server.run(&shutdown).map_err(anyhow::Error::from)?;
    Ok(exit::OK)
}

fn print(output: &mut dyn Write, line: &str) -> io::Result<()> {
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        // Nobody reads it; the device is served all the same.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Asks the kernel to end this process when its parent ends, however that comes. A parent that
/// has ended before is noticed when the line that it waits for cannot be written.
fn die_with_parent() -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .context("cannot ask for the end of the parent")
}
