//! Ctrl-C. While a reply is being made it stops the reply, once; at any other time, or where the reply does not stop within a
//! moment, it ends the program with 130.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a cancelled reply has before a second Ctrl-C ends the program.
const PATIENCE: Duration = Duration::from_secs(1);

/// The work that Ctrl-C would stop, and when it was told to.
struct Work {
    cancel: Box<dyn Fn() + Send>,
    told: Option<Instant>,
}

/// The program's answer to Ctrl-C.
#[derive(Clone)]
pub(crate) struct Interrupts {
    work: Arc<Mutex<Option<Work>>>,
}

impl Interrupts {
    /// Takes charge of Ctrl-C.
    pub(crate) fn install() -> Interrupts {
        let work = Arc::new(Mutex::new(None::<Work>));
        let seen = Arc::clone(&work);
        // Where the system has no such signal, Ctrl-C keeps its own meaning.
        let _ = ctrlc::set_handler(move || match &mut *seen.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Work { cancel, told }) if told.is_none_or(|at| at.elapsed() < PATIENCE) => {
                told.get_or_insert_with(Instant::now);
                cancel();
            }
            Some(_) | None => std::process::exit(130),
        });
        Interrupts { work }
    }

    /// Ctrl-C calls `cancel` until the guard is dropped.
    pub(crate) fn guard(&self, cancel: impl Fn() + Send + 'static) -> Guard<'_> {
        *self.lock() = Some(Work { cancel: Box::new(cancel), told: None });
        Guard { interrupts: self }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds Ctrl-C bound to one piece of work.
pub(crate) struct Guard<'a> {
    interrupts: &'a Interrupts,
}

impl Guard<'_> {
    /// Whether Ctrl-C has come since the guard was made.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupts.lock().as_ref().is_some_and(|work| work.told.is_some())
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        *self.interrupts.lock() = None;
    }
}
