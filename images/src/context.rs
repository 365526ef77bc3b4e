//! What every step needs: whom to tell, and whether to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{ImageError, Progress};

/// Progress and interruption.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) cancel: Arc<AtomicBool>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn interrupted(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    pub(crate) fn check_interrupted(&self, what: &str) -> Result<(), ImageError> {
        if self.interrupted() {
            return Err(ImageError::Interrupted {
                what: what.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc::Sender;

    use super::*;
    use crate::{Ended, Silent};

    impl Context {
        pub(crate) fn silent() -> Self {
            Self::with_progress(Arc::new(Silent))
        }

        pub(crate) fn with_progress(progress: Arc<dyn Progress>) -> Self {
            Self {
                progress,
                cancel: Arc::default(),
            }
        }
    }

    /// Hands the notes on.
    pub(crate) struct Recorder(std::sync::Mutex<Sender<String>>);

    impl Recorder {
        pub(crate) fn notes_to(sender: Sender<String>) -> Self {
            Self(std::sync::Mutex::new(sender))
        }
    }

    impl Progress for Recorder {
        fn begin(&self, _step: &str) {}
        fn update(&self, _percent: Option<u8>, _detail: &str) {}
        fn end(&self, _how: Ended) {}
        fn note(&self, line: &str) {
            self.0.lock().unwrap().send(line.to_owned()).unwrap();
        }
    }
}
