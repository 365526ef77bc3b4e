//! One client of the control socket, from its greeting to its end.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use hmmgpu_model::{FaultSpec, LinkSpec, SpecError};
use hmmgpu_telemetry::control::{Answer, Command, INTERVAL_MS, MAX_REQUEST_BYTES, Reply, Request};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, FramedRead};

use super::{Shared, line};

/// Most clients' lines are far shorter than the longest one.
const FIRST_READ_BYTES: usize = 256;

/// Longest time from the beginning of a line to its end, or at most twice that. Stops clients that stop in
/// the middle from keeping others out; one that asks for nothing may stay.
const LINE_PATIENCE: Duration = Duration::from_secs(5);

/// Replies that come by themselves.
struct Subscription {
    /// Of the request.
    id: u64,
    interval: Interval,
}

/// Serves a client until it closes, or sends a line that is too long or does not end.
///
/// # Errors
/// When it can no more be written to.
pub(super) async fn serve(stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let newline = || b"\n".to_vec();
    let codec = AnyDelimiterCodec::new_with_max_length(newline(), newline(), MAX_REQUEST_BYTES);
    let mut lines = FramedRead::with_capacity(reader, codec, FIRST_READ_BYTES);
    let mut subscription: Option<Subscription> = None;
    writer.write_all(&line(&shared.hello)?).await?;
    let mut look = interval(LINE_PATIENCE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether the last look found a line that had begun.
    let mut begun = false;
    loop {
        tokio::select! {
            request = lines.next() => {
                begun = false;
                match request {
                    None => return Ok(()),
                    Some(Ok(text)) => answer(&text, shared, &mut writer, &mut subscription).await?,
                    Some(Err(AnyDelimiterCodecError::MaxChunkLengthExceeded)) => {
                        let why = format!("a line of more than {MAX_REQUEST_BYTES} bytes");
                        return send(&mut writer, 0, Answer::Error(why)).await;
                    }
                    Some(Err(AnyDelimiterCodecError::Io(error))) => return Err(error),
                }
            }
            _ = look.tick() => {
                let before = std::mem::replace(&mut begun, !lines.read_buffer().is_empty());
                if before && begun {
                    let why = format!("a line that did not end in {LINE_PATIENCE:?}");
                    return send(&mut writer, 0, Answer::Error(why)).await;
                }
            }
            id = due(&mut subscription) => {
                let snapshot = shared.snapshot(false).await;
                send(&mut writer, id, Answer::Snapshot(Box::new(snapshot))).await?;
            }
        }
    }
}

/// Waits until a snapshot of the subscription is due; for ever if there is none.
async fn due(subscription: &mut Option<Subscription>) -> u64 {
    match subscription {
        Some(subscription) => {
            subscription.interval.tick().await;
            subscription.id
        }
        None => std::future::pending().await,
    }
}

async fn answer(
    text: &[u8],
    shared: &Shared,
    writer: &mut OwnedWriteHalf,
    subscription: &mut Option<Subscription>,
) -> io::Result<()> {
    let Request { id, command } = match serde_json::from_slice(text) {
        Ok(request) => request,
        Err(error) => {
            let why = format!("not a request: {error}");
            return send(writer, 0, Answer::Error(why)).await;
        }
    };
    let answer = match command {
        Command::Snapshot { windows } => Answer::Snapshot(Box::new(shared.snapshot(windows).await)),
        Command::Subscribe { interval_ms } if INTERVAL_MS.contains(&interval_ms) => {
            let mut interval = interval(Duration::from_millis(interval_ms));
            // A client that does not keep up misses some.
            interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
            *subscription = Some(Subscription { id, interval });
            // Its first snapshot is due now, and is the answer.
            return Ok(());
        }
        Command::Subscribe { interval_ms } => Answer::Error(format!(
            "an interval of {interval_ms} ms is not possible: give {} to {}",
            INTERVAL_MS.start(),
            INTERVAL_MS.end()
        )),
        Command::Events { last } => Answer::Events(shared.events(last).await),
        Command::Unsubscribe => {
            *subscription = None;
            Answer::Done {}
        }
        Command::Inject { faults } => match inject(shared, &faults) {
            Ok(()) => Answer::Done {},
            Err(why) => Answer::Error(why),
        },
        Command::ClearInjected => {
            shared.device.clear_injected();
            Answer::Done {}
        }
        Command::SetLink { link } => match link.parse::<LinkSpec>() {
            Ok(link) => {
                shared.device.set_link(link);
                Answer::Done {}
            }
            Err(error) => Answer::Error(error.to_string()),
        },
    };
    send(writer, id, answer).await
}

/// Arms faults, all of them or none.
fn inject(shared: &Shared, faults: &[String]) -> Result<(), String> {
    let faults: Result<Vec<FaultSpec>, _> = faults.iter().map(|fault| fault.parse()).collect();
    let faults = faults.map_err(|error: SpecError| error.to_string())?;
    let armed = shared.device.inject(faults);
    armed.map_err(|error| error.to_string())
}

async fn send(writer: &mut OwnedWriteHalf, id: u64, answer: Answer) -> io::Result<()> {
    writer.write_all(&line(&Reply { id, answer })?).await
}
