//! Snapshots of all GPUs, from threads of their own: who draws never waits for a socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use hmmgpu_telemetry::control::Hello;
use hmmgpu_telemetry::snapshot::Snapshot;

use crate::control::{self, Connection, ControlError, PATIENCE};

/// How often servers are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a wish, such as another interval, is noticed.
const NOTICE: Duration = Duration::from_millis(100);
/// How long a server that could not be talked to is left alone.
const AGAIN: Duration = Duration::from_secs(5);
/// Most servers that are listened to at once.
const MAX_SERVERS: usize = 64;
/// News that wait for who draws; beyond that, threads wait.
const MAX_NEWS: usize = 256;

/// What has come.
#[derive(Debug)]
pub(crate) enum News {
    /// A server that talks.
    Found(PathBuf, Hello),
    /// What it says.
    Snapshot(PathBuf, Box<Snapshot>),
    /// It talks no more, or not at all; why.
    Lost(PathBuf, String),
    /// Servers cannot be looked for; why. Empty: they can again.
    Blind(String),
}

/// See the module. The threads end when it is dropped.
#[derive(Debug)]
pub(crate) struct Feed {
    /// What has come.
    pub(crate) news: Receiver<News>,
    wishes: Arc<Wishes>,
}

#[derive(Debug)]
struct Wishes {
    /// The sockets were named, not found.
    named: bool,
    interval_ms: AtomicU64,
    end: AtomicBool,
    /// Sockets that a thread looks after, or that are left alone until then.
    taken: Mutex<BTreeMap<PathBuf, Option<Instant>>>,
}

impl Feed {
    /// Listens to the servers of these sockets, or to those of the runtime directory where none
    /// is named.
    pub(crate) fn start(named: Vec<PathBuf>, interval: Duration) -> std::io::Result<Self> {
        let (sender, news) = crossbeam_channel::bounded(MAX_NEWS);
        let wishes = Arc::new(Wishes {
            named: !named.is_empty(),
            interval_ms: AtomicU64::new(0),
            end: AtomicBool::new(false),
            taken: Mutex::default(),
        });
        let feed = Self {
            news,
            wishes: Arc::clone(&wishes),
        };
        feed.set_interval(interval);
        std::thread::Builder::new()
            .name("servers".into())
            .spawn(move || look(&named, &wishes, &sender))?;
        Ok(feed)
    }

    /// From now on, snapshots come this often.
    pub(crate) fn set_interval(&self, interval: Duration) {
        let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.wishes.interval_ms.store(ms, Ordering::Relaxed);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.wishes.end.store(true, Ordering::Relaxed);
    }
}

/// Looks for servers, and gives each new one a thread.
fn look(named: &[PathBuf], wishes: &Arc<Wishes>, sender: &Sender<News>) {
    let mut blind = String::new();
    while !wishes.end.load(Ordering::Relaxed) {
        let (found, trouble) = if named.is_empty() {
            match control::discover(&control::directory()) {
                Ok(found) => (found, String::new()),
                Err(error) => (Vec::new(), error.to_string()),
            }
        } else {
            (named.to_vec(), String::new())
        };
        if trouble != blind {
            blind.clone_from(&trouble);
            if sender.send(News::Blind(trouble)).is_err() {
                return;
            }
        }
        for path in found {
            if wishes.take(&path) && !spawn(path.clone(), wishes, sender) {
                wishes.leave(&path, AGAIN);
            }
        }
        std::thread::sleep(LOOK);
    }
}

impl Wishes {
    /// Whether nobody looks after this socket and it may be tried.
    fn take(&self, path: &Path) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        taken.retain(|_, until| until.is_none_or(|until| until > now));
        if taken.contains_key(path) || taken.len() >= MAX_SERVERS {
            return false;
        }
        taken.insert(path.to_owned(), None);
        true
    }

    /// Nobody looks after it any more; it may be tried again after this time.
    fn leave(&self, path: &Path, time: Duration) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(path.to_owned(), Some(Instant::now() + time));
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(Ordering::Relaxed))
    }
}

fn spawn(path: PathBuf, wishes: &Arc<Wishes>, sender: &Sender<News>) -> bool {
    let (wishes, sender) = (Arc::clone(wishes), sender.clone());
    std::thread::Builder::new()
        .name("server".into())
        .spawn(move || {
            let Err(error) = listen(&path, &wishes, &sender) else {
                return;
            };
            let nobody = matches!(error, ControlError::NobodyListens(_));
            // Where nobody listens, soon somebody may.
            let time = match error {
                ControlError::NobodyListens(_) | ControlError::Ended => LOOK,
                _ => AGAIN,
            };
            // A socket that was found was left by a server that has gone: nothing to tell of.
            if wishes.named || !nobody {
                // Who draws has gone: no matter.
                let _ = sender.send(News::Lost(path.clone(), error.to_string()));
            }
            wishes.leave(&path, time);
        })
        .is_ok()
}

/// Listens to one server until it ends, or nobody wants to know any more.
fn listen(path: &Path, wishes: &Wishes, sender: &Sender<News>) -> Result<(), ControlError> {
    let mut connection = Connection::open(path, PATIENCE)?;
    let found = News::Found(path.to_owned(), connection.hello().clone());
    if sender.send(found).is_err() {
        return Ok(());
    }
    let mut interval = Duration::ZERO;
    let mut heard = Instant::now();
    while !wishes.end.load(Ordering::Relaxed) {
        if wishes.interval() != interval {
            interval = wishes.interval();
            connection.subscribe(interval)?;
            heard = Instant::now();
        }
        if let Some(snapshot) = connection.next(NOTICE)? {
            heard = Instant::now();
            let news = News::Snapshot(path.to_owned(), Box::new(snapshot));
            if sender.send(news).is_err() {
                return Ok(());
            }
        } else if heard.elapsed() > interval + PATIENCE {
            return Err(ControlError::Silent(heard.elapsed()));
        }
    }
    Ok(())
}
